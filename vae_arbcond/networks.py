"""Networks as plain factories: tensors in, tensors out, no distributions and no masks.

Every factory returns an unbuilt `keras.Sequential`, which saves and loads with the model it is
part of. `MaskedInput` is the one layer that knows what a mask is: how x_o enters a network.
"""

import math
from collections.abc import Sequence

import gin
import keras
import numpy as np
import tensorflow as tf

from vae_arbcond.registry import PACKAGE, register
from vae_arbcond.shapes import DataSpec, expand_features


@register
class MaskedInput(keras.layers.Layer):
    """(x, observed) -> one tensor for a network: [x_o with zeros elsewhere, the mask].

    Posterior Matching, Sec. 3.4. Zero where it is not observed, a categorical column enters
    as a one-hot vector, an ordinal one as [x > 0, x > 1, ...] and a count on a logarithmic
    scale. For an image the mask is one more channel.

    Shapes: x [B, *F, *E], observed bool [B, *F] -> [B, I + D] for a table, where a column
    takes as many of the I inputs as it has levels (one less where they are ordered) and a
    number one; [B, H, W, C + 1] for an image.
    """

    def __init__(self, name: str | None = None):
        super().__init__(name=name)
        self.autocast = False  # Data stay float32; networks cast what they are given.
        self.spec = None

    def build_for(self, spec: DataSpec) -> None:
        self.spec = spec
        columns = any(spec.levels or ()) or any(spec.counts or ())
        if columns and len(spec.x_shape) != 1:
            raise ValueError(
                f"Categorical columns and counts come in tables, rows of shape (D,); this "
                f"data has them and rows of shape {spec.x_shape}."
            )

    def call(self, x, observed):
        seen = tf.where(expand_features(observed, x), x, 0.0)
        b = tf.cast(observed, x.dtype)
        if self.spec is None or self.spec.discrete is None:
            if observed.shape.rank == 2:
                return tf.concat([seen, b], axis=-1)
            if x.shape.rank == observed.shape.rank:
                seen = seen[..., tf.newaxis]
            return tf.concat([seen, b[..., tf.newaxis]], axis=-1)
        pieces = []
        nothing = (0,) * self.spec.num_features
        of_columns = zip(
            self.spec.levels or nothing,
            self.spec.ordered or nothing,
            self.spec.counts or nothing,
            strict=True,
        )
        for d, (size, ordered, count) in enumerate(of_columns):
            # Not [..., d, tf.newaxis]: where x was stacked of columns in the same graph,
            # TensorFlow 2.21's optimiser takes the column and forgets the new axis.
            column, here = seen[..., d : d + 1], b[..., d : d + 1]
            if ordered:
                column = tf.cast(column > tf.range(size - 1.0), x.dtype)
            elif size:
                column = tf.one_hot(tf.cast(seen[..., d], tf.int32), size) * here
            elif count:
                column = (tf.math.log1p(column) - math.log1p(count)) * here
            pieces.append(column)
        return tf.concat([*pieces, b], axis=-1)


@register
class ResidualBlock(keras.layers.Layer):
    """h + W2 dropout(act(norm(W1 act(norm(h))))): pre-activation, of constant width.

    `norm_weights` False leaves the layer norms without scale and offset to learn.
    """

    def __init__(
        self,
        hidden: int,
        activation: str = "relu",
        layer_norm: bool = False,
        dropout: float = 0.0,
        norm_weights: bool = True,
        name: str | None = None,
    ):
        super().__init__(name=name)
        activate = keras.layers.Activation
        norms = [
            keras.layers.LayerNormalization(center=norm_weights, scale=norm_weights)
            for _ in range(2 * layer_norm)
        ]
        first = [*norms[:1], activate(activation), keras.layers.Dense(hidden)]
        second = [*norms[1:], activate(activation)]
        if dropout:
            second.append(keras.layers.Dropout(dropout))
        # A small last layer makes a new block close to the identity.
        small = keras.initializers.VarianceScaling(0.1)
        self.branch = keras.Sequential(
            [*first, *second, keras.layers.Dense(hidden, kernel_initializer=small)]
        )

    def build(self, input_shape):
        self.branch.build(input_shape)  # Keras asks for it where a network is saved alone.

    def call(self, h):
        return h + self.branch(h)


