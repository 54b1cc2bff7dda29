"""Likelihood estimators: pure functions of log-densities of samples, each with its equation.

All take tensors [S, B] of S samples for B rows and return an `Estimate` of tensors [B], in
nats. Which estimator made a number is part of the number: never mix them in one table.
"""

from typing import NamedTuple

import tensorflow as tf

MIN_TAIL = 5  # samples in the tail below which no Pareto shape is fitted
EQUAL = 1e-3  # relative spread of the largest weights below which they count as equal


class Estimate(NamedTuple):
    """An estimated log-likelihood and how far to trust it. Every field is [B].

    Attributes:
      value: nats.
      stderr: standard error of `value`, nats, from leaving out one sample at a time (the
        jackknife); NaN with fewer than two samples.
      ess: effective number of samples of the weights, 1 / sum_s w_s**2; between 1 and S. The
        smallest where an estimate has several kinds of weights.
      pareto_k: shape of the generalised Pareto distribution fitted to the largest weights;
        the largest where there are several kinds. Above 0.7 the value may be far off and its
        error bar is not to be trusted; infinite where the largest weight is not a number
        above 0. NaN with fewer than 25 samples.
      non_finite: number of samples with a NaN or infinite log-density among those that make
        the value. A log-density of -inf is a sample that explains nothing, and counts as
        that; anything else makes the value NaN rather than be dropped.
    """

    value: tf.Tensor
    stderr: tf.Tensor
    ess: tf.Tensor
    pareto_k: tf.Tensor
    non_finite: tf.Tensor


def exact(value: tf.Tensor, num_samples) -> Estimate:
    """What is known in closed form: no samples, so no error, and no weights to have a tail.

    Args:
      value: [B], nats.
      num_samples: S that was asked for: all of them are effective.
    """
    nothing = tf.zeros_like(value)
    samples = nothing + tf.cast(num_samples, value.dtype)
    return Estimate(value, nothing, samples, nothing, nothing)


def corrected_predictive(log_weights: tf.Tensor, log_p_target: tf.Tensor) -> Estimate:
    """log p(x_t | x_o) ~ log sum_s w_s p(x_t | z_s), w_s self-normalised: the default.

    z_s ~ q(z | x_o) and w_s proportional to p(x_o | z_s) p(z_s) / q(z_s | x_o). Consistent
    for every proposal q that covers the posterior, and exactly 0 for an empty target.

    Args:
      log_weights: [S, B], log p(x_o | z_s) + log p(z_s) - log q(z_s | x_o).
      log_p_target: [S, B], log p(x_t | z_s).
    """
    log_joint = log_weights + log_p_target
    value = tf.reduce_logsumexp(log_joint, 0) - tf.reduce_logsumexp(log_weights, 0)
    weights = tf.nn.softmax(log_weights, axis=0)
    shares = tf.nn.softmax(log_joint, axis=0)
    stderr = _jackknife(_without(shares) - _without(weights))
    # The numerator has weights of its own, w_s p(x_t | z_s): a proposal made for x_o may be
    # far from where x_t is likely. The worse of the two says how far to trust the value.
    return Estimate(
        value,
        stderr,
        tf.minimum(effective_sample_size(log_weights), effective_sample_size(log_joint)),
        tf.maximum(pareto_k(log_weights), pareto_k(log_joint)),
        _count_non_finite(log_weights, log_p_target),
    )


def importance(log_weights: tf.Tensor) -> Estimate:
    """log p(x_o) ~ log 1/S sum_s p(x_o | z_s) p(z_s) / q(z_s | x_o).

    Posterior Matching, Eq. 18 with everything observed, Eq. 19 and 21 with a part of it. Its
    expectation is a lower bound on the log-likelihood.

    Args:
      log_weights: [S, B], as for `corrected_predictive`.
    """
    value = log_mean_exp(log_weights)
    return Estimate(
        value,
        _jackknife(_without(tf.nn.softmax(log_weights, axis=0))),
        effective_sample_size(log_weights),
        pareto_k(log_weights),
        _count_non_finite(log_weights),
    )


