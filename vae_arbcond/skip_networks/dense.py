"""Fully connected networks with skip connections (VAEAC, App. A.1), for rows of a table."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from vae_arbcond.registry import register
from vae_arbcond.shapes import check_sizes
from vae_arbcond.skip_networks.samples import add_rows, beside, rows_of, small, unflattened


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
        check_sizes(self, hidden=hidden, depth=depth)
        self.flatten = keras.layers.Flatten()  # Images; nothing to do for rows of a table.
        self.first = keras.layers.Dense(hidden)
        self.layers = [
            keras.layers.Dense(hidden, kernel_initializer=small()) for _ in range(depth)
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
        check_sizes(self, hidden=hidden, depth=depth)
        self.first = keras.layers.Dense(hidden)
        self.of_h = [
            keras.layers.Dense(hidden, use_bias=False, kernel_initializer=small())
            for _ in range(depth + 1)
        ]
        self.of_state = [
            keras.layers.Dense(hidden, kernel_initializer=small()) for _ in range(depth + 1)
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
        h = self.activate(self.first(rows_of(z)))
        for layer, term in zip(self.of_h, terms, strict=True):
            h += self.activate(add_rows(layer(h), term))
        return unflattened(beside(h, inputs), z)


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
        h = rows_of(z)
        for i, layer in enumerate(self.of_h):
            h = layer(h)
            h = self.activate(add_rows(h, terms[i]) if self.skips else h)
        return unflattened(beside(h, inputs) if self.skips else h, z)
