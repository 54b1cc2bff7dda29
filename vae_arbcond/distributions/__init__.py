"""Heads (network output -> tfd.Distribution) and what is done with the distributions."""

from vae_arbcond.distributions.autoregressive import AutoregressiveMixture, MadeMixture
from vae_arbcond.distributions.columns import Columns
from vae_arbcond.distributions.conditional import Conditional
from vae_arbcond.distributions.discretized import (
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
)
from vae_arbcond.distributions.flows import (
    InverseAutoregressiveFlow,
    MaskedAutoregressiveFlow,
    Planar,
    PlanarFlow,
)
from vae_arbcond.distributions.gaussian import (
    CholeskyGaussian,
    DiagonalGaussian,
    GaussianMixture,
)
from vae_arbcond.distributions.handmade import Handmade
from vae_arbcond.distributions.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    FeatureScaleNormal,
    LikelihoodHead,
    Normal,
    SharedScaleNormal,
    StudentT,
)
from vae_arbcond.distributions.masking import (
    expected_features,
    over_features,
    point_from_expectation,
)
from vae_arbcond.distributions.mixed_columns import MixedColumns

__all__ = [
    "AutoregressiveMixture",
    "Bernoulli",
    "Categorical",
    "CholeskyGaussian",
    "Columns",
    "Conditional",
    "ContinuousBernoulli",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FeatureScaleNormal",
    "GaussianMixture",
    "Handmade",
    "InverseAutoregressiveFlow",
    "LikelihoodHead",
    "MadeMixture",
    "MaskedAutoregressiveFlow",
    "MixedColumns",
    "Normal",
    "Planar",
    "PlanarFlow",
    "SharedScaleNormal",
    "StudentT",
    "expected_features",
    "over_features",
    "point_from_expectation",
]
