"""Likelihood heads: decoder output -> p(x | z), features independent given z.

Every head keeps the features in the batch shape, so that a mask [B, *F] fits it, and has zero
in its support (see `over_features`). A head is told the data's shape by `build_for` when the
model creates its variables: nothing in a configuration repeats what the data says.
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.pairs import NormalPair
from vae_arbcond.registry import register
from vae_arbcond.shapes import DataSpec, check_positive, check_sizes

tfd = tfp.distributions


class LikelihoodHead(keras.layers.Layer):
    """Base: decoder output -> distribution with batch_shape [..., *F], event_shape *E.

    Args:
      per_feature: the decoder's output already has the feature axes, [..., *F, K] (a
        convolutional decoder), instead of [..., H].
    """

    def __init__(self, per_feature: bool = False, name: str | None = None):
        super().__init__(name=name)
        self.per_feature = per_feature

    def build_for(self, spec: DataSpec) -> None:
        """Creates the output layers for data of this shape.

        Raises:
          ValueError: the head cannot model such data.
        """
        raise NotImplementedError

    def check_real(self, spec: DataSpec) -> None:
        """Refuses levels, counts and colour, for the heads of single real features."""
        if spec.discrete is not None:
            levels = [i for i, n in enumerate(spec.levels or ()) if n]
            counts = [i for i, n in enumerate(spec.counts or ()) if n]
            found = [f"columns {levels} are categorical"] if levels else []
            found += [f"columns {counts} are counts"] if counts else []
            raise ValueError(
                f"{type(self).__name__} models real features only, but {', '.join(found)}. "
                f"Use MixedColumns as the likelihood head of a mixed table."
            )
        if spec.event_shape:
            raise ValueError(
                f"{type(self).__name__} models one number a feature, but the data has "
                f"{spec.event_shape} of them. Make each channel a feature: reshape x."
            )

    def check_values(self, values: np.ndarray) -> None:
        """Refuses data this head gives no probability.

        Args:
          values: [N], what is present of the training data, in any order.

        Raises:
          ValueError: names a value and says what to do.
        """

    def dense_parameters(self, spec: DataSpec, num_parameters: int):
        """A layer that maps the decoder's output to [..., *F, num_parameters]."""
        if self.per_feature:
            return keras.layers.Dense(num_parameters)
        return keras.layers.Dense(spec.num_features * num_parameters)

    def feature_parameters(self, layer, h, spec: DataSpec, num_parameters: int):
        """Applies `layer` and returns `num_parameters` tensors [..., *F], float32."""
        out = tf.cast(layer(h), tf.float32)
        if not self.per_feature:
            shape = [*spec.feature_shape, num_parameters]
            out = tf.reshape(out, tf.concat([tf.shape(out)[:-1], shape], 0))
            out = tf.ensure_shape(out, [*h.shape[:-1], *shape])
        elif not out.shape[:-1][-len(spec.feature_shape) :].is_compatible_with(
            spec.feature_shape
        ):
            made = tuple(out.shape[:-1][-len(spec.feature_shape) :])
            raise ValueError(
                f"The decoder makes maps of {' x '.join(map(str, made))}, but the images are "
                f"{' x '.join(map(str, spec.feature_shape))}. Choose a decoder that ends at "
                f"their size (conv_decoder.start times its strides), or one of flat outputs "
                f"and per_feature = False."
            )
        return tf.unstack(out, num_parameters, axis=-1)


@register
class Normal(LikelihoodHead):
    """One Normal per feature, mean and scale both from the network."""

    def __init__(
        self, min_scale: float = 1e-2, per_feature: bool = False, name: str | None = None
    ):
        super().__init__(per_feature, name=name)
        check_positive(self, min_scale=min_scale)
        self.min_scale = min_scale

    def build_for(self, spec):
        self.check_real(spec)
        self.spec = spec
        self.params = self.dense_parameters(spec, 2)

    def call(self, h):
        loc, raw = self.feature_parameters(self.params, h, self.spec, 2)
        return NormalPair(loc, self.min_scale + tf.nn.softplus(raw))


class _LearnedScale(LikelihoodHead):
    """A Normal per feature whose scale is a weight, not a network output."""

    def __init__(
        self,
        min_scale: float = 1e-2,
        initial_scale: float = 1.0,
        per_feature: bool = False,
        name: str | None = None,
    ):
        super().__init__(per_feature, name=name)
        check_positive(self, min_scale=min_scale)
        self.min_scale, self.initial_scale = min_scale, initial_scale
        if initial_scale <= min_scale:
            raise ValueError(
                f"initial_scale must be above min_scale = {min_scale}, got {initial_scale}."
            )

    def scale_shape(self, spec):
        raise NotImplementedError

    def build_for(self, spec):
        self.check_real(spec)
        self.spec = spec
        self.params = self.dense_parameters(spec, 1)
        start = inverse_softplus(self.initial_scale - self.min_scale)
        self.raw_scale = self.add_weight(
            shape=self.scale_shape(spec), initializer=constant(start), name="raw_scale"
        )

    def call(self, h):
        (loc,) = self.feature_parameters(self.params, h, self.spec, 1)
        scale = self.min_scale + tf.nn.softplus(tf.convert_to_tensor(self.raw_scale))
        return tfd.Normal(loc, tf.cast(scale, tf.float32))


