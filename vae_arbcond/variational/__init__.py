"""Variational families with parameters of their own for each query, and how these are found.

A family is a class of distributions q(z), tuned to one question at a time, not by a network:
its parameters are tensors whose first axis is the queries of a batch. `families.py` has
Gaussians and mixtures, `flows.py` maps of Gaussian noise, `starts.py` what they take from a
start, `prior_rows.py` the prior in rows of nothing, `vectors.py` parameters as vectors,
`optimisers.py` the loops.
"""

from vae_arbcond.variational.families import (
    Draws,
    Family,
    GaussianFamily,
    MixtureFamily,
)
from vae_arbcond.variational.flows import (
    InverseAutoregressiveFamily,
    NetworkFamily,
    PlanarFamily,
)
from vae_arbcond.variational.optimisers import LBFGS, FirstOrder, Found

__all__ = [
    "LBFGS",
    "Draws",
    "Family",
    "FirstOrder",
    "Found",
    "GaussianFamily",
    "InverseAutoregressiveFamily",
    "MixtureFamily",
    "NetworkFamily",
    "PlanarFamily",
]
