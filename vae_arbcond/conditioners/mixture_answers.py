"""What a mixture knows besides draws and likelihoods: moments, quantiles, probabilities."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_arbcond.mixtures import marginals

BISECTIONS = 60


class Moments(NamedTuple):
    """Means and variances of x given x_observed, each float64 [B, D].

    An observed cell is its own mean and has no variance; a column with levels has those of
    the level's index.
    """

    mean: tf.Tensor
    variance: tf.Tensor


class Posterior(NamedTuple):
    """A mixture given what was observed; K components, B rows, float64.

    Attributes:
      log_weights: log p(component | x_o): [B, K].
      means, variances: of each real column's g: [K, B, R].
    """

    log_weights: tf.Tensor
    means: tf.Tensor
    variances: tf.Tensor


def check_probabilities(probabilities) -> np.ndarray:
    """float64 [Q].

    Raises:
      ValueError: one of them is not between 0 and 1.
    """
    wanted = np.asarray(probabilities, np.float64).reshape(-1)
    if not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"probabilities must lie between 0 and 1, got {probabilities}.")
    return wanted


def quantiles(log_weights, means, variances, wanted) -> tf.Tensor:
    """Quantiles of each column of a mixture of Gaussians, by bisection: float64 [Q, B, D].

    Args:
      log_weights: [K, B].
      means, variances: [K, B, D], float64.
      wanted: probabilities [Q].
    """
    weights = tf.exp(log_weights)[..., tf.newaxis]
    scales = tf.sqrt(tf.maximum(variances, 1e-300))
    at = tf.constant(wanted)[:, tf.newaxis, tf.newaxis]
    width = 10.0 * tf.reduce_max(scales, 0)
    shape = tf.concat([tf.shape(at)[:1], tf.shape(width)], 0)
    low = tf.broadcast_to(tf.reduce_min(means, 0) - width, shape)
    high = tf.broadcast_to(tf.reduce_max(means, 0) + width, shape)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        z = (middle[:, tf.newaxis] - means) / scales
        below = tf.reduce_sum(weights * 0.5 * tf.math.erfc(-z * np.sqrt(0.5)), 1) < at
        low, high = tf.where(below, middle, low), tf.where(below, high, middle)
    return 0.5 * (low + high)


class MixtureAnswers:
    """Answers of a `GaussianMixtureConditioner` that not every method has."""

    def conditional_moments(self, x, observed) -> Moments:
        """Mean and variance of every column given x_observed.

        Exact, through the marginals too. With `strength` above 0 real columns stay within the
        range of the training values, as draws do.

        Args:
          x: [B, D]; hidden entries may be anything.
          observed: bool [B, D].
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        posterior = self.posterior(hidden, observed)
        if self.strength == 0.0:
            weights = tf.exp(tf.transpose(posterior.log_weights))[..., tf.newaxis]
            g_mean = tf.reduce_sum(weights * posterior.means, 0)
            real = marginals.to_x(self.marginals, g_mean)
            apart = posterior.variances + (posterior.means - g_mean) ** 2
            spread = tf.reduce_sum(weights * apart, 0) * self.marginals.slope**2
            constant = tf.equal(self.marginals.least, self.marginals.most)
            spread = tf.where(constant, tf.zeros([], tf.float64), spread)
        else:
            weights = tf.exp(tf.transpose(posterior.log_weights))[..., tf.newaxis]  # [K, B, 1]
            scales = tf.sqrt(posterior.variances)
            each = marginals.expected_x(self.marginals, posterior.means, scales)
            real, square = (tf.reduce_sum(weights * part, 0) for part in each)
            spread = square - real**2
        means, spreads = [real], [tf.maximum(spread, 0.0)]
        weights = tf.exp(posterior.log_weights)
        shares = tf.matmul(weights, tf.exp(self.mixture.log_levels))
        for start, size in zip(self.columns.starts, self.columns.sizes, strict=True):
            index = tf.range(size, dtype=tf.float64)
            mean = tf.linalg.matvec(shares[:, start : start + size], index)[:, tf.newaxis]
            square = tf.linalg.matvec(shares[:, start : start + size], index**2)
            means.append(mean)
            spreads.append(square[:, tf.newaxis] - mean**2)
        rates = tf.exp(self.mixture.log_rates)
        counts = tf.matmul(weights, rates)
        means.append(counts)
        spreads.append(tf.matmul(weights, rates + rates**2) - counts**2)
        own = tf.cast(hidden, tf.float64)
        mean = tf.where(observed, own, self._in_order(means))
        return Moments(mean, tf.where(observed, 0.0, self._in_order(spreads)))

    def quantiles(self, x, observed, probabilities) -> tf.Tensor:
        """Quantiles of each real column and count given x_observed: float64 [Q, B, D].

        A count's is the least number that has this probability or more. Observed cells are
        their own quantiles; columns with levels are NaN (see `class_probabilities`).

        Args:
          x, observed: as for `conditional_moments`.
          probabilities: Q numbers in (0, 1).

        Raises:
          ValueError: a probability out of range.
        """
        wanted = check_probabilities(probabilities)
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        posterior = self.posterior(hidden, observed)
        g = quantiles(
            tf.transpose(posterior.log_weights), posterior.means, posterior.variances, wanted
        )
        real = marginals.to_x(self.marginals, g, self.strength > 0.0)
        counts = self._count_quantiles(tf.exp(posterior.log_weights), wanted)
        unknown = tf.fill(tf.shape(real)[:2], tf.constant(np.nan, tf.float64))[..., tf.newaxis]
        answer = self._in_order([real] + [unknown] * len(self.columns.discrete) + [counts])
        return tf.where(observed, tf.cast(hidden, tf.float64), answer)

    def class_probabilities(self, x, observed) -> tf.Tensor:
        """P(level | x_observed) of each column: float64 [B, D, most levels of a column].

        Columns without levels hold zeros; an observed cell has probability 1 at its level.

        Args:
          x, observed: as for `conditional_moments`.
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        weights = tf.exp(self.posterior(hidden, observed).log_weights)
        shares = tf.matmul(weights, tf.exp(self.mixture.log_levels))
        most = max(self.columns.sizes, default=0)
        tables = [tf.zeros([tf.shape(x)[0], most], tf.float64)] * x.shape[1]
        for d, start, size in zip(
            self.columns.discrete, self.columns.starts, self.columns.sizes, strict=True
        ):
            own = tf.one_hot(tf.cast(hidden[:, d], tf.int32), size, dtype=tf.float64)
            table = shares[:, start : start + size]
            table = tf.where(observed[:, d, tf.newaxis], own, table)
            tables[d] = tf.pad(table, [[0, 0], [0, most - size]])
        return tf.stack(tables, 1)

    def _count_quantiles(self, weights, wanted):
        """Quantiles [Q, B, C] of counts, mixtures of Poissons with weights [B, K]."""
        rates = tf.exp(self.mixture.log_rates)  # [K, C]
        most = tf.reduce_max(rates, 0)
        shape = [len(wanted), tf.shape(weights)[0], rates.shape[1]]
        # P(n <= low) is too small, P(n <= high) is not: far above any quantile in float64.
        low = tf.fill(shape, tf.constant(-1.0, tf.float64))
        high = tf.broadcast_to(tf.math.ceil(most + 40.0 * tf.sqrt(most) + 100.0), shape)
        at = tf.constant(wanted)[:, tf.newaxis, tf.newaxis]
        for _ in range(BISECTIONS):
            middle = tf.math.floor(0.5 * (low + high))
            each = tf.math.igammac(middle[:, :, tf.newaxis] + 1.0, rates)  # [Q, B, K, C]
            enough = tf.einsum("bk,qbkc->qbc", weights, each) >= at
            low, high = tf.where(enough, low, middle), tf.where(enough, middle, high)
        return high
