"""Feat. QAVI: q(x_hidden) optimised for each question, through the encoder and the decoder.

Agarwal, Hope, Younis and Sudderth, 2023, "A decoder suffices for query-adaptive variational
inference" (QAVI), 3.1. The sibling of `QueryAdaptive`, which the paper finds both faster and
better: here every step needs the encoder too, and inherits what it gets wrong.
"""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners.base import Inference
from vae_arbcond.conditioners.model_only import (
    all_present,
    check_vector_latent,
    nothing_observed,
)
from vae_arbcond.conditioners.query_adaptive import (
    MINIMIZERS,
    Searching,
    check_part,
    search_of,
)
from vae_arbcond.distributions import Bernoulli, ContinuousBernoulli, Handmade, over_features
from vae_arbcond.models.base import kl_divergence
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_sizes, expand_features
from vae_arbcond.variational import FirstOrder
from vae_arbcond.variational.families import inverse_softplus
from vae_arbcond.variational.optimisers import Problem
from vae_arbcond.variational.prior_rows import PriorRows

tfd = tfp.distributions

MIN_SCALE = 1e-3  # of a hidden real feature's q, in the model's unit
START_DRAWS = 100  # of the model, from whose mean and spread every search starts


class _EvenMixture(Handmade):
    """Equal shares of K distributions a row: batch_shape [B], event_shape [Z].

    Args:
      each: batch_shape [B K], a row's K side by side.
      rows: B.
      size: K.
    """

    def __init__(self, each, rows, size, name="EvenMixture"):
        made_of = dict(locals())
        self._each, self._rows, self._size = each, rows, size
        super().__init__(made_of, name)

    def _batch_shape(self):
        return tf.TensorShape([tf.get_static_value(self._rows)])

    def _batch_shape_tensor(self):
        return tf.convert_to_tensor([self._rows])

    def _event_shape(self):
        return self._each.event_shape

    def _event_shape_tensor(self):
        return self._each.event_shape_tensor()

    def _sample_n(self, n, seed=None):
        seeds = tf.unstack(tfp.random.split_seed(tfp.random.sanitize_seed(seed), n=2), 2)
        z = self._each.sample(n, seed=seeds[0])
        z = tf.reshape(z, [n, self._rows, self._size, self.event_shape[0]])
        shape = [n, self._rows]
        chosen = tf.random.stateless_uniform(shape, seeds[1], 0, self._size, tf.int32)
        z = tf.gather(z, chosen, batch_dims=2)
        static = tf.TensorShape([tf.get_static_value(n)])
        return tf.ensure_shape(z, static + self.batch_shape + self.event_shape)

    def _log_prob(self, z):
        leading = tf.shape(z)[:-1]
        flat = tf.reshape(z, [-1, self._rows, self.event_shape[0]])
        log_q = self._each.log_prob(tf.repeat(flat, self._size, axis=1))
        log_q = tf.reshape(log_q, [-1, self._rows, self._size])
        log_q = tf.reduce_logsumexp(log_q, -1) - tf.math.log(float(self._size))
        return tf.ensure_shape(tf.reshape(log_q, leading), z.shape[:-1])


def _is_gaussian(q) -> bool:
    """Whether q is loc + scale noise, so that noise can be shared."""
    return isinstance(q, (tfd.MultivariateNormalDiag, tfd.MultivariateNormalTriL))


class FeatureParameters(NamedTuple):
    """loc and softplus^-1 scale of Normals; or logits, and nothing: each [B, *F, *E]."""

    loc: tf.Tensor
    raw: tf.Tensor


