"""Networks whose hidden states a decoder reuses: skip connections as return values.

VAEAC, appendix A.1: skip connections run from the prior network to the generative network and
are joined there by concatenation. A linear layer of two things side by side is the sum of two
linear layers, and the half that sees the encoder's states is the same for every z: `prepare`
computes it once a row, the decoder's call only the rest.
"""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from vae_arbcond.registry import register
from vae_arbcond.shapes import check_sizes


def _small():
    # Ten layers that each add as much as there was would multiply the variance a thousandfold.
    return keras.initializers.VarianceScaling(0.1)


@register
class SkipMlpEncoder(keras.layers.Layer):
    """[N, ...] -> ([N, hidden], states): a linear map, then h + act(W h) `depth` times.

    `states` are the input, flattened, and every hidden layer, first to last: what a decoder
    may reuse.

    Args:
      hidden: width of every layer.
      depth: number of residual layers.
      activation: a Keras activation's name.
    """

    def __init__(
        self,
        hidden: int = 256,
        depth: int = 10,
        activation: str = "leaky_relu",
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.flatten = keras.layers.Flatten()  # Images; nothing to do for rows of a table.
        self.first = keras.layers.Dense(hidden)
        self.layers = [
            keras.layers.Dense(hidden, kernel_initializer=_small()) for _ in range(depth)
        ]
        self.activate = keras.layers.Activation(activation)

    def build(self, input_shape):
        self.first.build((None, math.prod(input_shape[1:])))
        for layer in self.layers:
            layer.build((None, self.first.units))

    def call(self, x):
        x = self.flatten(x)
        h = self.activate(self.first(x))
        states = [x, h]
        for layer in self.layers:
            h += self.activate(layer(h))
            states.append(h)
        return h, tuple(states)


@register
class SkipMlpDecoder(keras.layers.Layer):
    """z [..., Z] and an encoder's states -> [..., hidden + I].

    h + act(W [h, s]) for every hidden state s of the encoder, last to first, and the encoder's
    input beside the result.

    Args:
      hidden: width of every layer.
      depth: that of the encoder.
      activation: a Keras activation's name.
    """

    def __init__(
        self,
        hidden: int = 256,
        depth: int = 10,
        activation: str = "leaky_relu",
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.first = keras.layers.Dense(hidden)
        self.of_h = [
            keras.layers.Dense(hidden, use_bias=False, kernel_initializer=_small())
            for _ in range(depth + 1)
        ]
        self.of_state = [
            keras.layers.Dense(hidden, kernel_initializer=_small()) for _ in range(depth + 1)
        ]
        self.activate = keras.layers.Activation(activation)

    def prepare(self, states):
        """What the call needs of an encoder's states, computed once a row: a tuple [N, .].

        Raises:
          ValueError: the encoder has another depth.
        """
        inputs, *hidden = states
        if len(hidden) != len(self.of_state):
            raise ValueError(
                f"{type(self).__name__} has depth {len(self.of_state) - 1}, but the network "
                f"whose states it reuses has depth {len(hidden) - 1}. Give both the same."
            )
        pairs = zip(self.of_state, reversed(hidden), strict=True)
        return (*[layer(state) for layer, state in pairs], tf.cast(inputs, hidden[0].dtype))

    def build(self, z_shape, context_shape=None):
        self.first.build(z_shape)
        for layer in self.of_h:
            layer.build((None, self.first.units))

    def call(self, z, context):
        *terms, inputs = context
        h = self.activate(self.first(_rows(z)))
        for layer, term in zip(self.of_h, terms, strict=True):
            h += self.activate(_add_rows(layer(h), term))
        return _unflatten(_beside(h, inputs), z)


@register
class LayeredEncoder(keras.layers.Layer):
    """[N, ...] -> ([N, units[-1]], states): layers of any widths, h = act(W h), nothing added.

    `states` are the input, flattened, and every hidden layer, first to last.

    Args:
      units: widths of the layers. VAEAC's synthetic data (C.2): 400, 200, 100, 50.
      activation: a Keras activation's name.
    """

    def __init__(
        self,
        units: Sequence[int] = (400, 200, 100, 50),
        activation: str = "relu",
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_sizes(self, **{f"units[{i}]": width for i, width in enumerate(units)})
        self.flatten = keras.layers.Flatten()
        self.layers = [keras.layers.Dense(width) for width in units]
        self.activate = keras.layers.Activation(activation)

    def build(self, input_shape):
        width = math.prod(input_shape[1:])
        for layer in self.layers:
            layer.build((None, width))
            width = layer.units

    def call(self, x):
        h = self.flatten(x)
        states = [h]
        for layer in self.layers:
            h = self.activate(layer(h))
            states.append(h)
        return h, tuple(states)


@register
class LayeredDecoder(keras.layers.Layer):
    """z [..., Z] and the states of a `LayeredEncoder` -> [..., units[-1] (+ I)].

    h = act(W [h, s]) for every hidden state s of the encoder, last to first, and the encoder's
    input beside the result.

    Args:
      units: widths of the layers, first to last; with `skips` as many as the encoder has,
        most often its own in reverse.
      skips: False sees z alone, so that all that is known of x_o goes through it; any network
        that gives states will then do for the encoder.
      activation: a Keras activation's name.
    """

    def __init__(
        self,
        units: Sequence[int] = (50, 100, 200, 400),
        skips: bool = True,
        activation: str = "relu",
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_sizes(self, **{f"units[{i}]": width for i, width in enumerate(units)})
        self.skips = skips
        dense = keras.layers.Dense
        self.of_h = [dense(width, use_bias=not skips) for width in units]
        self.of_state = [dense(width) for width in units] if skips else []
        self.activate = keras.layers.Activation(activation)

    def prepare(self, states):
        """What the call needs of an encoder's states, computed once a row: a tuple [N, .].

        Raises:
          ValueError: the encoder has another number of layers.
        """
        if not self.skips:
            return ()
        inputs, *hidden = states
        if len(hidden) != len(self.of_state):
            raise ValueError(
                f"{type(self).__name__} has {len(self.of_state)} layers, but the network "
                f"whose states it reuses has {len(hidden)}. Give both as many units."
            )
        pairs = zip(self.of_state, reversed(hidden), strict=True)
        return (*[layer(state) for layer, state in pairs], tf.cast(inputs, hidden[0].dtype))

    def build(self, z_shape, context_shape=None):
        width = z_shape[-1]
        for layer in self.of_h:
            layer.build((None, width))
            width = layer.units

    def call(self, z, context):
        *terms, inputs = context if self.skips else (None,)
        h = _rows(z)
        for i, layer in enumerate(self.of_h):
            h = layer(h)
            h = self.activate(_add_rows(h, terms[i]) if self.skips else h)
        return _unflatten(_beside(h, inputs) if self.skips else h, z)


@register
class ConvResidualBlock(keras.layers.Layer):
    """[N, H, W, C] -> the same shape: h + conv(act(conv(act(h)))), 3 x 3 kernels."""

    def __init__(self, filters: int, activation: str = "leaky_relu", name: str | None = None):
        super().__init__(name=name)
        self.activate = keras.layers.Activation(activation)
        self.inner = keras.layers.Conv2D(
            filters, 3, padding="same", kernel_initializer="he_uniform"
        )
        self.outer = keras.layers.Conv2D(
            filters, 3, padding="same", kernel_initializer=_small()
        )

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.outer.build(input_shape)

    def call(self, h):
        return h + self.outer(self.activate(self.inner(self.activate(h))))


@register
class SkipConvEncoder(keras.layers.Layer):
    """[N, H, W, C] -> ([N, features], states): ResNet stages, each half the size of the last.

    `states` are the input and the result of every stage. Any height and width will do: odd
    sizes are rounded up.

    Args:
      filters: channels of each stage.
      blocks: residual blocks a stage.
      activation: a Keras activation's name.
    """

    def __init__(
        self,
        filters: Sequence[int] = (16, 32, 64, 64),
        blocks: int = 1,
        activation: str = "leaky_relu",
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.enter = [keras.layers.Conv2D(f, 3, padding="same") for f in filters]
        self.stages = [
            [ConvResidualBlock(f, activation) for _ in range(blocks)] for f in filters
        ]
        self.activate = keras.layers.Activation(activation)
        self.shrink = keras.layers.AveragePooling2D(2, padding="same")
        self.flatten = keras.layers.Flatten()

    def build(self, input_shape):
        channels = input_shape[-1]
        for enter, stage in zip(self.enter, self.stages, strict=True):
            enter.build((None, None, None, channels))
            channels = enter.filters
            for block in stage:
                block.build((None, None, None, channels))

    def call(self, x):
        states, h = [x], x
        for i, (enter, stage) in enumerate(zip(self.enter, self.stages, strict=True)):
            h = enter(self.shrink(h) if i else h)
            for block in stage:
                h = block(h)
            states.append(h)
        return self.flatten(self.activate(h)), tuple(states)


@register
class SkipConvDecoder(keras.layers.Layer):
    """z [..., Z] and the states of a `SkipConvEncoder` -> [..., H, W, filters[0] + C].

    From the smallest stage to the largest, each joined with the encoder's state of its size,
    and the encoder's input beside the result. Use it with a head whose `per_feature` is True.

    Args:
      filters, blocks, activation: as for the encoder.
    """

    def __init__(
        self,
        filters: Sequence[int] = (16, 32, 64, 64),
        blocks: int = 1,
        activation: str = "leaky_relu",
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.first = keras.layers.Dense(filters[-1])
        conv = keras.layers.Conv2D
        self.of_h = [conv(f, 3, padding="same", use_bias=False) for f in filters[::-1]]
        self.of_state = [conv(f, 3, padding="same") for f in filters[::-1]]
        self.stages = [
            [ConvResidualBlock(f, activation) for _ in range(blocks)] for f in filters[::-1]
        ]
        self.activate = keras.layers.Activation(activation)

    def prepare(self, states):
        """What the call needs of an encoder's states, computed once a row: a tuple [N, ...].

        Raises:
          ValueError: the encoder has another number of stages.
        """
        inputs, *stages = states
        if len(stages) != len(self.of_state):
            raise ValueError(
                f"{type(self).__name__} has {len(self.of_state)} stages, but the network "
                f"whose states it reuses has {len(stages)}. Give both the same filters."
            )
        pairs = zip(self.of_state, reversed(stages), strict=True)
        terms = [layer(self.activate(state)) for layer, state in pairs]
        return (*terms, tf.cast(inputs, terms[0].dtype))

    def build(self, z_shape, context_shape=None):
        self.first.build(z_shape)
        channels = self.first.units
        for layer, stage in zip(self.of_h, self.stages, strict=True):
            layer.build((None, None, None, channels))
            channels = layer.filters
            for block in stage:
                block.build((None, None, None, channels))

    def call(self, z, context):
        *terms, inputs = context
        h = tf.reshape(self.first(z), [-1, 1, 1, self.first.units])
        for layer, stage, term in zip(self.of_h, self.stages, terms, strict=True):
            h = tf.image.resize(h, term.shape[1:3], "nearest")
            h = _add_rows(layer(self.activate(h)), term)
            for block in stage:
                h = block(h)
        h = self.activate(h)
        inputs = _add_rows(tf.zeros([*tf.unstack(tf.shape(h))[:-1], inputs.shape[-1]]), inputs)
        h = tf.concat([h, tf.cast(inputs, h.dtype)], -1)
        out = tf.reshape(h, tf.concat([tf.shape(z)[:-1], tf.shape(h)[1:]], 0))
        return tf.ensure_shape(out, [*z.shape[:-1], *terms[-1].shape[1:3], h.shape[-1]])


def _rows(z):
    """z [..., Z] as [N, Z]: one matrix product a layer, however many samples."""
    return z if z.shape.rank == 2 else tf.reshape(z, [-1, z.shape[-1]])


def _unflatten(h, z):
    """h [N, H] with the leading axes of z again: [..., H]."""
    if z.shape.rank == 2:
        return h
    out = tf.reshape(h, tf.concat([tf.shape(z)[:-1], [h.shape[-1]]], 0))
    return tf.ensure_shape(out, [*z.shape[:-1], h.shape[-1]])


def _add_rows(h, term):
    """h [S B, ...] + term [B, ...]: the rows' term for each of their samples."""
    # Never h + term as they are, one sample a row: TensorFlow 2.21's remapper takes
    # relu(W h + (V s + b)) for a pattern to fuse, and leaves a broken graph behind.
    samples = tf.reshape(h, tf.concat([[-1], tf.shape(term)], 0))
    return tf.reshape(samples + tf.cast(term, h.dtype), tf.shape(h))


def _beside(h, inputs):
    """h [S B, H] and the rows' inputs [B, I] for each of their samples: [S B, H + I]."""
    if h.shape[0] is None or h.shape[0] != inputs.shape[0]:
        inputs = tf.tile(inputs, [tf.shape(h)[0] // tf.shape(inputs)[0], 1])
    return tf.concat([h, tf.cast(inputs, h.dtype)], -1)
