"""From rows with gaps to a fitted mixture: where EM starts and what shrinks it."""

import dataclasses
import numbers

import numpy as np
import tensorflow as tf

from vae_arbcond.mixtures import em
from vae_arbcond.mixtures.em import Mixture
from vae_arbcond.mixtures.rows import Columns, Rows

RIDGE = 3.0  # rows' worth of a unit covariance that a single Gaussian is shrunk by


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a mixture is fitted. Pseudo-counts are in rows.

    Attributes:
      covariance: shrinks each covariance to the pooled one, in multiples of the number of
        real columns.
      mean: shrinks each mean to the table's.
      levels: shrinks the probabilities of levels to the table's frequencies.
      rate: shrinks rates of counts to the table's means.
      weight: shrinks the weights of components to equal ones.
      loadings: shrinks loadings of factors to the pooled ones.
      variances: shrinks variances of a factor analyser's noise to the pooled ones.
      steps: EM steps in which the pooled covariance is updated and EM goes on; as many follow
        with it fixed, in which the penalised log-likelihood never falls.
      first_steps: EM steps of the single Gaussian that everything starts from.
    """

    covariance: float = 2.0
    mean: float = 2.0
    levels: float = 1.0
    rate: float = 1.0
    weight: float = 1.0
    loadings: float = 10.0
    variances: float = 5.0
    steps: int = 6
    first_steps: int = 30


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows to fit, prepared once for all numbers of components.

    Attributes:
      rows: NumPy arrays; rows without any value are left out.
      columns: kinds of the columns.
      frequencies: share of each level among the observed cells of its column, [L].
      rates: mean of each count, [C].
    """

    rows: Rows
    columns: Columns
    frequencies: np.ndarray
    rates: np.ndarray

    @classmethod
    def of(cls, rows: Rows, columns: Columns) -> "Table":
        """Keeps rows (NumPy) that hold a value."""
        rows = Rows(*(np.asarray(part) for part in rows))
        filled = rows.observed.any(1) | (rows.levels > 0).any(1) | (rows.counted > 0).any(1)
        rows = rows.take(filled)
        groups = em.level_groups(columns)
        counts = rows.levels.sum(0) + 1.0 / np.maximum(groups.sum(0), 1.0)
        frequencies = counts / np.maximum(counts @ groups, 1e-300)
        seen = np.maximum(rows.counted.sum(0), 1.0)
        return cls(rows, columns, frequencies, np.maximum(rows.counts.sum(0) / seen, 1e-3))

    def __len__(self) -> int:
        return len(self.rows.g)

    def take(self, index) -> "Table":
        """The table of these rows."""
        return Table.of(self.rows.take(index), self.columns)


def check_seed(seed) -> int:
    """Returns `seed`, a whole number of 0 or more.

    Raises:
      ValueError: anything else.
    """
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(
            f"The seed of a fit must be a whole number, 0 or more; got {seed!r}. Any such "
            f"number will do, the same one for the same fit."
        )
    return int(seed)


def fit_gaussian(table: Table, settings: Settings) -> tuple[Mixture, list[float]]:
    """One component: the maximum a posteriori Gaussian, and EM's objective by step."""
    size = table.rows.g.shape[1]
    start = Mixture(
        np.zeros([1]),
        np.zeros([1, size]),
        np.eye(size)[np.newaxis],
        np.log(table.frequencies)[np.newaxis],
        np.log(table.rates)[np.newaxis],
    )
    shrinkage = em.discrete_shrinkage(settings, table)
    shrinkage = shrinkage._replace(covariance=RIDGE, target=np.eye(size))
    parts = em.chunks(table.rows, 1)
    return em.climb(start, parts, shrinkage, table.columns, settings.first_steps)


