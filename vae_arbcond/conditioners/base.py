"""p(x_target | x_observed) for any split of the features: what every method is.

The public methods check shapes, hide what is hidden and put back what is observed; a method
implements the hooks behind them and cannot break those promises. In every mask, True means
observed.
"""

from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import estimators
from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.sampling import CHUNK
from vae_arbcond.distributions import (
    expected_features,
    over_features,
    point_from_expectation,
)
from vae_arbcond.estimators import Estimate
from vae_arbcond.models.base import LatentVariableModel, Trainable
from vae_arbcond.shapes import (
    check_discrete,
    check_finite,
    check_mask,
    check_seed,
    check_x,
    expand_features,
)

tfd = tfp.distributions

_OF_DENSITIES = ("log_likelihood", "estimator")
MIN_EFFECTIVE = 10.0  # samples a completion's weights keep effective


class ArbitraryConditioner(Trainable):
    """A method that draws x_hidden given x_observed. Implement `_impute` and `loss_terms`.

    `seed` is int32 [2], one for the whole call, or [B, 2], one for each row. With [B, 2] a
    row's answer depends on that row and its seed only, whatever else is in the batch; with
    [2] rows are drawn together, which is faster, and a row's noise depends on its place.
    """

    def impute(self, x, observed, num_samples, seed) -> tf.Tensor:
        """Draws of x given x_observed: [S, B, *F, *E]; observed values come back unchanged.

        Args:
          x: float32 [B, *F, *E]; hidden entries may be anything, NaN included.
          observed: bool [B, *F]; True = the method may see the value.
          num_samples: S, an integer.
          seed: int32 [2] or [B, 2].

        Raises:
          TypeError, ValueError: a mask that is not bool, shapes that do not fit, or (outside
            of tf.function) observed entries that are NaN or infinite.
        """
        x, observed, num_samples, seed = self._check(x, observed, num_samples, seed)
        if x.shape[0] == 0:
            return _no_draws(num_samples, x)
        return self._impute_call(x, observed, num_samples, seed, seed.shape.rank == 2)

    def complete(self, x, observed, num_samples, seed) -> tf.Tensor:
        """The best single completion: [B, *F, *E]. Mean of a real feature, mode of a level.

        Every row is answered by itself with the same noise, so a row's completion does not
        depend on which other rows are in the batch.

        Args:
          x, observed: as for `impute`.
          num_samples: samples averaged, S.
          seed: int32 [2] or [B, 2].
        """
        x, observed, num_samples, seed = self._check(x, observed, num_samples, seed)
        if x.shape[0] == 0:
            return x
        return self._complete_call(x, observed, num_samples, sampling.row_seeds(seed, x))

    def impute_and_complete(self, x, observed, num_samples, seed):
        """Draws [S, B, *F, *E] and a completion [B, *F, *E] from one look at x_observed.

        Every row is answered by itself, as by `complete`. The draws are those of `impute` with
        the same seeds, one a row; the completion is as good as that of `complete`, or better,
        and costs next to nothing beside the draws.

        Args:
          x, observed, num_samples: as for `impute`.
          seed: int32 [2] or [B, 2]; [2] gives every row the same noise.
        """
        x, observed, num_samples, seed = self._check(x, observed, num_samples, seed)
        if x.shape[0] == 0:
            return _no_draws(num_samples, x), x
        return self._both_call(x, observed, num_samples, sampling.row_seeds(seed, x))

    # Hooks. `x` holds zeros where it is hidden; `observed` is checked.

    def _impute(self, x, observed, num_samples, seed) -> tf.Tensor:
        """Draws [S, B, *F, *E]; what it returns at observed entries is ignored."""
        raise NotImplementedError

    def _complete(self, x, observed, num_samples, seed) -> tf.Tensor:
        """[B, *F, *E]; override where something better than averaging draws is known."""
        draws = self._impute(x, observed, num_samples, seed)
        levels = None if self.spec is None else self.spec.levels
        if not any(levels or ()):
            return tf.reduce_mean(draws, 0)
        # Mean and share of each level side by side, as `expected_features` lays them out.
        shares = tf.reduce_mean(tf.one_hot(tf.cast(draws, tf.int32), max(levels)), 0)
        means = tf.one_hot(0, max(levels)) * tf.reduce_mean(draws, 0)[..., tf.newaxis]
        real = tf.equal(tf.constant(levels), 0)[:, tf.newaxis]
        return point_from_expectation(tf.where(real, means, shares), levels)

    def _point(self, expectation):
        """[B, *F, *E] from an average of `expected_features` [B, *F, *E, K]."""
        levels = None if self.spec is None else self.spec.levels
        if expectation.shape[-1] > 1 and levels is None:
            levels = expectation.shape[-1]  # A categorical head on an image.
        return point_from_expectation(expectation, levels)

    def _impute_and_complete(self, x, observed, num_samples, seed):
        """Both of the above; override where they can share their work."""
        return (
            self._impute(x, observed, num_samples, seed),
            self._complete(x, observed, num_samples, seed),
        )

    # Whether draws differ as much as what is hidden may. Where they do not, intervals and
    # shares of draws would claim a certainty that the method does not have.
    draws_are_calibrated = True

    @property
    def rows_at_once(self) -> int | None:
        """How many rows with seeds of their own the hooks take at once; see `over_rows`.

        With 1 they get such rows one by one, each with its seed [2]; with more, in groups of
        so many with seeds [rows_at_once, 2]; with None all of them, with seeds [B, 2].
        """
        return 1

    # From here on nothing needs to be known by a new method.

    def __getattr__(self, name):
        # Reached only where there is no such attribute; hasattr() is False as it should be.
        if name in _OF_DENSITIES:
            raise AttributeError(
                f"{type(self).__name__} has no {name}: it draws what is hidden, and gives no "
                f"densities. Use impute and complete, or a method with a likelihood: "
                f"PosteriorMatching, VAEAC, UniversalMarginalizer or a closed form."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}.")

    def _check(self, x, observed, num_samples, seed):
        x_shape = None if self.spec is None else self.spec.x_shape
        x = check_x(x, x_shape)
        observed = check_mask(observed, x, self.feature_ndims)
        self._check_values(x, observed, "observed")
        num_samples = tf.convert_to_tensor(num_samples, tf.int32)
        value = tf.get_static_value(num_samples)
        if value is not None and value < 1:
            raise ValueError(f"num_samples must be at least 1, got {value}.")
        return x, observed, num_samples, check_seed(seed)

    def _check_values(self, x, features, name):
        check_finite(x, features, name)
        if self.spec is not None:
            check_discrete(x, features, name, self.spec)

    @tf.function(reduce_retracing=True, autograph=False)
    def _impute_call(self, x, observed, num_samples, seed, by_row):
        # `by_row` as an argument of its own keeps the two kinds of seed in two graphs: one
        # graph for both would know no rank of `seed`.
        hidden = tf.where(expand_features(observed, x), x, 0.0)
        if by_row:

            def answer(x, observed, seed):
                return sampling.swap_leading(self._impute(x, observed, num_samples, seed))

            rows = (hidden, observed, seed)
            draws = sampling.over_rows(answer, rows, sampling.draws_spec(x), self.rows_at_once)
            draws = sampling.swap_leading(draws)
        else:
            draws = self._impute(hidden, observed, num_samples, seed)
        draws = tf.ensure_shape(draws, [None, *x.shape])
        return tf.where(expand_features(observed, x), x, draws)

    @tf.function(reduce_retracing=True, autograph=False)
    def _complete_call(self, x, observed, num_samples, seed):
        hidden = tf.where(expand_features(observed, x), x, 0.0)

        def answer(x, observed, seed):
            return self._complete(x, observed, num_samples, seed)

        rows, signature = (hidden, observed, seed), tf.TensorSpec([None, *x.shape[1:]])
        points = sampling.over_rows(answer, rows, signature, self.rows_at_once)
        return tf.where(expand_features(observed, x), x, tf.ensure_shape(points, x.shape))

    @tf.function(reduce_retracing=True, autograph=False)
    def _both_call(self, x, observed, num_samples, seed):
        hidden = tf.where(expand_features(observed, x), x, 0.0)

        def answer(x, observed, seed):
            draws, points = self._impute_and_complete(x, observed, num_samples, seed)
            return sampling.swap_leading(draws), points

        rows = (hidden, observed, seed)
        signature = (sampling.draws_spec(x), tf.TensorSpec([None, *x.shape[1:]]))
        draws, points = sampling.over_rows(answer, rows, signature, self.rows_at_once)
        draws = tf.ensure_shape(sampling.swap_leading(draws), [None, *x.shape])
        kept = expand_features(observed, x)
        points = tf.ensure_shape(points, x.shape)
        return tf.where(kept, x, draws), tf.where(kept, x, points)

    def dry_run(self, x, seen):
        super().dry_run(x, seen)
        self._impute(x, seen, tf.constant(1), tf.zeros([2], tf.int32))


