"""Networks whose hidden states a decoder reuses: skip connections as return values.

VAEAC, appendix A.1: skip connections run from the prior network to the generative network and
are joined there by concatenation. A linear layer of two things side by side is the sum of two
linear layers, and the half that sees the encoder's states is the same for every z: `prepare`
computes it once a row, the decoder's call only the rest.
"""

import keras
import tensorflow as tf

from vae_arbcond.registry import register


def _small():
    # Ten layers that each add as much as there was would multiply the variance a thousandfold.
    return keras.initializers.VarianceScaling(0.1)


@register
class SkipMlpEncoder(keras.layers.Layer):
    """[N, I] -> ([N, hidden], states): a linear map, then h + act(W h) `depth` times.

    `states` are the input and every hidden layer, first to last: what a decoder may reuse.

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
        self.first = keras.layers.Dense(hidden)
        self.layers = [
            keras.layers.Dense(hidden, kernel_initializer=_small()) for _ in range(depth)
        ]
        self.activate = keras.layers.Activation(activation)

    def build(self, input_shape):
        self.first.build(input_shape)
        for layer in self.layers:
            layer.build((None, self.first.units))

    def call(self, x):
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
        h = self.activate(self.first(z))
        for layer, term in zip(self.of_h, terms, strict=True):
            h += self.activate(layer(h) + term)
        shape = tf.concat([tf.shape(h)[:-1], tf.shape(inputs)[-1:]], 0)
        inputs = tf.ensure_shape(
            tf.broadcast_to(inputs, shape), [*h.shape[:-1], inputs.shape[-1]]
        )
        return tf.concat([h, inputs], -1)
