"""Monte Carlo: draws of z given x_observed, with nothing but a trained model."""

from vae_arbcond.conditioners.monte_carlo.base import Chains, MonteCarlo
from vae_arbcond.conditioners.monte_carlo.gibbs import MetropolisWithinGibbs, PseudoGibbs
from vae_arbcond.conditioners.monte_carlo.grid import (
    Divergences,
    GridDensity,
    GridPosterior,
)
from vae_arbcond.conditioners.monte_carlo.hamiltonian import HamiltonianMonteCarlo
from vae_arbcond.conditioners.monte_carlo.rejection import RejectionSampler

__all__ = [
    "Chains",
    "Divergences",
    "GridDensity",
    "GridPosterior",
    "HamiltonianMonteCarlo",
    "MetropolisWithinGibbs",
    "MonteCarlo",
    "PseudoGibbs",
    "RejectionSampler",
]
