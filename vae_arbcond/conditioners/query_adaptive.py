"""Query-adaptive inference: q(z) optimised for each question, with nothing but a decoder.

Agarwal, Hope, Younis and Sudderth, 2023, "A decoder suffices for query-adaptive variational
inference" (QAVI); Wu, Domke and Sanner, 2018, https://arxiv.org/abs/1805.07785 (conditional
prior networks). Both maximise the same bound; the families of q differ.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners.base import Inference, LatentConditioner
from vae_arbcond.conditioners.model_only import (
    ModelOnly,
    check_vector_latent,
    nothing_observed,
)
from vae_arbcond.distributions import over_features
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_sizes, expand_features
from vae_arbcond.variational import FirstOrder, GaussianFamily
from vae_arbcond.variational.families import bound_of_draws
from vae_arbcond.variational.optimisers import (
    CONVERGED,
    DIVERGED,
    Problem,
    search_seeds,
    where_rows,
)
from vae_arbcond.variational.prior_rows import PriorRows
from vae_arbcond.variational.starts import moments

tfd = tfp.distributions
_fold_in = tf.random.experimental.stateless_fold_in


_FAMILIES = "one of GaussianFamily, MixtureFamily, InverseAutoregressiveFamily, PlanarFamily"
_STARTS = "one of PriorStart, EncoderStart, AmortisedStart"
MINIMIZERS = "FirstOrder or LBFGS"


class Search(NamedTuple):
    """How a query's optimisation went, `Inference.context`: tensors [B].

    Attributes:
      bound: Eq. 8 of QAVI at the parameters that are used, nats (with the method's beta).
      steps: optimiser steps taken.
      converged: the bound stopped rising; False where the steps ran out.
      diverged: the search left the numbers and its best parameters before that are used.
    """

    bound: tf.Tensor
    steps: tf.Tensor
    converged: tf.Tensor
    diverged: tf.Tensor


@register
@dataclasses.dataclass(frozen=True)
class PriorStart:
    """Every query's search starts at p(z)."""

    def __call__(self, model, x, observed, seed) -> tfd.Distribution:
        """A distribution of z near which to start: batch_shape [B]."""
        del observed, seed
        prior = model.prior()
        return tfd.BatchBroadcast(prior, tf.shape(x)[:1])


@register
@dataclasses.dataclass(frozen=True)
class EncoderStart:
    """The search starts at the model's encoder on x, hidden values filled with zeros.

    What QAVI's code does. The encoder is told that all is present, as in its training.
    """

    def __call__(self, model, x, observed, seed) -> tfd.Distribution:
        """A distribution of z near which to start: batch_shape [B]."""
        del seed
        filled = tf.where(expand_features(observed, x), x, 0.0)
        return model.posterior(filled, tf.ones_like(observed))


@register
class AmortisedStart:
    """The search starts at another conditioner's q(z | x_o): semi-amortised inference.

    Args:
      conditioner: a LatentConditioner around a model, Posterior Matching say; its model is the
        one whose z is searched.
    """

    def __init__(self, conditioner):
        if not isinstance(conditioner, LatentConditioner):
            raise TypeError(
                f"AmortisedStart needs a conditioner with a posterior of z (Posterior "
                f"Matching, say), got a {type(conditioner).__name__}."
            )
        self.conditioner = conditioner

    def __call__(self, model, x, observed, seed) -> tfd.Distribution:
        """A distribution of z near which to start: batch_shape [B]."""
        del model  # It is the conditioner's own.
        return self.conditioner.infer(x, observed, seed).posterior


def check_part(method, argument: str, value, has: str, examples: str) -> None:
    """Refuses what cannot be a part of a search, while its place is still known.

    Args:
      method: whose argument it is.
      argument, value: its name and what was given; None is the default.
      has: a method that the right thing has, as Python and not as a class.
      examples: what to give instead.

    Raises:
      TypeError: `value` is a class, or has no such method.
    """
    if value is None or (hasattr(value, has) and not isinstance(value, type)):
        return
    got = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    if isinstance(value, type):
        name = value.__name__
        got = f"the class {name} itself (write {name}(), in gin @{name}())"
    raise TypeError(f"{type(method).__name__}.{argument} is {examples}; got {got}.")


class Searching(ModelOnly):
    """A method whose `infer` is a search for each query, told in `Inference.context`."""

    # Rows with seeds of their own are searched one by one: in a group, a neighbour that is
    # done would change the shapes, and these the rounding that hundreds of steps pass on.
    rows_at_once = 1

    def search(self, x, observed) -> Search:
        """How the search for each query goes: whether to trust what it found.

        Args:
          x, observed: as for `impute`.
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        return self._search_call(tf.where(expand_features(observed, x), x, 0.0), observed)

    @tf.function(reduce_retracing=True, autograph=False)  # Eagerly each step is slow.
    def _search_call(self, x, observed):
        return self.infer(x, observed, None).context


@register
class QueryAdaptive(Searching):
    """q(z) of a family, fitted to each query by maximising a bound on log p(x_o): QAVI, Eq. 8.

    All queries of a batch are optimised together, each with parameters, optimiser state and
    stopping of its own. The optimisation is a pure function of the query: its noise comes from
    `noise_seed`, so q(z) depends neither on the neighbours nor on the seed of the draws. A
    query without anything observed is not optimised: `infer` gives it the prior itself. One
    whose bound at the start is no number starts close to the prior's mean instead.

    There is nothing to train besides the model. `search` tells how a search went.

    Args:
      model: a LatentVariableModel whose z is one real vector; None with an `AmortisedStart`,
        whose conditioner brings it.
      family: of q(z); None is one diagonal Gaussian a query.
      minimizer: how the bound is maximised: `FirstOrder` (None: its defaults) or `LBFGS`.
      start: `PriorStart` (None), `EncoderStart` or `AmortisedStart`.
      num_samples: S, draws of z a step.
      beta: weight of KL(q || p(z)); 1 is the bound. QAVI uses more than 1 on images.
      noise_seed: of the noise of optimisation.
      train_model: False leaves the model as it is: inference for a pre-trained VAE.
      correct_draws: resample draws towards the model's posterior; False draws plainly from q.
      jit_compile: compile the optimisation with XLA, which takes seconds for every new number
        of queries, exported or not. Whether it is faster depends on the machine, the family
        and the batch: measured to be no faster for a hundred queries with a Gaussian, about as
        fast for one (benchmarks/results/query_adaptive_speed.md).
    """

    def __init__(
        self,
        model=None,
        family=None,
        minimizer=None,
        start=None,
        num_samples: int = 100,
        beta: float = 1.0,
        noise_seed: int = 0,
        train_model: bool = True,
        correct_draws: bool = True,
        jit_compile: bool = False,
        name: str | None = None,
    ):
        check_part(self, "family", family, "draw", _FAMILIES)
        check_part(self, "minimizer", minimizer, "maximise", MINIMIZERS)
        if isinstance(start, LatentConditioner):
            raise TypeError(
                f"QueryAdaptive.start is a {type(start).__name__} itself; to start at what it "
                f"says of z, write AmortisedStart(it)."
            )
        check_part(self, "start", start, "__call__", _STARTS)
        amortised = isinstance(start, AmortisedStart)
        if amortised == (model is not None):
            raise ValueError(
                "QueryAdaptive gets its model either as `model` or with an AmortisedStart, "
                f"whose conditioner has one; got {'both' if amortised else 'neither'}."
            )
        model = start.conditioner.model if amortised else model
        super().__init__(model, train_model, correct_draws, name=name)
        # Keras saves the weights of what it finds as an attribute.
        self.amortised = start.conditioner if amortised else None
        check_sizes(self, num_samples=num_samples)
        check_positive(self, beta=beta)
        self.family = GaussianFamily() if family is None else family
        self.minimizer = FirstOrder() if minimizer is None else minimizer
        if self.minimizer.fixed_noise and not self.family.fits_fixed_noise:
            raise ValueError(
                f"{type(self.minimizer).__name__} would maximise the bound on fixed noise, "
                f"where the choices of a {type(self.family).__name__} with "
                f"estimator='importance' jump and its gradient is right on average only. Set "
                f"estimator='stratified', or take FirstOrder with fixed_noise=False."
            )
        self.start = PriorStart() if start is None else start
        self.num_samples, self.beta, self.noise_seed = num_samples, beta, noise_seed
        self.compile_search = jit_compile

    def infer(self, x, observed, seed):
        del seed  # See `noise_seed`.
        found = self.optimise(x, observed)
        nothing = nothing_observed(observed)
        q = self.family.distribution(found.parameters)
        posterior = PriorRows(q, self.model.prior(), nothing)
        return Inference(posterior, search_of(found, nothing))

    def optimise(self, x, observed):
        """Maximises every query's bound.

        Args:
          x: float32 [B, *F, *E], zero where hidden.
          observed: bool [B, *F].

        Returns:
          A `variational.Found`: parameters of the family and how the search went.
        """
        if self.compile_search:
            return self._compiled(x, observed)
        # One row has nothing to leave, and static shapes are twice as fast.
        return self._optimise(x, observed, compact=x.shape[0] != 1)

    @tf.function(jit_compile=True, reduce_retracing=False, autograph=False)
    def _compiled(self, x, observed):
        return self._optimise(x, observed, compact=False)

    def _optimise(self, x, observed, compact):
        seed = tf.constant([self.noise_seed, 0], tf.int32)
        start_seed, again_seed, search_seed = tf.unstack(tfp.random.split_seed(seed, n=3), 3)
        nothing = nothing_observed(observed)
        start = self.family.start(self.start(self.model, x, observed, start_seed), start_seed)
        # A start may be so far off, or so wide, that draws of it leave the numbers: from there
        # no step leads anywhere.
        rows, check_seed = (x, observed), search_seeds(search_seed)[0]
        lost = ~tf.math.is_finite(self.bound(start, rows, check_seed)[0])
        narrow = self.family.start(self._narrow(x, start_seed), start_seed)
        start = where_rows(lost & ~nothing, narrow, start)

        def refresh(parameters, rows, step):
            new = self.start(self.model, *rows, again_seed)
            fresh = self.family.start(new, _fold_in(again_seed, step))
            return self.family.refresh(parameters, fresh, step)

        problem = Problem(self.bound, (x, observed), refresh)
        return self.minimizer.maximise(problem, start, search_seed, nothing, compact)

    def _narrow(self, x, seed):
        """Where a search begins again: around the prior's mean, a tenth as wide."""
        mean, covariance = moments(PriorStart()(self.model, x, None, seed), seed)
        spread = tf.sqrt(tf.linalg.diag_part(covariance))
        return tfd.MultivariateNormalDiag(mean, 0.1 * spread)

    def bound(self, parameters, rows, seed, exact=False):
        """E_q[log p(x_o | z)] - beta KL(q(z) || p(z)): QAVI, Eq. 8.

        With beta = 1 the C-ELBO of conditional prior networks (Eq. 5, Theorem 2).

        Args:
          parameters: of the family, nest of [B, ...].
          rows: (x, observed) of these queries.
          seed: int32 [2].
          exact: as in `Family.draw`.

        Returns:
          The estimate and what to differentiate for an unbiased gradient: each [B], nats.
        """
        x, observed = rows
        draws = self.family.draw(parameters, self.num_samples, seed, exact)
        log_p = over_features(self.model.likelihood(draws.z), observed).log_prob(x)
        parts = [self.model.prior().log_prob(draws.z), -draws.log_q]
        if self.beta != 1.0:
            parts = [self.beta * part for part in parts]
        # Tensors of one shape. The gradient of a difference would ask for their shapes, and
        # so for their values, which a step has no other use for.
        return bound_of_draws(draws, tf.add_n([log_p, *parts]))

    def stages(self):
        if self.amortised and self.train_model:
            return self.amortised.stages()
        return super().stages()

    def dry_run(self, x, seen):
        super().dry_run(x, seen)
        if self.amortised:
            self.amortised.dry_run(x, seen)

    def build_for(self, spec):
        if not self.family.has_density:
            raise TypeError(
                f"QueryAdaptive weights its answers by the density of q(z), and a "
                f"{type(self.family).__name__} has none. Take GaussianFamily, MixtureFamily "
                f"or InverseAutoregressiveFamily. Where pictures of its draws are all that is "
                f"wanted: maximise a variational.optimisers.Problem by FirstOrder, and call "
                f"the family's `draw` at the parameters found."
            )
        super().build_for(spec)
        check_vector_latent(self, self.model)
        if self.amortised:
            self.amortised.build_for(spec)


def search_of(found, nothing) -> Search:
    """What to tell of a `variational.Found`; `nothing` [B]: rows answered by the prior."""
    bound = tf.where(nothing, 0.0, found.bound)  # Exact there: the log-density of nothing.
    diverged = tf.equal(found.status, DIVERGED)
    return Search(bound, found.steps, tf.equal(found.status, CONVERGED), diverged)
