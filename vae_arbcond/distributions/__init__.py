"""Heads (network output -> tfd.Distribution) and what is done with the distributions."""

from vae_arbcond.distributions.columns import Columns
from vae_arbcond.distributions.gaussian import CholeskyGaussian, DiagonalGaussian
from vae_arbcond.distributions.likelihoods import (
    Bernoulli,
    Categorical,
    FeatureScaleNormal,
    LikelihoodHead,
    MixedColumns,
    Normal,
    SharedScaleNormal,
    StudentT,
)
from vae_arbcond.distributions.masking import (
    expected_features,
    over_features,
    point_from_expectation,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "CholeskyGaussian",
    "Columns",
    "DiagonalGaussian",
    "FeatureScaleNormal",
    "LikelihoodHead",
    "MixedColumns",
    "Normal",
    "SharedScaleNormal",
    "StudentT",
    "expected_features",
    "over_features",
    "point_from_expectation",
]
