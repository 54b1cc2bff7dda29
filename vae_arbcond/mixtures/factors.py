"""EM for mixtures of factor analysers, on rows with gaps.

    component k ~ pi,  z ~ N(0, I_q),  g_d = mu_kd + w_kd . z + noise of variance psi_kd

Features are independent given k and z, so a hidden one is simply left out, and a solve is q
by q however many features there are. With v_kd = (w_kd, mu_kd), what EM climbs is

    sum_n log p(x_o,n) - 1/2 sum_kd [ (v_kd - v_0d)^T P (v_kd - v_0d) / psi_kd
                                      + a (log psi_kd + psi_0d / psi_kd) ]
    + gamma sum_k log pi_k + what `em` has of discrete columns

with P = diag(nu, ..., nu, k0); `FactorShrinkage` holds nu, k0, a, v_0, psi_0 and gamma. A
component that strays from the pooled loadings thereby takes its own noise to be larger, which
keeps the columns that hardly ever vary from looking certain.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_arbcond.mixtures import em
from vae_arbcond.mixtures.algebra import LOG_2PI
from vae_arbcond.mixtures.em import Mixture
from vae_arbcond.mixtures.fitting import Settings, Table, fill, k_means, start_discrete

SMALLEST = 1e-3  # variance of the noise, in units of a standardised column's
FIRST_STEPS = 30  # of the single factor analyser that several components start from


class Factors(NamedTuple):
    """Parameters of K factor analysers of D features, float64.

    Attributes:
      log_weights: [K].
      means: [K, D].
      loadings: w: [K, D, q].
      variances: psi: [K, D].
    """

    log_weights: tf.Tensor
    means: tf.Tensor
    loadings: tf.Tensor
    variances: tf.Tensor


class FactorShrinkage(NamedTuple):
    """Pseudo-counts and what they pull to; see the top of this file.

    Attributes:
      loadings: nu.
      mean: k0.
      variances: a.
      center: v_0, [D, q + 1].
      spread: psi_0, [D].
      weight: gamma, rows' worth of an equal share in each component's weight.
    """

    loadings: float
    mean: float
    variances: float
    center: np.ndarray
    spread: np.ndarray
    weight: float


class Latent(NamedTuple):
    """p(z | x_o, component), and how likely x_o was: K components, B rows.

    Attributes:
      log_density: log p(x_o | component): [K, B].
      means: [K, B, q].
      covariances: [K, B, q, q].
    """

    log_density: tf.Tensor
    means: tf.Tensor
    covariances: tf.Tensor


def latent(factors: Factors, x, observed) -> Latent:
    """Solves for z: x [B, D] finite everywhere, observed bool [B, D]."""
    seen = tf.cast(observed, tf.float64)
    size = tf.shape(factors.loadings)[2]
    scaled = factors.loadings / factors.variances[..., tf.newaxis]
    products = scaled[..., tf.newaxis] * factors.loadings[:, :, tf.newaxis]  # [K, D, q, q]
    shape = tf.shape(products)
    flat = tf.reshape(products, [shape[0], shape[1], -1])
    precision = tf.reshape(tf.matmul(seen, flat), [shape[0], -1, size, size])
    precision += tf.eye(size, dtype=tf.float64)
    residual = tf.where(observed, x - factors.means[:, tf.newaxis], 0.0)
    evidence = tf.matmul(residual, scaled)  # [K, B, q]
    cholesky = tf.linalg.cholesky(precision)
    identity = tf.broadcast_to(tf.eye(size, dtype=tf.float64), tf.shape(cholesky))
    root = tf.linalg.triangular_solve(cholesky, identity)
    covariances = tf.matmul(root, root, transpose_a=True)
    means = tf.linalg.matvec(covariances, evidence)
    log_det = 2.0 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(cholesky)), -1)
    log_noise = tf.matmul(tf.math.log(factors.variances) + LOG_2PI, seen, transpose_b=True)
    squares = tf.reduce_sum(residual**2 / factors.variances[:, tf.newaxis], -1)
    explained = tf.reduce_sum(evidence * means, -1)
    log_density = -0.5 * (log_noise + squares + log_det - explained)
    return Latent(log_density, means, covariances)


class FactorStatistics(NamedTuple):
    """Sums over rows for the M-step; r are responsibilities, y = (z, 1).

    Attributes:
      log_likelihood: sum of log p(x_o), nats.
      weight: sum r: [K].
      squares: sum r E[y y^T] over rows that observe d: [K, D, q + 1, q + 1].
      products: sum r x_d E[y]: [K, D, q + 1].
      values: sum r x_d^2: [K, D].
      levels, counts, counted: as in `em.Statistics`.
    """

    log_likelihood: tf.Tensor
    weight: tf.Tensor
    squares: tf.Tensor
    products: tf.Tensor
    values: tf.Tensor
    levels: tf.Tensor
    counts: tf.Tensor
    counted: tf.Tensor


def _spec(*shape):
    return tf.TensorSpec(shape, tf.float64)


FACTORS = Factors(_spec(None), _spec(None, None), _spec(None, None, None), _spec(None, None))


@tf.function(input_signature=[FACTORS, em.MIXTURE, em.ROWS], autograph=False)
def _expectations(factors, rest, rows):
    solved = latent(factors, rows.g, rows.observed)
    joint = factors.log_weights[:, tf.newaxis] + solved.log_density
    joint += em.discrete_log_density(rest, rows)
    log_p = tf.reduce_logsumexp(joint, 0)
    r = tf.exp(joint - log_p)
    y = tf.concat([solved.means, tf.ones_like(solved.means[..., :1])], -1)  # [K, B, q + 1]
    squares = y[..., tf.newaxis] * y[..., tf.newaxis, :]
    squares += tf.pad(solved.covariances, [[0, 0], [0, 0], [0, 1], [0, 1]])
    shape = tf.shape(squares)
    flat = tf.reshape(squares, [shape[0], shape[1], -1])
    seen = tf.cast(rows.observed, tf.float64)
    weighted = r[..., tf.newaxis] * seen  # [K, B, D]
    sums = tf.matmul(weighted, flat, transpose_a=True)
    return FactorStatistics(
        tf.reduce_sum(log_p),
        tf.reduce_sum(r, 1),
        tf.reshape(sums, [shape[0], -1, shape[2], shape[3]]),
        tf.matmul(weighted * rows.g, y, transpose_a=True),
        tf.matmul(r, seen * rows.g**2),
        tf.matmul(r, rows.levels),
        tf.matmul(r, rows.counts),
        tf.matmul(r, rows.counted),
    )


SHRINKAGE = FactorShrinkage(_spec(), _spec(), _spec(), _spec(None, None), _spec(None), _spec())
STATISTICS = FactorStatistics(
    _spec(),
    _spec(None),
    _spec(None, None, None, None),
    _spec(None, None, None),
    _spec(None, None),
    _spec(None, None),
    _spec(None, None),
    _spec(None, None),
)


@tf.function(input_signature=[FACTORS, STATISTICS, SHRINKAGE, _spec()], autograph=False)
def maximise(factors, sums, shrinkage, smallest) -> Factors:
    """The M-step; a feature that no row observes keeps what the prior says, or what it had."""
    size = tf.shape(factors.loadings)[2]
    pull = tf.concat([tf.fill([size], shrinkage.loadings), shrinkage.mean[tf.newaxis]], 0)
    old = tf.concat([factors.loadings, factors.means[..., tf.newaxis]], -1)
    # A trace of the old parameters decides where data and prior leave them open.
    trace = 1e-10
    left = sums.squares + tf.linalg.diag(pull + trace)
    right = sums.products + pull * shrinkage.center + trace * old
    v = tf.linalg.solve(left, right[..., tf.newaxis])[..., 0]
    error = sums.values - 2.0 * tf.reduce_sum(v * sums.products, -1)
    error += tf.einsum("kdi,kdij,kdj->kd", v, sums.squares, v)
    error += tf.reduce_sum(pull * (v - shrinkage.center) ** 2, -1)
    count = sums.squares[..., -1, -1] + shrinkage.variances
    known = error + shrinkage.variances * shrinkage.spread
    variances = tf.where(count > 0.0, known / tf.maximum(count, 1e-300), factors.variances)
    weights = sums.weight + shrinkage.weight
    log_weights = tf.math.log(tf.maximum(weights / tf.reduce_sum(weights), 1e-300))
    return Factors(log_weights, v[..., -1], v[..., :-1], tf.maximum(variances, smallest))


def log_prior(factors: Factors, shrinkage: FactorShrinkage) -> float:
    """The penalty in what EM climbs, nats; see the top of this file."""
    v = np.concatenate([factors.loadings, np.asarray(factors.means)[..., np.newaxis]], -1)
    pull = np.append(np.full(v.shape[-1] - 1, shrinkage.loadings), shrinkage.mean)
    psi = np.asarray(factors.variances)
    away = (pull * (v - shrinkage.center) ** 2).sum(-1) / psi
    spread = shrinkage.variances * (np.log(psi) + shrinkage.spread / psi)
    weights = shrinkage.weight * np.sum(factors.log_weights)
    return float(weights - 0.5 * np.sum(away + spread))


def covariances(factors: Factors) -> tf.Tensor:
    """Covariances of the features within each component: [K, D, D]."""
    shared = tf.matmul(factors.loadings, factors.loadings, transpose_b=True)
    return shared + tf.linalg.diag(factors.variances)


def climb(
    factors: Factors,
    rest: Mixture,
    table: Table,
    shrinkage: FactorShrinkage,
    settings: Settings,
    num_steps: int,
    smallest: float = SMALLEST,
    tolerance: float = 1e-6,
) -> tuple[Factors, Mixture, list[float]]:
    """EM until a step gains less than `tolerance` a row; parameters and the climb, in nats.

    Args:
      factors: where to start.
      rest: holds the discrete columns' parameters; its real ones play no part.
      table: rows with gaps.
      shrinkage: the prior of the real columns; `settings` has that of the discrete ones.
      settings: pseudo-counts.
      num_steps: at most so many steps.
      smallest: bound on the variances of the noise.
      tolerance: nats of penalised log-likelihood a row.
    """
    components, _, size = np.shape(factors.loadings)
    most = max(64, em.CHUNK_NUMBERS // (components * (size + 1) ** 2))
    cut = [table.rows.take(slice(i, i + most)) for i in range(0, len(table), most)]
    parts = [em.constants(rows) for rows in cut]
    pull = FactorShrinkage(*(tf.constant(part, tf.float64) for part in shrinkage))
    factors = Factors(*(tf.constant(part, tf.float64) for part in factors))
    rest = Mixture(*(tf.constant(part, tf.float64) for part in rest))
    objective: list[float] = []
    for _ in range(num_steps):
        sums = None
        for rows in parts:
            found = _expectations(factors, rest, rows)
            sums = found if sums is None else FactorStatistics(*map(tf.add, sums, found))
        value = float(sums.log_likelihood) + log_prior(factors, shrinkage)
        objective.append(value + em.log_prior_discrete(rest, settings, table))
        if len(objective) > 1 and objective[-1] - objective[-2] < tolerance * len(table):
            break
        factors = maximise(factors, sums, pull, tf.constant(smallest, tf.float64))
        levels, rates = em.maximise_discrete(rest, sums, settings, table)
        rest = rest._replace(log_levels=levels, log_rates=rates)
    return factors, rest, objective


def fit_one(
    table: Table,
    size: int,
    first: Mixture,
    settings: Settings,
    num_steps: int,
    smallest: float = SMALLEST,
) -> tuple[Factors, Mixture, list[float]]:
    """One factor analyser, started from the leading directions of a Gaussian.

    Args, returns: as for `fit_factors`, with at most `num_steps` steps.
    """
    covariance = np.asarray(first.covariances)[0]
    values, vectors = np.linalg.eigh(covariance)
    # The directions left out say how much of the leading ones is noise.
    noise = max(values[: len(values) - size].mean(), SMALLEST)
    lead = np.sqrt(np.maximum(values[-size:] - noise, SMALLEST))
    loadings = vectors[:, -size:] * lead
    spread = np.maximum(np.diagonal(covariance) - (loadings**2).sum(1), SMALLEST)
    start = Factors(
        np.zeros(1), np.asarray(first.means), loadings[np.newaxis], spread[np.newaxis]
    )
    # Drawn to 0 as if by `RIDGE` rows of unit variance, like the single Gaussian.
    center = np.zeros([len(covariance), size + 1])
    shrinkage = FactorShrinkage(1.0, 0.0, 3.0, center, np.ones(len(covariance)), 1.0)
    rest = start_discrete(table, np.ones([1, len(table)]))
    return climb(start, rest, table, shrinkage, settings, num_steps, smallest)


def fit_factors(
    table: Table,
    components: int,
    size: int,
    first: Mixture,
    settings: Settings,
    seed: int,
    smallest: float = SMALLEST,
) -> tuple[Factors, Mixture, list[float]]:
    """K factor analysers of `size` factors, started by K-means from a single one.

    A single one is all there is where K is 1; it then takes twice `settings.steps` steps.

    Args:
      table: rows with gaps; more real columns than `size`.
      components: K.
      size: q.
      first: the single Gaussian of these rows.
      settings: steps and pseudo-counts.
      seed: of K-means.
      smallest: bound on the variances of the noise.

    Returns:
      The factor analysers, the parameters of discrete columns, and EM's objective (nats) for
      the steps whose prior is fixed.
    """
    components = min(components, len(table))
    if components == 1:
        return fit_one(table, size, first, settings, 2 * settings.steps, smallest)
    one, _, _ = fit_one(table, size, first, settings, FIRST_STEPS, smallest)
    points = fill(table, first)
    r = np.eye(components)[k_means(points, components, seed)].T
    rest = start_discrete(table, r)
    totals = np.maximum(r.sum(1, keepdims=True), 1e-300)
    filled = points[:, : table.rows.g.shape[1]]
    factors = Factors(
        np.log(np.maximum(totals[:, 0] / len(table), 1e-6)),
        (r @ filled) / totals,
        np.repeat(np.asarray(one.loadings), components, 0),
        np.repeat(np.asarray(one.variances), components, 0),
    )
    shrinkage = FactorShrinkage(
        settings.loadings,
        settings.mean,
        settings.variances,
        np.concatenate([one.loadings[0], np.asarray(one.means)[0][:, np.newaxis]], 1),
        np.asarray(one.variances)[0],
        settings.weight,
    )
    for _ in range(settings.steps):
        factors, rest, _ = climb(factors, rest, table, shrinkage, settings, 1, smallest)
        share = np.exp(factors.log_weights)
        pooled = np.einsum("k,kdq->dq", share, factors.loadings)
        center = np.concatenate([pooled, shrinkage.center[:, -1:]], 1)
        spread = np.einsum("k,kd->d", share, factors.variances)
        shrinkage = shrinkage._replace(center=center, spread=spread)
    return climb(factors, rest, table, shrinkage, settings, settings.steps, smallest)


def fit_mixture(
    table: Table, components: int, size: int, first: Mixture, settings: Settings, seed: int
) -> tuple[Mixture, list[float]]:
    """`fit_factors` as a mixture of Gaussians: the same densities."""
    factors, rest, climbed = fit_factors(table, components, size, first, settings, seed)
    mixture = rest._replace(
        log_weights=factors.log_weights.numpy(),
        means=factors.means.numpy(),
        covariances=covariances(factors).numpy(),
    )
    return mixture, climbed
