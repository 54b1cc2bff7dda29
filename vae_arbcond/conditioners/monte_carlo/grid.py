"""The posterior on a grid, for a z of one or two numbers: what other methods are held to."""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import estimators
from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.base import CHUNK, Inference
from vae_arbcond.conditioners.model_only import (
    ModelOnly,
    check_vector_latent,
    nothing_observed,
)
from vae_arbcond.distributions import Handmade, expected_features, over_features
from vae_arbcond.registry import register
from vae_arbcond.shapes import (
    check_positive,
    check_seed,
    check_sizes,
    expand_features,
    in_groups,
)

tfd = tfp.distributions

AT_ONCE = 256  # grid points scored at once
NEGLIGIBLE = 25.0  # nats below the highest cell at which a cell's mass does not matter


class Divergences(NamedTuple):
    """How far a q(z) is from the posterior on the grid: tensors [B], nats.

    Attributes:
      reverse: KL(q || p(z | x_o)), what variational methods minimise.
      reverse_stderr: of it, since it is a mean over draws of q.
      forward: KL(p(z | x_o) || q), a sum over the grid.
    """

    reverse: tf.Tensor
    reverse_stderr: tf.Tensor
    forward: tf.Tensor


@register
class GridPosterior(ModelOnly):
    """p(z | x_o) on a grid, exact up to the width of a cell.

    The first grid spans `span` standard deviations of the prior either way, the same for all
    rows; each further one spans, for each row, the cells whose mass is not negligible. A
    density is constant within a cell. Likelihoods and completions are sums over the grid: no
    samples and no error bar, besides the grid's own error, which `cells` tells of.

    Args:
      model: a LatentVariableModel whose z is a vector of one or two numbers.
      points: along each axis.
      span: standard deviations of the prior to either side.
      num_zooms: finer grids after the first. One suits unimodal posteriors.
      train_model: False leaves the model as it is.
    """

    infer_draws = False  # Nothing is drawn, and each row is answered for itself.
    estimator = "sum over a grid of z"

    def __init__(
        self,
        model,
        points: int = 100,
        span: float = 5.0,
        num_zooms: int = 1,
        train_model: bool = True,
        name: str | None = None,
    ):
        super().__init__(model, train_model, correct_draws=False, name=name)
        check_sizes(self, points=points)
        check_positive(self, span=span)
        if points < 10 or isinstance(num_zooms, bool) or num_zooms not in range(10):
            raise ValueError(
                f"GridPosterior needs at least 10 points an axis and 0 to 9 zooms, got "
                f"points={points} and num_zooms={num_zooms!r}."
            )
        self.points, self.span, self.num_zooms = points, span, num_zooms

    def infer(self, x, observed, seed):
        del seed  # Nothing is drawn.
        return Inference(self._posterior(x, observed))

    def cells(self, x, observed) -> tf.Tensor:
        """How many cells the posterior is spread over, 1 / sum_g w_g**2: [B].

        Below some tens the grid is too coarse for a density: give it more points or zooms.

        Args:
          x, observed: as for `impute`.
        """
        log_mass = self.posterior(x, observed).log_mass
        return estimators.effective_sample_size(tf.transpose(log_mass))

    def posterior(self, x, observed) -> "GridDensity":
        """p(z | x_o): a distribution of batch_shape [B].

        Args:
          x, observed: as for `impute`.
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(expand_features(observed, x), x, 0.0)
        return GridDensity(*self._grid_call(hidden, observed), self.points)

    def divergences(self, posterior, x, observed, num_samples, seed) -> Divergences:
        """KL divergences between another method's q(z | x_o) and this posterior.

        log p(z | x_o) is exact at every z but for its constant, which is a sum over the grid.

        Args:
          posterior: q, batch_shape [B]: `method.infer(x_o, observed, seed).posterior`, say.
          x, observed: as for `impute`.
          num_samples: draws of q.
          seed: int32 [2].
        """
        x, observed, num_samples, seed = self._check(
            x, observed, num_samples, check_seed(seed, False)
        )
        hidden = tf.where(expand_features(observed, x), x, 0.0)
        exact = self.posterior(hidden, observed)
        z = posterior.sample(num_samples, seed=seed)
        log_joint = self._scores(hidden, observed, z)
        gaps = posterior.log_prob(z) - log_joint + self._log_evidence(hidden, observed, exact)
        count = tf.cast(tf.shape(gaps)[0], tf.float32)
        stderr = tf.math.reduce_std(gaps, 0) / tf.sqrt(count)
        centres = exact.centres()  # [G, B, Z]
        mass = tf.exp(tf.transpose(exact.log_mass))
        forward = exact.log_density_of_cells() - posterior.log_prob(centres)
        # A cell without mass counts for nothing, however unlikely it is to q.
        forward = tf.reduce_sum(tf.where(mass > 0.0, mass * forward, 0.0), 0)
        return Divergences(tf.reduce_mean(gaps, 0), stderr, forward)

    def log_evidence(self, x, observed) -> tf.Tensor:
        """log p(x_o): [B], nats.

        Args:
          x, observed: as for `impute`.
        """
        x, observed, _, _ = self._check(x, observed, 1, [0, 0])
        hidden = tf.where(expand_features(observed, x), x, 0.0)
        return self._log_evidence(hidden, observed, self.posterior(hidden, observed))

    def _log_evidence(self, x, observed, exact):
        log_joint = self._scores(x, observed, exact.centres())
        return tf.reduce_logsumexp(log_joint, 0) + exact.log_cell()

    @tf.function(reduce_retracing=True, autograph=False)
    def _grid_call(self, x, observed):
        exact = self._posterior(x, observed)
        return exact.log_mass, exact.low, exact.high

    def _posterior(self, x, observed):
        prior = self.model.prior()
        shape = tf.stack([tf.shape(x)[0], prior.event_shape[0]])
        reach = self.span * prior.stddev()
        low = tf.broadcast_to(prior.mean() - reach, shape)
        high = tf.broadcast_to(prior.mean() + reach, shape)
        low, high = (
            tf.ensure_shape(edge, [x.shape[0], *prior.event_shape]) for edge in (low, high)
        )
        for zoom in range(self.num_zooms + 1):
            grid = GridDensity(None, low, high, self.points)
            # At first the grid is the same for all rows, and decoded once.
            centres = grid.centres() if zoom else grid.centres()[:, :1]
            log_joint = self._scores(x, observed, centres)  # [G, B]
            if zoom < self.num_zooms:
                low, high = _zoomed(grid, log_joint)
        return GridDensity(
            tf.transpose(tf.nn.log_softmax(log_joint, 0)), low, high, self.points
        )

    def _scores(self, x, observed, z):
        """log p(x_o, z) at [G, B, Z]: [G, B]."""
        signature = tf.TensorSpec([None, x.shape[0]])
        return in_groups(lambda z: self.log_joint(x, observed, z), (z,), signature, AT_ONCE)

    def _over_grid(self, function, x, observed):
        """sum_g of function(log w_g, p(x | z_g)), which sums over its own cells: [B, ...]."""
        exact = self.infer(x, observed, None).posterior
        parts = (exact.centres(), tf.transpose(exact.log_mass))
        size = CHUNK
        spare = -tf.shape(parts[0])[0] % size

        def cut(part, value):
            part = tf.pad(
                part, [[0, spare], *[[0, 0]] * (part.shape.rank - 1)], constant_values=value
            )
            shape = tf.concat([[-1, size], tf.shape(part)[1:]], 0)
            return tf.ensure_shape(tf.reshape(part, shape), [None, size, *part.shape[1:]])

        groups = cut(parts[0], 0.0), cut(parts[1], float("-inf"))
        return tf.map_fn(
            lambda group: function(group[1], self.likelihood(group[0], None)),
            groups,
            parallel_iterations=1,
            fn_output_signature=tf.float32,
        )

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        del seed
        seen = tf.where(expand_features(observed, x), x, 0.0)

        def score(log_mass, likelihood):
            log_p = over_features(likelihood, target).log_prob(x)
            return tf.reduce_logsumexp(log_mass + log_p, 0)

        value = tf.reduce_logsumexp(self._over_grid(score, seen, observed), 0)
        certain = nothing_observed(target)
        return estimators.exact(tf.where(certain, 0.0, value), num_samples)

    def _complete(self, x, observed, num_samples, seed):
        del num_samples, seed

        def mean(log_mass, likelihood):
            expected = expected_features(likelihood)
            more = [1] * (expected.shape.rank - 2)
            mass = tf.reshape(tf.exp(log_mass), tf.concat([tf.shape(log_mass), more], 0))
            return tf.reduce_sum(mass * expected, 0)

        return self._point(tf.reduce_sum(self._over_grid(mean, x, observed), 0))

    def _impute_and_complete(self, x, observed, num_samples, seed):
        draws = self._impute(x, observed, num_samples, seed)
        return draws, self._complete(x, observed, num_samples, sampling.split(seed)[0])

    def build_for(self, spec):
        super().build_for(spec)
        check_vector_latent(self, self.model)
        size = self.model.prior().event_shape[0]
        if size > 2:
            raise ValueError(
                f"GridPosterior lays a grid over z, which has {size} numbers, and is for one "
                f"or two. For more take HamiltonianMonteCarlo, or a model of a smaller z."
            )


def _zoomed(grid, log_joint):
    """The box, for each row, of the cells whose mass matters, and a cell around: [B, Z] twice.

    Args:
      grid: GridDensity of centres [G, B, Z] or [G, 1, Z].
      log_joint: [G, B].
    """
    matters = log_joint >= tf.reduce_max(log_joint, 0) - NEGLIGIBLE
    centres, width = grid.centres(), grid.width()
    inside = matters[..., tf.newaxis]
    low = tf.reduce_min(tf.where(inside, centres, float("inf")), 0) - 1.5 * width
    high = tf.reduce_max(tf.where(inside, centres, float("-inf")), 0) + 1.5 * width
    # A row of NaN has no such cell: it keeps its grid, and its NaN.
    found = tf.reduce_any(matters, 0)[:, tf.newaxis]
    return tf.where(found, low, grid.low), tf.where(found, high, grid.high)


class GridDensity(Handmade):
    """A density that is constant in each cell of a grid: batch_shape [B], event_shape [Z].

    Args:
      log_mass: [B, points**Z], log-probability of each cell, the last axis of z fastest.
      low, high: [B, Z], corners of the grid.
      points: cells along each axis.
    """

    def __init__(self, log_mass, low, high, points: int, name="GridDensity"):
        made_of = dict(locals())
        self.log_mass, self.low, self.high, self.points = log_mass, low, high, points
        super().__init__(made_of, name)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        properties = tfp.util.ParameterProperties
        return {name: properties(event_ndims=1) for name in ("log_mass", "low", "high")}

    def _batch_shape(self):
        return self.low.shape[:-1]

    def _batch_shape_tensor(self):
        return tf.shape(self.low)[:-1]

    def _event_shape(self):
        return tf.TensorShape([self.low.shape[-1]])

    def _event_shape_tensor(self):
        return tf.constant([self.low.shape[-1]])

    def width(self) -> tf.Tensor:
        """Of a cell along each axis: [B, Z]."""
        return (self.high - self.low) / self.points

    def log_cell(self) -> tf.Tensor:
        """log of a cell's volume: [B]."""
        return tf.reduce_sum(tf.math.log(self.width()), -1)

    def log_density_of_cells(self) -> tf.Tensor:
        """[points**Z, B]."""
        return tf.transpose(self.log_mass) - self.log_cell()

    def centres(self) -> tf.Tensor:
        """Of all cells: [points**Z, B, Z]."""
        cells = tf.range(self.points ** self.low.shape[-1])[:, tf.newaxis]
        return self._at(cells, 0.5)

    def _at(self, cells, within):
        """The point in cells [N, B] (or [N, 1]) whose place in it is `within`: [N, B, Z]."""
        size = self.low.shape[-1]
        steps = [cells // self.points ** (size - 1 - d) % self.points for d in range(size)]
        steps = tf.cast(tf.stack(steps, -1), tf.float32)
        return self.low + (steps + within) * self.width()

    def _log_prob(self, z):
        steps = tf.floor((z - self.low) / self.width())
        inside = tf.reduce_all((steps >= 0.0) & (steps < self.points), -1)
        steps = tf.cast(tf.clip_by_value(steps, 0.0, self.points - 1.0), tf.int32)
        cells = steps[..., 0]
        for d in range(1, self.low.shape[-1]):
            cells = cells * self.points + steps[..., d]
        # Rows first, as the masses have them, were they indexed away or not; any number of
        # leading axes of z.
        mass = tf.reshape(self.log_mass, [-1, tf.shape(self.log_mass)[-1]])
        flat = tf.reshape(cells, [-1, tf.shape(mass)[0]])
        found = tf.gather(mass, tf.transpose(flat), batch_dims=1)
        found = tf.reshape(tf.transpose(found), tf.shape(cells))
        found = tf.ensure_shape(found, cells.shape)
        return tf.where(inside, found - self.log_cell(), float("-inf"))

    def _sample_n(self, n, seed=None):
        cell_seed, place_seed = tfp.random.split_seed(seed, n=2)
        cells = tfd.Categorical(self.log_mass).sample(n, seed=cell_seed)  # [n, B]
        shape = tf.concat([tf.shape(cells), [self.low.shape[-1]]], 0)
        return self._at(cells, tf.random.stateless_uniform(shape, place_seed))

    def _mean(self):
        mass = tf.exp(tf.transpose(self.log_mass))[..., tf.newaxis]
        return tf.reduce_sum(mass * self.centres(), 0)

    def _stddev(self):
        mass = tf.exp(tf.transpose(self.log_mass))[..., tf.newaxis]
        spread = tf.reduce_sum(mass * (self.centres() - self._mean()) ** 2, 0)
        return tf.sqrt(spread + self.width() ** 2 / 12.0)
