"""Normalising flows as posterior heads: a diagonal Gaussian, bent by invertible maps.

Kingma et al., 2016, https://arxiv.org/abs/1606.04934 (inverse autoregressive); Papamakarios et
al., 2017, https://arxiv.org/abs/1705.07057 (masked autoregressive); Rezende and Mohamed, 2015,
https://arxiv.org/abs/1505.05770 (planar). All draw reparameterised samples and have exact
densities; which of the two is one pass and which takes a loop is what tells them apart.
"""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.conditional import Conditional
from vae_arbcond.distributions.gaussian import DiagonalGaussian
from vae_arbcond.networks import Made
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_sizes

tfd = tfp.distributions
tfb = tfp.bijectors

# exp of more than this a layer is no density a network should have learnt.
MAX_LOG_SCALE = 5.0
BISECTIONS = 30


class _FlowHead(keras.layers.Layer):
    """What flows share: a diagonal Gaussian from the context, then `bijector(context)`."""

    reparameterized = True

    def __init__(self, event_size, num_flows, name):
        super().__init__(name=name)
        check_sizes(self, event_size=event_size, num_flows=num_flows)
        self.event_size = self.noise_size = event_size
        self.num_flows = num_flows
        self.base = DiagonalGaussian(event_size)

    def build(self, input_shape):
        self.base.params.build(input_shape)

    def call(self, h):
        return Conditional(self, tf.cast(h, tf.float32), self.event_size)

    def bijector(self, context):
        """The map from the base's draws to z, given context [N, H]."""
        raise NotImplementedError

    def log_density(self, z, context):
        """log q(z | context): [N, D], [N, H] -> [N]."""
        bijector = self.bijector(context)
        return tfd.TransformedDistribution(self.base(context), bijector).log_prob(z)

    def from_noise(self, noise, context):
        """Standard normal noise [N, D], context [N, H] -> draws [N, D]."""
        base = self.base(context)
        return self.bijector(context).forward(base.mean() + base.stddev() * noise)


class _AutoregressiveFlowHead(_FlowHead):
    """Affine maps of each coordinate, told by those before it; the order turns every time."""

    def __init__(self, event_size, num_flows, hidden, blocks, activation, name):
        super().__init__(event_size, num_flows, name)
        self.layer_size = max(hidden, 2 * event_size)
        # Outputs that start at 0: the flow starts as its base.
        self.networks = [
            Made(event_size, 2, hidden, blocks, activation, zero_start=True)
            for _ in range(num_flows)
        ]

    def build(self, input_shape):
        super().build(input_shape)
        for network in self.networks:
            network.build((None, self.event_size), input_shape)

    def maps(self, context):
        """The masked autoregressive maps, u -> z, first to last, without turning the order."""

        def shift_and_log_scale(network):
            def function(z):
                shift, raw = tf.unstack(tf.cast(network(z, context), tf.float32), axis=-1)
                return shift, MAX_LOG_SCALE * tf.tanh(raw / MAX_LOG_SCALE)

            return function

        return [tfb.MaskedAutoregressiveFlow(shift_and_log_scale(n)) for n in self.networks]

    def in_turn(self, maps):
        """The maps one after the other, the order of the coordinates turned between them."""
        turn = tfb.Permute(tf.range(self.event_size)[::-1])
        chain = [maps[0]]
        for bijector in maps[1:]:
            chain += [turn, bijector]
        return tfb.Chain(chain[::-1])


@register
class MaskedAutoregressiveFlow(_AutoregressiveFlowHead):
    """MAF: a density takes one pass a flow, a draw D of them (Papamakarios et al., 2017).

    The flow of choice for Posterior Matching, whose loss needs densities of given z.

    Args:
      event_size: D, length of z.
      num_flows: maps, each with a network of its own.
      hidden, blocks: width and residual blocks of each network.
      activation: a Keras activation's name.
    """

    def __init__(
        self,
        event_size: int,
        num_flows: int = 5,
        hidden: int = 128,
        blocks: int = 1,
        activation: str = "relu",
        name: str | None = None,
    ):
        super().__init__(event_size, num_flows, hidden, blocks, activation, name)

    def bijector(self, context):
        return self.in_turn(self.maps(context))


