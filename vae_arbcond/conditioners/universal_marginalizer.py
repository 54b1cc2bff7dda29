"""Universal Marginalizer: one network for the marginal of every feature given any others.

Douglas et al., 2017, https://arxiv.org/abs/1711.00695, trained as VAEAC (Ivanov et al., 2019,
https://arxiv.org/abs/1806.02382, 5.3 and B.3) trains it. There is no latent variable: joint
densities and draws come from the chain rule, a pass of the network a feature.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import estimators
from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.base import DensityConditioner, check_hides
from vae_arbcond.distributions import expected_features, over_features
from vae_arbcond.estimators import Estimate
from vae_arbcond.models.base import Trainable
from vae_arbcond.networks import MaskedInput
from vae_arbcond.registry import register
from vae_arbcond.shapes import expand_features


@register
class UniversalMarginalizer(DensityConditioner):
    """p(x_i | x_o) for every hidden feature i at once; the rest by the chain rule (Eq. 11).

    With random orders it is the model that first draws an order, so its log-likelihood is that
    of a mixture over orders: `num_samples` of them are drawn, and their density's mean is
    taken. With one fixed order it is exact, and `num_samples` plays no part.

    Args:
      network: [x_o, observed] -> h.
      likelihood_head: h -> p(x | x_o), each feature for itself.
      random_order: features are drawn in random order. False: in a fixed one.
      order: the fixed one: the features' numbers (of an image, row by row), first drawn first;
        None is ascending, VAEAC's sorted permutation.
      objective: what training minimises. 'marginals' is Eq. 10, the sum over all hidden
        features of a question. It counts questions with little hidden for little, and in a
        fixed order mostly features that are not asked yet. 'chain' is an unbiased estimate of
        what the chain rule will give, -Eq. 11, from the same questions: in random order the
        same sum, weighted; in a fixed one the next feature's term alone, which is noisier.
    """

    def __init__(
        self,
        network,
        likelihood_head,
        random_order: bool = True,
        order: Sequence[int] | None = None,
        objective: str = "marginals",
        name: str | None = None,
    ):
        super().__init__(name=name)
        if objective not in ("marginals", "chain"):
            raise ValueError(f"objective is 'marginals' or 'chain', got {objective!r}.")
        if random_order and order is not None:
            raise ValueError(
                "An order was given, but random_order is True. Set random_order = False."
            )
        self.inputs_layer = MaskedInput()
        self.network, self.likelihood_head = network, likelihood_head
        self.random_order, self.order = random_order, order
        self.objective = objective

    @property
    def estimator(self):
        order = "random orders" if self.random_order else "a fixed order, exact"
        return f"chain rule in {order} (VAEAC, Eq. 11)"

    def marginals(self, x, observed):
        """p(x_i | x_o) for every feature: batch_shape [N, *F]; x is [N, *F, *E]."""
        return self.likelihood_head(self.network(self.inputs_layer(x, observed)))

    def loss_terms(self, x, present, observed, seed, step, training):
        """-sum over b of log p(x_i | x_(1-b)) (VAEAC, Eq. 10), or -Eq. 11's estimate: [B].

        The chain rule asks with ever more features known, so the mask's own questions are too
        few: some of what it hides is shown again (B.3). In random order each hidden feature
        stays hidden with one probability u ~ U[0, 1] a row; in a fixed order the first ones
        are shown, as many as u says.
        """
        del step, training
        hidden = present & ~observed
        order_seed, shown_seed = sampling.split(seed)
        count, position = _count(hidden), self._position(hidden, order_seed)
        shown = self._shown(hidden, shown_seed)
        hidden &= position >= shown
        marginals = self.marginals(x, present & ~hidden)
        if self.objective == "marginals":
            return {"marginals": -over_features(marginals, hidden).log_prob(x)}
        if self.random_order:
            # 0 .. count features are shown, all equally often; with all there is no question.
            left = tf.maximum(_count(hidden), 1)
            weight = tf.cast(count + 1, tf.float32) / tf.cast(left, tf.float32)
        else:
            hidden &= position == shown
            weight = tf.cast(count, tf.float32)
        score = over_features(marginals, hidden).log_prob(x)
        return {"chain": -tf.reshape(weight, [-1]) * score}

    def _position(self, features, seed):
        """Place, from 0, of each feature of a set in its row's order: int32 [B, *F].

        Features outside the set stand at the end. Random orders are a function of the seed.
        """
        shape = tf.shape(features)
        flat = tf.reshape(features, [shape[0], self.spec.num_features])
        if self.random_order:
            key = tf.random.stateless_uniform(tf.shape(flat), tf.cast(seed, tf.int32))
        else:
            place = np.argsort(self._fixed_order()).astype(np.float32)
            key = tf.broadcast_to(place / len(place), tf.shape(flat))
        key = tf.where(flat, key, 2.0)
        first = tf.argsort(key, axis=-1, stable=True)
        place = tf.argsort(first, axis=-1, stable=True)
        return tf.reshape(place, shape)

    def _shown(self, hidden, seed):
        """How many of the hidden features of a row are shown in training: [B, 1...]."""
        count = _count(hidden)
        u_seed, coin_seed = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        share = tf.random.stateless_uniform(tf.shape(count), u_seed)
        if not self.random_order:
            # Uniform over 0 .. count - 1: every question of the chain is as frequent.
            return tf.cast(tf.floor(share * tf.cast(count, tf.float32)), tf.int32)
        # Bernoulli(u) for each feature: a binomial number of them, which ones is the order's.
        coins = tf.random.stateless_uniform(tf.shape(hidden), coin_seed) < share
        return _count(coins & hidden)

    def _fixed_order(self):
        size = self.spec.num_features
        order = np.arange(size) if self.order is None else np.asarray(self.order)
        if sorted(order.tolist()) != list(range(size)):
            raise ValueError(
                f"order must hold each of the {size} features' numbers 0 to {size - 1} once, "
                f"got {list(self.order)[:12]}."
            )
        return order

    def _log_likelihood(self, x, observed, target, num_samples, seed) -> Estimate:
        orders = num_samples if self.random_order else tf.constant(1)
        axes = list(range(1, observed.shape.rank))
        length = tf.reduce_max(tf.reduce_sum(tf.cast(target, tf.int32), axes))

        def one_order(i):
            position = self._position(target, _fold_in(seed, i))

            def add(j, total):
                known = observed | (target & (position < j))
                now = target & (position == j)
                return j + 1, total + over_features(self.marginals(x, known), now).log_prob(x)

            # VAEAC, Eq. 11.
            start = (tf.constant(0), tf.zeros(tf.shape(x)[:1]))
            return tf.while_loop(lambda j, _: j < length, add, start, parallel_iterations=1)[1]

        log_p = tf.map_fn(
            one_order,
            tf.range(orders),
            parallel_iterations=1,
            fn_output_signature=tf.TensorSpec([None]),
        )
        if self.random_order:
            nothing = ~tf.reduce_any(target, axes)
            return estimators.certain_where(nothing, estimators.importance(log_p))
        non_finite = tf.cast(~tf.math.is_finite(log_p[0]), tf.float32)
        return estimators.exact(log_p[0], num_samples)._replace(non_finite=non_finite)

    def _impute(self, x, observed, num_samples, seed):
        def draw(count, i):
            seeds = sampling.split(_fold_in(seed, i))
            rows = tf.tile(x, [count, *[1] * (x.shape.rank - 1)])
            known = tf.tile(observed, [count, *[1] * (observed.shape.rank - 1)])
            position = self._position(~known, seeds[0])
            axes = list(range(1, known.shape.rank))
            length = tf.reduce_max(tf.reduce_sum(tf.cast(~known, tf.int32), axes))

            def fill(j, rows):
                here = known | (position < j)
                draws = self.marginals(rows, here).sample(seed=_fold_in(seeds[1], j))
                now = expand_features(~known & (position == j), rows)
                rows = tf.where(now, tf.cast(draws, rows.dtype), rows)
                return j + 1, tf.ensure_shape(rows, [None, *x.shape[1:]])

            invariants = (tf.TensorShape([]), tf.TensorShape([None, *x.shape[1:]]))
            rows = tf.ensure_shape(rows, [None, *x.shape[1:]])
            filled = tf.while_loop(
                lambda j, _: j < length,
                fill,
                (tf.constant(0), rows),
                shape_invariants=invariants,
                parallel_iterations=1,
            )[1]
            return tf.reshape(filled, tf.concat([[count], tf.shape(x)], 0))

        return sampling.in_chunks(draw, num_samples, tf.float32)[:num_samples]

    def _complete(self, x, observed, num_samples, seed):
        del num_samples, seed  # The marginals are what a completion averages over.
        return self._point(expected_features(self.marginals(x, observed)))

    def check_training_mask(self, present, observed, name):
        """Refuses masks that hide nothing: the loss would score nothing."""
        check_hides(self, present, observed, name)

    def dry_run(self, x, seen):
        # The marginals have every weight; draws would ask for them once a feature, of which an
        # image has hundreds.
        Trainable.dry_run(self, x, seen)

    def build_for(self, spec):
        super().build_for(spec)
        self.inputs_layer.build_for(spec)
        self.likelihood_head.build_for(spec)
        if not self.random_order:
            self._fixed_order()


def _count(features):
    """Number of features of a set in each row: int32 [B, 1...]."""
    axes = list(range(1, features.shape.rank))
    return tf.reduce_sum(tf.cast(features, tf.int32), axes, keepdims=True)


def _fold_in(seed, i):
    return tf.random.experimental.stateless_fold_in(seed, i)
