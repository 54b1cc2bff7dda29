"""Conditioners: methods that answer p(x_target | x_observed) for any split of the features."""

from vae_arbcond.conditioners.amortised import FillZeros, ReTunedEncoder
from vae_arbcond.conditioners.base import (
    ArbitraryConditioner,
    DensityConditioner,
    Inference,
    LatentConditioner,
)
from vae_arbcond.conditioners.factor_analysis import FactorAnalysisConditioner
from vae_arbcond.conditioners.feature_query_adaptive import FeatureQueryAdaptive
from vae_arbcond.conditioners.gain import GAIN
from vae_arbcond.conditioners.gaussian_mixture import GaussianMixtureConditioner
from vae_arbcond.conditioners.likelihoods import (
    DefaultLikelihood,
    ImportanceLikelihood,
    MonteCarloLikelihood,
    PredictiveLikelihood,
    RatioLikelihood,
)
from vae_arbcond.conditioners.monte_carlo import (
    GridPosterior,
    HamiltonianMonteCarlo,
    MetropolisWithinGibbs,
    PseudoGibbs,
    RejectionSampler,
)
from vae_arbcond.conditioners.posterior_matching import PosteriorMatching
from vae_arbcond.conditioners.query_adaptive import (
    AmortisedStart,
    EncoderStart,
    PriorStart,
    QueryAdaptive,
)
from vae_arbcond.conditioners.universal_marginalizer import UniversalMarginalizer
from vae_arbcond.conditioners.vaeac import VAEAC

__all__ = [
    "GAIN",
    "VAEAC",
    "AmortisedStart",
    "ArbitraryConditioner",
    "DefaultLikelihood",
    "DensityConditioner",
    "EncoderStart",
    "FactorAnalysisConditioner",
    "FeatureQueryAdaptive",
    "FillZeros",
    "GaussianMixtureConditioner",
    "GridPosterior",
    "HamiltonianMonteCarlo",
    "ImportanceLikelihood",
    "Inference",
    "LatentConditioner",
    "MetropolisWithinGibbs",
    "MonteCarloLikelihood",
    "PosteriorMatching",
    "PredictiveLikelihood",
    "PriorStart",
    "PseudoGibbs",
    "QueryAdaptive",
    "RatioLikelihood",
    "ReTunedEncoder",
    "RejectionSampler",
    "UniversalMarginalizer",
]
