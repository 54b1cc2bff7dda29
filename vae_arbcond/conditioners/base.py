"""p(x_target | x_observed) for any split of the features: what every method is.

The public methods check shapes, hide what is hidden and put back what is observed; a method
implements the hooks behind them and cannot break those promises. In every mask, True means
observed.
"""

from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import estimators
from vae_arbcond.distributions import (
    expected_features,
    over_features,
    point_from_expectation,
)
from vae_arbcond.estimators import Estimate
from vae_arbcond.models.base import LatentVariableModel, Trainable
from vae_arbcond.shapes import check_mask, check_seed, check_x, expand_features

tfd = tfp.distributions

CHUNK = 64  # samples of z held at once; part of what a seed means, so never changed
MIN_EFFECTIVE = 10.0  # samples a completion's weights keep effective
_fold_in = tf.random.experimental.stateless_fold_in


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
          TypeError, ValueError: a mask that is not bool, or shapes that do not fit.
        """
        x, observed, num_samples, seed = self._check(x, observed, num_samples, seed)
        return self._impute_call(x, observed, num_samples, seed)

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
        if seed.shape.rank == 1:
            seed = tf.tile(seed[tf.newaxis], [tf.shape(x)[0], 1])
        return self._complete_call(x, observed, num_samples, seed)

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

    # From here on nothing needs to be known by a new method.

    def _check(self, x, observed, num_samples, seed):
        x_shape = None if self.spec is None else self.spec.x_shape
        x = check_x(x, x_shape)
        observed = check_mask(observed, x, self.feature_ndims)
        num_samples = tf.convert_to_tensor(num_samples, tf.int32)
        value = tf.get_static_value(num_samples)
        if value is not None and value < 1:
            raise ValueError(f"num_samples must be at least 1, got {value}.")
        return x, observed, num_samples, check_seed(seed)

    @tf.function(reduce_retracing=True)
    def _impute_call(self, x, observed, num_samples, seed):
        hidden = tf.where(expand_features(observed, x), x, 0.0)
        if seed.shape.rank == 2:

            def one_row(row):
                return self._impute(row[0][None], row[1][None], num_samples, row[2])[:, 0]

            draws = _over_rows(one_row, (hidden, observed, seed), tf.float32)
            draws = tf.transpose(draws, [1, 0, *range(2, draws.shape.rank)])
        else:
            draws = self._impute(hidden, observed, num_samples, seed)
        draws = tf.ensure_shape(draws, [None, *x.shape])
        return tf.where(expand_features(observed, x), x, draws)

    @tf.function(reduce_retracing=True)
    def _complete_call(self, x, observed, num_samples, seed):
        hidden = tf.where(expand_features(observed, x), x, 0.0)

        def one_row(row):
            return self._complete(row[0][None], row[1][None], num_samples, row[2])[0]

        points = _over_rows(one_row, (hidden, observed, seed), tf.float32)
        return tf.where(expand_features(observed, x), x, tf.ensure_shape(points, x.shape))

    def dry_run(self, x, seen):
        super().dry_run(x, seen)
        self._impute(x, seen, tf.constant(1), tf.zeros([2], tf.int32))


class DensityConditioner(ArbitraryConditioner):
    """A method with a likelihood. Implement `_log_likelihood` besides."""

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
        x, observed, num_samples, seed = self._check(x, observed, num_samples, seed)
        target = check_mask(target, x, self.feature_ndims, "target")
        return self._log_likelihood_call(x, observed, target, num_samples, seed)

    def _log_likelihood(self, x, observed, target, num_samples, seed) -> Estimate:
        """Like `log_likelihood`; `target` is disjoint from `observed`, x zero elsewhere."""
        raise NotImplementedError

    @tf.function(reduce_retracing=True)
    def _log_likelihood_call(self, x, observed, target, num_samples, seed):
        target = target & ~observed
        x = tf.where(expand_features(observed | target, x), x, 0.0)
        if seed.shape.rank == 1:
            return self._log_likelihood(x, observed, target, num_samples, seed)

        def one_row(row):
            rows = [entry[None] for entry in row[:3]]
            return tuple(
                field[0] for field in self._log_likelihood(*rows, num_samples, row[3])
            )

        signature = tuple(tf.TensorSpec([], tf.float32) for _ in Estimate._fields)
        return Estimate(*_over_rows(one_row, (x, observed, target, seed), signature))

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
      model: the LatentVariableModel that is conditioned.
      correct_draws: False draws and averages plainly from q(z | x_o), as papers do, and for
        posteriors without a `log_prob`. Log-likelihoods are corrected in any case.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.model = model
        self.correct_draws = correct_draws

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
        return self._impute_means_call(x, observed, num_samples, check_seed(seed, False))

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

    # Everything below is said once for all latent methods.

    def _over_samples(self, function, x, observed, num_samples, seed, signature):
        """function(z, p(x | z), q) on z ~ q(z | x_o), in chunks: [S, ...]. Infers once."""
        infer_seed, draw_seed = _split(seed)
        posterior, context = self.infer(x, observed, infer_seed)

        def chunk(count, seed):
            z = posterior.sample(count, seed=_split(seed)[0])
            return function(z, self.likelihood(z, context), posterior)

        return _in_chunks(chunk, num_samples, draw_seed, signature)

    def _log_weights(self, x, observed, z, likelihood, posterior):
        """log p(x_o | z) + log p(z) - log q(z | x_o) (Posterior Matching, Eq. 21): [S, B]."""
        log_joint = over_features(likelihood, observed).log_prob(x)
        return log_joint + self.model.prior().log_prob(z) - posterior.log_prob(z)

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        log_weights, log_p_target = self.log_weights(x, observed, target, num_samples, seed)
        return estimators.corrected_predictive(log_weights, log_p_target)

    def _draws(self, function, x, observed, num_samples, seed):
        """function(p(x | z), seed) for z that count as draws of p(z | x_o): [S, ...]."""
        infer_seed, draw_seed = _split(seed)
        posterior, context = self.infer(x, observed, infer_seed)

        def chunk(count, seed):
            z_seed, x_seed = _split(seed)
            z = posterior.sample(CHUNK if self.correct_draws else count, seed=z_seed)
            if self.correct_draws:
                weights = self._log_weights(
                    x, observed, z, self.likelihood(z, context), posterior
                )
                z = _resample(z, weights, count, x_seed)
            return function(self.likelihood(z, context), _split(x_seed)[0])

        return _in_chunks(chunk, num_samples, draw_seed, tf.float32)

    def _impute(self, x, observed, num_samples, seed):
        def sample(likelihood, seed):
            return likelihood.sample(seed=seed)

        return self._draws(sample, x, observed, num_samples, seed)

    @tf.function(reduce_retracing=True)
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
                return tf.zeros(tf.shape(z)[:2]), expected
            return self._log_weights(x, observed, z, likelihood, posterior), expected

        signature = (tf.float32, tf.float32)
        log_weights, expected = self._over_samples(
            score, x, observed, num_samples, seed, signature
        )
        weights = estimators.tempered_weights(log_weights, MIN_EFFECTIVE)
        more = [1] * (expected.shape.rank - 2)
        weights = tf.reshape(weights, tf.concat([tf.shape(weights), more], 0))
        return self._point(tf.reduce_sum(weights * expected, 0))

    def _point(self, expectation):
        levels = None if self.spec is None else self.spec.levels
        if expectation.shape[-1] > 1 and levels is None:
            levels = expectation.shape[-1]  # A categorical head on an image.
        return point_from_expectation(expectation, levels)

    def build_for(self, spec):
        super().build_for(spec)
        self.model.build_for(spec)


def _resample(z, log_weights, count, seed):
    """Systematic resampling: z [K, B, ...] -> `count` of them by tempered weight.

    Equal weights give each z back at most once where count <= K.
    """
    weights = estimators.tempered_weights(log_weights, CHUNK / 2.0)
    edges = tf.transpose(tf.cumsum(weights, axis=0))  # [B, K]
    start = tf.random.stateless_uniform([tf.shape(edges)[0], 1], _split(seed)[1])
    spread = tf.cast(tf.range(count), tf.float32)[tf.newaxis]
    positions = (start + spread) / tf.cast(count, tf.float32) * edges[:, -1:]
    index = tf.minimum(tf.searchsorted(edges, positions, side="right"), CHUNK - 1)

    def pick(part):
        rows = tf.gather(tf.experimental.numpy.swapaxes(part, 0, 1), index, batch_dims=1)
        return tf.ensure_shape(
            tf.experimental.numpy.swapaxes(rows, 0, 1), [None, *part.shape[1:]]
        )

    return tf.nest.map_structure(pick, z)


def _split(seed):
    first, second = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
    return first, second


def _over_rows(one_row, rows, signature):
    """`one_row` on each row of a tuple of tensors [B, ...], stacked."""
    return tf.map_fn(one_row, rows, fn_output_signature=signature)


def _in_chunks(draw, num_samples, seed, signature):
    """draw(count, seed) -> [count, ...] in chunks of at most CHUNK: [num_samples, ...].

    Chunk i has the seed `fold_in(seed, i)`; the last chunk is drawn whole and cut, so that
    memory is bounded and nothing but `num_samples` and `seed` matters.
    """
    size = tf.minimum(num_samples, CHUNK)
    count = (num_samples + size - 1) // size

    def chunk(i):
        return draw(size, _fold_in(seed, i))

    stacked = tf.map_fn(
        chunk, tf.range(count), parallel_iterations=1, fn_output_signature=signature
    )

    def join(part):
        flat = tf.reshape(part, tf.concat([[-1], tf.shape(part)[2:]], 0))
        return tf.ensure_shape(flat, [None, *part.shape[2:]])[:num_samples]

    return tf.nest.map_structure(join, stacked)