@register
class SharedScaleNormal(_LearnedScale):
    """Normal with ONE learned scale for all features (Posterior Matching's tables)."""

    def scale_shape(self, spec):
        return ()


@register
class FeatureScaleNormal(_LearnedScale):
    """Normal with one learned scale per feature, whatever z: factor analysis' noise."""

    def scale_shape(self, spec):
        return spec.feature_shape


@register
class StudentT(LikelihoodHead):
    """One Student-t per feature: location, scale and degrees of freedom from the network.

    Heavy tails keep single wild cells from pulling the fit.

    Args:
      min_scale: lower bound on the scale.
      min_df: lower bound on the degrees of freedom; above 2 the variance is finite.
    """

    def __init__(
        self,
        min_scale: float = 1e-2,
        min_df: float = 3.0,
        per_feature: bool = False,
        name: str | None = None,
    ):
        super().__init__(per_feature, name=name)
        check_positive(self, min_scale=min_scale, min_df=min_df)
        self.min_scale, self.min_df = min_scale, min_df

    def build_for(self, spec):
        self.check_real(spec)
        self.spec = spec
        self.params = self.dense_parameters(spec, 3)

    def call(self, h):
        loc, raw_scale, raw_df = self.feature_parameters(self.params, h, self.spec, 3)
        return tfd.StudentT(
            self.min_df + tf.nn.softplus(raw_df),
            loc,
            self.min_scale + tf.nn.softplus(raw_scale),
        )


class _UnitInterval(LikelihoodHead):
    """Heads of values from 0 to 1 with one parameter a feature, its logit."""

    def __init__(self, per_feature: bool = False, name: str | None = None):
        super().__init__(per_feature, name=name)

    def build_for(self, spec):
        self.check_real(spec)
        self.spec = spec
        self.params = self.dense_parameters(spec, 1)

    def check_values(self, values):
        outside = values[(values < 0) | (values > 1)]
        if len(outside):
            raise ValueError(
                f"{type(self).__name__} models values from 0 to 1, but the training data hold "
                f"{outside[0]:g}. Use a Normal head for images, MixedColumns for a table."
            )


@register
class Bernoulli(_UnitInterval):
    """One Bernoulli per feature; grey values in [0, 1] are read as probabilities."""

    def call(self, h):
        (logits,) = self.feature_parameters(self.params, h, self.spec, 1)
        return tfd.Bernoulli(logits, dtype=tf.float32)  # int32 by default; x is float32.


@register
class ContinuousBernoulli(_UnitInterval):
    """One continuous Bernoulli per feature: a density on [0, 1] (QAVI's grey images).

    Loaiza-Ganem and Cunningham, 2019, https://arxiv.org/abs/1907.06845. Its mean is not the
    parameter lambda = sigmoid(logits); completions use the mean.
    """

    def call(self, h):
        (logits,) = self.feature_parameters(self.params, h, self.spec, 1)
        return tfd.ContinuousBernoulli(logits)


@register
class Categorical(LikelihoodHead):
    """One categorical variable per feature, all with `num_levels` levels; x is the index."""

    def __init__(self, num_levels: int, per_feature: bool = False, name: str | None = None):
        super().__init__(per_feature, name=name)
        check_sizes(self, num_levels=num_levels)
        self.num_levels = num_levels

    def build_for(self, spec):
        for i, levels in enumerate(spec.levels or ()):
            if levels != self.num_levels:
                raise ValueError(
                    f"Categorical(num_levels={self.num_levels}) models columns that all have "
                    f"{self.num_levels} levels, but column {i} has {levels} (0 = real). Use "
                    f"MixedColumns for a table whose columns differ."
                )
        self.spec = spec
        self.params = self.dense_parameters(spec, self.num_levels)

    def check_values(self, values):
        wrong = values[(values != np.rint(values)) | (values < 0)]
        wrong = np.append(wrong, values[values >= self.num_levels])
        if len(wrong):
            raise ValueError(
                f"Categorical(num_levels={self.num_levels}) models the levels' indices 0 to "
                f"{self.num_levels - 1}, but the training data hold {wrong[0]:g}. Use "
                f"DiscretizedLogistic for grey values, MixedColumns for a table."
            )

    def call(self, h):
        logits = tf.stack(
            self.feature_parameters(self.params, h, self.spec, self.num_levels), axis=-1
        )
        return tfd.Categorical(logits, dtype=tf.float32)


def constant(value):
    """An initialiser."""
    return keras.initializers.Constant(value)


def inverse_softplus(y: float) -> float:
    """The x whose softplus is y."""
    return float(tf.math.log(tf.math.expm1(tf.constant(y, tf.float64))))
