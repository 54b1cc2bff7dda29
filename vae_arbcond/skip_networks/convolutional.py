"""Convolutional networks with skip connections (VAEAC, App. A.1), for images."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from vae_arbcond.registry import register
from vae_arbcond.shapes import check_counts, check_sizes
from vae_arbcond.skip_networks.samples import add_rows, small


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
            filters, 3, padding="same", kernel_initializer=small()
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
      patch: squares of patch x patch pixels enter the first stage as one place with as many
        times the channels. Full resolution is most of what a network for images costs, and 2
        is about three times as fast as 1. Give the decoder the same.
    """

    def __init__(
        self,
        filters: Sequence[int] = (16, 32, 64, 64),
        blocks: int = 1,
        activation: str = "leaky_relu",
        patch: int = 1,
        name: str | None = None,
    ):
        super().__init__(name=name)
        _check(self, filters, blocks, patch)
        self.patch = patch
        self.enter = [keras.layers.Conv2D(f, 3, padding="same") for f in filters]
        self.stages = [
            [ConvResidualBlock(f, activation) for _ in range(blocks)] for f in filters
        ]
        self.activate = keras.layers.Activation(activation)
        self.shrink = keras.layers.AveragePooling2D(2, padding="same")
        self.flatten = keras.layers.Flatten()

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                f"SkipConvEncoder is for images, [N, H, W, C], got rows of shape "
                f"{tuple(input_shape[1:])}. For a table use SkipMlpEncoder and SkipMlpDecoder."
            )
        channels = input_shape[-1] * self.patch**2
        for enter, stage in zip(self.enter, self.stages, strict=True):
            enter.build((None, None, None, channels))
            channels = enter.filters
            for block in stage:
                block.build((None, None, None, channels))

    def call(self, x):
        states, h = [x], _to_patches(x, self.patch)
        for i, (enter, stage) in enumerate(zip(self.enter, self.stages, strict=True)):
            h = enter(self.shrink(h) if i else h)
            for block in stage:
                h = block(h)
            states.append(h)
        return self.flatten(self.activate(h)), tuple(states)


