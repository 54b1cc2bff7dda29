"""The likelihood head of a mixed table: a family for each column by its kind."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.columns import Columns
from vae_arbcond.distributions.likelihoods import LikelihoodHead, constant, inverse_softplus
from vae_arbcond.distributions.pairs import NormalPair
from vae_arbcond.registry import register
from vae_arbcond.shapes import LARGEST_COUNT, check_positive, fold_batch

tfd = tfp.distributions

LARGEST_LOG_MEAN = float(np.log(LARGEST_COUNT))
# 1 / r of a count: its standard deviation is at least 1 % of its mean. Less, and the density's
# terms would cancel beyond what float32 holds.
MIN_DISPERSION = 1e-4
MIN_GAP = 1e-3  # between two thresholds of an ordinal column, in log-odds


@register
class MixedColumns(LikelihoodHead):
    """A family for each column of a table by its kind, joined as `Columns`.

    | kind        | p(x_d | z)                                                              |
    |-------------|-------------------------------------------------------------------------|
    | real        | Normal; log-normal in the user's unit where the schema took logarithms  |
    | categorical | categorical                                                             |
    | ordinal     | ordered logistic: P(x <= k) = sigmoid(t_k - eta(z)), t increasing       |
    | count       | negative binomial of mean m(z) and variance m + m^2 / r                 |

    Args:
      min_scale: lower bound on a real column's standard deviation.
      network_scale: True lets the scale of a real column, and the dispersion 1 / r of a
        count, depend on z; False makes it one weight per column, which overfits less on
        small tables.
      fixed_scale: the standard deviation of every real column, not learnt. With 1 the loss is
        squared error, as in VAEAC's experiments with tables; draws are then far too wide, and
        `impute_means` is what to look at.
    """

    def __init__(
        self,
        min_scale: float = 1e-2,
        network_scale: bool = False,
        fixed_scale: float | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_positive(self, min_scale=min_scale)
        if min_scale >= 1:
            raise ValueError(
                f"MixedColumns.min_scale is a share of a column's standard deviation, below "
                f"1; got {min_scale}."
            )
        self.min_scale, self.network_scale = min_scale, network_scale
        self.fixed_scale = fixed_scale
        if fixed_scale is not None and (fixed_scale <= 0 or network_scale):
            raise ValueError(
                f"fixed_scale must be above 0 and goes without network_scale, got "
                f"{fixed_scale} with network_scale={network_scale}."
            )

    def build_for(self, spec):
        if len(spec.x_shape) != 1:
            raise ValueError(
                f"MixedColumns models tables, rows of shape (D,); this data has rows of shape "
                f"{spec.x_shape}. Use Bernoulli or a Normal head for images."
            )
        columns = range(spec.num_features)
        levels = spec.levels or (0,) * spec.num_features
        ordered = spec.ordered or (False,) * spec.num_features
        counts = spec.counts or (0.0,) * spec.num_features
        self.real = [i for i in columns if not levels[i] and not counts[i]]
        self.categorical = [i for i in columns if levels[i] and not ordered[i]]
        self.ordinal = [i for i in columns if levels[i] and ordered[i]]
        self.count = [i for i in columns if counts[i]]
        self.sizes = [levels[i] for i in self.categorical]
        if self.real:
            self.loc = keras.layers.Dense(len(self.real))
            if self.fixed_scale is None:
                start = inverse_softplus(1.0 - self.min_scale)
                self.raw_scale = self._per_column(len(self.real), start, "raw_scale")
        if self.categorical:
            self.logits = keras.layers.Dense(sum(self.sizes))
        if self.ordinal:
            self.ordinal_loc = keras.layers.Dense(len(self.ordinal))
            self.thresholds = [
                Thresholds(levels[i], name=f"thresholds_{i}") for i in self.ordinal
            ]
            for layer in self.thresholds:
                layer.build(None)
        if self.count:
            self.typical = np.log([counts[i] for i in self.count]).astype(np.float32)
            self.log_mean = keras.layers.Dense(len(self.count))
            start = inverse_softplus(1.0)
            self.raw_dispersion = self._per_column(len(self.count), start, "raw_dispersion")

    def _per_column(self, size: int, start: float, name: str):
        """One number a column: a layer where it depends on z, a weight where not."""
        if self.network_scale:
            return keras.layers.Dense(size, bias_initializer=constant(start), name=name)
        return self.add_weight(shape=(size,), initializer=constant(start), name=name)

    def _value_of(self, per_column, h):
        raw = per_column(h) if self.network_scale else tf.convert_to_tensor(per_column)
        return tf.nn.softplus(tf.cast(raw, tf.float32))

    def call(self, h):
        parts, indices = [], []
        if self.real:
            parts.append(self._normal(h))
            indices.append(self.real)
        if self.categorical:
            parts.append(tfd.Categorical(self._padded_logits(h), dtype=tf.float32))
            indices.append(self.categorical)
        if self.ordinal:
            parts.append(tfd.Categorical(self._ordinal_logits(h), dtype=tf.float32))
            indices.append(self.ordinal)
        if self.count:
            log_mean = self.typical + tf.cast(self.log_mean(h), tf.float32)
            # Smoothly below what float32 can count, so that no mean is infinite.
            log_mean = LARGEST_LOG_MEAN - tf.nn.softplus(LARGEST_LOG_MEAN - log_mean)
            dispersion = MIN_DISPERSION + self._value_of(self.raw_dispersion, h)
            parts.append(
                tfd.NegativeBinomial(1.0 / dispersion, log_mean + tf.math.log(dispersion))
            )
            indices.append(self.count)
        return Columns(parts, indices)

    def _normal(self, h):
        """p of the real columns."""
        if self.network_scale:
            loc, raw = side_by_side([self.loc, self.raw_scale], h)
            return NormalPair(loc, self.min_scale + tf.nn.softplus(raw))
        loc, scale = tf.cast(self.loc(h), tf.float32), self.fixed_scale
        if scale is None:
            scale = self.min_scale + self._value_of(self.raw_scale, h)
        return tfd.Normal(loc, scale)

    def _ordinal_logits(self, h):
        """[..., Do, max levels]; the levels a column does not have get probability 0."""
        eta = tf.cast(self.ordinal_loc(h), tf.float32)
        widest = max(layer.num_levels for layer in self.thresholds)
        columns = []
        for i, layer in enumerate(self.thresholds):
            logits = layer(eta[..., i])
            spare = [[0, 0]] * (logits.shape.rank - 1) + [[0, widest - layer.num_levels]]
            columns.append(tf.pad(logits, spare, constant_values=-1e9))
        return tf.stack(columns, axis=-2)

    def _padded_logits(self, h):
        """[..., Dc, max levels]; the levels a column does not have get probability 0."""
        flat = tf.cast(self.logits(h), tf.float32)
        widest = max(self.sizes)
        if all(size == widest for size in self.sizes):
            shape = tf.concat([tf.shape(flat)[:-1], [len(self.sizes), widest]], 0)
            padded = tf.reshape(flat, shape)
        else:
            rows = tf.pad(flat, [[0, 0]] * (flat.shape.rank - 1) + [[0, 1]])
            spare, start, index = sum(self.sizes), 0, []
            for size in self.sizes:
                index.append([start + j if j < size else spare for j in range(widest)])
                start += size
            # -1e9 and not -inf: 0 * -inf would make gradients NaN.
            absent = tf.constant(index) == spare
            padded = tf.where(absent, -1e9, tf.gather(rows, index, axis=-1))
        return tf.ensure_shape(padded, [*h.shape[:-1], len(self.sizes), widest])


def side_by_side(layers, h) -> list[tf.Tensor]:
    """What several dense layers [..., H] -> [..., N_k] say of h, float32, by one product."""
    for layer in layers:
        if not layer.built:
            layer.build(h.shape)
    dtype, sizes = layers[0].compute_dtype, [layer.units for layer in layers]
    kernel = tf.concat([tf.cast(layer.kernel, dtype) for layer in layers], 1)
    bias = tf.concat([tf.cast(layer.bias, dtype) for layer in layers], 0)

    def dense(rows):
        return tf.nn.bias_add(tf.matmul(rows, kernel), bias)

    return tf.split(tf.cast(fold_batch(dense, tf.cast(h, dtype)), tf.float32), sizes, -1)


class Thresholds(keras.layers.Layer):
    """Increasing thresholds t of one ordinal column: eta [...] -> log P(x = k) [..., L].

    P(x <= k) = sigmoid(t_k - eta). They start where all levels are equally likely at eta = 0.

    Args:
      num_levels: L; with one level there is no threshold and its log-probability is 0.
    """

    def __init__(self, num_levels: int, name: str | None = None):
        super().__init__(name=name)
        self.autocast = False  # Densities stay float32.
        self.num_levels = num_levels

    def build(self, input_shape):
        shares = np.arange(1, self.num_levels) / self.num_levels
        start = np.log(shares) - np.log1p(-shares)
        if len(start):
            self.lowest = self.add_weight(initializer=constant(start[0]), name="lowest")
        gaps = [inverse_softplus(gap - MIN_GAP) for gap in np.diff(start)]
        if gaps:
            self.raw_gaps = self.add_weight(
                shape=(len(gaps),), initializer=constant(np.array(gaps)), name="raw_gaps"
            )

    def call(self, eta):
        eta = eta[..., tf.newaxis]
        if self.num_levels == 1:
            return tf.zeros_like(eta)
        below = tf.cast(self.lowest, tf.float32)[tf.newaxis]  # t_0 .. t_(L-2)
        log_share = tf.zeros([2])
        if self.num_levels > 2:
            gaps = MIN_GAP + tf.nn.softplus(tf.cast(self.raw_gaps, tf.float32))
            below = tf.concat([below, below + tf.cumsum(gaps)], 0)
            # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): no difference
            # of nearly equal numbers, so neither 0 nor NaN however far eta is.
            log_share = tf.concat([[0.0], tf.math.log(-tf.math.expm1(-gaps)), [0.0]], 0)
        reach = tf.math.log_sigmoid(below - eta)  # log P(x <= k), k < L - 1
        pass_ = tf.math.log_sigmoid(eta - below)  # log P(x > k)
        nothing = tf.zeros_like(eta)
        return tf.concat([reach, nothing], -1) + tf.concat([nothing, pass_], -1) + log_share