def check_hides(method, present, observed, name) -> None:
    """Refuses masks that hide nothing, for methods whose loss scores what is hidden.

    Args:
      method: is trained with them.
      present, observed: bool [N, *F], NumPy.
      name: of the mask generator.

    Raises:
      ValueError: names it.
    """
    if not (present & ~observed).any():
        raise ValueError(
            f"The training mask {name} hides nothing that is present, and "
            f"{type(method).__name__} learns from what is hidden alone. Set train.mask to one "
            f"that hides something, UniformCountMask() or BernoulliMask(0.5) say."
        )


def _no_draws(num_samples, x):
    """Draws for no rows: some of TensorFlow's operations divide by the number of rows."""
    return tf.zeros(tf.concat([[num_samples], tf.shape(x)], 0))


def _no_estimate():
    return Estimate(*[tf.zeros([0])] * len(Estimate._fields))


class DensityConditioner(ArbitraryConditioner):
    """A method with a likelihood. Implement `_log_likelihood` besides.

    Attributes:
      estimator: what `log_likelihood` computes, for reports.
    """

    estimator = "exact"

    def log_likelihood(self, x, observed, target, num_samples, seed) -> Estimate:
        """log p(x_target | x_observed), in nats, with its error bar: tensors [B].

        Args:
          x: float32 [B, *F, *E]; entries neither observed nor target may be anything.
          observed: bool [B, *F]; True = conditioned on. All False: the joint likelihood.
          target: bool [B, *F]; True = scored. Entries that are observed too are certain and
            add nothing; an empty target has log-likelihood exactly 0.
          num_samples: S, an integer.
          seed: int32 [2] or [B, 2].

        Raises:
          TypeError, ValueError: a mask that is not bool, or shapes that do not fit.
        """
        x, observed, target, num_samples, seed = self.check_question(
            x, observed, target, num_samples, seed
        )
        if x.shape[0] == 0:
            return _no_estimate()
        by_row = seed.shape.rank == 2
        return self._log_likelihood_call(x, observed, target, num_samples, seed, by_row)

    def check_question(self, x, observed, target, num_samples, seed):
        """The arguments of `log_likelihood` as tensors; raises as it does."""
        x, observed, num_samples, seed = self._check(x, observed, num_samples, seed)
        target = check_mask(target, x, self.feature_ndims, "target")
        self._check_values(x, target, "target")
        return x, observed, target, num_samples, seed

    def _log_likelihood(self, x, observed, target, num_samples, seed) -> Estimate:
        """Like `log_likelihood`; `target` is disjoint from `observed`, x zero elsewhere."""
        raise NotImplementedError

    @tf.function(reduce_retracing=True, autograph=False)
    def _log_likelihood_call(self, x, observed, target, num_samples, seed, by_row):
        target = target & ~observed
        x = tf.where(expand_features(observed | target, x), x, 0.0)
        if not by_row:
            return self._log_likelihood(x, observed, target, num_samples, seed)

        def answer(x, observed, target, seed):
            return tuple(self._log_likelihood(x, observed, target, num_samples, seed))

        rows = (x, observed, target, seed)
        signature = tuple(tf.TensorSpec([None]) for _ in Estimate._fields)
        return Estimate(*sampling.over_rows(answer, rows, signature, self.rows_at_once))

    def dry_run(self, x, seen):
        super().dry_run(x, seen)
        seed = tf.zeros([2], tf.int32)
        self._log_likelihood(x, tf.zeros_like(seen), seen, tf.constant(1), seed)