@register
class SkipConvDecoder(keras.layers.Layer):
    """z [..., Z] and the states of a `SkipConvEncoder` -> [..., H, W, F / patch^2 + C].

    From the smallest stage to the largest, each joined with the encoder's state of its size,
    and the encoder's input beside the result, F = filters[0]. Use it with a head whose
    `per_feature` is True.

    Args:
      filters, blocks, activation, patch: as for the encoder, which may have fewer filters or
        more of them, but as many stages and the same patch. With a patch the result of the
        last stage is laid out as pixels again, filters[0] // patch**2 channels for each.
    """

    def __init__(
        self,
        filters: Sequence[int] = (16, 32, 64, 64),
        blocks: int = 1,
        activation: str = "leaky_relu",
        patch: int = 1,
        name: str | None = None,
    ):
        super().__init__(name=name)
        _check(self, filters, blocks, patch)
        if filters[0] < patch**2:
            raise ValueError(
                f"{type(self).__name__} shares the {filters[0]} filters of its first stage "
                f"out among the {patch**2} pixels of a patch; give at least {patch**2}."
            )
        self.patch = patch
        self.first = keras.layers.Dense(filters[-1])  # For each place of the smallest stage.
        self.filters = tuple(filters)
        conv = keras.layers.Conv2D
        self.of_h = [conv(f, 3, padding="same", use_bias=False) for f in filters[::-1]]
        self.of_state = [conv(f, 3, padding="same") for f in filters[::-1]]
        self.stages = [
            [ConvResidualBlock(f, activation) for _ in range(blocks)] for f in filters[::-1]
        ]
        self.activate = keras.layers.Activation(activation)
        self.to_pixels = None
        if patch > 1:
            self.to_pixels = conv(filters[0] // patch**2 * patch**2, 3, padding="same")

    def prepare(self, states):
        """What the call needs of an encoder's states, computed once a row: a tuple [N, ...].

        Raises:
          ValueError: the encoder has another number of stages, or another patch.
        """
        inputs, *stages = states
        if len(stages) != len(self.of_state):
            raise ValueError(
                f"{type(self).__name__} has {len(self.of_state)} stages, but the network "
                f"whose states it reuses has {len(stages)}. Give both the same filters."
            )
        if -(-inputs.shape[1] // self.patch) != stages[0].shape[1]:
            raise ValueError(
                f"{type(self).__name__}.patch = {self.patch}, but the network whose states it "
                f"reuses made {stages[0].shape[1]} rows of places from {inputs.shape[1]} rows "
                f"of pixels. Give both the same patch."
            )
        pairs = zip(self.of_state, reversed(stages), strict=True)
        terms = [layer(self.activate(state)) for layer, state in pairs]
        return (*terms, tf.cast(inputs, terms[0].dtype))

    def build(self, z_shape, context_shape):
        # z becomes a map, not one vector for all places: it says what is where.
        height, width = context_shape[0][1:3]
        channels = self.filters[-1]
        self.first.units = height * width * channels
        self.first.build(z_shape)
        for layer, stage in zip(self.of_h, self.stages, strict=True):
            layer.build((None, None, None, channels))
            channels = layer.filters
            for block in stage:
                block.build((None, None, None, channels))
        if self.to_pixels is not None:
            self.to_pixels.build((None, None, None, channels))

    def call(self, z, context):
        *terms, inputs = context
        height, width = inputs.shape[1:3]
        h = tf.reshape(self.first(z), [-1, *terms[0].shape[1:3], self.filters[-1]])
        for layer, stage, term in zip(self.of_h, self.stages, terms, strict=True):
            if h.shape[1:3] != term.shape[1:3]:
                # An odd size was rounded up when it was halved.
                h = _twice_as_large(h)[:, : term.shape[1], : term.shape[2]]
            h = add_rows(layer(self.activate(h)), term)
            for block in stage:
                h = block(h)
        h = self.activate(h)
        if self.to_pixels is not None:
            h = tf.nn.depth_to_space(self.to_pixels(h), self.patch)[:, :height, :width]
            h = self.activate(h)
        inputs = add_rows(tf.zeros([*tf.unstack(tf.shape(h))[:-1], inputs.shape[-1]]), inputs)
        h = tf.concat([h, tf.cast(inputs, h.dtype)], -1)
        out = tf.reshape(h, tf.concat([tf.shape(z)[:-1], tf.shape(h)[1:]], 0))
        return tf.ensure_shape(out, [*z.shape[:-1], height, width, h.shape[-1]])


@register
class SkipNetwork(keras.layers.Layer):
    """[N, ...] -> what the decoder gives: a network with skip connections and no draws.

    The encoder's result, through a layer of `size` units, takes the place of z. For methods
    that have no z, such as the Universal Marginalizer.

    Args:
      encoder: [N, ...] -> (h, states).
      decoder: has `prepare(states)` and `call(z, prepared)`.
      size: length of what stands for z.
      activation: a Keras activation's name.
    """

    def __init__(
        self,
        encoder,
        decoder,
        size: int = 128,
        activation: str = "leaky_relu",
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_sizes(self, size=size)
        self.encoder, self.decoder = encoder, decoder
        self.middle = keras.layers.Dense(size, activation=activation)

    def call(self, x):
        h, states = self.encoder(x)
        return self.decoder(self.middle(h), self.decoder.prepare(states))


def _check(owner, filters, blocks, patch):
    check_sizes(owner, patch=patch, **{f"filters[{i}]": f for i, f in enumerate(filters)})
    check_counts(owner, blocks=blocks)
    if not filters:
        raise ValueError(f"{type(owner).__name__}.filters is empty: give a number a stage.")


@tf.custom_gradient
def _twice_as_large(h):
    """[N, H, W, C] -> [N, 2 H, 2 W, C], every place four times.

    XLA has no gradient of `tf.image.resize`, so a TPU could not train a network with it; the
    one here, the sum over the four, is as fast on a CPU.
    """
    height, width = h.shape[1:3]

    def gradient(upstream):
        return 4.0 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    return tf.image.resize(h, (2 * height, 2 * width), "nearest"), gradient


def _to_patches(x, patch):
    """[N, H, W, C] -> [N, H / patch, W / patch, C patch^2], filled up with zeros."""
    if patch == 1:
        return x
    spare = [[0, -size % patch] for size in x.shape[1:3]]
    return tf.nn.space_to_depth(tf.pad(x, [[0, 0], *spare, [0, 0]]), patch)