@register
class InverseAutoregressiveFlow(_AutoregressiveFlowHead):
    """IAF: a draw takes one pass a flow, the density of a given z D of them (Kingma et al.).

    The flow of choice for q(z | x) and for per-query inference, which need draws.

    Args:
      As for `MaskedAutoregressiveFlow`.
    """

    def __init__(
        self,
        event_size: int,
        num_flows: int = 2,
        hidden: int = 128,
        blocks: int = 1,
        activation: str = "relu",
        name: str | None = None,
    ):
        super().__init__(event_size, num_flows, hidden, blocks, activation, name)

    def bijector(self, context):
        return self.in_turn([tfb.Invert(m) for m in self.maps(context)])


class Planar(tfb.Bijector):
    """z + u tanh(w z + b), u corrected so that the map is invertible.

    Rezende and Mohamed, 2015, with their correction of u.

    Args:
      w, u: [..., D].
      b: [...].
    """

    def __init__(self, w, u, b, name="Planar"):
        parameters = dict(locals())
        self._w, self._b = w, b
        # u moves along w alone, so that w u > -1; w = 0 is a shift, whatever u is. That
        # product is softplus(w u) - 1; taken from the moved u, rounding could take it below.
        dot = tf.reduce_sum(w * u, -1, keepdims=True)
        square = tf.reduce_sum(w**2, -1, keepdims=True)
        move = tf.nn.softplus(dot) - 1.0 - dot
        self._u = u + move * w / tf.maximum(square, 1e-12)
        share = tf.minimum(square / 1e-12, 1.0)  # of the move that a tiny w takes part in
        self._slope = tf.maximum(dot + share * move, 1e-6 - 1.0)[..., 0]
        super().__init__(
            forward_min_event_ndims=1,
            validate_args=False,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        raise NotImplementedError("Planar is made by its head.")

    def _forward(self, z):
        along = tf.reduce_sum(self._w * z, -1) + self._b
        return z + self._u * tf.tanh(along)[..., tf.newaxis]

    def _forward_log_det_jacobian(self, z):
        along = tf.reduce_sum(self._w * z, -1) + self._b
        return tf.math.log1p(self._slope * (1.0 - tf.tanh(along) ** 2))

    def _inverse(self, y):
        # What is sought is one number a row: a = w z + b solves a + (w u) tanh(a) = w y + b,
        # which rises in a. Bisection finds it whatever the slope; gradients come from one
        # Newton step at the root, which moves it by nothing but rounding.
        goal = tf.reduce_sum(self._w * y, -1) + self._b
        reach = tf.abs(self._slope)
        low, high = tf.stop_gradient(goal - reach), tf.stop_gradient(goal + reach)
        slope = tf.stop_gradient(self._slope)
        target = tf.stop_gradient(goal)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            above = middle + slope * tf.tanh(middle) > target
            low, high = tf.where(above, low, middle), tf.where(above, middle, high)
        root = 0.5 * (low + high)
        bent = tf.tanh(root)
        residual = root + self._slope * bent - goal
        along = root - residual / tf.stop_gradient(1.0 + slope * (1.0 - bent**2))
        return y - self._u * tf.tanh(along)[..., tf.newaxis]


@register
class PlanarFlow(_FlowHead):
    """Planar flows whose parameters the context tells (Rezende and Mohamed, 2015).

    Cheap and weak: each flow bends z along one direction. Draws and densities are one pass
    each; the density of a given z finds one root a flow, by bisection.

    Args:
      event_size: D, length of z.
      num_flows: planar maps.
    """

    def __init__(self, event_size: int, num_flows: int = 8, name: str | None = None):
        super().__init__(event_size, num_flows, name)
        self.layer_size = num_flows * (2 * event_size + 1)
        self.params = keras.layers.Dense(self.layer_size)

    def build(self, input_shape):
        super().build(input_shape)
        self.params.build(input_shape)

    def bijector(self, context):
        size = self.event_size
        flat = tf.cast(self.params(context), tf.float32)
        params = tf.reshape(flat, [-1, self.num_flows, 2 * size + 1])
        maps = []
        for k in range(self.num_flows):
            w, u = params[:, k, :size], params[:, k, size:-1]
            maps.append(Planar(w, u, params[:, k, -1]))
        return tfb.Chain(maps[::-1])