@register
class FeatureQueryAdaptive(Searching):
    """q(x_M) fitted to each query by maximising QAVI's Eq. 6; z follows by the encoder.

    q(x_M) is factorised: a Normal for each hidden real feature, a continuous Bernoulli for one
    in [0, 1]. What it says of z is a mixture of the encoder's q(z | x_O, x_M) at some draws of
    x_M, which has a density, so that answers are corrected as those of any latent method.

    Queries share their noise: that of x_M always, that of z where the encoder is Gaussian. Any
    other encoder draws by a query's place, and queries then stay in the batch to the end, so
    that each is checked on the same noise throughout.

    A query without anything observed is not optimised: `infer` gives it the prior itself.

    Args:
      model: a LatentVariableModel whose z is one real vector and whose posterior can be drawn
        from with gradients.
      minimizer: how the objective is maximised: `FirstOrder` (None: its defaults) or `LBFGS`.
      num_samples: S, draws of x_M a step.
      beta: weight of KL(q(z | x) || p(z)).
      gamma: weight of the entropy of q(x_M). With beta = gamma = 1 the objective is a bound on
        log p(x_O); the paper has 50 and 10 on images, because q(x_M) came out too narrow.
      unit_interval: True for binary features and grey values, all in [0, 1], whose q is a
        continuous Bernoulli.
      components: draws of x_M of which q(z | x_O) is made.
      noise_seed: of the noise of optimisation and of those draws.
      train_model: False leaves the model as it is.
      correct_draws: resample draws towards the model's posterior; False draws plainly.
    """

    def __init__(
        self,
        model,
        minimizer=None,
        num_samples: int = 100,
        beta: float = 1.0,
        gamma: float = 1.0,
        unit_interval: bool = False,
        components: int = 32,
        noise_seed: int = 0,
        train_model: bool = True,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(model, train_model, correct_draws, name=name)
        check_part(self, "minimizer", minimizer, "maximise", MINIMIZERS)
        check_sizes(self, num_samples=num_samples, components=components)
        check_positive(self, beta=beta, gamma=gamma)
        self.minimizer = FirstOrder() if minimizer is None else minimizer
        self.num_samples, self.components = num_samples, components
        self.beta, self.gamma, self.noise_seed = beta, gamma, noise_seed
        self.unit_interval = unit_interval

    def infer(self, x, observed, seed):
        del seed  # See `noise_seed`.
        found = self.optimise(x, observed)
        seed = tf.constant([self.noise_seed, 1], tf.int32)
        completed = self._completed(found.parameters, x, observed, self.components, seed)
        rows = tf.reshape(
            tf.transpose(completed, [1, 0, *range(2, completed.shape.rank)]),
            tf.concat([[-1], tf.shape(x)[1:]], 0),
        )
        rows = tf.ensure_shape(rows, [None, *x.shape[1:]])
        each = self.model.posterior(rows, all_present(rows, self.spec))
        posterior = _EvenMixture(each, x.shape[0] or tf.shape(x)[0], self.components)
        nothing = nothing_observed(observed)
        posterior = PriorRows(posterior, self.model.prior(), nothing)
        return Inference(posterior, search_of(found, nothing))

    def optimise(self, x, observed):
        """Maximises every query's objective; arguments and result as `QueryAdaptive`'s."""
        seed = tf.constant([self.noise_seed, 0], tf.int32)
        start_seed, search_seed = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        nothing = nothing_observed(observed)

        def no_refresh(parameters, rows, step):
            del rows, step
            return parameters, tf.zeros(tf.shape(parameters[0])[:1], tf.bool)

        problem = Problem(self.bound, (x, observed), no_refresh)
        start = self._start(x, start_seed)
        # One row has nothing to leave, and static shapes are faster. Where noise goes by
        # place, a query that left would give its neighbours other noise at every check.
        shared = _is_gaussian(self.model.posterior(x, all_present(x, self.spec)))
        compact = shared and x.shape[0] != 1
        return self.minimizer.maximise(problem, start, search_seed, nothing, compact)

    def bound(self, parameters, rows, seed, exact=False):
        """Eq. 6 of QAVI by S draws of x_M and one z for each, Eq. 7: twice [B], nats.

        Args:
          parameters: of q(x_M).
          rows: (x, observed) of these queries.
          seed: int32 [2].
          exact: plays no part: the gradient is whole.
        """
        del exact
        x, observed = rows
        x_seed, z_seed = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        completed = self._completed(parameters, x, observed, self.num_samples, x_seed)
        flat = tf.reshape(completed, tf.concat([[-1], tf.shape(x)[1:]], 0))
        flat = tf.ensure_shape(flat, [None, *x.shape[1:]])
        present = all_present(flat, self.spec)
        q = self.model.posterior(flat, present)
        z = self._drawn(q, tf.shape(x)[0], z_seed)
        log_p = over_features(self.model.likelihood(z), present).log_prob(flat)
        kl = kl_divergence(q, self.model.prior(), z)
        values = tf.reshape(log_p - self.beta * kl, [self.num_samples, -1])
        objective = tf.reduce_mean(values, 0) + self.gamma * self.entropy(parameters, observed)
        return objective, objective

    def _drawn(self, q, rows, seed):
        """One z of each of q's S B rows, S by S; of Gaussians by noise that queries share."""
        if not _is_gaussian(q):
            return q.sample(seed=seed)
        noise = tf.random.stateless_normal([self.num_samples, *q.event_shape], seed)
        return q.loc + q.scale.matvec(tf.repeat(noise, rows, axis=0))

    def entropy(self, parameters, observed):
        """H(q(x_M)) in closed form, the last term of Eq. 6: [B], nats."""
        hidden = ~expand_features(observed, parameters.loc)
        each = self._features(parameters).entropy()
        return tf.reduce_sum(
            tf.where(hidden, each, 0.0), list(range(1, parameters.loc.shape.rank))
        )

    def _features(self, parameters):
        if self.unit_interval:
            return tfd.ContinuousBernoulli(logits=parameters.loc)
        return tfd.Normal(parameters.loc, MIN_SCALE + tf.nn.softplus(parameters.raw))

    def _completed(self, parameters, x, observed, count, seed):
        """x with its hidden features drawn from q(x_M): [count, B, *F, *E].

        All queries share their noise, so that an answer depends on nothing but its query.
        """
        shape = [count, 1, *x.shape[1:]]
        if self.unit_interval:
            noise = tf.random.stateless_uniform(shape, seed, 1e-6, 1.0 - 1e-6)
            drawn = self._features(parameters).quantile(noise)
        else:
            noise = tf.random.stateless_normal(shape, seed)
            scale = MIN_SCALE + tf.nn.softplus(parameters.raw)
            drawn = parameters.loc + scale * noise
        return tf.where(expand_features(observed, x), x, drawn)

    def _start(self, x, seed):
        """Every query at the mean and spread of the model's own draws."""
        seeds = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        z = self.model.prior().sample(START_DRAWS, seed=seeds[0])
        draws = self.model.likelihood(z).sample(seed=seeds[1])
        mean, spread = tf.reduce_mean(draws, 0), tf.math.reduce_std(draws, 0)
        if self.unit_interval:
            # A continuous Bernoulli's logit for a mean near a half is about 12 (mean - 1/2).
            mean = tf.clip_by_value(12.0 * (mean - 0.5), -5.0, 5.0)
        scale = inverse_softplus(tf.maximum(spread, 2.0 * MIN_SCALE))
        both = [tf.broadcast_to(part, tf.shape(x)) for part in (mean, scale)]
        return FeatureParameters(*[tf.ensure_shape(part, x.shape) for part in both])

    def build_for(self, spec):
        if any(spec.levels or ()) or any(spec.counts or ()):
            raise ValueError(
                "FeatureQueryAdaptive moves hidden features as real numbers, and these data "
                "have columns with levels or counts. Use QueryAdaptive, which leaves hidden "
                "features out and serves every kind of column."
            )
        head = getattr(self.model, "likelihood_head", None)
        if isinstance(head, (Bernoulli, ContinuousBernoulli)) and not self.unit_interval:
            raise ValueError(
                f"The likelihood of this {type(self.model).__name__}, a "
                f"{type(head).__name__}, is for values from 0 to 1, and "
                f"FeatureQueryAdaptive would move hidden features over all real numbers, "
                f"where its objective has no maximum. Set unit_interval=True."
            )
        super().build_for(spec)
        check_vector_latent(self, self.model)
