"""Models: p(z), p(x | z) and q(z | x)."""

from vae_arbcond.models.base import FitStage, LatentVariableModel, Stage, Trainable
from vae_arbcond.models.schedules import ConstantBeta, CyclicalBeta, MonotoneBeta
from vae_arbcond.models.vae import VAE

__all__ = [
    "VAE",
    "ConstantBeta",
    "CyclicalBeta",
    "FitStage",
    "LatentVariableModel",
    "MonotoneBeta",
    "Stage",
    "Trainable",
]
