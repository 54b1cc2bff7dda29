"""Noise for draws, from one seed or from one a row."""

import dataclasses

import tensorflow as tf

COUNT_STEPS = 40  # halvings of the interval in which a Poisson quantile lies
_fold_in = tf.random.experimental.stateless_fold_in


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of S samples for B rows.

    Args:
      seed: int32 [2], or [B, 2]: a row's noise is then a function of its own seed.
      num_rows: B.
      num_samples: S.
    """

    seed: tf.Tensor
    num_rows: tf.Tensor
    num_samples: tf.Tensor

    def normal(self, number: int, size: int) -> tf.Tensor:
        """Standard normal numbers, float64 [B, S, size]; `number` names a kind of noise."""
        return self._draw(number, size, tf.random.stateless_normal)

    def uniform(self, number: int, size: int) -> tf.Tensor:
        """Numbers in [0, 1), float64 [B, S, size]."""
        return self._draw(number, size, tf.random.stateless_uniform)

    def _draw(self, number, size, function):
        if self.seed.shape.rank == 1:
            # Samples first: the first of them do not depend on how many follow.
            shape = [self.num_samples, self.num_rows, size]
            drawn = function(shape, _fold_in(self.seed, number), dtype=tf.float64)
            return tf.transpose(drawn, [1, 0, 2])

        def of_row(seed):
            shape = [self.num_samples, size]
            return function(shape, _fold_in(seed, number), dtype=tf.float64)

        spec = tf.TensorSpec([None, size], tf.float64)
        return tf.map_fn(of_row, self.seed, fn_output_signature=spec)


def poisson_quantile(probability, rate) -> tf.Tensor:
    """The smallest n with P(N <= n) > probability, N Poisson: float64, of `rate`'s shape."""
    low = -tf.ones_like(rate)
    high = rate + 12.0 * tf.sqrt(rate) + 30.0
    high = tf.floor(high)
    for _ in range(COUNT_STEPS):
        middle = tf.floor(0.5 * (low + high))
        # P(N <= n) is the regularised upper incomplete gamma function.
        enough = tf.math.igammac(tf.maximum(middle, 0.0) + 1.0, rate) > probability
        enough &= middle >= 0.0
        low, high = tf.where(enough, low, middle), tf.where(enough, middle, high)
        # Where high = low + 1 the middle is low, and nothing changes any more.
    return high