def conditional_prior_importance(
    log_p_target: tf.Tensor, log_prior: tf.Tensor, log_proposal: tf.Tensor
) -> Estimate:
    """log p(x_t | x_o) ~ log 1/S sum_s p(x_t | z_s, x_o) p(z_s | x_o) / q(z_s | x).

    VAEAC, Eq. 18, for models with a conditional prior p(z | x_o), z_s ~ q(z | x). With
    z_s ~ p(z | x_o) it is VAEAC's Eq. 17, which is `predictive`.

    Args:
      log_p_target: [S, B], log p(x_t | z_s, x_o).
      log_prior: [S, B], log p(z_s | x_o).
      log_proposal: [S, B], log q(z_s | x).
    """
    return importance(log_p_target + log_prior - log_proposal)


def marginal_of_missing(
    log_p_missing: tf.Tensor, log_prior: tf.Tensor, log_posterior: tf.Tensor
) -> Estimate:
    """log p(x_M) ~ log 1/S sum_s p(x_M | z_s) p(z_s) / q(z_s), z_s ~ q: QAVI, Eq. 12.

    The likelihood of the missing features alone, NOT given the observed ones: q only decides
    how tight the bound is. Never in one column with log p(x_M | x_o).

    Args:
      log_p_missing: [S, B], log p(x_M | z_s).
      log_prior: [S, B], log p(z_s).
      log_posterior: [S, B], log q(z_s), any approximation of p(z | x_o).
    """
    return importance(log_p_missing + log_prior - log_posterior)


def log_marginal(log_joint: tf.Tensor, log_proposal: tf.Tensor) -> tf.Tensor:
    """log p(x_o | z) ~ log 1/M sum_m p(x_o, x_u^m | z) / r(x_u^m), x_u^m ~ r: [...].

    The integral over x_u in Posterior Matching, Eq. 20, for decoders whose features are not
    independent given z. Its exponential is unbiased, so `importance` of weights made with it
    estimates Eq. 20 without bias, however small M is.

    Args:
      log_joint: [M, ...], log p(x_o, x_u^m | z).
      log_proposal: [M, ...], log r(x_u^m), any density of the hidden features.
    """
    return log_mean_exp(log_joint - log_proposal)


def ratio(joint: Estimate, observed: Estimate) -> Estimate:
    """log p(x_t, x_o) - log p(x_o), two independent estimates: Posterior Matching, App. B.

    A difference of two lower bounds, so neither a lower nor an upper bound itself.
    """
    return Estimate(
        joint.value - observed.value,
        tf.sqrt(joint.stderr**2 + observed.stderr**2),
        tf.minimum(joint.ess, observed.ess),
        tf.maximum(joint.pareto_k, observed.pareto_k),
        joint.non_finite + observed.non_finite,
    )


def predictive(log_p_target: tf.Tensor) -> Estimate:
    """log 1/S sum_s p(x_t | z_s), z_s ~ q(z | x_o), without correcting for q.

    Estimates the likelihood under the approximate posterior, not under the model: biased
    wherever q(z | x_o) is not p(z | x_o). For latents without a usable density; and for models
    with a conditional prior p(z | x_o), which are what they draw from: VAEAC, Eq. 17.

    Args:
      log_p_target: [S, B].
    """
    return importance(log_p_target)


def certain_where(certain: tf.Tensor, estimate: Estimate) -> Estimate:
    """The estimate with log-likelihood 0 and no error where bool [B] says so.

    For rows with an empty target under a proposal that weighs z even then. Their weights have
    no tail to be warned of, as in `exact`; `ess` stays that of the samples.
    """
    return estimate._replace(
        value=tf.where(certain, 0.0, estimate.value),
        stderr=tf.where(certain, 0.0, estimate.stderr),
        pareto_k=tf.where(certain, 0.0, estimate.pareto_k),
    )


