"""Models: p(z), p(x | z) and q(z | x)."""

from vae_arbcond.models.base import FitStage, LatentVariableModel, Stage, Trainable
from vae_arbcond.models.factor_analysis import ComponentAndVector, FactorAnalysis
from vae_arbcond.models.schedules import ConstantBeta, CyclicalBeta, MonotoneBeta
from vae_arbcond.models.vae import VAE

__all__ = [
    "VAE",
    "ComponentAndVector",
    "ConstantBeta",
    "CyclicalBeta",
    "FactorAnalysis",
    "FitStage",
    "LatentVariableModel",
    "MonotoneBeta",
    "Stage",
    "Trainable",
]