def fit_mixture(
    table: Table, components: int, first: Mixture, settings: Settings, seed: int
) -> tuple[Mixture, list[float]]:
    """K components, started by K-means on what `first` makes of the rows.

    Args:
      table: rows with gaps.
      components: K; at most one for each row.
      first: the single Gaussian of these rows (`fit_gaussian`).
      settings: pseudo-counts and steps.
      seed: of K-means.

    Returns:
      The mixture; EM's objective (nats) for the steps with a fixed pooled covariance.
    """
    components = min(components, len(table))
    if components == 1:
        return first, []
    size = table.rows.g.shape[1]
    points = fill(table, first)
    owner = k_means(points, components, seed)
    share = np.bincount(owner, minlength=components) / len(owner)
    r = np.eye(components)[owner].T  # [K, N]
    filled = points[:, :size]
    totals = np.maximum(r.sum(1, keepdims=True), 1e-300)
    means = (r @ filled) / totals
    center = np.asarray(first.means)[0]
    between = ((means - center) * share[:, np.newaxis]).T @ (means - center)
    ridge = RIDGE / len(table) * np.eye(size)
    pooled = _positive(np.asarray(first.covariances)[0] - between, ridge)
    mixture = start_discrete(table, r)._replace(
        log_weights=np.log(np.maximum(share, 1e-6)),
        means=means,
        covariances=np.repeat(pooled[np.newaxis], components, 0),
    )
    shrinkage = em.discrete_shrinkage(settings, table)._replace(
        covariance=settings.covariance * size,
        target=pooled,
        mean=settings.mean,
        center=center,
    )
    parts = em.chunks(table.rows, components)
    for _ in range(settings.steps):
        mixture, _ = em.climb(mixture, parts, shrinkage, table.columns, 1)
        weights = np.exp(mixture.log_weights)[:, np.newaxis, np.newaxis]
        pooled = (weights * mixture.covariances.numpy()).sum(0) + ridge
        shrinkage = shrinkage._replace(target=pooled)
    return em.climb(mixture, parts, shrinkage, table.columns, settings.steps)


def start_discrete(table: Table, r) -> Mixture:
    """Levels and rates from responsibilities r [K, N]; real columns standard normal."""
    smooth = r @ table.rows.levels + 3.0 * table.frequencies
    groups = em.level_groups(table.columns)
    rates = (r @ table.rows.counts + table.rates) / (r @ table.rows.counted + 1.0)
    components, size = len(r), table.rows.g.shape[1]
    return Mixture(
        np.full(components, -np.log(components)),
        np.zeros([components, size]),
        np.repeat(np.eye(size)[np.newaxis], components, 0),
        np.log(smooth) - np.log(np.maximum(smooth @ groups, 1e-300)),
        np.log(rates),
    )


def fill(table: Table, first: Mixture) -> np.ndarray:
    """What K-means sees: real columns filled by their conditional means, discrete one-hot."""
    size = table.rows.g.shape[1]
    filled = np.zeros([len(table), size])
    for chunk in em.chunks(table.rows, 1):
        filled[chunk.numbers] = _filled(first, chunk.rows, chunk.packed).numpy()
    groups = em.level_groups(table.columns)
    seen = table.rows.levels @ groups
    levels = np.where(seen > 0, table.rows.levels, table.frequencies)
    # Two different levels are as far apart as two values a standard deviation apart.
    seen = table.rows.counted > 0
    roots = np.sqrt(np.where(seen, table.rows.counts, table.rates))
    return np.concatenate([filled, levels / np.sqrt(2.0), roots], 1)


@tf.function(input_signature=[em.MIXTURE, em.ROWS, em.PACKED], autograph=False)
def _filled(mixture, rows, packed):
    _, solved = em.log_joint(mixture, rows, packed)
    means = em.algebra.conditional_means(mixture.means, mixture.covariances, solved)
    return means[0]


def _positive(matrix, ridge):
    """The nearest matrix that is at least `ridge`, a multiple of the identity."""
    if not len(matrix):
        return matrix
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return (vectors * np.maximum(values, ridge[0, 0])) @ vectors.T


def k_means(points, components: int, seed: int, num_steps: int = 20) -> np.ndarray:
    """The cluster of each of `points` [N, F]: int [N]. Started as K-means++ starts."""
    rng = np.random.default_rng(seed)
    norms = (points**2).sum(1)

    def distances(centers):
        apart = norms[:, np.newaxis] - 2.0 * points @ centers.T + (centers**2).sum(1)
        return np.maximum(apart, 0.0)

    centers = points[rng.integers(len(points))][np.newaxis]
    nearest = distances(centers)[:, 0]
    for _ in range(components - 1):
        total = nearest.sum()
        # All points taken: the rest of the centres repeat some.
        shares = nearest / total if total > 0 else np.full(len(points), 1.0 / len(points))
        new = points[rng.choice(len(points), p=shares)][np.newaxis]
        centers = np.concatenate([centers, new])
        nearest = np.minimum(nearest, distances(new)[:, 0])
    owner = None
    for _ in range(num_steps):
        new = distances(centers).argmin(1)
        if owner is not None and (new == owner).all():
            break
        owner = new
        counts = np.bincount(owner, minlength=components)
        sums = np.zeros_like(centers)
        np.add.at(sums, owner, points)
        keep = counts > 0
        centers[keep] = sums[keep] / counts[keep, np.newaxis]
    return owner