def log_mean_exp(log_values: tf.Tensor) -> tf.Tensor:
    """log 1/S sum_s exp(log_values_s) over the first axis.

    Raises:
      ValueError: there are no samples.
    """
    if log_values.shape[0] == 0:
        raise ValueError("An estimate needs at least one sample, got none: [0, B].")
    count = tf.cast(tf.shape(log_values)[0], log_values.dtype)
    return tf.reduce_logsumexp(log_values, 0) - tf.math.log(count)


def effective_sample_size(log_weights: tf.Tensor) -> tf.Tensor:
    """1 / sum_s w_s**2 of the self-normalised weights: [S, B] -> [B]."""
    return 1.0 / tf.reduce_sum(tf.nn.softmax(log_weights, axis=0) ** 2, 0)


def tempered_weights(log_weights: tf.Tensor, min_ess: float) -> tf.Tensor:
    """Self-normalised w_s**t with the largest t <= 1 that keeps `min_ess` samples effective.

    Few samples under a rough proposal leave one sample with all the weight; flattening the
    weights trades that variance for bias. As S grows t reaches 1, so averages under these
    weights are consistent.

    Args:
      log_weights: [S, B].
      min_ess: effective number of samples to keep; with fewer samples than that, t = 0.

    Returns:
      [S, B], columns that sum to 1.
    """
    # Samples last and a grid of temperatures at once: few operations and no transposes, which
    # took most of the time of a served answer.
    log_weights = tf.transpose(log_weights)
    log_weights -= tf.reduce_max(log_weights, -1, keepdims=True)

    def kept(temperature):  # [B, G] -> bool [B, G]
        weights = tf.exp(temperature[:, :, tf.newaxis] * log_weights[:, tf.newaxis])
        return tf.reduce_sum(weights, -1) ** 2 >= min_ess * tf.reduce_sum(weights**2, -1)

    # The effective sample size falls as t grows: find the tenth in which it falls below
    # `min_ess`, then the tenth of that tenth, and so on.
    low = tf.zeros_like(log_weights[:, :1])
    for digit in range(1, 7):
        grid = low + tf.range(1.0, 11.0) / 10.0**digit
        steps = tf.cast(kept(grid) & (grid < 1.0 + 1e-6), tf.float32)
        low += tf.reduce_sum(steps, -1, keepdims=True) / 10.0**digit
    return tf.transpose(tf.nn.softmax(tf.minimum(low, 1.0) * log_weights))


def pareto_k(log_weights: tf.Tensor) -> tf.Tensor:
    """Shape of the weights' upper tail: [S, B] -> [B] (Vehtari et al., arXiv:1507.02646).

    The generalised Pareto distribution is fitted to the min(S / 5, 3 sqrt(S)) largest weights
    by the profile-likelihood average of Zhang and Stephens (2009), with the weakly informative
    prior of Vehtari et al. (ten pseudo-observations of 0.5). Equal weights have no tail: 0.
    Weights that are NaN, or whose largest is 0 or infinite: infinity.
    """
    log_weights = tf.cast(log_weights, tf.float64)
    num_samples = tf.shape(log_weights)[0]
    count = tf.cast(num_samples, tf.float64)
    tail = tf.cast(tf.minimum(count / 5.0, 3.0 * tf.sqrt(count)), tf.int32)
    if tf.get_static_value(tail) is not None and int(tf.get_static_value(tail)) < MIN_TAIL:
        return tf.fill(tf.shape(log_weights)[1:], tf.constant(float("nan"), tf.float32))
    enough = tf.maximum(tail, MIN_TAIL)
    padded = tf.pad(log_weights, [[0, tf.maximum(enough + 1 - num_samples, 0)], [0, 0]])
    k = _tail_shape(padded, enough)
    return tf.cast(tf.where(tail >= MIN_TAIL, k, float("nan")), tf.float32)


