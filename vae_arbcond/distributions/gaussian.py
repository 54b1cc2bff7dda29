"""Gaussian posterior heads: network output -> q(z | .), a tfd.Distribution with a density."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.registry import register

tfd = tfp.distributions
tfb = tfp.bijectors


@register
class DiagonalGaussian(keras.layers.Layer):
    """Network output [..., H] -> Gaussian with independent coordinates.

    Returns a distribution with batch_shape [...] and event_shape [event_size].

    Args:
      event_size: length of z.
      min_scale: lower bound on the standard deviation; keeps log-densities finite.
    """

    def __init__(self, event_size: int, min_scale: float = 1e-3, name: str | None = None):
        super().__init__(name=name)
        self.min_scale = min_scale
        self.params = keras.layers.Dense(2 * event_size)

    def call(self, h):
        loc, raw_scale = tf.split(tf.cast(self.params(h), tf.float32), 2, axis=-1)
        return tfd.MultivariateNormalDiag(loc, self.min_scale + tf.nn.softplus(raw_scale))


@register
class CholeskyGaussian(keras.layers.Layer):
    """Network output [..., H] -> Gaussian with full covariance C = L L^T, L lower triangular.

    The parametrisation of Posterior Matching, appendix D.4. Returns a distribution with
    batch_shape [...] and event_shape [event_size].

    Args:
      event_size: length of z.
      min_scale: lower bound on L's diagonal.
    """

    def __init__(self, event_size: int, min_scale: float = 1e-3, name: str | None = None):
        super().__init__(name=name)
        self.event_size = event_size
        self.params = keras.layers.Dense(event_size + event_size * (event_size + 1) // 2)
        self.to_triangle = tfb.FillScaleTriL(diag_shift=min_scale)

    def call(self, h):
        params = tf.cast(self.params(h), tf.float32)
        loc, flat = params[..., : self.event_size], params[..., self.event_size :]
        return tfd.MultivariateNormalTriL(loc, self.to_triangle(flat))
