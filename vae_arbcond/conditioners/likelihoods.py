"""Which estimator of log p(x_target | x_observed) an evaluation uses, by name.

`conditioner.log_likelihood` is the default everywhere. Papers use others, and so may
`evaluate.likelihood`; the report names it, so that no table mixes them unlabelled.
"""

import dataclasses

import tensorflow as tf

from vae_arbcond import estimators
from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.base import DensityConditioner, LatentConditioner
from vae_arbcond.conditioners.vaeac import VAEAC
from vae_arbcond.estimators import Estimate
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_seed


@register
@dataclasses.dataclass(frozen=True)
class DefaultLikelihood:
    """The method's own, which its `estimator` names."""

    def __call__(self, conditioner, x, observed, target, num_samples, seed) -> Estimate:
        """`conditioner.log_likelihood`.

        Raises:
          TypeError: the method has no likelihood.
        """
        check_density(conditioner)
        return conditioner.log_likelihood(x, observed, target, num_samples, seed)

    def __str__(self):
        return "the method's own"


@register
@dataclasses.dataclass(frozen=True)
class RatioLikelihood:
    """log p(x_o, x_t) - log p(x_o), each by importance sampling: Posterior Matching's tables.

    The first with z ~ q(z | x), the model's own encoder, the second with z ~ q(z | x_o)
    (App. B). A difference of two lower bounds.
    """

    def __call__(self, conditioner, x, observed, target, num_samples, seed) -> Estimate:
        """Arguments as for `conditioner.log_likelihood`, with one seed [2].

        Raises:
          TypeError: the method has no latent variable.
        """
        check_density(conditioner)
        if getattr(conditioner, "model", self) is None:
            raise TypeError(
                f"RatioLikelihood divides a joint likelihood by a marginal one, and "
                f"{type(conditioner).__name__} models conditionals only. Use "
                f"DefaultLikelihood or PredictiveLikelihood."
            )
        return _answer(self, _ratio, conditioner, x, observed, target, num_samples, seed)

    def __str__(self):
        return "ratio of two importance estimates"


@register
@dataclasses.dataclass(frozen=True)
class PredictiveLikelihood:
    """The mean of p(x_t | z) over z ~ q(z | x_o) as it is: what the method says."""

    def __call__(self, conditioner, x, observed, target, num_samples, seed) -> Estimate:
        """Arguments as for `conditioner.log_likelihood`, with one seed [2].

        Raises:
          TypeError: the method has no latent variable.
        """
        return _answer(self, _predictive, conditioner, x, observed, target, num_samples, seed)

    def __str__(self):
        return "predictive, uncorrected"


def check_density(conditioner) -> None:
    """Refuses a method without a likelihood.

    Raises:
      TypeError: names it.
    """
    if not isinstance(conditioner, DensityConditioner):
        raise TypeError(
            f"{type(conditioner).__name__} has no likelihood to estimate: it draws what is "
            f"hidden, and gives no densities. Leave evaluate.likelihood out and compare its "
            f"draws and completions."
        )


@register
@dataclasses.dataclass(frozen=True)
class MonteCarloLikelihood:
    """The mean of p(x_t | z, x_o) over z ~ p(z | x_o): VAEAC, Eq. 17.

    With few samples far too low where the prior has many modes: the difference from
    `ImportanceLikelihood` shows how far prior and proposal are apart.
    """

    def __call__(self, conditioner, x, observed, target, num_samples, seed) -> Estimate:
        """Arguments as for `conditioner.log_likelihood`, with one seed [2].

        Raises:
          TypeError: the method has no conditional prior.
        """
        _needs_conditional_prior(self, conditioner)
        return _answer(self, _predictive, conditioner, x, observed, target, num_samples, seed)

    def __str__(self):
        return "Monte Carlo under the conditional prior (VAEAC, Eq. 17)"


@register
@dataclasses.dataclass(frozen=True)
class ImportanceLikelihood:
    """The mean of p(x_t | z, x_o) p(z | x_o) / q(z | x) over z ~ q(z | x): VAEAC, Eq. 18.

    What VAEAC's own `log_likelihood` is, unless it is a GSNN, which has no q.
    """

    def __call__(self, conditioner, x, observed, target, num_samples, seed) -> Estimate:
        """Arguments as for `conditioner.log_likelihood`, with one seed [2].

        Raises:
          TypeError: the method has no conditional prior, or no trained proposal.
        """
        _needs_conditional_prior(self, conditioner)
        if not conditioner.alpha:
            raise TypeError(
                "ImportanceLikelihood draws from the proposal network, which a VAEAC with "
                "alpha = 0 (a GSNN) does not train. Use MonteCarloLikelihood."
            )
        seed = check_seed(seed, allow_rows=False)
        return conditioner.log_likelihood(x, observed, target, num_samples, seed)

    def __str__(self):
        return "importance sampling under the conditional prior (VAEAC, Eq. 18)"


def _needs_conditional_prior(likelihood, conditioner):
    check_density(conditioner)
    if not isinstance(conditioner, VAEAC):
        raise TypeError(
            f"{type(likelihood).__name__} needs a method with a prior p(z | x_o) of its own, "
            f"VAEAC, and got a {type(conditioner).__name__}. Use DefaultLikelihood."
        )


def _ratio(conditioner, x, observed, target, num_samples, seed):
    joint_seed, seed = sampling.split(seed)
    joint = conditioner.joint_log_weights(x, observed | target, num_samples, joint_seed)
    nothing = tf.zeros_like(observed)
    given = conditioner.log_weights(x, observed, nothing, num_samples, seed)[0]
    estimate = estimators.ratio(estimators.importance(joint), estimators.importance(given))
    return _certain_without_target(estimate, target & ~observed)


def _predictive(conditioner, x, observed, target, num_samples, seed):
    target = target & ~observed
    log_p_target = conditioner.log_weights(x, observed, target, num_samples, seed)[1]
    return _certain_without_target(estimators.predictive(log_p_target), target)


def _certain_without_target(estimate, target):
    nothing = ~tf.reduce_any(target, list(range(1, target.shape.rank)))
    return estimators.certain_where(nothing, estimate)


def _answer(likelihood, estimate, conditioner, x, observed, target, num_samples, seed):
    """The question checked, and `estimate` of it in one compiled graph."""
    check_density(conditioner)
    if not isinstance(conditioner, LatentConditioner):
        raise TypeError(
            f"{type(likelihood).__name__} needs a method with a latent variable, and "
            f"{type(conditioner).__name__} has none. Use DefaultLikelihood."
        )
    seed = check_seed(seed, allow_rows=False)
    question = conditioner.check_question(x, observed, target, num_samples, seed)
    return conditioner.estimate_by(estimate, *question)
