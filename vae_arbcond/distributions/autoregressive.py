"""Autoregressive posterior heads: a mixture of Gaussians for each coordinate given the last.

Posterior Matching, appendix D.5: q(z | x_o) = prod_i q(z_i | x_o, z_<i), which both heads are.
`AutoregressiveMixture` is the paper's: one network, asked once for each prefix of z.
`MadeMixture` asks one masked network once.
"""

import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.conditional import Conditional
from vae_arbcond.networks import Made, ResidualBlock
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_sizes

tfd = tfp.distributions


class _AutoregressiveHead(keras.layers.Layer):
    """What the two heads share: from a mixture's parameters to densities and draws."""

    # A mixture's component is a choice, through which no gradient passes.
    reparameterized = False

    def __init__(self, event_size, components, min_scale, name):
        super().__init__(name=name)
        check_sizes(self, event_size=event_size, components=components)
        check_positive(self, min_scale=min_scale)
        self.event_size, self.components = event_size, components
        self.min_scale = min_scale
        self.noise_size = 2 * event_size  # For each coordinate: which component, and where.

    def call(self, h):
        return Conditional(self, tf.cast(h, tf.float32), self.event_size)

    def components_of(self, params):
        """Network output [..., 3 K] -> logits, means and scales [..., K] of K Gaussians."""
        logits, loc, raw_scale = tf.split(tf.cast(params, tf.float32), 3, axis=-1)
        return logits, loc, self.min_scale + tf.nn.softplus(raw_scale)

    def log_mixture(self, params, z):
        """Log-density of each coordinate z [...] under its mixture, params [..., 3 K]: [...].

        tfd.MixtureSameFamily's formula in half its operations: in a step of `MadeMixture`
        they are a tenth of the time.
        """
        logits, loc, scale = self.components_of(params)
        distance = (z[..., tf.newaxis] - loc) / scale
        each = logits - 0.5 * tf.square(distance) - tf.math.log(scale)
        total = tf.reduce_logsumexp(each, -1) - tf.reduce_logsumexp(logits, -1)
        return total - 0.5 * math.log(2.0 * math.pi)

    def one_from_noise(self, params, choice, place):
        """A draw of one coordinate: params [N, 3 components], noise [N] and [N] -> [N]."""
        logits, loc, scale = self.components_of(params)
        edges = tf.cumsum(tf.nn.softmax(logits), axis=-1)
        uniform = tfd.Normal(0.0, 1.0).cdf(choice)[:, tf.newaxis]
        # Without the last edge, which is 1 up to rounding: a uniform of 1 would pass it.
        component = tf.reduce_sum(tf.cast(uniform > edges[:, :-1], tf.int32), -1)
        loc, scale = (tf.gather(v, component, batch_dims=1) for v in (loc, scale))
        return loc + scale * place

    def from_noise(self, noise, context):
        """Noise [N, 2 D], context [N, H] -> draws [N, D], one coordinate after the other."""
        choices, places = tf.split(noise, 2, axis=-1)
        prepared = self.prepare(context)

        def step(i, z):
            params = self.params_of(i, z, prepared)
            z_i = self.one_from_noise(params, choices[:, i], places[:, i])
            return i + 1, z + z_i[:, tf.newaxis] * tf.one_hot(i, self.event_size)

        start = tf.zeros_like(places)
        return tf.while_loop(
            lambda i, z: i < self.event_size,
            step,
            (tf.constant(0), start),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, self.event_size])),
        )[1]

    def prepare(self, context):
        """What the steps of `from_noise` need of the context."""
        return context

    def params_of(self, i, z, prepared):
        """Mixture parameters [N, 3 components] of z_i, where z holds zeros from i on."""
        raise NotImplementedError


