"""Which features count: densities of subsets of the features, and point completions."""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.columns import Columns

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
    masked = tfd.Masked(likelihood, features, safe_sample_fn=lambda _: 0.0)
    return tfd.Independent(masked, features.shape.rank - 1)


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
