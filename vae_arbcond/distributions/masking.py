"""Which features count: densities of subsets of the features, and point completions."""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.columns import Columns
from vae_arbcond.distributions.handmade import Handmade

tfd = tfp.distributions


def over_features(likelihood: tfd.Distribution, features: tf.Tensor) -> tfd.Distribution:
    """p(x_s | z) for a subset s of the features.

    Marginalising the features outside s is leaving them out, because the features are
    independent given z (Posterior Matching, Eq. 21: the product over i in o).

    Args:
      likelihood: batch_shape [..., B, *F], event_shape *E. Zero must lie in its support: it
        stands in for x outside s, so that neither a value nor a gradient there is NaN.
      features: bool [B, *F]; True = the feature is in s.

    Returns:
      A distribution with batch_shape [..., B] whose `log_prob` sums over s only. Entries
      of x outside s may be NaN: neither the value nor its gradient is touched by them.
    """
    return _Subset(likelihood, features)


class _Subset(Handmade):
    """What `over_features` returns.

    As tfd.Independent of a tfd.Masked, which chooses where this multiplies: choosing by a mask
    that must be broadcast takes some five times as long, forwards and back.
    """

    def __init__(self, likelihood, features, name="Subset"):
        made_of = dict(locals())
        self._likelihood, self._features = likelihood, tf.convert_to_tensor(features)
        self._axes = list(range(1 - self._features.shape.rank, 0))  # Those of *F.
        super().__init__(made_of, name)

    def _batch_shape(self):
        return self._likelihood.batch_shape[: -len(self._axes)]

    def _batch_shape_tensor(self):
        return self._likelihood.batch_shape_tensor()[: -len(self._axes)]

    def _event_shape(self):
        features = self._likelihood.batch_shape[-len(self._axes) :]
        return features.concatenate(self._likelihood.event_shape)

    def _event_shape_tensor(self):
        features = self._likelihood.batch_shape_tensor()[-len(self._axes) :]
        return tf.concat([features, self._likelihood.event_shape_tensor()], 0)

    def _log_prob(self, x):
        features = self._features
        for _ in range(self._likelihood.event_shape.rank):
            features = tf.expand_dims(features, -1)
        seen = tf.where(features, x, 0.0)
        each = self._likelihood.log_prob(seen)
        return _sum_over(each, tf.cast(self._features, each.dtype), self._axes)


def _sum_over(each, counted, axes):
    """Sum of each [..., B, *F] over the axes *F where `counted` [B, *F] is 1, not 0.

    What is not counted may be no number. The gradient asks for no values, so that these are
    not computed where only the gradient is wanted, as in a search.
    """
    if not each.shape[-counted.shape.rank :].is_compatible_with(counted.shape):
        shape = tf.broadcast_dynamic_shape(tf.shape(each), tf.shape(counted))
        each = tf.broadcast_to(each, shape)
        features = tf.shape(each)[-len(axes) :]
        rows = tf.shape(counted)[: counted.shape.rank - len(axes)]
        counted = tf.broadcast_to(counted, tf.concat([rows, features], 0))

    @tf.custom_gradient
    def total(each):
        def gradient(upstream):
            for _ in axes:
                upstream = tf.expand_dims(upstream, -1)
            return tf.math.multiply_no_nan(upstream, counted)

        return tf.reduce_sum(tf.math.multiply_no_nan(each, counted), axes), gradient

    return total(each)


def expected_features(likelihood: tfd.Distribution) -> tf.Tensor:
    """E[x | z] for each feature; for a categorical one its probabilities' summary, see below.

    Returns:
      [..., B, *F, *E, K]: K = 1 and the mean for a real or Bernoulli feature; K = the number
      of levels and the probabilities for a categorical one; for `Columns`, columns side by
      side along the feature axis would have different K, so all are padded to the largest.
    """
    if isinstance(likelihood, Columns):
        return likelihood.expected_features()
    if isinstance(likelihood, tfd.Categorical):
        return likelihood.probs_parameter()
    return likelihood.mean()[..., tf.newaxis]


def point_from_expectation(expectation: tf.Tensor, levels) -> tf.Tensor:
    """The best single value of each feature: mean of a real one, mode of a categorical one.

    Args:
      expectation: [..., *F, *E, K], an average of `expected_features` over z.
      levels: number of levels of each column, 0 = real; None = all real. An int stands for
        every feature (a categorical image).

    Returns:
      [..., *F, *E] float32; a categorical feature's entry is the index of its likeliest level.
    """
    means = expectation[..., 0]
    if levels is None:
        return means
    modes = tf.cast(tf.argmax(expectation, axis=-1), means.dtype)
    return tf.where(tf.constant(levels) > 0, modes, means)
