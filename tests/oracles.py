"""Models solved by hand: what an estimate is compared with instead of a golden number.

`LinearGaussian` has every posterior p(z | x_o) and every conditional density in closed form;
`DiscreteTable` is a joint distribution small enough to enumerate. The exact answers are NumPy
float64, for whole batches with a different mask in every row.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import over_features
from vae_arbcond.models import LatentVariableModel
from vae_arbcond.registry import register
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions


def gaussian_conditional(mean, covariance, x, observed):
    """Mean [B, D] and covariance [B, D, D] of a Gaussian row given x_observed.

    Observed features have their own value as mean and zeros in the covariance.

    Args:
      mean, covariance: [D], [D, D], of the joint.
      x, observed: [B, D], [B, D] bool; hidden entries of x are not read.
    """
    x, observed = np.asarray(x, np.float64), np.asarray(observed)
    means = np.where(observed, x, 0.0)
    covariances = np.zeros([*x.shape, x.shape[-1]])
    for row, o in enumerate(observed):
        u = ~o
        gain = covariance[np.ix_(u, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        means[row, u] = mean[u] + gain @ (x[row, o] - mean[o])
        covariances[row][np.ix_(u, u)] = (
            covariance[np.ix_(u, u)] - gain @ covariance[np.ix_(o, u)]
        )
    return means, covariances


def gaussian_log_prob(mean, covariance, x, observed, target):
    """log p(x_target | x_observed) of Gaussian rows, nats: [B]. Arguments as above."""
    means, covariances = gaussian_conditional(mean, covariance, x, observed)
    scored = np.asarray(target) & ~np.asarray(observed)
    values = np.zeros(len(means))
    for row, t in enumerate(scored):
        residual = np.asarray(x, np.float64)[row, t] - means[row, t]
        c = covariances[row][np.ix_(t, t)]
        log_det = np.linalg.slogdet(2 * np.pi * c)[1] if t.any() else 0.0
        values[row] = -0.5 * (residual @ np.linalg.solve(c, residual) + log_det)
    return values


@register
class LinearGaussian(LatentVariableModel):
    """x = loc + W z + noise, z ~ N(0, I): posteriors given any subset are exact.

    Args:
      weights: W, D rows of Z numbers.
      noise_scale: standard deviation of the noise; one number, or one per feature.
      loc: mean of x, one number per feature; None = zeros.
    """

    def __init__(self, weights, noise_scale, loc=None, name: str | None = None):
        super().__init__(name=name)
        w = np.asarray(weights, np.float64)
        scale = np.broadcast_to(np.asarray(noise_scale, np.float64), w.shape[:1])
        mean = np.zeros(len(w)) if loc is None else np.asarray(loc, np.float64)
        self.exact = {"w": w, "mean": mean, "covariance": w @ w.T + np.diag(scale**2)}
        self.w, self.scale = tf.constant(w, tf.float32), tf.constant(scale, tf.float32)
        self.loc = tf.constant(mean, tf.float32)

    @classmethod
    def random(cls, num_features: int, rank: int, seed: int, noise_scale: float = 0.5):
        """Weights and means drawn from N(0, 1)."""
        rng = np.random.default_rng(seed)
        weights = rng.normal(size=[num_features, rank])
        loc = rng.normal(size=[num_features])
        return cls(_tuples(weights), noise_scale, _tuples(loc))

    @property
    def data_spec(self) -> DataSpec:
        """What `create_variables` takes: a table of real columns."""
        return DataSpec((len(self.exact["mean"]),))

    def prior(self):
        return tfd.MultivariateNormalDiag(tf.zeros([self.w.shape[1]]))

    def posterior(self, x, present):
        """Exactly p(z | x_present), whatever is present."""
        w = self.w * tf.cast(present, tf.float32)[..., tf.newaxis]  # [B, D, Z]
        scaled = w / self.scale[:, tf.newaxis] ** 2
        precision = tf.eye(w.shape[-1]) + tf.matmul(w, scaled, transpose_a=True)
        residual = tf.where(present, x - self.loc, 0.0)
        evidence = tf.linalg.matvec(scaled, residual, transpose_a=True)
        covariance = tf.linalg.inv(precision)
        return tfd.MultivariateNormalTriL(
            tf.linalg.matvec(covariance, evidence), tf.linalg.cholesky(covariance)
        )

    def likelihood(self, z):
        return tfd.Normal(self.loc + tf.linalg.matvec(self.w, z), self.scale)

    def elbo(self, x, present, seed, beta=1.0, posterior=None):
        q = self.posterior(x, present) if posterior is None else posterior
        z = q.sample(seed=seed)
        log_px = over_features(self.likelihood(z), present).log_prob(x)
        return log_px - beta * tfd.kl_divergence(q, self.prior())

    # The exact answers: NumPy, float64.

    def sample(self, num_rows: int, seed: int) -> np.ndarray:
        """Rows [num_rows, D], float32."""
        rng = np.random.default_rng(seed)
        rows = rng.multivariate_normal(
            self.exact["mean"], self.exact["covariance"], num_rows, method="cholesky"
        )
        return rows.astype(np.float32)

    def exact_log_prob(self, x, observed, target) -> np.ndarray:
        """log p(x_target | x_observed), nats: [B]."""
        mean, covariance = self.exact["mean"], self.exact["covariance"]
        return gaussian_log_prob(mean, covariance, x, observed, target)

    def exact_moments(self, x, observed):
        """Mean [B, D] and covariance [B, D, D] of x given x_observed."""
        mean, covariance = self.exact["mean"], self.exact["covariance"]
        return gaussian_conditional(mean, covariance, x, observed)


class DiscreteTable:
    """A joint distribution over a few categorical columns, as a tensor of probabilities.

    Args:
      probs: [K_1, ..., K_D], the probability of every row; sums to 1.
    """

    def __init__(self, probs):
        self.probs = np.asarray(probs, np.float64)
        if not np.isclose(self.probs.sum(), 1.0) or self.probs.min() < 0:
            raise ValueError(f"probs must be a distribution, but sum to {self.probs.sum()}.")

    @classmethod
    def mixture(cls, weights, tables) -> "DiscreteTable":
        """sum_c weights[c] prod_d tables[d][c, x_d]: what a latent class model can learn.

        Args:
          weights: [C].
          tables: D arrays [C, K_d], rows that sum to 1.
        """
        joint = np.asarray(weights, np.float64)
        for table in tables:
            joint = joint[..., np.newaxis] * np.reshape(
                table, [len(weights), *[1] * (joint.ndim - 1), -1]
            )
        return cls(joint.sum(0))

    @classmethod
    def random(cls, levels, components: int, seed: int, concentration: float = 0.3):
        """A mixture of `components` with Dirichlet tables; low concentration = distinct."""
        rng = np.random.default_rng(seed)
        weights = rng.dirichlet([5.0] * components)
        return cls.mixture(
            weights, [rng.dirichlet([concentration] * k, components) for k in levels]
        )

    @property
    def data_spec(self) -> DataSpec:
        """What `create_variables` takes: a table of categorical columns."""
        return DataSpec((self.probs.ndim,), levels=self.probs.shape)

    def sample(self, num_rows: int, seed: int) -> np.ndarray:
        """Rows of level indices [num_rows, D], float32."""
        rng = np.random.default_rng(seed)
        cells = rng.choice(self.probs.size, num_rows, p=self.probs.ravel())
        return np.stack(np.unravel_index(cells, self.probs.shape), -1).astype(np.float32)

    def exact_log_prob(self, x, observed, target) -> np.ndarray:
        """log p(x_target | x_observed) by enumeration, nats: [B]."""
        observed = np.asarray(observed)
        both = self._marginal(x, observed | np.asarray(target))
        return np.log(both) - np.log(self._marginal(x, observed))

    def exact_marginals(self, x, observed) -> np.ndarray:
        """P(x_d = k | x_observed): [B, D, max K]; levels that a column lacks have 0."""
        x, observed = np.asarray(x), np.asarray(observed)
        table = np.zeros([*x.shape, max(self.probs.shape)])
        for d, size in enumerate(self.probs.shape):
            others = observed.copy()
            others[:, d] = False
            alone = np.zeros_like(observed)
            alone[:, d] = True
            for k in range(size):
                asked = x.copy()
                asked[:, d] = k
                table[:, d, k] = np.exp(self.exact_log_prob(asked, others, alone))
            seen = observed[:, d]
            table[seen, d] = np.eye(table.shape[-1])[x[seen, d].astype(int)]
        return table

    def _marginal(self, x, features):
        """p(x_features): [B]."""
        values = np.zeros(len(x))
        for row, (cells, kept) in enumerate(zip(np.asarray(x), features, strict=True)):
            summed = self.probs.sum(tuple(np.flatnonzero(~kept)))
            values[row] = summed[tuple(cells[kept].astype(int))]
        return values


def _tuples(array):
    return tuple(_tuples(part) for part in array) if np.ndim(array) else float(array)
