"""Factor analysis conditioned in closed form: the exact answer beside any other method's."""

import tensorflow as tf

from vae_arbcond import estimators
from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.base import Inference, LatentConditioner
from vae_arbcond.conditioners.mixture_answers import Moments, check_probabilities, quantiles
from vae_arbcond.models.base import FitStage
from vae_arbcond.models.factor_analysis import FactorAnalysis
from vae_arbcond.registry import register


@register
class FactorAnalysisConditioner(LatentConditioner):
    """p(x_target | x_observed) of a `FactorAnalysis`, exactly.

    Draws come from the exact p(latent | x_observed); likelihoods and completions are in closed
    form, with no samples and no error.

    Args:
      model: a FactorAnalysis.
      fit_model: False leaves the model as it is: conditioning for one that is fitted already.
    """

    infer_draws = False  # Exact, and each row for itself.

    def __init__(self, model, fit_model: bool = True, name: str | None = None):
        if not isinstance(model, FactorAnalysis):
            raise TypeError(
                f"FactorAnalysisConditioner knows the posterior of a FactorAnalysis, got a "
                f"{type(model).__name__}. Use PosteriorMatching around that."
            )
        # Draws need no correction: every candidate has the same weight.
        super().__init__(model, correct_draws=False, name=name)
        self.fit_model = fit_model

    def infer(self, x, observed, seed):
        del seed  # Exact: nothing is drawn.
        self.model.check_fitted()
        return Inference(self.model.posterior(x, observed))

    def stages(self):
        return [FitStage("EM", self.model.fit_rows)] if self.fit_model else []

    def variables_to_train(self):
        return []

    def dry_run(self, x, seen):
        """There are no weights but the model's, which it creates by itself."""

    def loss_terms(self, x, present, observed, seed, step, training):
        """The exact negative log-likelihood of the present cells; nothing is trained on it."""
        del observed, step, training
        return {"negative_log_likelihood": -self.model.elbo(x, present, seed)}

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        del seed
        self.model.check_fitted()
        joint, _ = self.model.solve(x, observed | target)
        given, _ = self.model.solve(x, observed)
        value = tf.reduce_logsumexp(joint, 0) - tf.reduce_logsumexp(given, 0)
        value = tf.where(tf.reduce_any(target, -1), value, 0.0)
        return estimators.exact(tf.cast(value, tf.float32), num_samples)

    def conditional_mean(self, x, observed) -> tf.Tensor:
        """E[x | x_observed], float64 [B, D]: what `complete` fills in.

        Args:
          x: [B, D]; hidden entries may be anything.
          observed: bool [B, D].
        """
        return self.conditional_moments(x, observed).mean

    def conditional_moments(self, x, observed) -> Moments:
        """Exact mean and variance of every column given x_observed, each float64 [B, D].

        Args:
          x, observed: as for `conditional_mean`.
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        weights, means, variances = self._marginals(hidden, observed)
        mean = tf.reduce_sum(weights * means, 0)
        variance = tf.reduce_sum(weights * (variances + (means - mean) ** 2), 0)
        own = tf.cast(hidden, tf.float64)
        return Moments(tf.where(observed, own, mean), tf.where(observed, 0.0, variance))

    def quantiles(self, x, observed, probabilities) -> tf.Tensor:
        """Quantiles of every column given x_observed: float64 [Q, B, D].

        Observed cells are their own quantiles.

        Args:
          x, observed: as for `conditional_mean`.
          probabilities: Q numbers in (0, 1).

        Raises:
          ValueError: a probability out of range.
        """
        wanted = check_probabilities(probabilities)
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        weights, means, variances = self._marginals(hidden, observed)
        answer = quantiles(tf.math.log(weights[..., 0]), means, variances, wanted)
        return tf.where(observed, tf.cast(hidden, tf.float64), answer)

    def _marginals(self, x, observed):
        """Weights [K, B, 1] and each column's mean and variance in a component [K, B, D]."""
        weights, means, solved = self._components(x, observed)
        factors = self.model.factors
        # w^T Cov(z | x_o) w of each column, and the noise that no other column tells.
        spread = tf.einsum(
            "kdi,kbij,kdj->kbd", factors.loadings, solved.covariances, factors.loadings
        )
        return weights, means, spread + factors.variances[:, tf.newaxis]

    def _components(self, x, observed):
        """p(component | x_o) [K, B, 1], E[x | x_o, component] [K, B, D] and the solves."""
        self.model.check_fitted()
        joint, solved = self.model.solve(x, observed)
        factors = self.model.factors
        means = factors.means[:, tf.newaxis] + tf.matmul(
            solved.means, factors.loadings, transpose_b=True
        )
        return tf.nn.softmax(joint, axis=0)[..., tf.newaxis], means, solved

    def _complete(self, x, observed, num_samples, seed):
        del num_samples, seed
        weights, means, _ = self._components(x, observed)
        return tf.cast(tf.reduce_sum(weights * means, 0), tf.float32)

    def _impute_and_complete(self, x, observed, num_samples, seed):
        draws = self._impute(x, observed, num_samples, seed)
        return draws, self._complete(x, observed, num_samples, sampling.split(seed)[0])
