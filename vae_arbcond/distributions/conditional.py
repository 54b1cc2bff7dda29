"""Distributions that are a network's answer to a context, drawn from standard normal noise."""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.handmade import Handmade
from vae_arbcond.shapes import in_groups

tfd = tfp.distributions

LARGEST_LAYER = 2**24  # numbers in the output of one layer: 64 MiB


class Conditional(Handmade):
    """z given a context: batch_shape [...], event_shape [event_size].

    What a head returns whose density is computed by a network of its own (autoregressive
    mixtures, flows), rather than from parameters that could be listed. It can be indexed along
    its batch axes, and a draw is a function of standard normal noise and the context.

    Args:
      head: has `log_density(z, context)` [N, D], [N, H] -> [N]; `from_noise(noise, context)`
        [N, M], [N, H] -> [N, D]; `noise_size`, M; `layer_size`: numbers a row in the output
        of its widest layer; and `reparameterized`: whether `from_noise` carries gradients.
      context: float32 [..., H], one axis at least before the last.
      event_size: D.
    """

    def __init__(self, head, context, event_size: int, name="Conditional"):
        made_of = dict(locals())
        self._head, self._context, self._event_size = head, context, event_size
        super().__init__(made_of, name, head.reparameterized)

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)
        return Conditional(self._head, self._context[(*index, slice(None))], self._event_size)

    def _batch_shape(self):
        return self._context.shape[:-1]

    def _batch_shape_tensor(self):
        return tf.shape(self._context)[:-1]

    def _event_shape(self):
        return tf.TensorShape([self._event_size])

    def _event_shape_tensor(self):
        return tf.constant([self._event_size])

    @property
    def noise_size(self) -> int:
        """How many standard normal numbers make one draw."""
        return self._head.noise_size

    def from_noise(self, noise):
        """Noise [..., *batch, noise_size] -> draws [..., *batch, event_size]."""
        flat, context, leading = self._flattened(noise)
        z = self._in_slices(self._head.from_noise, flat, context, [self._event_size])
        z = tf.reshape(z, tf.concat([leading, [self._event_size]], 0))
        return tf.ensure_shape(z, [*noise.shape[:-1], self._event_size])

    def _log_prob(self, z):
        flat, context, leading = self._flattened(tf.cast(z, tf.float32))
        log_density = self._in_slices(self._head.log_density, flat, context, [])
        log_density = tf.reshape(log_density, leading)
        shape = tf.broadcast_static_shape(z.shape[:-1], self._context.shape[:-1])
        return tf.ensure_shape(log_density, shape)

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], self.batch_shape_tensor(), [self.noise_size]], 0)
        noise = tf.random.stateless_normal(shape, tfp.random.sanitize_seed(seed))
        static = tf.TensorShape([tf.get_static_value(n)]).concatenate(self.batch_shape)
        z = self.from_noise(tf.ensure_shape(noise, static.concatenate(self.noise_size)))
        # Where a draw involves a choice, what passes through the rest is a biased gradient.
        return z if self._head.reparameterized else tf.stop_gradient(z)

    def _in_slices(self, function, values, context, event):
        """function(values [N, V], context [N, H]) -> [N, *event], for so many rows at once
        that a layer's output stays below `LARGEST_LAYER` numbers."""
        size = max(LARGEST_LAYER // self._head.layer_size, 1)
        total = values.shape[0]
        if total is not None and total <= size:
            return function(values, context)
        return in_groups(function, (values, context), tf.TensorSpec([None, *event]), size)

    def _flattened(self, values):
        """(values [N, V], context [N, H], leading shape): both broadcast to one batch."""
        leading = tf.broadcast_dynamic_shape(
            tf.shape(values)[:-1], tf.shape(self._context)[:-1]
        )

        def flat(part):
            size = part.shape[-1]
            part = tf.broadcast_to(part, tf.concat([leading, [size]], 0))
            return tf.ensure_shape(tf.reshape(part, [-1, size]), [None, size])

        return flat(values), flat(self._context), leading
