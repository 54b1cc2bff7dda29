"""What families take from a start: moments, and draws by noise that all queries share."""

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions

START_DRAWS = 128  # of a start without closed-form moments, from which these are taken


def shared_draws(start: tfd.Distribution, count: int, seed) -> tf.Tensor:
    """Draws of a start by the same noise in every row: [count, B, Z].

    A start that cannot be indexed is drawn as it draws itself, by noise for each place.
    """
    rows = start.batch_shape[0]
    if rows == 1:
        return start.sample(count, seed=seed)
    try:
        start[0]
    except (NotImplementedError, TypeError):
        return start.sample(count, seed=seed)
    size = start.event_shape[-1]
    rows = start.batch_shape_tensor()[0] if rows is None else rows
    z = tf.map_fn(
        lambda i: start[i].sample(count, seed=seed),
        tf.range(rows),
        fn_output_signature=tf.TensorSpec([count, size]),
    )
    return tf.transpose(z, [1, 0, 2])


def moments(start: tfd.Distribution, seed) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean [B, Z] and covariance [B, Z, Z] of a start; from draws where it does not know."""
    known = known_moments(start)
    if known is not None:
        return known
    return moments_of_draws(shared_draws(start, START_DRAWS, seed))


def known_moments(start: tfd.Distribution):
    """Mean [B, Z] and covariance [B, Z, Z] in closed form, or None."""
    try:
        return start.mean(), start.covariance()
    except NotImplementedError:
        return None


def moments_of_draws(z) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean [B, Z] and covariance [B, Z, Z] of draws [S, B, Z]."""
    mean = tf.reduce_mean(z, 0)
    apart = tf.transpose(z - mean, [1, 0, 2])
    covariance = tf.matmul(apart, apart, transpose_a=True) / (z.shape[0] - 1.0)
    return mean, covariance


def root_of(covariance, min_scale: float) -> tf.Tensor:
    """Cholesky factor, with a ridge: few draws may say that some direction has no spread."""
    size = tf.shape(covariance)[-1]
    ridge = 1e-3 * tf.linalg.trace(covariance) / tf.cast(size, tf.float32) + min_scale**2
    return tf.linalg.cholesky(covariance + ridge[:, tf.newaxis, tf.newaxis] * tf.eye(size))