def _tail_shape(log_weights: tf.Tensor, tail: tf.Tensor) -> tf.Tensor:
    """Generalised Pareto shape of the `tail` largest of [S, B] weights: [B], float64."""
    largest = tf.math.top_k(tf.transpose(log_weights), tail + 1).values  # [B, tail + 1]
    # NaN sorts anywhere: look at all of them, not at the largest alone.
    broken = tf.reduce_any(tf.math.is_nan(log_weights), 0)
    broken |= ~tf.math.is_finite(tf.reduce_max(log_weights, 0))
    largest = tf.where(broken[:, tf.newaxis], tf.zeros_like(largest), largest)
    scaled = tf.exp(largest - largest[:, :1])
    excess = tf.reverse(scaled[:, :-1] - scaled[:, -1:], [-1])  # ascending
    # Float32 log-densities of hundreds of features err by about 1e-4: such a spread of the
    # weights is rounding, whose "tail" would look as heavy as any.
    has_tail = excess[:, -1] > EQUAL
    # Where samples repeat, as those of a discrete z do, many of them stand at the tail's edge:
    # a tail of which a quarter is not there has no shape.
    n = tf.cast(tail, tf.float64)
    at_quartile = tf.cast(n / 4.0 + 0.5, tf.int32) - 1
    has_tail &= tf.gather(excess, at_quartile, axis=1) > 1e-12
    excess = tf.where(has_tail[:, tf.newaxis], tf.maximum(excess, 1e-12), 1.0)
    grid = 30.0 + tf.floor(tf.sqrt(n))
    quartile = tf.gather(excess, at_quartile, axis=1)[:, tf.newaxis]
    steps = tf.range(1.0, grid + 1.0, dtype=tf.float64)
    theta = (1.0 - tf.sqrt(grid / (steps - 0.5))) / (3.0 * quartile) + 1.0 / excess[:, -1:]

    def shape_for(theta):  # [B, G] -> [B, G]
        product = theta[:, :, tf.newaxis] * excess[:, tf.newaxis, :]
        return tf.reduce_mean(tf.math.log1p(-product), -1)

    k = shape_for(theta)
    log_likelihood = n * (tf.math.log(-theta / k) - k - 1.0)
    # The largest theta can touch the edge of the support: such points carry no likelihood.
    log_likelihood = tf.where(tf.math.is_finite(log_likelihood), log_likelihood, -1e300)
    mean_theta = tf.reduce_sum(theta * tf.nn.softmax(log_likelihood, -1), -1, keepdims=True)
    k = shape_for(mean_theta)[:, 0]
    k = tf.where(has_tail, (n * k + 10.0 * 0.5) / (n + 10.0), 0.0)
    return tf.where(broken, tf.constant(float("inf"), tf.float64), k)


def _without(shares: tf.Tensor) -> tf.Tensor:
    """log of what is left of the total without each sample: shares [S, B] -> [S, B]."""
    # One sample that is everything leaves nothing: a bound keeps the error large and finite.
    return tf.math.log1p(-tf.minimum(shares, 1.0 - 1e-7))


def _jackknife(values: tf.Tensor) -> tf.Tensor:
    """Standard error from the values [S, B] that leave out a sample each, less a constant."""
    count = tf.cast(tf.shape(values)[0], values.dtype)
    deviation = values - tf.reduce_mean(values, 0)
    stderr = tf.sqrt((count - 1.0) / count * tf.reduce_sum(deviation**2, 0))
    return tf.where(count > 1.0, stderr, float("nan"))


def _count_non_finite(*log_densities: tf.Tensor) -> tf.Tensor:
    """Samples with a NaN or infinite term: tensors [S, B] -> [B], float32."""
    finite = tf.reduce_all([tf.math.is_finite(part) for part in log_densities], 0)
    return tf.reduce_sum(tf.cast(~finite, tf.float32), 0)
