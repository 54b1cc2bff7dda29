"""q(z) as a map of standard normal noise, with a map of its own for every query.

Planar flows and fully connected networks as in Wu, Domke and Sanner, 2018,
https://arxiv.org/abs/1805.07785 (Eq. 8, 9, Theorem 2); inverse autoregressive flows as in
QAVI, 3.2. Weights have a batch axis, so that matrix products are batched over queries.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import Handmade
from vae_arbcond.distributions.flows import MAX_LOG_SCALE, Planar
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_sizes
from vae_arbcond.variational.families import (
    Draws,
    Family,
    inverse_softplus,
    log_normal,
    paired_noise,
)
from vae_arbcond.variational.starts import moments

tfd = tfp.distributions


class _FlowFamily(Family):
    """What flows share: noise -> z with the log-determinant, and back."""

    def forward(self, noise, parameters):
        """Noise [B, S, Z] (or [1, S, Z]) -> z [B, S, Z], log |dz / dnoise| [B, S]."""
        raise NotImplementedError

    def inverse(self, z, parameters):
        """z [B, S, Z] -> noise [B, S, Z]."""
        raise NotImplementedError

    def draw(self, parameters, num_samples, seed, exact=False):
        del exact  # Density and draw are one pass: the gradient is whole.
        size = parameters.loc.shape[-1]
        noise = tf.transpose(paired_noise([num_samples, 1, size], seed), [1, 0, 2])
        z, log_det = self.forward(noise, parameters)
        log_q = log_normal(noise) - log_det
        return Draws(tf.transpose(z, [1, 0, 2]), tf.transpose(log_q))

    def distribution(self, parameters):
        return FlowDistribution(self, parameters)

    def _base(self, start, seed):
        """loc and softplus^-1 scale [B, Z] of a start."""
        mean, covariance = moments(start, seed)
        return mean, inverse_softplus(tf.sqrt(tf.linalg.diag_part(covariance)))


class FlowDistribution(Handmade):
    """q(z) of a flow family: batch_shape [B] (or [], after indexing), event_shape [Z]."""

    def __init__(self, family, parameters, name="FlowDistribution"):
        made_of = dict(locals())
        self._family, self._parameters_of_queries = family, parameters
        super().__init__(made_of, name, True)

    def __getitem__(self, index):
        row = index[0] if isinstance(index, tuple) else index
        picked = tf.nest.map_structure(lambda p: p[row], self._parameters_of_queries)
        return FlowDistribution(self._family, picked)

    def _batch_shape(self):
        return self._parameters_of_queries.loc.shape[:-1]

    def _batch_shape_tensor(self):
        return tf.shape(self._parameters_of_queries.loc)[:-1]

    def _event_shape(self):
        return self._parameters_of_queries.loc.shape[-1:]

    def _event_shape_tensor(self):
        return tf.shape(self._parameters_of_queries.loc)[-1:]

    def _of_batch(self):
        """The parameters with their batch axis, whether it was indexed away."""
        if self._batch_shape().rank:
            return self._parameters_of_queries
        return tf.nest.map_structure(lambda p: p[tf.newaxis], self._parameters_of_queries)

    def _sample_n(self, n, seed=None):
        parameters = self._of_batch()
        shape = [tf.shape(parameters.loc)[0], n, parameters.loc.shape[-1]]
        noise = tf.random.stateless_normal(shape, tfp.random.sanitize_seed(seed))
        z = tf.transpose(self._family.forward(noise, parameters)[0], [1, 0, 2])
        z = z if self._batch_shape().rank else z[:, 0]
        static = tf.TensorShape([tf.get_static_value(n)])
        return tf.ensure_shape(z, static + self._batch_shape() + self._event_shape())

    def _log_prob(self, z):
        parameters = self._of_batch()
        batch, size = tf.shape(parameters.loc)[0], parameters.loc.shape[-1]
        leading = tf.shape(z)[:-1]
        rows = tf.transpose(tf.reshape(z, [-1, batch, size]), [1, 0, 2])
        noise = self._family.inverse(rows, parameters)
        log_q = log_normal(noise) - self._family.forward(noise, parameters)[1]
        return tf.ensure_shape(tf.reshape(tf.transpose(log_q), leading), z.shape[:-1])


class PlanarParameters(NamedTuple):
    """loc, raw [B, Z]; w, u [B, K, Z]; b [B, K]."""

    loc: tf.Tensor
    raw: tf.Tensor
    w: tf.Tensor
    u: tf.Tensor
    b: tf.Tensor


@register
class PlanarFamily(_FlowFamily):
    """Planar flows h + u tanh(w h + b) of a Gaussian (conditional prior networks, Eq. 8).

    u is corrected so that every map is invertible; Eq. 9 sums their log-determinants. The
    flow starts near the Gaussian: u across w is small, along w what the correction undoes.

    Args:
      num_flows: K.
      start_scale: standard deviation of u across w at the start, where w has length 1.
      min_scale: lower bound on the Gaussian's standard deviations.
    """

    def __init__(
        self, num_flows: int = 16, start_scale: float = 0.03, min_scale: float = 1e-4
    ):
        check_sizes(self, num_flows=num_flows)
        check_positive(self, start_scale=start_scale, min_scale=min_scale)
        self.num_flows, self.start_scale = num_flows, start_scale
        self.min_scale = min_scale

    def start(self, start, seed):
        seeds = tfp.random.split_seed(seed, n=3)
        loc, raw = self._base(start, seeds[0])
        batch = tf.shape(loc)[0]
        shape = [1, self.num_flows, loc.shape[-1]]

        def small(seed):
            one = self.start_scale * tf.random.stateless_normal(shape, seed)
            return tf.tile(one, [batch, 1, 1])  # The same for every query.

        # Maps use u with w.u replaced by softplus(w.u) - 1, which is no stretch along w where
        # w.u = softplus^-1(1). From w.u = 0 each map would shrink a direction by .31 |w|. With
        # w of length 1 that u is short, and steps in w change w.u no more than others.
        w, u = tf.math.l2_normalize(small(seeds[1]), -1), small(seeds[2])
        along = inverse_softplus(tf.constant(1.0)) - tf.reduce_sum(w * u, -1, keepdims=True)
        u += along * w
        return PlanarParameters(loc, raw, w, u, tf.zeros([batch, self.num_flows]))

    def _maps(self, parameters):
        # An axis for the draws between queries and coordinates.
        return [
            Planar(
                parameters.w[:, k, tf.newaxis],
                parameters.u[:, k, tf.newaxis],
                parameters.b[:, k, tf.newaxis],
            )
            for k in range(self.num_flows)
        ]

    def _gaussian(self, parameters):
        scale = self.min_scale + tf.nn.softplus(parameters.raw)
        return parameters.loc[:, tf.newaxis], scale[:, tf.newaxis]

    def forward(self, noise, parameters):
        loc, scale = self._gaussian(parameters)
        h = noise
        log_det = tf.reduce_sum(tf.math.log(scale), -1) + tf.zeros_like(h[..., 0])
        for bijector in self._maps(parameters):
            log_det += bijector.forward_log_det_jacobian(h, event_ndims=1)
            h = bijector.forward(h)
        return loc + scale * h, log_det

    def inverse(self, z, parameters):
        loc, scale = self._gaussian(parameters)
        h = (z - loc) / scale
        for bijector in self._maps(parameters)[::-1]:
            h = bijector.inverse(h)
        return h


class AutoregressiveParameters(NamedTuple):
    """loc, raw [B, Z]; per flow K: first [B, K, Z, H], bias [B, K, H], last [B, K, H, 2 Z],
    shift [B, K, 2 Z]."""

    loc: tf.Tensor
    raw: tf.Tensor
    first: tf.Tensor
    bias: tf.Tensor
    last: tf.Tensor
    shift: tf.Tensor


@register
class InverseAutoregressiveFamily(_FlowFamily):
    """Inverse autoregressive flows of a diagonal Gaussian, weights of its own for each query.

    h_i <- m_i(h_<i) + exp(s_i(h_<i)) h_i; the order of coordinates turns between flows. A draw
    takes one pass a flow, the density of a given z as many as there are coordinates. The flow
    starts as the Gaussian.

    Args:
      num_flows: K.
      hidden: width of each masked network's only hidden layer.
      min_scale: lower bound on the Gaussian's standard deviations.
    """

    def __init__(self, num_flows: int = 2, hidden: int = 32, min_scale: float = 1e-4):
        check_sizes(self, num_flows=num_flows, hidden=hidden)
        check_positive(self, min_scale=min_scale)
        self.num_flows, self.hidden, self.min_scale = num_flows, hidden, min_scale

    def start(self, start, seed):
        seeds = tfp.random.split_seed(seed, n=2)
        loc, raw = self._base(start, seeds[0])
        batch, size, flows = tf.shape(loc)[0], loc.shape[-1], self.num_flows
        first = tf.random.stateless_normal([1, flows, size, self.hidden], seeds[1])
        return AutoregressiveParameters(
            loc,
            raw,
            tf.tile(first / np.sqrt(size), [batch, 1, 1, 1]),
            tf.zeros([batch, flows, self.hidden]),
            tf.zeros([batch, flows, self.hidden, 2 * size]),
            tf.zeros([batch, flows, 2 * size]),
        )

    def _masks(self, size):
        """What a hidden unit may see, [Z, H], and what an output may hear, [H, 2 Z]."""
        degree = np.arange(self.hidden) % max(1, size - 1)  # sees coordinates 0 .. degree
        place = np.arange(size)
        see = place[:, np.newaxis] <= degree
        hear = degree[:, np.newaxis] < place
        if size == 1:
            see = np.zeros_like(see)
        see, hear = see.astype(np.float32), hear.astype(np.float32)
        return see, np.concatenate([hear, hear], 1)

    def _shift_and_log_scale(self, h, parameters, k):
        see, hear = self._masks(h.shape[-1])
        inner = tf.matmul(h, parameters.first[:, k] * see)
        inner = tf.tanh(inner + parameters.bias[:, k, tf.newaxis])
        out = tf.matmul(inner, parameters.last[:, k] * hear)
        out += parameters.shift[:, k, tf.newaxis]
        shift, raw = tf.split(out, 2, -1)
        return shift, MAX_LOG_SCALE * tf.tanh(raw / MAX_LOG_SCALE)

    def _gaussian(self, parameters):
        scale = self.min_scale + tf.nn.softplus(parameters.raw)
        return parameters.loc[:, tf.newaxis], scale[:, tf.newaxis]

    def forward(self, noise, parameters):
        loc, scale = self._gaussian(parameters)
        shape = tf.broadcast_dynamic_shape(tf.shape(noise), tf.shape(loc))
        h = tf.ensure_shape(tf.broadcast_to(noise, shape), [None, None, loc.shape[-1]])
        log_det = tf.reduce_sum(tf.math.log(scale), -1) + tf.zeros_like(h[..., 0])
        for k in range(self.num_flows):
            shift, log_scale = self._shift_and_log_scale(h, parameters, k)
            h = shift + tf.exp(log_scale) * h
            log_det += tf.reduce_sum(log_scale, -1)
            h = h[..., ::-1]
        return loc + scale * h, log_det

    def inverse(self, z, parameters):
        loc, scale = self._gaussian(parameters)
        h = (z - loc) / scale
        size = z.shape[-1]
        for k in range(self.num_flows)[::-1]:
            goal = h[..., ::-1]
            h = tf.zeros_like(goal)
            for i in range(size):  # Coordinate i is right once those before it are.
                shift, log_scale = self._shift_and_log_scale(h, parameters, k)
                here = (np.arange(size) == i).astype(np.float32)
                found = (goal - shift) * tf.exp(-log_scale)
                h = h * (1.0 - here) + found * here
        return h


class NetworkParameters(NamedTuple):
    """loc, raw [B, Z]; first [B, Z, H], bias [B, H], last [B, H, Z]."""

    loc: tf.Tensor
    raw: tf.Tensor
    first: tf.Tensor
    bias: tf.Tensor
    last: tf.Tensor


@register
class NetworkFamily(Family):
    """A fully connected network of noise (FCN), for comparison in two dimensions only.

    z = loc + scale (h + tanh(h W + b) V). Nothing makes it one-to-one, so log |dz / dnoise| is
    not the density of z where its image folds: what is maximised is NOT a bound (conditional
    prior networks, 3.4). There is no density and hence no answer, but `draw` at the parameters
    that a minimizer finds: `FirstOrder().maximise(Problem(...), ...)`.

    Args:
      hidden: width of the hidden layer.
      min_scale: lower bound on the Gaussian's standard deviations.
    """

    has_density = False

    def __init__(self, hidden: int = 64, min_scale: float = 1e-4):
        check_sizes(self, hidden=hidden)
        check_positive(self, min_scale=min_scale)
        self.hidden, self.min_scale = hidden, min_scale

    def start(self, start, seed):
        seeds = tfp.random.split_seed(seed, n=2)
        mean, covariance = moments(start, seeds[0])
        raw = inverse_softplus(tf.sqrt(tf.linalg.diag_part(covariance)))
        batch, size = tf.shape(mean)[0], mean.shape[-1]
        if size != 2:
            raise ValueError(
                f"NetworkFamily is for latents of size 2, where its pictures can be compared; "
                f"this model's has size {size}. Use InverseAutoregressiveFamily, which has a "
                f"density and a bound."
            )
        first = tf.random.stateless_normal([1, size, self.hidden], seeds[1])
        return NetworkParameters(
            mean,
            raw,
            tf.tile(first, [batch, 1, 1]),
            tf.zeros([batch, self.hidden]),
            tf.zeros([batch, self.hidden, size]),
        )

    def _forward(self, noise, parameters):
        """Noise [1 or B, S, 2] -> z [B, S, 2], log |det| [B, S]."""
        loc, raw, first, bias, last = parameters
        scale = (self.min_scale + tf.nn.softplus(raw))[:, tf.newaxis]
        noise = tf.broadcast_to(noise, [tf.shape(loc)[0], tf.shape(noise)[1], 2])
        inner = tf.tanh(tf.matmul(noise, first) + bias[:, tf.newaxis])
        z = loc[:, tf.newaxis] + scale * (noise + tf.matmul(inner, last))
        # dz_j / dnoise_i = scale_j (delta_ij + sum_h W_ih (1 - tanh^2) V_hj), 2 x 2.
        slope = (1.0 - inner**2)[:, :, tf.newaxis] * first[:, tf.newaxis]  # [B, S, 2, H]
        jacobian = tf.eye(2) + tf.einsum("bsih,bhj->bsij", slope, last)
        det = (
            jacobian[..., 0, 0] * jacobian[..., 1, 1]
            - jacobian[..., 0, 1] * jacobian[..., 1, 0]
        )
        log_det = tf.math.log(tf.maximum(tf.abs(det), 1e-12))
        return z, log_det + tf.reduce_sum(tf.math.log(scale), -1)

    def draw(self, parameters, num_samples, seed, exact=False):
        del exact  # Density and draw are one pass: the gradient is whole.
        noise = tf.transpose(paired_noise([num_samples, 1, 2], seed), [1, 0, 2])
        z, log_det = self._forward(noise, parameters)
        return Draws(tf.transpose(z, [1, 0, 2]), tf.transpose(log_normal(noise) - log_det))

    def distribution(self, parameters):
        raise NotImplementedError(
            "NetworkFamily has draws (`draw`) but no density, so nothing can be weighted by "
            "it. It is for pictures beside other families; use one of those to answer."
        )