@register
class MaskedDense(keras.layers.Layer):
    """A dense layer some of whose weights are fixed at zero.

    Args:
      inputs: degree of each input, a sequence of whole numbers.
      outputs: degree of each output. Output k sees input j only where
        inputs[j] <= outputs[k].
      scale: variance scaling of the weights' start; 0 starts at zero.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        scale: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.inputs_degrees, self.outputs_degrees = tuple(inputs), tuple(outputs)
        self.connected = np.array(self.inputs_degrees)[:, None] <= np.array(outputs)
        # An attribute, so that the model's seed reaches it.
        self.kernel_initializer = (
            keras.initializers.VarianceScaling(scale) if scale else keras.initializers.Zeros()
        )

    def build(self, input_shape):
        if input_shape[-1] != len(self.inputs_degrees):
            raise ValueError(
                f"This masked layer is made for {len(self.inputs_degrees)} inputs, but got "
                f"{input_shape[-1]}."
            )
        self.kernel = self.add_weight(
            shape=self.connected.shape, initializer=self.kernel_initializer, name="kernel"
        )
        self.bias = self.add_weight(
            shape=(self.connected.shape[1],), initializer="zeros", name="bias"
        )

    def call(self, x):
        kernel = tf.where(self.connected, tf.convert_to_tensor(self.kernel), 0.0)
        kernel = tf.cast(kernel, self.compute_dtype)
        return tf.matmul(x, kernel) + tf.cast(self.bias, self.compute_dtype)


@register
class Made(keras.layers.Layer):
    """z [N, D], context [N, H] -> [N, D, num_outputs]; outputs of z_i see z_1 .. z_(i-1) only.

    A masked autoencoder (MADE; Germain et al., 2015, https://arxiv.org/abs/1502.03509) with
    residual blocks, in the given order of the coordinates. The first layer and the output see
    the whole context.

    Args:
      event_size: D.
      num_outputs: numbers a coordinate.
      hidden: width.
      blocks: number of residual blocks.
      activation: a Keras activation's name.
      zero_start: True starts with all outputs 0, so that a flow starts as the identity.
    """

    def __init__(
        self,
        event_size: int,
        num_outputs: int,
        hidden: int = 256,
        blocks: int = 2,
        activation: str = "relu",
        zero_start: bool = False,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if hidden < event_size:
            raise ValueError(
                f"A masked network for {event_size} coordinates needs at least as many hidden "
                f"units, got hidden={hidden}: with fewer, some coordinates could not see "
                f"others."
            )
        self.event_size, self.num_outputs = event_size, num_outputs
        coordinates = range(1, event_size + 1)
        # Degree 0 sees the context alone: that is what the first coordinate is told by.
        middle = [k % event_size for k in range(hidden)]
        last = [i - 1 for i in coordinates for _ in range(num_outputs)]
        start = 0.0 if zero_start else 1.0
        self.first = MaskedDense(coordinates, middle)
        self.firsts = [MaskedDense(middle, middle) for _ in range(blocks)]
        self.seconds = [MaskedDense(middle, middle, 0.1) for _ in range(blocks)]
        self.last = MaskedDense(middle, last, start)
        self.activate = keras.layers.Activation(activation)
        self.of_context = keras.layers.Dense(hidden, use_bias=False)
        # Few units are of low degree: the first coordinates learn the context from here.
        kernel = keras.initializers.VarianceScaling(start) if start else "zeros"
        self.direct = keras.layers.Dense(
            event_size * num_outputs, use_bias=False, kernel_initializer=kernel
        )

    def build(self, z_shape, context_shape):
        self.first.build(z_shape)
        hidden = (None, self.of_context.units)
        for layer in (*self.firsts, *self.seconds, self.last):
            layer.build(hidden)
        for layer in (self.of_context, self.direct):
            layer.build(context_shape)

    def call(self, z, context):
        h = self.first(z) + self.of_context(context)
        for first, second in zip(self.firsts, self.seconds, strict=True):
            h += second(self.activate(first(self.activate(h))))
        out = self.last(self.activate(h)) + self.direct(context)
        return tf.reshape(out, [-1, self.event_size, self.num_outputs])


@gin.register(module=PACKAGE)
def mlp(
    units: Sequence[int] = (128, 128), activation: str = "relu", dropout: float = 0.0
) -> keras.Sequential:
    """[N, H] -> [N, units[-1]]: fully connected layers, each followed by `activation`.

    Args:
      units: widths of the layers.
      activation: a Keras activation's name.
      dropout: share of each layer's outputs dropped in training.
    """
    layers = [keras.layers.Flatten()]  # Images; nothing to do for rows of a table.
    for width in units:
        layers.append(keras.layers.Dense(width, activation=activation))
        if dropout:
            layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential(layers)


@gin.register(module=PACKAGE)
def residual_mlp(
    hidden: int = 256,
    blocks: int = 2,
    activation: str = "relu",
    layer_norm: bool = False,
    dropout: float = 0.0,
    final_activation: bool = False,
    norm_weights: bool = True,
) -> keras.Sequential:
    """[N, H] -> [N, hidden]: a linear map, then residual blocks (Posterior Matching, D.1).

    Without `final_activation` there is a linear path from input to output, so that a decoder
    made of this network contains factor analysis as the case where the blocks are silent.

    Args:
      hidden: width of every layer.
      blocks: number of residual blocks.
      activation: a Keras activation's name.
      layer_norm: normalise before every activation.
      dropout: share dropped inside each block in training.
      final_activation: apply `activation` to the output, as the paper's published code does.
      norm_weights: whether layer norms learn a scale and an offset; not in that code.
    """
    layers = [keras.layers.Flatten(), keras.layers.Dense(hidden)]
    options = (hidden, activation, layer_norm, dropout, norm_weights)
    layers += [ResidualBlock(*options) for _ in range(blocks)]
    if final_activation:
        layers.append(keras.layers.Activation(activation))
    return keras.Sequential(layers)


@gin.register(module=PACKAGE)
def conv_encoder(
    layers: Sequence[tuple[int, int, int]] = ((32, 3, 1), (32, 3, 2), (64, 3, 2)),
    activation: str = "leaky_relu",
) -> keras.Sequential:
    """[N, H, W, C] -> [N, features]: convolutions, then flattened.

    Args:
      layers: (filters, kernel size, stride) of each convolution, 'same' padding.
      activation: a Keras activation's name, after every convolution.
    """
    stack = [
        keras.layers.Conv2D(filters, kernel, stride, padding="same", activation=activation)
        for filters, kernel, stride in layers
    ]
    return keras.Sequential([*stack, keras.layers.Flatten()])


@gin.register(module=PACKAGE)
def conv_decoder(
    start: tuple[int, int, int] = (2, 2, 64),
    layers: Sequence[tuple[int, int, int]] = ((64, 3, 2), (32, 3, 2), (32, 3, 1)),
    activation: str = "leaky_relu",
) -> keras.Sequential:
    """[N, Z] -> [N, H, W, filters]: a linear map, then transposed convolutions.

    Use it with a likelihood head whose `per_feature` is True.

    Args:
      start: (height, width, channels) of the first map; strides multiply it up to (H, W).
      layers: (filters, kernel size, stride) of each transposed convolution.
      activation: a Keras activation's name, after every layer.
    """
    height, width, channels = start
    stack = [
        keras.layers.Dense(height * width * channels, activation=activation),
        keras.layers.Reshape((height, width, channels)),
    ]
    stack += [
        keras.layers.Conv2DTranspose(
            filters, kernel, stride, padding="same", activation=activation
        )
        for filters, kernel, stride in layers
    ]
    return keras.Sequential(stack)
