"""Mixtures of discretised logistics: pixels of some hundred levels, with or without colour.

Salimans et al., 2017, https://arxiv.org/abs/1701.05517: a logistic density, cut into one bin a
level; the outermost bins reach to infinity. In colour the channels share the mixture's choice
and each is shifted by those before it.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.handmade import Handmade
from vae_arbcond.distributions.likelihoods import LikelihoodHead
from vae_arbcond.registry import register

tfd = tfp.distributions


class DiscretizedLogisticMixture(Handmade):
    """Levels 0, 1 / (L - 1), ..., 1: batch_shape [...], event_shape [] or [C].

    Args:
      logits: [..., K], of the components.
      loc: [..., K, C], on the scale of 2 x - 1.
      scale: [..., K, C], > 0, on the same scale.
      coupling: [..., K, C (C - 1) / 2]: what channel j adds to the location of channel i > j,
        by i, then j; None where C is 1.
      num_levels: L.
      colour: whether the event is [C]; False wants C = 1.
    """

    def __init__(self, logits, loc, scale, coupling, num_levels, colour, name="Discretized"):
        made_of = dict(locals())
        self._logits, self._loc, self._scale = logits, loc, scale
        self._coupling, self._num_levels, self._colour = coupling, num_levels, colour
        self._channels = loc.shape[-1]
        super().__init__(made_of, name)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        def ends_in(ndims):
            return tfp.util.ParameterProperties(event_ndims=ndims)

        return {
            "logits": ends_in(1),
            "loc": ends_in(2),
            "scale": ends_in(2),
            "coupling": ends_in(2),
        }

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in index:
            index = (*index, Ellipsis)

        def pick(part, ndims):
            return None if part is None else part[(*index, *[slice(None)] * ndims)]

        return DiscretizedLogisticMixture(
            pick(self._logits, 1),
            pick(self._loc, 2),
            pick(self._scale, 2),
            pick(self._coupling, 2),
            self._num_levels,
            self._colour,
        )

    def _batch_shape(self):
        return self._logits.shape[:-1]

    def _batch_shape_tensor(self):
        return tf.shape(self._logits)[:-1]

    def _event_shape(self):
        return tf.TensorShape([self._channels] if self._colour else [])

    def _event_shape_tensor(self):
        return tf.constant([self._channels] if self._colour else [], tf.int32)

    def _shift(self, i, v):
        """What the channels before i add to its location: v [..., K or 1, C] -> [..., K]."""
        start, total = i * (i - 1) // 2, 0.0
        for j in range(i):
            total += self._coupling[..., start + j] * v[..., j]
        return total

    def _log_prob(self, x):
        v = 2.0 * (x if self._colour else x[..., tf.newaxis]) - 1.0
        v = v[..., tf.newaxis, :]  # [..., 1, C]
        shifts = [self._shift(i, v) for i in range(self._channels)]
        loc = self._loc
        if self._colour:
            shape = tf.shape(self._loc[..., 0] + v[..., 0])
            loc = tf.stack(
                [self._loc[..., i] + tf.broadcast_to(s, shape) for i, s in enumerate(shifts)],
                -1,
            )
        half = 1.0 / (self._num_levels - 1)
        upper = (v + half - loc) / self._scale
        lower = (v - half - loc) / self._scale
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
        width = 2.0 * half / self._scale
        below, above = -tf.nn.softplus(-upper), -tf.nn.softplus(lower)
        inside = below + above + tf.math.log(-tf.math.expm1(-width))
        log_mass = tf.where(v < -1.0 + half, below, tf.where(v > 1.0 - half, above, inside))
        weights = tf.nn.log_softmax(self._logits)
        return tf.reduce_logsumexp(weights + tf.reduce_sum(log_mass, -1), -1)

    def _sample_n(self, n, seed=None):
        choice_seed, place_seed = tfp.random.split_seed(seed, n=2)
        component = tfd.Categorical(self._logits).sample(n, seed=choice_seed)
        chosen = tf.one_hot(component, self._logits.shape[-1])[..., tf.newaxis]

        def of_component(part):
            return tf.reduce_sum(chosen * part, -2)

        loc, scale = of_component(self._loc), of_component(self._scale)
        coupling = None if self._coupling is None else of_component(self._coupling)
        noise = tfd.Logistic(0.0, 1.0).sample(tf.shape(loc), seed=place_seed)
        levels, channels = [], []
        for i in range(self._channels):
            place = loc[..., i] + scale[..., i] * noise[..., i]
            for j in range(i):
                place += coupling[..., i * (i - 1) // 2 + j] * channels[j]
            level = tf.round((place + 1.0) / 2.0 * (self._num_levels - 1))
            levels.append(tf.clip_by_value(level, 0.0, self._num_levels - 1.0))
            channels.append(2.0 * levels[i] / (self._num_levels - 1) - 1.0)
        x = tf.stack(levels, -1) / (self._num_levels - 1)
        return x if self._colour else x[..., 0]

    def _mean(self):
        """The mean of the logistics clipped to [0, 1].

        Within half a level of the true one for grey pixels. Of colours the later channels are
        approximate: they are moved by the mean of those before, and the clip bends that.
        """
        means = []
        for i in range(self._channels):
            before = tf.stack(means, -1) if means else None
            loc = self._loc[..., i] + (self._shift(i, before) if means else 0.0)
            scale = self._scale[..., i]
            # The integral of a sigmoid from -1 to 1, less 1.
            bent = tf.nn.softplus((loc + 1.0) / scale) - tf.nn.softplus((loc - 1.0) / scale)
            means.append(scale * bent - 1.0)
        mean = tf.stack(means, -1)
        weights = tf.nn.softmax(self._logits)[..., tf.newaxis]
        mean = (tf.reduce_sum(weights * mean, -2) + 1.0) / 2.0
        return mean if self._colour else mean[..., 0]


@register
class DiscretizedLogistic(LikelihoodHead):
    """A `DiscretizedLogisticMixture` a pixel, grey or colour.

    Args:
      num_levels: values a pixel can take, evenly spread over [0, 1]: 256 for bytes, 17 for
        scikit-learn's digits.
      components: logistics in the mixture.
      min_scale: lower bound on a logistic's scale, where the range of values is 2.
      per_feature: as for every likelihood head.
    """

    def __init__(
        self,
        num_levels: int = 256,
        components: int = 10,
        min_scale: float = 1e-3,
        per_feature: bool = False,
        name: str | None = None,
    ):
        super().__init__(per_feature, name=name)
        if num_levels < 2 or components < 1 or min_scale <= 0:
            raise ValueError(
                f"DiscretizedLogistic needs num_levels >= 2, components >= 1 and min_scale > "
                f"0, got {num_levels}, {components} and {min_scale}."
            )
        self.num_levels, self.components = num_levels, components
        self.min_scale = min_scale

    def check_values(self, values):
        level = values * (self.num_levels - 1)
        off = (np.abs(level - np.rint(level)) > 0.01) | (values < 0) | (values > 1)
        if off.any():
            raise ValueError(
                f"DiscretizedLogistic(num_levels={self.num_levels}) models the values 0, "
                f"1/{self.num_levels - 1}, ... 1, but the training data hold "
                f"{values[off][0]:g}. Give num_levels the number of values a pixel can take "
                f"(256 for bytes), or use a Normal head."
            )

    def build_for(self, spec):
        if any(spec.levels or ()) or len(spec.event_shape) > 1:
            raise ValueError(
                f"DiscretizedLogistic models pixels, one number or one a channel; this data "
                f"has levels {spec.levels} and features of shape {spec.event_shape}. Use "
                f"MixedColumns for tables."
            )
        self.spec = spec
        self.channels = spec.event_shape[0] if spec.event_shape else 1
        pairs = self.channels * (self.channels - 1) // 2
        self.sizes = [1, self.channels, self.channels, pairs]
        self.params = self.dense_parameters(spec, self.components * sum(self.sizes))
        # Spread over the range: components that start at one place have no reason to part.
        spread = 0.8 if self.components > 1 else 0.0
        self.offsets = np.linspace(-spread, spread, self.components, dtype=np.float32)

    def call(self, h):
        count = self.components * sum(self.sizes)
        flat = tf.stack(self.feature_parameters(self.params, h, self.spec, count), -1)
        params = tf.reshape(
            flat, tf.concat([tf.shape(flat)[:-1], [self.components, sum(self.sizes)]], 0)
        )
        params = tf.ensure_shape(params, [*flat.shape[:-1], self.components, sum(self.sizes)])
        logits, loc, raw_scale, coupling = tf.split(params, self.sizes, axis=-1)
        return DiscretizedLogisticMixture(
            logits[..., 0],
            loc + self.offsets[:, np.newaxis],
            self.min_scale + 0.2 * tf.nn.softplus(raw_scale),
            tf.tanh(coupling) if self.channels > 1 else None,
            self.num_levels,
            bool(self.spec.event_shape),
        )
