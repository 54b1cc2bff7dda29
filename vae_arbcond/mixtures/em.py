"""EM for mixtures of Gaussians with full covariances, on rows with gaps.

Within a component, real columns are jointly Gaussian, discrete ones categorical and counts
Poisson, the kinds independent of each other; hidden cells are summed or integrated out
exactly. What EM climbs is the penalised log-likelihood of the observed cells,

    sum_n log sum_k pi_k p_k(x_o,n) + log-prior,    log-prior = sum_k of
      - (nu + 1)/2 log det S_k - 1/2 tr[(nu W + k0 d_k d_k^T) S_k^-1],  d_k = mu_k - mu_0
      + alpha sum_c sum_l q_cl log theta_kcl
      + beta sum_c (m_c log lambda_kc - lambda_kc)
      + gamma log pi_k

(constants left out; nu, k0, alpha, beta, gamma are pseudo-counts of `Shrinkage`, q and m
frequencies and means of the table, W a covariance; the + 1 goes where k0 is 0). With all
pseudo-counts 0 it is the log-likelihood.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_arbcond.mixtures import algebra
from vae_arbcond.mixtures.rows import Columns, Rows

CHUNK_NUMBERS = 2**21  # float64 held at once in one matrix of a chunk: 16 MB
SHARED = 16  # rows with the same observed features from which they are solved together


class Mixture(NamedTuple):
    """Parameters of K components; float64 arrays or tensors.

    Attributes:
      log_weights: [K].
      means: [K, R], of g.
      covariances: [K, R, R].
      log_levels: [K, L], log-probabilities, discrete columns side by side.
      log_rates: [K, C].
    """

    log_weights: tf.Tensor
    means: tf.Tensor
    covariances: tf.Tensor
    log_levels: tf.Tensor
    log_rates: tf.Tensor


class Shrinkage(NamedTuple):
    """Pseudo-counts and what they pull to.

    Attributes:
      covariance: nu, rows' worth of `target` in each covariance.
      target: W, [R, R].
      mean: k0, rows' worth of `center` in each mean.
      center: mu_0, [R].
      levels: alpha, rows' worth of `frequencies` in each table of levels.
      frequencies: q, [L].
      rate: beta, rows' worth of `rates` in each rate.
      rates: m, [C].
      weight: gamma, rows' worth of an equal share in each component's weight.
    """

    covariance: float
    target: np.ndarray
    mean: float
    center: np.ndarray
    levels: float
    frequencies: np.ndarray
    rate: float
    rates: np.ndarray
    weight: float


class Statistics(NamedTuple):
    """Sums over rows that the M-step needs, by component; r are responsibilities.

    Attributes:
      log_likelihood: sum of log p(x_o), nats.
      weight: sum r: [K].
      score: sum r a: [K, R], a as in `algebra`.
      curvature: sum r (a a^T - V^T V): [K, R, R].
      levels: sum r one-hot: [K, L].
      counts, counted: sum r count, sum r where a count is observed: [K, C].
    """

    log_likelihood: tf.Tensor
    weight: tf.Tensor
    score: tf.Tensor
    curvature: tf.Tensor
    levels: tf.Tensor
    counts: tf.Tensor
    counted: tf.Tensor


class Chunk(NamedTuple):
    """Rows that are solved at once; `packed` is of one row where all observe the same."""

    rows: Rows
    packed: algebra.Packed
    numbers: np.ndarray


def chunks(rows: Rows, components: int) -> list[Chunk]:
    """Divides rows (NumPy) so that each part has little padding and fits into memory."""
    observed = np.asarray(rows.observed)
    features = observed.shape[1]
    _, which, repeats = np.unique(
        np.packbits(observed, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    which = which.reshape(-1)
    found = []
    for pattern in np.flatnonzero(repeats >= SHARED):
        numbers = np.flatnonzero(which == pattern)
        width = max(1, components * features)
        for part in _parts(numbers, CHUNK_NUMBERS // width):
            found.append((part, observed[part[:1]]))
    single = np.flatnonzero(repeats[which] < SHARED)
    count = observed[single].sum(1)
    single = single[np.argsort(count, kind="stable")]
    while len(single):
        # Sorted by number of observed features: the first rows of a part have the fewest.
        widths = np.maximum(1, observed[single].sum(1) * components * max(1, features))
        fits = max(1, int(np.sum(widths * np.arange(1, len(single) + 1) <= CHUNK_NUMBERS)))
        found.append((single[:fits], observed[single[:fits]]))
        single = single[fits:]
    return [
        Chunk(constants(rows.take(numbers)), algebra.pack(tf.constant(patterns)), numbers)
        for numbers, patterns in found
    ]


def constants(rows: Rows) -> Rows:
    """NumPy rows as tensors."""
    return Rows(*(tf.constant(part) for part in rows))


def _parts(numbers, size) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers), max(1, size)):
        yield numbers[start : start + max(1, size)]


def discrete_log_density(mixture: Mixture, rows: Rows) -> tf.Tensor:
    """log p(observed levels and counts | component): [K, B], nats."""
    levels = tf.matmul(mixture.log_levels, rows.levels, transpose_b=True)
    total = tf.matmul(mixture.log_rates, rows.counts, transpose_b=True)
    total -= tf.matmul(tf.exp(mixture.log_rates), rows.counted, transpose_b=True)
    constant = tf.reduce_sum(rows.counted * tf.math.lgamma(rows.counts + 1.0), -1)
    return levels + total - constant


def log_joint(mixture: Mixture, rows: Rows, packed) -> tuple[tf.Tensor, algebra.Solved]:
    """log pi_k + log p(x_o | k): [K, B], nats of g; and the solves it was made with."""
    solved = algebra.solve(mixture.means, mixture.covariances, rows.g, rows.observed, packed)
    return add_density(mixture, rows, solved.log_density), solved


def add_density(mixture: Mixture, rows: Rows, log_density) -> tf.Tensor:
    """log pi_k + log p(x_o | k) from log p(g_o | k) [K, B] of the real columns: [K, B]."""
    joint = mixture.log_weights[:, tf.newaxis] + log_density
    return joint + discrete_log_density(mixture, rows)


def _spec(*shape, dtype=tf.float64):
    return tf.TensorSpec(shape, dtype)


# Every size is left open, so that nothing is traced twice.
MIXTURE = Mixture(
    _spec(None),
    _spec(None, None),
    _spec(None, None, None),
    _spec(None, None),
    _spec(None, None),
)
ROWS = Rows(
    _spec(None, None),
    _spec(None, None, dtype=tf.bool),
    _spec(None, None),
    _spec(None, None),
    _spec(None, None),
)
PACKED = algebra.Packed(
    _spec(None, None, dtype=tf.int32),
    _spec(None, None, dtype=tf.bool),
    _spec(None, None, None),
)


@tf.function(input_signature=[MIXTURE, ROWS, PACKED], autograph=False)
def _log_density(mixture, rows, packed):
    return tf.reduce_logsumexp(log_joint(mixture, rows, packed)[0], 0)


def log_density(mixture: Mixture, rows: Rows) -> np.ndarray:
    """log p(x_o) of each of `rows` (NumPy), in nats of g: [N]."""
    values = np.zeros(len(rows.g))
    for chunk in chunks(rows, len(mixture.log_weights)):
        values[chunk.numbers] = _log_density(mixture, chunk.rows, chunk.packed).numpy()
    return values


@tf.function(input_signature=[MIXTURE, ROWS, PACKED], autograph=False)
def _conditional_means(mixture, rows, packed):
    joint, solved = log_joint(mixture, rows, packed)
    means = algebra.conditional_means(mixture.means, mixture.covariances, solved)
    return tf.reduce_sum(tf.nn.softmax(joint, axis=0)[..., tf.newaxis] * means, 0)


def conditional_means(mixture: Mixture, rows: Rows) -> np.ndarray:
    """E[g | x_o] of the real columns of `rows` (NumPy): [N, R]."""
    values = np.zeros(rows.g.shape)
    for chunk in chunks(rows, len(mixture.log_weights)):
        found = _conditional_means(mixture, chunk.rows, chunk.packed)
        values[chunk.numbers] = found.numpy()
    return values


@tf.function(input_signature=[MIXTURE, ROWS, PACKED], autograph=False)
def _expectations(mixture, rows, packed):
    joint, solved = log_joint(mixture, rows, packed)
    log_p = tf.reduce_logsumexp(joint, 0)
    r = tf.exp(joint - log_p)
    a = algebra.scores(solved)
    weighted = r[..., tf.newaxis] * a
    # Where all rows share one solve, their responsibilities are summed first.
    shared = tf.shape(solved.solve)[1] != tf.shape(r)[1]
    each = tf.cond(shared, lambda: tf.reduce_sum(r, 1, keepdims=True), lambda: r)
    half = tf.sqrt(each)[..., tf.newaxis, tf.newaxis] * solved.solve
    size = tf.shape(a)
    flat = tf.reshape(half, [size[0], -1, size[2]])
    return Statistics(
        tf.reduce_sum(log_p),
        tf.reduce_sum(r, 1),
        tf.reduce_sum(weighted, 1),
        tf.matmul(weighted, a, transpose_a=True) - tf.matmul(flat, flat, transpose_a=True),
        tf.matmul(r, rows.levels),
        tf.matmul(r, rows.counts),
        tf.matmul(r, rows.counted),
    )


def expectations(mixture: Mixture, parts: list[Chunk]) -> Statistics:
    """The E-step: sums over all rows."""
    sums = None
    for chunk in parts:
        found = _expectations(mixture, chunk.rows, chunk.packed)
        sums = found if sums is None else Statistics(*map(tf.add, sums, found))
    return sums


STATISTICS = Statistics(
    _spec(),
    _spec(None),
    _spec(None, None),
    _spec(None, None, None),
    _spec(None, None),
    _spec(None, None),
    _spec(None, None),
)
SHRINKAGE = Shrinkage(
    _spec(),
    _spec(None, None),
    _spec(),
    _spec(None),
    _spec(),
    _spec(None),
    _spec(),
    _spec(None),
    _spec(),
)


@tf.function(
    input_signature=[MIXTURE, STATISTICS, SHRINKAGE, _spec(None, None), _spec()],
    autograph=False,
)
def maximise(
    mixture: Mixture, sums: Statistics, shrinkage: Shrinkage, groups, smallest
) -> Mixture:
    """The M-step: the parameters that maximise the expected penalised log-likelihood.

    Args:
      mixture: the parameters of the E-step.
      sums: what it found.
      shrinkage: the prior.
      groups: float64 [L, L], 1 where two levels are of one discrete column.
      smallest: variance that the smallest eigenvalue of a covariance may not fall below;
        only where there is no shrinkage does it matter.
    """
    n = sums.weight[:, tf.newaxis]  # [K, 1]
    old, s = mixture.means, mixture.covariances
    shift = tf.linalg.matvec(s, sums.score)  # sum r (E[x | x_o] - old mean)
    pulled = n + shrinkage.mean
    # A component that nobody uses and nothing pulls stays where it is.
    delta = shift + shrinkage.mean * (shrinkage.center - old)
    delta = tf.math.divide_no_nan(delta, pulled)
    means = old + delta
    n = n[..., tf.newaxis]  # [K, 1, 1]
    scatter = n * s + tf.matmul(s, tf.matmul(sums.curvature, s))  # about the old mean
    cross = _outer(delta, shift)
    scatter += n * _outer(delta, delta) - cross - tf.linalg.matrix_transpose(cross)
    away = means - shrinkage.center
    prior = shrinkage.covariance * shrinkage.target + shrinkage.mean * _outer(away, away)
    # The prior of the mean counts as one more row.
    own = tf.cast(shrinkage.mean > 0.0, tf.float64)
    rows = n + shrinkage.covariance + own
    covariances = tf.where(rows > 0.0, (scatter + prior) / tf.maximum(rows, 1e-300), s)
    covariances = 0.5 * (covariances + tf.linalg.matrix_transpose(covariances))
    covariances = _floored(covariances, smallest)
    log_levels, log_rates = _discrete(mixture, sums, shrinkage, groups)
    weights = sums.weight + shrinkage.weight
    log_weights = tf.math.log(tf.maximum(weights / tf.reduce_sum(weights), 1e-300))
    return Mixture(log_weights, means, covariances, log_levels, log_rates)


def _discrete(mixture, sums, shrinkage, groups):
    """Log-probabilities of levels and log-rates of counts; `shrinkage` has their priors."""
    counts = sums.levels + shrinkage.levels * shrinkage.frequencies
    totals = tf.matmul(counts, groups)
    log_levels = tf.where(
        totals > 0.0,
        tf.math.log(tf.maximum(counts, 1e-300)) - tf.math.log(tf.maximum(totals, 1e-300)),
        mixture.log_levels,
    )
    counted = sums.counted + shrinkage.rate
    rates = (sums.counts + shrinkage.rate * shrinkage.rates) / tf.maximum(counted, 1e-300)
    log_rates = tf.where(
        counted > 0.0, tf.math.log(tf.maximum(rates, 1e-12)), mixture.log_rates
    )
    return log_levels, log_rates


def maximise_discrete(mixture: Mixture, sums, settings, table):
    """The M-step of discrete columns alone; `sums` has `levels`, `counts` and `counted`."""
    pull = discrete_shrinkage(settings, table)
    return _discrete(mixture, sums, pull, tf.constant(level_groups(table.columns)))


def log_prior_discrete(mixture: Mixture, settings, table) -> float:
    """The part of `log_prior` that discrete columns have."""
    return _log_prior_discrete(mixture, discrete_shrinkage(settings, table))


def _log_prior_discrete(mixture, shrinkage):
    value = shrinkage.levels * tf.reduce_sum(shrinkage.frequencies * mixture.log_levels)
    rates = shrinkage.rates * mixture.log_rates - tf.exp(mixture.log_rates)
    return float(value + shrinkage.rate * tf.reduce_sum(rates))


def discrete_shrinkage(settings, table) -> Shrinkage:
    """The prior of a table's discrete columns; none of its real ones."""
    size = table.rows.g.shape[1]
    return Shrinkage(
        0.0,
        np.zeros([size, size]),
        0.0,
        np.zeros(size),
        settings.levels,
        table.frequencies,
        settings.rate,
        table.rates,
        settings.weight,
    )


