"""Mixtures of Gaussians, conditioned in closed form: exact, without a network.

Real columns are brought nearer to Gaussians one by one (`mixtures.marginals`) and are jointly
Gaussian within a component; discrete columns are categorical and counts Poisson within a
component. Given any cells, what is left is again such a mixture: draws, likelihoods, moments,
quantiles and class probabilities are those of it. One component is the plain Gaussian.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_arbcond.conditioners.base import DensityConditioner
from vae_arbcond.distributions import point_from_expectation
from vae_arbcond.estimators import Estimate
from vae_arbcond.mixtures import algebra, em, factors, fitting, marginals, noise, rows, search
from vae_arbcond.mixtures.em import Mixture
from vae_arbcond.mixtures.fitting import Settings, Table
from vae_arbcond.mixtures.marginals import Marginals
from vae_arbcond.models.base import FitStage
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_mask, check_x, in_groups

GROUP_NUMBERS = 2**23  # float64 that the solves of one group of rows may hold: 64 MB
BISECTIONS = 60
DISCRETE = 3  # times as many steps for a table without real columns
LARGEST = float(np.finfo(np.float32).max)


class Moments(NamedTuple):
    """Means and variances of x given x_observed, each float64 [B, D].

    An observed cell is its own mean and has no variance; a column with levels has those of
    the level's index.
    """

    mean: tf.Tensor
    variance: tf.Tensor


class Posterior(NamedTuple):
    """A mixture given what was observed; K components, B rows, float64.

    Attributes:
      log_weights: log p(component | x_o): [B, K].
      means, variances: of each real column's g: [K, B, R].
    """

    log_weights: tf.Tensor
    means: tf.Tensor
    variances: tf.Tensor


@register
class GaussianMixtureConditioner(DensityConditioner):
    """A mixture of full-covariance Gaussians fitted by EM; every answer is exact.

    Columns without spread are completed by their value; columns without any value by 0, the
    model's unit being a standard normal. Completions of real columns stay within the range of
    the training values, draws need not.

    Args:
      components: number of components; several are tried in order and chosen among by their
        out-of-fold log score of hidden cells.
      strength: share of the normal scores in the half-Gaussianised marginals, in [0, 1); 0
        leaves the columns as they are.
      folds: parts of the rows for the score.
      bag: whether the fits of the folds are kept beside the one of all rows, in one mixture.
      shrink_covariance: rows by which a component's covariance is drawn to the pooled one, in
        multiples of the number of real columns.
      shrink_levels: rows by which its probabilities of levels are drawn to the table's.
      num_steps: EM steps, half of them with the pooled covariance fixed; three times as many
        for a table without real columns.
      num_factors: 0 for full covariances; else those of factor analysers with so many factors
        (at most one fewer than real columns), for tables with many columns.
    """

    def __init__(
        self,
        components: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 24, 32),
        strength: float = 0.5,
        folds: int = 5,
        bag: bool = True,
        shrink_covariance: float = 2.0,
        shrink_levels: float = 1.0,
        num_steps: int = 12,
        num_factors: int = 0,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.candidates = (components,) if isinstance(components, int) else tuple(components)
        if not self.candidates or sorted(set(self.candidates)) != list(self.candidates):
            raise ValueError(
                f"components must be numbers of components, each larger than the one before; "
                f"got {components!r}."
            )
        if self.candidates[0] < 1 or num_steps < 2 or folds < 2:
            raise ValueError(
                f"A mixture needs at least 1 component, 2 steps and 2 folds; got components="
                f"{components!r}, num_steps={num_steps}, folds={folds}."
            )
        self.strength, self.folds, self.bag = strength, folds, bag
        self.settings = Settings(
            covariance=shrink_covariance, levels=shrink_levels, steps=max(1, num_steps // 2)
        )
        if num_factors < 0:
            raise ValueError(
                f"num_factors must be 0 (full covariances) or more, got {num_factors}."
            )
        self.num_factors, self.fitted = num_factors, None

    @property
    def rows_at_once(self):
        return None  # Every row is answered for itself, however many there are.

    # What is stored.

    def build_for(self, spec):
        super().build_for(spec)
        self.columns = rows.Columns.of(spec)

    def create_variables(self, spec, seed: int = 0):
        """Notes the data's shape; the weights come with `fit`, which finds their number."""
        del seed
        self.build_for(spec)
        return self

    def _allocate(self, components: int) -> None:
        if self.fitted is not None:
            if self.fitted == components:
                return
            raise ValueError(
                f"This {type(self).__name__} holds a fit with {self.fitted} components; "
                f"construct a new one to fit it again."
            )
        real, levels = len(self.columns.real), self.columns.num_levels
        shapes = {
            "log_weights": (components,),
            "means": (components, real),
            "covariances": (components, real, real),
            "log_levels": (components, levels),
            "log_rates": (components, len(self.columns.count)),
            "low": (real,),
            "step": (real,),
            "knots": (real, marginals.KNOTS),
            "slope": (real,),
            "table": (real, marginals.PLACES, marginals.SCALES),
        }
        self.parameters = {
            name: self.add_weight(shape=shape, dtype="float64", trainable=False, name=name)
            for name, shape in shapes.items()
        }
        self.fitted = components

    def get_build_config(self):
        config = super().get_build_config()
        return None if config is None else config | {"components": self.fitted}

    def build_from_config(self, config):
        super().build_from_config(config)
        if config["components"] is not None:
            self._allocate(config["components"])

    @property
    def mixture(self) -> Mixture:
        """The mixture of g: all fits of a bag side by side.

        Raises:
          ValueError: nothing was fitted yet.
        """
        return Mixture(*(self._stored(name) for name in Mixture._fields))

    @property
    def marginals(self) -> Marginals:
        """The maps x -> g of the real columns."""
        return Marginals(*(self._stored(name) for name in Marginals._fields))

    def _stored(self, name):
        if self.fitted is None:
            raise ValueError(
                f"This {type(self).__name__} has not been fitted: train it, or call "
                f"fit_rows(x, present, seed) after create_variables(spec)."
            )
        return tf.convert_to_tensor(self.parameters[name])

    # Fitting.

    def stages(self):
        return [FitStage("EM", self.fit_rows)]

    def fit_rows(self, x, present, seed: int = 0) -> dict:
        """Fits by EM to rows with gaps; deterministic given the seed.

        Args:
          x: [N, D]; anything where not present.
          present: bool [N, D]; True = the value exists.
          seed: of folds, hidden cells and K-means.

        Returns:
          What to tell: the number of components, and the out-of-fold log score of each number
          tried, in nats of g a hidden cell.

        Raises:
          ValueError: no row has a value.
        """
        x = check_x(x, self.spec.x_shape)
        present = check_mask(present, x, 1, "present")
        self._check_values(x, present, "present")
        if not present.numpy().any():
            raise ValueError(
                f"None of the {x.shape[0]} training rows has a value, so there is nothing to "
                f"fit. Check the table, and what removed_fraction removes."
            )
        real = np.array(self.columns.real, int)
        maps = marginals.fit_marginals(
            x.numpy()[:, real], present.numpy()[:, real], self.strength
        )
        known = tf.where(present, x, 0.0)
        read = rows.read(known, present, self.columns, lambda v: marginals.to_g(maps, v))
        table = Table.of(read, self.columns)
        settings = self.settings
        if not self.columns.real:
            # Without covariances a step costs little, and EM climbs more slowly.
            settings = dataclasses.replace(settings, steps=DISCRETE * settings.steps)
        found = search.search(
            table, self.candidates, self.folds, self.bag, settings, seed, self._fit
        )
        self.store(found.mixture, maps)
        scores = {f"score_{k}": round(v, 5) for k, v in found.scores.items()}
        return {"components": found.components, **scores}

    def _fit(self, table, components, first, settings, seed):
        size = min(self.num_factors, len(self.columns.real) - 1)
        if size < 1:
            return fitting.fit_mixture(table, components, first, settings, seed)
        return factors.fit_mixture(table, components, size, first, settings, seed)

    def store(self, mixture: Mixture, maps: Marginals) -> None:
        """Takes a mixture of g and the maps x -> g as the fit."""
        self._allocate(len(mixture.log_weights))
        table = {"table": marginals.tabulate(maps)}
        for name, value in {**mixture._asdict(), **maps._asdict(), **table}.items():
            self.parameters[name].assign(value)

    def loss_terms(self, x, present, observed, seed, step, training):
        """The exact negative log-likelihood of the present cells; nothing is trained on it."""
        del observed, seed, step, training
        nothing = tf.zeros_like(present)
        return {"negative_log_likelihood": -self._density(x, nothing, present)}

    def variables_to_train(self):
        return []

    # Answers.

    def _read(self, x, observed):
        maps = self.marginals
        return rows.read(x, observed, self.columns, lambda v: marginals.to_g(maps, v))

    def _solve(self, x, observed):
        """log p(component, x_o) [K, B] and the solves."""
        read = self._read(x, observed)
        joint, solved = em.log_joint(self.mixture, read, algebra.pack(read.observed))
        return joint, solved, read

    def posterior(self, x, observed) -> Posterior:
        """The mixture given x_observed; x [B, D] finite everywhere."""
        read, mixture = self._read(x, observed), self.mixture
        packed = algebra.pack(read.observed)
        given = (mixture.means, mixture.covariances, read.g, read.observed, packed)
        log_density, means, variances = algebra.condition(*given)
        joint = mixture.log_weights[:, tf.newaxis] + log_density
        joint += em.discrete_log_density(mixture, read)
        return Posterior(tf.transpose(tf.nn.log_softmax(joint, axis=0)), means, variances)

    def _in_groups(self, answer, parts, signature):
        """answer(*parts) in groups of rows small enough for memory: nest of [B, ...]."""
        wide = max(1, len(self.columns.real))
        components = self._stored("log_weights").shape[0]
        most = max(8, GROUP_NUMBERS // (components * wide * wide))
        return in_groups(answer, parts, signature, most)

    def _density(self, x, observed, target):
        """log p(x_target | x_observed), float32 [B]."""
        joint_given = observed | target
        x = tf.where(joint_given, x, 0.0)

        def answer(x, observed, both):
            given = tf.reduce_logsumexp(self._solve(x, observed)[0], 0)
            return tf.reduce_logsumexp(self._solve(x, both)[0], 0) - given

        spec = tf.TensorSpec([None], tf.float64)
        value = self._in_groups(answer, (x, observed, joint_given), spec)
        real = np.array(self.columns.real, int)
        slopes = marginals.log_slope(self.marginals, tf.gather(x, real, axis=1))
        scored = tf.gather(joint_given & ~observed, real, axis=1)
        value += tf.reduce_sum(tf.where(scored, slopes, 0.0), -1)
        value = tf.where(tf.reduce_any(joint_given & ~observed, -1), value, 0.0)
        return tf.cast(tf.clip_by_value(value, -LARGEST, LARGEST), tf.float32)

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        del seed
        value = self._density(x, observed, target)
        exact = tf.zeros_like(value)  # No samples: no error, and no weights to have a tail.
        samples = exact + tf.cast(num_samples, tf.float32)
        return Estimate(value, exact, samples, exact, exact)

    def _expected(self, posterior, power: int):
        """E[x^power | x_o] of the real columns, float64 [B, R]."""
        weights = tf.exp(tf.transpose(posterior.log_weights))[..., tf.newaxis]  # [K, B, 1]
        scales = tf.sqrt(posterior.variances)
        each = marginals.expected_x(self.marginals, posterior.means, scales, power)
        return tf.reduce_sum(weights * each, 0)

    def _best(self, posterior):
        """E[x | x_o] of the real columns within the range of the training values: [B, R]."""
        weights = tf.exp(tf.transpose(posterior.log_weights))[..., tf.newaxis]
        if self.strength == 0.0:  # x is linear in g, and no range is known.
            return marginals.to_x(self.marginals, tf.reduce_sum(weights * posterior.means, 0))
        given = posterior.means, tf.sqrt(posterior.variances)
        each = marginals.look_up(self.marginals, self._stored("table"), *given)
        return tf.reduce_sum(weights * each, 0)

    def _complete(self, x, observed, num_samples, seed):
        del num_samples, seed

        def answer(x, observed):
            posterior = self.posterior(x, observed)
            real = self._best(posterior)
            return tf.cast(self._points(posterior.log_weights, real), tf.float32)

        spec = tf.TensorSpec([None, x.shape[1]], tf.float32)
        return self._in_groups(answer, (x, observed), spec)

    def _points(self, log_weights, real):
        """Completions [B, D]: `real` [B, R], modes of levels, means of counts."""
        parts = [real]
        shares = tf.matmul(tf.exp(log_weights), tf.exp(self.mixture.log_levels))
        for start, size in zip(self.columns.starts, self.columns.sizes, strict=True):
            table = shares[:, start : start + size]
            parts.append(point_from_expectation(table, size)[:, tf.newaxis])
        parts.append(tf.matmul(tf.exp(log_weights), tf.exp(self.mixture.log_rates)))
        return self._in_order(parts)

    def _in_order(self, parts):
        """Columns grouped by kind, [..., R], [..., 1] a discrete one, [..., C] -> [..., D]."""
        columns = self.columns
        order = np.argsort([*columns.real, *columns.discrete, *columns.count])
        return tf.gather(tf.concat(parts, -1), order, axis=-1)

    def _impute(self, x, observed, num_samples, seed):
        columns = self.columns
        numbers = noise.Noise(seed, tf.shape(x)[0], num_samples)
        parts = (
            x,
            observed,
            numbers.normal(0, len(columns.real)),
            numbers.uniform(1, 1 + len(columns.discrete) + len(columns.count)),
        )
        spec = tf.TensorSpec([None, None, x.shape[1]], tf.float32)
        draws = self._in_groups(self._draw, parts, spec)
        return tf.transpose(draws, [1, 0, 2])

    def _draw(self, x, observed, normal, uniform):
        """Draws [B, S, D] from noise normal [B, S, R], uniform [B, S, 1 + discrete]."""
        joint, solved, read = self._solve(x, observed)
        mixture = self.mixture
        edges = tf.cumsum(tf.transpose(tf.nn.softmax(joint, axis=0)), axis=1)  # [B, K]
        chosen = tf.searchsorted(edges, uniform[..., 0] * edges[:, -1:], side="right")
        chosen = tf.minimum(chosen, tf.shape(edges)[1] - 1)  # [B, S]
        factors = tf.linalg.cholesky(mixture.covariances)
        number = tf.range(tf.shape(x)[0])
        where_solved = tf.stack([tf.zeros_like(number), number], -1)

        def one(part):
            # A draw of the component, moved to agree with x_o: Matheron's rule.
            component, eps = part
            free = tf.gather(mixture.means, component)
            free += tf.linalg.matvec(tf.gather(factors, component), eps)
            if not self.columns.real:
                return free  # Levels alone: nothing to move, and no solve to look up.
            at = where_solved + tf.stack([component, tf.zeros_like(component)], -1)
            solve = tf.gather_nd(solved.solve, at)  # [B, O, R]
            white = tf.linalg.matvec(solve, tf.where(read.observed, read.g - free, 0.0))
            score = tf.linalg.matvec(solve, white, transpose_a=True)
            return free + tf.linalg.matvec(tf.gather(mixture.covariances, component), score)

        of_samples = (tf.transpose(chosen), tf.transpose(normal, [1, 0, 2]))
        spec = tf.TensorSpec([None, len(self.columns.real)], tf.float64)
        g = tf.transpose(tf.map_fn(one, of_samples, fn_output_signature=spec), [1, 0, 2])
        parts = [marginals.to_x(self.marginals, g)]
        parts += self._discrete_draws(chosen, uniform[..., 1:])
        return tf.cast(self._in_order(parts), tf.float32)

    def _discrete_draws(self, chosen, uniform):
        """A [B, S, 1] for each discrete column, then each count."""
        drawn = []
        for j, (start, size) in enumerate(
            zip(self.columns.starts, self.columns.sizes, strict=True)
        ):
            shares = tf.exp(self.mixture.log_levels[:, start : start + size])
            edges = tf.gather(tf.cumsum(shares, axis=1), chosen)  # [B, S, size]
            at = uniform[..., j, tf.newaxis] * edges[..., -1:]
            level = tf.reduce_sum(tf.cast(edges <= at, tf.int32), -1, keepdims=True)
            drawn.append(tf.cast(tf.minimum(level, size - 1), tf.float64))
        for j in range(len(self.columns.count)):
            rate = tf.gather(tf.exp(self.mixture.log_rates[:, j]), chosen)
            at = uniform[..., len(self.columns.sizes) + j]
            drawn.append(noise.poisson_quantile(at, rate)[..., tf.newaxis])
        return drawn

    # What a closed form knows besides.

    def conditional_moments(self, x, observed) -> Moments:
        """Exact mean and variance of every column given x_observed.

        Through a marginal that is not linear, means and variances are those of a 9-node
        Gauss-Hermite rule in each component.

        Args:
          x: [B, D]; hidden entries may be anything.
          observed: bool [B, D].
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        posterior = self.posterior(hidden, observed)
        if self.strength == 0.0:
            real = self._best(posterior)
            g_mean = (real - self._middle()) / self._scale()
            weights = tf.exp(tf.transpose(posterior.log_weights))[..., tf.newaxis]
            apart = posterior.variances + (posterior.means - g_mean) ** 2
            spread = tf.reduce_sum(weights * apart, 0) * self._scale() ** 2
        else:
            real = self._expected(posterior, 1)
            spread = self._expected(posterior, 2) - real**2
        means, spreads = [real], [tf.maximum(spread, 0.0)]
        weights = tf.exp(posterior.log_weights)
        shares = tf.matmul(weights, tf.exp(self.mixture.log_levels))
        for start, size in zip(self.columns.starts, self.columns.sizes, strict=True):
            index = tf.range(size, dtype=tf.float64)
            mean = tf.linalg.matvec(shares[:, start : start + size], index)[:, tf.newaxis]
            square = tf.linalg.matvec(shares[:, start : start + size], index**2)
            means.append(mean)
            spreads.append(square[:, tf.newaxis] - mean**2)
        rates = tf.exp(self.mixture.log_rates)
        counts = tf.matmul(weights, rates)
        means.append(counts)
        spreads.append(tf.matmul(weights, rates + rates**2) - counts**2)
        own = tf.cast(hidden, tf.float64)
        mean = tf.where(observed, own, self._in_order(means))
        return Moments(mean, tf.where(observed, 0.0, self._in_order(spreads)))

    def _scale(self):
        return self.marginals.slope

    def _middle(self):
        return marginals.to_x(self.marginals, tf.zeros_like(self.marginals.low))

    def quantiles(self, x, observed, probabilities) -> tf.Tensor:
        """Quantiles of each real column given x_observed: float64 [Q, B, D].

        Observed cells are their own quantiles; columns with levels and counts are NaN (see
        `class_probabilities`).

        Args:
          x, observed: as for `conditional_moments`.
          probabilities: Q numbers in (0, 1).

        Raises:
          ValueError: a probability out of range.
        """
        wanted = np.asarray(probabilities, np.float64).reshape(-1)
        if not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"probabilities must lie between 0 and 1, got {probabilities}.")
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        posterior = self.posterior(hidden, observed)
        weights = tf.exp(tf.transpose(posterior.log_weights))[..., tf.newaxis]
        scales = tf.sqrt(tf.maximum(posterior.variances, 1e-300))
        at = tf.constant(wanted)[:, tf.newaxis, tf.newaxis]
        width = 10.0 * tf.reduce_max(scales, 0)
        shape = tf.concat([tf.shape(at)[:1], tf.shape(width)], 0)
        low = tf.broadcast_to(tf.reduce_min(posterior.means, 0) - width, shape)
        high = tf.broadcast_to(tf.reduce_max(posterior.means, 0) + width, shape)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            z = (middle[:, tf.newaxis] - posterior.means) / scales
            share = 0.5 * tf.math.erfc(-z * np.sqrt(0.5))
            below = tf.reduce_sum(weights * share, 1) < at
            low, high = tf.where(below, middle, low), tf.where(below, high, middle)
        real = marginals.to_x(self.marginals, 0.5 * (low + high))
        unknown = tf.fill(tf.shape(real)[:2], tf.constant(np.nan, tf.float64))[..., tf.newaxis]
        rest = len(self.columns.discrete) + len(self.columns.count)
        answer = self._in_order([real] + [unknown] * rest)
        return tf.where(observed, tf.cast(hidden, tf.float64), answer)

    def class_probabilities(self, x, observed) -> tf.Tensor:
        """P(level | x_observed) of each column: float64 [B, D, most levels of a column].

        Columns without levels hold zeros; an observed cell has probability 1 at its level.

        Args:
          x, observed: as for `conditional_moments`.
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(observed, x, 0.0)
        weights = tf.exp(self.posterior(hidden, observed).log_weights)
        shares = tf.matmul(weights, tf.exp(self.mixture.log_levels))
        most = max(self.columns.sizes, default=0)
        tables = [tf.zeros([tf.shape(x)[0], most], tf.float64)] * x.shape[1]
        for d, start, size in zip(
            self.columns.discrete, self.columns.starts, self.columns.sizes, strict=True
        ):
            own = tf.one_hot(tf.cast(hidden[:, d], tf.int32), size, dtype=tf.float64)
            table = shares[:, start : start + size]
            table = tf.where(observed[:, d, tf.newaxis], own, table)
            tables[d] = tf.pad(table, [[0, 0], [0, most - size]])
        return tf.stack(tables, 1)

    def dry_run(self, x, seen):
        """There are no weights but those that `fit_rows` makes."""