@register
class AutoregressiveMixture(_AutoregressiveHead):
    """The autoregressive distribution of Posterior Matching (appendix D.5).

    A residual network sees [z_<i with zeros after, which those are, context] and gives the
    mixture of z_i. A density asks for all prefixes in one stacked call, a draw takes D calls.

    Args:
      event_size: D, length of z.
      components: Gaussians a coordinate. The paper's code: 10.
      hidden: width of the network.
      blocks: residual blocks. The paper: 3 for tables, 2 elsewhere.
      activation: a Keras activation's name.
      min_scale: lower bound on a component's standard deviation.
    """

    def __init__(
        self,
        event_size: int,
        components: int = 10,
        hidden: int = 256,
        blocks: int = 3,
        activation: str = "relu",
        min_scale: float = 1e-3,
        name: str | None = None,
    ):
        super().__init__(event_size, components, min_scale, name)
        self.hidden = hidden
        self.layer_size = event_size * max(hidden, 3 * components)
        # One dense layer of the concatenated input, in three parts: the context's is needed
        # once, not once a prefix.
        self.of_values = keras.layers.Dense(hidden, use_bias=False)
        self.of_known = keras.layers.Dense(hidden, use_bias=False)
        self.of_context = keras.layers.Dense(hidden)
        self.blocks = [ResidualBlock(hidden, activation) for _ in range(blocks)]
        self.activate = keras.layers.Activation(activation)
        # An attribute, so that the model's seed reaches it.
        self.kernel_initializer = keras.initializers.RandomNormal(stddev=hidden**-0.5)

    def build(self, input_shape):
        size = self.event_size
        self.of_values.build((None, size))
        self.of_known.build((None, size))
        self.of_context.build(input_shape)
        for block in self.blocks:
            block.build((None, self.hidden))
        # One output layer a coordinate: as one layer for all it would compute D times what
        # is needed.
        self.kernel = self.add_weight(
            shape=(size, self.hidden, 3 * self.components),
            initializer=self.kernel_initializer,
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(size, 1, 3 * self.components), initializer="zeros", name="bias"
        )

    def log_density(self, z, context):
        """log q(z | context): [N, D], [N, H] -> [N]."""
        size = self.event_size
        # Prefixes first, so that the output layers are one batched matrix product.
        known = 1.0 - tf.linalg.band_part(tf.ones([size, size]), 0, -1)  # row i: j < i
        prefixes = z[tf.newaxis] * known[:, tf.newaxis]
        # What the mask of known coordinates adds is the same for every row of a prefix: as
        # further rows of the kernel it costs no pass over [D, N, hidden] of its own.
        place = tf.broadcast_to(tf.eye(size)[:, tf.newaxis], tf.shape(prefixes))
        of_known = self.of_known(known)
        kernel = tf.concat([tf.cast(self.of_values.kernel, of_known.dtype), of_known], 0)
        inputs = tf.cast(tf.concat([prefixes, place], -1), of_known.dtype)
        h = tf.matmul(tf.reshape(inputs, [-1, 2 * size]), kernel)
        h = tf.reshape(h, [size, -1, self.hidden]) + self.of_context(context)
        h = tf.reshape(self._through_blocks(tf.reshape(h, [-1, self.hidden])), tf.shape(h))
        params = tf.matmul(h, tf.cast(self.kernel, h.dtype)) + tf.cast(self.bias, h.dtype)
        return tf.reduce_sum(self.log_mixture(params, tf.transpose(z)), 0)

    def prepare(self, context):
        return self.of_context(context)

    def params_of(self, i, z, prepared):
        known = tf.cast(tf.range(self.event_size) < i, tf.float32)[tf.newaxis]
        h = self._through_blocks(self.of_values(z) + self.of_known(known) + prepared)
        kernel = tf.gather(tf.convert_to_tensor(self.kernel), i)
        bias = tf.gather(tf.convert_to_tensor(self.bias), i)
        return tf.matmul(h, tf.cast(kernel, h.dtype)) + tf.cast(bias, h.dtype)

    def _through_blocks(self, h):
        for block in self.blocks:
            h = block(h)
        return self.activate(h)


@register
class MadeMixture(_AutoregressiveHead):
    """A mixture of Gaussians a coordinate from one masked network.

    The family of `AutoregressiveMixture`; a density takes one pass through a network of the
    same width instead of D. A draw takes D passes.

    Args:
      event_size: D, length of z.
      components: Gaussians a coordinate.
      hidden: width of the network.
      blocks: residual blocks.
      activation: a Keras activation's name.
      min_scale: lower bound on a component's standard deviation.
    """

    def __init__(
        self,
        event_size: int,
        components: int = 10,
        hidden: int = 256,
        blocks: int = 2,
        activation: str = "relu",
        min_scale: float = 1e-3,
        name: str | None = None,
    ):
        super().__init__(event_size, components, min_scale, name)
        self.made = Made(event_size, 3 * components, hidden, blocks, activation)
        self.layer_size = max(hidden, 3 * components * event_size)

    def build(self, input_shape):
        self.made.build((None, self.event_size), input_shape)

    def log_density(self, z, context):
        """log q(z | context): [N, D], [N, H] -> [N]."""
        return tf.reduce_sum(self.log_mixture(self.made(z, context), z), -1)

    def params_of(self, i, z, prepared):
        return tf.gather(self.made(z, prepared), i, axis=1)