def _outer(a, b):
    return a[..., :, tf.newaxis] * b[..., tf.newaxis, :]


def _floored(covariances, smallest):
    """Covariances whose eigenvalues are `smallest` or more; most are left as they are."""
    values, vectors = tf.linalg.eigh(covariances)
    missing = tf.maximum(smallest - values, 0.0)
    return covariances + tf.matmul(vectors * missing[:, tf.newaxis], vectors, transpose_b=True)


def log_prior(mixture: Mixture, shrinkage: Shrinkage) -> float:
    """The penalty in what EM climbs, nats; see the top of this file."""
    value = shrinkage.weight * tf.reduce_sum(mixture.log_weights)
    if tf.size(mixture.means) and (shrinkage.covariance or shrinkage.mean):
        away = mixture.means - shrinkage.center
        pull = shrinkage.covariance * shrinkage.target + shrinkage.mean * _outer(away, away)
        rows = shrinkage.covariance + (1.0 if shrinkage.mean else 0.0)
        traces = tf.linalg.trace(tf.linalg.solve(mixture.covariances, pull))
        value -= 0.5 * tf.reduce_sum(rows * tf.linalg.logdet(mixture.covariances) + traces)
    return float(value) + _log_prior_discrete(mixture, shrinkage)


def level_groups(columns: Columns) -> np.ndarray:
    """float64 [L, L]: 1 where two levels belong to one discrete column."""
    owner = np.repeat(np.arange(len(columns.sizes)), columns.sizes)
    return (owner[:, np.newaxis] == owner).astype(np.float64)


