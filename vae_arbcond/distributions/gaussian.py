"""Gaussian posterior heads: network output -> q(z | .), a tfd.Distribution with a density."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_sizes

tfd = tfp.distributions
tfb = tfp.bijectors


def _small():
    # L starts near a multiple of the identity. With entries below the diagonal as large as
    # those on it, log-densities of 64 coordinates would start beyond what float32 holds.
    return keras.initializers.VarianceScaling(0.01)


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
        check_sizes(self, event_size=event_size)
        check_positive(self, min_scale=min_scale)
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
        check_sizes(self, event_size=event_size)
        check_positive(self, min_scale=min_scale)
        self.event_size = event_size
        self.params = keras.layers.Dense(
            event_size + event_size * (event_size + 1) // 2, kernel_initializer=_small()
        )
        self.to_triangle = tfb.FillScaleTriL(diag_shift=min_scale)

    def call(self, h):
        params = tf.cast(self.params(h), tf.float32)
        loc, flat = params[..., : self.event_size], params[..., self.event_size :]
        return tfd.MultivariateNormalTriL(loc, self.to_triangle(flat))


@register
class GaussianMixture(keras.layers.Layer):
    """Network output [..., H] -> mixture of Gaussians, diagonal or with full covariances.

    Returns a distribution with batch_shape [...] and event_shape [event_size].

    Args:
      event_size: length of z.
      components: Gaussians in the mixture.
      full_covariance: True gives each a full covariance (lower triangular L), False a
        diagonal one.
      min_scale: lower bound on L's diagonal.
    """

    def __init__(
        self,
        event_size: int,
        components: int = 10,
        full_covariance: bool = False,
        min_scale: float = 1e-3,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_sizes(self, event_size=event_size, components=components)
        check_positive(self, min_scale=min_scale)
        self.event_size, self.components = event_size, components
        self.min_scale, self.full_covariance = min_scale, full_covariance
        spread = event_size * (event_size + 1) // 2 if full_covariance else event_size
        self.logits = keras.layers.Dense(components)
        # Components that start at one place have no reason to part.
        apart = keras.initializers.RandomNormal(stddev=1.0)
        self.loc = keras.layers.Dense(components * event_size, bias_initializer=apart)
        self.scale = keras.layers.Dense(components * spread, kernel_initializer=_small())
        self.to_triangle = tfb.FillScaleTriL(diag_shift=min_scale)

    def call(self, h):
        def per_component(layer):
            flat = tf.cast(layer(h), tf.float32)
            shape = [self.components, flat.shape[-1] // self.components]
            split = tf.reshape(flat, tf.concat([tf.shape(flat)[:-1], shape], 0))
            return tf.ensure_shape(split, [*h.shape[:-1], *shape])

        loc, raw = per_component(self.loc), per_component(self.scale)
        if self.full_covariance:
            parts = tfd.MultivariateNormalTriL(loc, self.to_triangle(raw))
        else:
            parts = tfd.MultivariateNormalDiag(loc, self.min_scale + tf.nn.softplus(raw))
        logits = tf.cast(self.logits(h), tf.float32)
        return tfd.MixtureSameFamily(tfd.Categorical(logits), parts)