class Inference(NamedTuple):
    """What a method knows of z after looking at x_observed.

    Attributes:
      posterior: q(z | x_o), batch_shape [B]: samples z and has a `log_prob`.
      context: whatever the decoder reuses besides z; a nest of tensors, or None.
    """

    posterior: tfd.Distribution
    context: Any = None


class LatentConditioner(DensityConditioner):
    """A method with a latent z. Implement `infer`; imputation and likelihoods are inherited.

    Every answer is corrected towards the model: q(z | x_o) proposes, and samples count by
    w_s, proportional to p(x_o | z_s) p(z_s) / q(z_s | x_o). Log-likelihoods use w_s as it is
    and are consistent for any proposal. Completions and draws use `tempered_weights`, which
    keeps a few bad samples from taking over: completions leave at least 10 samples effective,
    draws are resampled from chunks of 64 candidates with at least 32 effective.

    Args:
      model: the LatentVariableModel that is conditioned; None where the method is a model
        of its own.
      correct_draws: False draws and averages plainly from q(z | x_o), as papers do, and for
        posteriors without a `log_prob`. Log-likelihoods are corrected in any case.

    Attributes:
      infer_draws: False promises that `infer` uses no noise, treats every row for itself and
        gives a posterior that can be indexed. Rows with seeds of their own are then answered
        in groups, about twice as fast for tables, where overhead counts most.
    """

    infer_draws = True
    estimator = "importance-corrected predictive"

    def __init__(
        self,
        model: LatentVariableModel | None,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.model = model
        self.correct_draws = correct_draws

    @property
    def rows_at_once(self):
        # A single image keeps a core busy; filling up a group would only delay its answer.
        return 1 if self.infer_draws or self.feature_ndims > 1 else sampling.ROWS

    def infer(self, x, observed, seed) -> Inference:
        """q(z | x_o), run once for each question.

        Args:
          x: float32 [B, *F, *E], zero where hidden.
          observed: bool [B, *F].
          seed: int32 [2]; per-query methods draw noise while they optimise.
        """
        raise NotImplementedError

    def likelihood(self, z, context) -> tfd.Distribution:
        """p(x | z, x_o): batch_shape [..., B, *F]. Default: the model's p(x | z)."""
        del context
        return self.model.likelihood(z)

    def impute_means(self, x, observed, num_samples, seed) -> tf.Tensor:
        """The decoder's point completion of each sampled z: [S, B, *F, *E].

        Like `impute` without the noise of p(x | z): what papers show as inpaintings. Not
        draws of x: their spread leaves that noise out.
        """
        x, observed, num_samples, seed = self._check(x, observed, num_samples, seed)
        seed = check_seed(seed, False)
        if x.shape[0] == 0:
            return _no_draws(num_samples, x)
        return self._impute_means_call(x, observed, num_samples, seed)

    def log_weights(self, x, observed, target, num_samples, seed):
        """What every estimator of a latent method is made of, at z_s ~ q(z | x_o).

        Returns:
          log p(x_o | z_s) + log p(z_s) - log q(z_s | x_o) and log p(x_t | z_s): each [S, B].
        """

        def score(z, likelihood, posterior):
            log_weights = self._log_weights(x, observed, z, likelihood, posterior)
            return log_weights, over_features(likelihood, target).log_prob(x)

        signature = (tf.float32, tf.float32)
        return self._over_samples(score, x, observed, num_samples, seed, signature)

    def joint_log_weights(self, x, features, num_samples, seed):
        """log p(x_f | z_s) + log p(z_s) - log q(z_s | x_f) at z_s ~ q(z | x_f): [S, B].

        The proposal is the model's own encoder: Posterior Matching, Eq. 18.

        Args:
          x: float32 [B, *F, *E].
          features: bool [B, *F]; True = part of x_f.
          num_samples: S.
          seed: int32 [2].
        """
        x = tf.where(expand_features(features, x), x, 0.0)
        posterior = self.model.posterior(x, features)

        def chunk(count, i):
            z = sampling.sample(posterior, count, sampling.chunk_seeds(seed, i).z)
            return self._log_weights(x, features, z, self.model.likelihood(z), posterior)

        return sampling.in_chunks(chunk, num_samples, tf.float32)[:num_samples]

    def estimate_by(self, function, x, observed, target, num_samples, seed) -> Estimate:
        """function(self, x, observed, target, num_samples, seed), compiled.

        Args:
          function: returns an Estimate; defined once, since every new one is traced anew.
          x, observed, target, num_samples, seed: what `check_question` returned.
        """
        if x.shape[0] == 0:
            return _no_estimate()
        return self._estimate_call(function, x, observed, target, num_samples, seed)

    @tf.function(reduce_retracing=True, autograph=False)
    def _estimate_call(self, function, x, observed, target, num_samples, seed):
        return function(self, x, observed, target, num_samples, seed)

    # Everything below is said once for all latent methods.

    def _over_samples(self, function, x, observed, num_samples, seed, signature):
        """function(z, p(x | z), q) on z ~ q(z | x_o), in chunks: [S, ...]. Infers once."""
        infer_seed, draw_seed = sampling.split(seed)
        # x holds the values to score, too, which are as hidden from inference as any other.
        seen = tf.where(expand_features(observed, x), x, 0.0)
        posterior, context = self.infer(seen, observed, infer_seed)

        def chunk(count, i):
            z = sampling.sample(posterior, count, sampling.chunk_seeds(draw_seed, i).z)
            return function(z, self.likelihood(z, context), posterior)

        parts = sampling.in_chunks(chunk, num_samples, signature)
        return tf.nest.map_structure(lambda part: part[:num_samples], parts)

    def _log_weights(self, x, observed, z, likelihood, posterior):
        """log p(x_o | z) + log p(z) - log q(z | x_o) (Posterior Matching, Eq. 21): [S, B]."""
        log_joint = over_features(likelihood, observed).log_prob(x)
        return log_joint + self.model.prior().log_prob(z) - posterior.log_prob(z)

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        log_weights, log_p_target = self.log_weights(x, observed, target, num_samples, seed)
        return estimators.corrected_predictive(log_weights, log_p_target)

    def _candidates(self, function, x, observed, num_samples, seed, signature):
        """function(p(x | z) of z that count as draws of p(z | x_o), seed, log-weights of CHUNK
        candidates [CHUNK, B], their p(x | z)), in chunks: at least S of the first."""
        infer_seed, draw_seed = sampling.split(seed)
        posterior, context = self.infer(x, observed, infer_seed)

        def chunk(count, i):
            seeds = sampling.chunk_seeds(draw_seed, i)
            z = sampling.sample(posterior, CHUNK if self.correct_draws else count, seeds.z)
            candidates = self.likelihood(z, context)
            if not self.correct_draws:
                return function(candidates, seeds.x, None, candidates)
            log_weights = self._log_weights(x, observed, z, candidates, posterior)
            z = sampling.resample(z, log_weights, count, seeds.start)
            return function(self.likelihood(z, context), seeds.x, log_weights, candidates)

        return sampling.in_chunks(chunk, num_samples, signature)

    def _draws(self, function, x, observed, num_samples, seed):
        """function(p(x | z), seed) for z that count as draws of p(z | x_o): [S, ...]."""

        def of_draws(likelihood, seed, log_weights, candidates):
            del log_weights, candidates
            return function(likelihood, seed)

        rest = (of_draws, x, observed, num_samples, seed, tf.float32)
        return self._candidates(*rest)[:num_samples]

    def _impute(self, x, observed, num_samples, seed):
        def sample(likelihood, seed):
            return sampling.sample(likelihood, None, seed)

        return self._draws(sample, x, observed, num_samples, seed)

    def _impute_and_complete(self, x, observed, num_samples, seed):
        # The candidates that draws are chosen from make a completion, too.
        def both(likelihood, seed, log_weights, candidates):
            draws = sampling.sample(likelihood, None, seed)
            expected = expected_features(candidates)
            if log_weights is None:
                log_weights = tf.zeros(tf.shape(expected)[:2])
            return draws, log_weights, expected

        rest = (both, x, observed, num_samples, seed, (tf.float32,) * 3)
        draws, log_weights, expected = self._candidates(*rest)
        return draws[:num_samples], self._weighted_point(log_weights, expected)

    @tf.function(reduce_retracing=True, autograph=False)
    def _impute_means_call(self, x, observed, num_samples, seed):
        def decode(likelihood, seed):
            del seed
            return self._point(expected_features(likelihood))

        hidden = tf.where(expand_features(observed, x), x, 0.0)
        means = self._draws(decode, hidden, observed, num_samples, seed)
        means = tf.ensure_shape(means, [None, *x.shape])
        return tf.where(expand_features(observed, x), x, means)

    def _complete(self, x, observed, num_samples, seed):
        # Averaging expectations instead of draws leaves out the decoder's noise.
        def score(z, likelihood, posterior):
            expected = expected_features(likelihood)
            if not self.correct_draws:
                return tf.zeros(tf.shape(expected)[:2]), expected
            return self._log_weights(x, observed, z, likelihood, posterior), expected

        signature = (tf.float32, tf.float32)
        log_weights, expected = self._over_samples(
            score, x, observed, num_samples, seed, signature
        )
        return self._weighted_point(log_weights, expected)

    def _weighted_point(self, log_weights, expected):
        """Completion from E[x | z_s] [S, B, ...] and the log-weights [S, B] of z_s."""
        weights = estimators.tempered_weights(log_weights, MIN_EFFECTIVE)
        more = [1] * (expected.shape.rank - 2)
        weights = tf.reshape(weights, tf.concat([tf.shape(weights), more], 0))
        return self._point(tf.reduce_sum(weights * expected, 0))

    def build_for(self, spec):
        super().build_for(spec)
        if self.model is not None:
            self.model.build_for(spec)