def climb(
    mixture: Mixture,
    parts: list[Chunk],
    shrinkage: Shrinkage,
    columns: Columns,
    num_steps: int,
    tolerance: float = 1e-6,
    smallest: float = 1e-10,
) -> tuple[Mixture, list[float]]:
    """EM until a step gains less than `tolerance` a row; the parameters and the climb.

    Args:
      mixture: where to start.
      parts: `chunks` of the rows.
      shrinkage: the prior.
      columns: kinds of the columns.
      num_steps: at most so many steps.
      tolerance: nats of penalised log-likelihood a row.
      smallest: bound on the eigenvalues of a covariance.

    Returns:
      The mixture, and the penalised log-likelihood (nats) of the mixture of every E-step.
    """
    groups = tf.constant(level_groups(columns))
    pull = Shrinkage(*(tf.constant(part, tf.float64) for part in shrinkage))
    floor = tf.constant(smallest, tf.float64)
    mixture = Mixture(*(tf.constant(part, tf.float64) for part in mixture))
    total = sum(len(chunk.numbers) for chunk in parts)
    objective: list[float] = []
    for _ in range(num_steps):
        sums = expectations(mixture, parts)
        objective.append(float(sums.log_likelihood) + log_prior(mixture, shrinkage))
        if len(objective) > 1 and objective[-1] - objective[-2] < tolerance * total:
            break
        mixture = maximise(mixture, sums, pull, groups, floor)
    return mixture, objective
