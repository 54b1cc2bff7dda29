"""Mixtures of Gaussians, conditioned in closed form: exact, without a network.

Real columns are brought nearer to Gaussians one by one (`mixtures.marginals`) and are jointly
Gaussian within a component; discrete columns are categorical and counts Poisson within a
component. Given any cells, what is left is again such a mixture: draws, likelihoods, moments,
quantiles and class probabilities are those of it. One component is the plain Gaussian.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from vae_arbcond import estimators
from vae_arbcond.conditioners.base import DensityConditioner
from vae_arbcond.conditioners.mixture_answers import MixtureAnswers, Posterior
from vae_arbcond.distributions import point_from_expectation
from vae_arbcond.mixtures import algebra, em, factors, fitting, marginals, noise, rows, search
from vae_arbcond.mixtures.em import Mixture
from vae_arbcond.mixtures.fitting import Settings, Table
from vae_arbcond.mixtures.marginals import Marginals
from vae_arbcond.models.base import FitStage
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_mask, check_x, in_groups

GROUP_NUMBERS = 2**20  # float64 in a matrix of all solves of a group of rows: 8 MB
FIRST_OF_FACTORS = 10  # steps of the Gaussian that factor analysers start from
DISCRETE = 3  # times as many steps for a table without real columns
# Searches of a table without real columns, where a fit is cheap and depends on its start; as
# many rows in all are more than enough.
REPEATS, ENOUGH_ROWS = 3, 4000
LARGEST = float(np.finfo(np.float32).max)


@register
class GaussianMixtureConditioner(MixtureAnswers, DensityConditioner):
    """A mixture of full-covariance Gaussians fitted by EM, conditioned exactly.

    Draws, likelihoods, moments, quantiles and class probabilities are those of the mixture;
    completions look means through a marginal that is not linear up in a table of them.
    Columns without spread are completed and drawn as their value; columns without any value
    are completed by 0, the model's unit being a standard normal. Completions and moments of
    real columns stay within the range of the training values; so do draws and quantiles,
    unless `strength` is 0. What the density has beyond that range falls on its ends: a column
    that is often 0 and never less is often drawn as exactly 0.
    Likelihoods lose digits for observed values millions of standard deviations out.

    Args:
      components: number of components; several are tried in order and chosen among by their
        out-of-fold log score of hidden cells.
      strength: share of the normal scores in the half-Gaussianised marginals, in [0, 1); 0
        leaves the columns as they are.
      folds: parts of the rows for the score.
      bag: whether the fits of the folds are kept beside the one of all rows, in one mixture.
        A small table without real columns is searched three times, with other folds, and
        keeps all of them.
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
        if not (0 <= shrink_covariance < np.inf and 0 <= shrink_levels < np.inf):
            raise ValueError(
                f"Pseudo-counts are finite numbers of rows, 0 or more; got "
                f"shrink_covariance={shrink_covariance} and shrink_levels={shrink_levels}."
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

    def _refuse_fit(self):
        if self.fitted is not None:
            raise ValueError(
                f"This {type(self).__name__} holds a fit with {self.fitted} components; "
                f"construct a new one to fit it again."
            )

    def _allocate(self, components: int) -> None:
        if self.fitted == components:
            return
        self._refuse_fit()
        real, levels = len(self.columns.real), self.columns.num_levels
        shapes = {
            "log_weights": (components,),
            "means": (components, real),
            "covariances": (components, real, real),
            "precisions": (components, real, real),
            "log_dets": (components,),
            "log_levels": (components, levels),
            "log_rates": (components, len(self.columns.count)),
            "low": (real,),
            "step": (real,),
            "knots": (real, marginals.KNOTS),
            "slope": (real,),
            "least": (real,),
            "most": (real,),
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
        """Fits by EM to rows with gaps, once; deterministic given the seed.

        Args:
          x: [N, D]; anything where not present.
          present: bool [N, D]; True = the value exists.
          seed: of folds, hidden cells and K-means; a whole number, 0 or more.

        Returns:
          What to tell: the number of components, and the out-of-fold log score of each number
          tried, in nats of g a hidden cell; and `error`, the chosen number's mean square of
          completions of hidden real cells, in g.

        Raises:
          ValueError: no row has a value, or there is a fit already.
        """
        self._refuse_fit()
        seed = fitting.check_seed(seed)
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
        settings, repeats = self.settings, 1
        if not self.columns.real:
            repeats = max(1, min(REPEATS, ENOUGH_ROWS // max(len(table), 1)))
            # Without covariances a step costs little, and EM climbs more slowly.
            settings = dataclasses.replace(settings, steps=DISCRETE * settings.steps)
        elif self.num_factors:
            # Factor analysers only start from the single Gaussian: it need not be finished.
            settings = dataclasses.replace(settings, first_steps=FIRST_OF_FACTORS)
        found = search.search(
            table, self.candidates, self.folds, self.bag, settings, seed, self._fit, repeats
        )
        self.store(found.mixture, maps)
        scores = {f"score_{k}": round(v, 5) for k, v in found.scores.items()}
        if np.isfinite(found.error):
            scores["error"] = round(found.error, 5)
        return {"components": found.components, **scores}

    def _fit(self, table, components, first, settings, seed):
        size = min(self.num_factors, len(self.columns.real) - 1)
        if size < 1:
            return fitting.fit_mixture(table, components, first, settings, seed)
        return factors.fit_mixture(table, components, size, first, settings, seed)

    def store(self, mixture: Mixture, maps: Marginals) -> None:
        """Takes a mixture of g and the maps x -> g as the fit."""
        self._allocate(len(mixture.log_weights))
        made = algebra.gaussians(mixture.means, mixture.covariances)._asdict()
        made["table"] = marginals.tabulate(maps)
        for name, value in {**mixture._asdict(), **maps._asdict(), **made}.items():
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

    def _condition(self, x, observed):
        """log p(component | x_o) [K, B] and the hidden features given each component."""
        read, mixture = self._read(x, observed), self.mixture
        more = self._stored("precisions"), self._stored("log_dets")
        given = algebra.Gaussians(mixture.means, mixture.covariances, *more)
        found = algebra.condition(given, read.g, read.observed)
        joint = em.add_density(mixture, read, found.log_density)
        return tf.nn.log_softmax(joint, axis=0), found, read

    def posterior(self, x, observed) -> Posterior:
        """The mixture given x_observed; x [B, D] finite everywhere."""
        log_weights, found, read = self._condition(x, observed)
        means = algebra.unpack(found.means, found.hidden)
        return Posterior(
            tf.transpose(log_weights),
            tf.where(read.observed, read.g, means),
            algebra.unpack(found.variances, found.hidden),
        )

    def _in_groups(self, answer, parts, signature):
        """answer(*parts) in groups of rows small enough for caches: [B, ...].

        Args:
          answer: [b, ...] tensors -> [b, ...].
          parts: tensors [B, ...]; the second one is `observed`.
          signature: TensorSpec of the answer.
        """
        wide = max(1, len(self.columns.real))
        components = self._stored("log_weights").shape[0]
        most = max(8, GROUP_NUMBERS // (components * wide * wide))
        # Rows that observe as many features stand together, so that little is filled up;
        # the last group, which is filled up with empty rows, has the emptiest ones.
        count = tf.reduce_sum(tf.cast(parts[1], tf.int32), 1)
        order = tf.argsort(-count, stable=True)
        sorted_parts = [tf.gather(part, order) for part in parts]
        answers = in_groups(answer, sorted_parts, signature, most)
        return tf.gather(answers, tf.argsort(order))

    def _log_marginal(self, x, observed):
        """log p(x_o), nats of g: [B]."""
        read, mixture = self._read(x, observed), self.mixture
        of_real = mixture.means, mixture.covariances, read.g, read.observed
        joint = em.add_density(mixture, read, algebra.log_density(*of_real))
        return tf.reduce_logsumexp(joint, 0)

    def _density(self, x, observed, target):
        """log p(x_target | x_observed), float32 [B]."""
        joint_given = observed | target
        x = tf.where(joint_given, x, 0.0)

        def answer(x, observed, both):
            return self._log_marginal(x, both) - self._log_marginal(x, observed)

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
        return estimators.exact(self._density(x, observed, target), num_samples)

    def _best(self, log_weights, found):
        """E[x_h | x_o] of hidden real columns, within the range of training values: [B, R]."""
        weights = tf.exp(log_weights)[..., tf.newaxis]  # [K, B, 1]
        if self.strength == 0.0:  # x is linear in g.
            mean = algebra.unpack(tf.reduce_sum(weights * found.means, 0), found.hidden)
            maps = self.marginals
            return tf.clip_by_value(marginals.to_x(maps, mean), maps.least, maps.most)
        table, scales = self._stored("table"), tf.sqrt(found.variances)
        each = marginals.look_up(
            self.marginals, table, found.hidden.index, found.means, scales
        )
        return algebra.unpack(tf.reduce_sum(weights * each, 0), found.hidden)

    def _complete(self, x, observed, num_samples, seed):
        del num_samples, seed

        def answer(x, observed):
            log_weights, found, _ = self._condition(x, observed)
            real = self._best(log_weights, found)
            return tf.cast(self._points(tf.transpose(log_weights), real), tf.float32)

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
        parts = [marginals.to_x(self.marginals, g, clip=self.strength > 0.0)]
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

    def dry_run(self, x, seen):
        """There are no weights but those that `fit_rows` makes."""
