"""Gaussians given any part of their features: masked Cholesky solves for rows x components.

A row's observed features are packed to the front, so that a solve costs as much as there are
observed features, not as there are features. Everything is float64.

    r = x_o - mu_o,  S_oo = L L^T,  V = L^-1 E  (E picks the observed features: [O, D])
    log p(x_o) = -1/2 |V r|^2 - log det L - O/2 log 2 pi
    E[x | x_o] = mu + S a,  a = V^T V r;    Cov[x | x_o] = S - S V^T V S

A hidden feature has no row in V; an observed one has E[x | x_o] = x and no variance.
"""

import math
from typing import NamedTuple

import tensorflow as tf

LOG_2PI = math.log(2.0 * math.pi)


class Packed(NamedTuple):
    """Which features of each row are observed, packed: O is the most that any row has.

    Attributes:
      index: int32 [B, O], the observed features in order, then anything.
      valid: bool [B, O], which entries of `index` count.
      select: float64 [B, O, D], row i picks feature index[i]; zero where not valid.
    """

    index: tf.Tensor
    valid: tf.Tensor
    select: tf.Tensor


class Solved(NamedTuple):
    """What rows x components of solves leave behind; K components, B rows.

    Attributes:
      log_density: log p(x_o | component): [K, B].
      white: V r: [K, B, O].
      solve: V: [K, B or 1, O, D].
    """

    log_density: tf.Tensor
    white: tf.Tensor
    solve: tf.Tensor


def pack(observed) -> Packed:
    """Packs bool [B, D]."""
    count = tf.reduce_sum(tf.cast(observed, tf.int32), -1)
    # One entry where no row observes anything: some operations refuse to work on none.
    most = tf.reduce_max(tf.concat([count, [1]], 0))
    order = tf.argsort(tf.cast(~observed, tf.float32), axis=-1, stable=True)
    index = order[:, :most]
    valid = tf.range(most) < count[:, tf.newaxis]
    picked = tf.where(valid, index, -1)
    return Packed(index, valid, tf.one_hot(picked, tf.shape(observed)[1], dtype=tf.float64))


def solve(means, covariances, x, observed, packed: Packed) -> Solved:
    """Solves for every row and component.

    Args:
      means, covariances: [K, D], [K, D, D].
      x: [B, D], finite everywhere.
      observed: bool [B, D].
      packed: of `observed`; or of one row, when all rows observe the same features.
    """
    cholesky = _factor(covariances, packed)
    shape = tf.concat([tf.shape(cholesky)[:2], tf.shape(packed.select)[1:]], 0)
    solved = tf.linalg.triangular_solve(cholesky, tf.broadcast_to(packed.select, shape))
    residual = tf.where(observed, x - means[:, tf.newaxis], 0.0)  # [K, B, D]
    white = tf.linalg.matvec(solved, residual)
    return Solved(_log_density(cholesky, white, observed), white, solved)


def log_density(means, covariances, x, observed) -> tf.Tensor:
    """log p(x_o | component): [K, B], in fewer operations than `solve`; arguments as there."""
    seen = pack(observed)
    cholesky = _factor(covariances, seen)
    white = tf.linalg.triangular_solve(cholesky, _residual(means, x, seen)[..., tf.newaxis])
    return _log_density(cholesky, white[..., 0], observed)


class Conditional(NamedTuple):
    """Hidden features given x_o; K components, B rows, H the most hidden of any row.

    Attributes:
      log_density: log p(x_o | component): [K, B].
      means, variances: E and Var[x_h | x_o, component]: [K, B, H], packed like `hidden`.
      hidden: which feature each of the H is.
    """

    log_density: tf.Tensor
    means: tf.Tensor
    variances: tf.Tensor
    hidden: Packed


class Gaussians(NamedTuple):
    """Gaussians of D features and what every question to them needs; float64.

    Attributes:
      means, covariances: mu, S: [K, D], [K, D, D].
      precisions: P = S^-1: [K, D, D].
      log_dets: log det S: [K].
    """

    means: tf.Tensor
    covariances: tf.Tensor
    precisions: tf.Tensor
    log_dets: tf.Tensor


def gaussians(means, covariances) -> Gaussians:
    """Prepares Gaussians; means [K, D], covariances [K, D, D]."""
    means, covariances = (tf.convert_to_tensor(v, tf.float64) for v in (means, covariances))
    cholesky = tf.linalg.cholesky(covariances)
    identity = tf.eye(tf.shape(means)[1], batch_shape=tf.shape(means)[:1], dtype=tf.float64)
    log_dets = 2.0 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(cholesky)), -1)
    precisions = tf.linalg.cholesky_solve(cholesky, identity)
    return Gaussians(means, covariances, precisions, log_dets)


def condition(given: Gaussians, x, observed) -> Conditional:
    """What `solve` finds and the moments of hidden features, in fewer operations.

    The solves are those of observed or of hidden features, of whichever there are fewer.

    Args:
      given: K Gaussians.
      x: [B, D], finite everywhere.
      observed: bool [B, D].
    """
    seen, hidden = pack(observed), pack(~observed)
    fewer_hidden = tf.shape(hidden.index)[1] < tf.shape(seen.index)[1]
    log_density, means, variances = tf.cond(
        fewer_hidden,
        lambda: _by_precision(given, x, observed, hidden),
        lambda: _by_covariance(given, x, observed, seen, hidden),
    )
    return Conditional(log_density, means, variances, hidden)


def _by_covariance(given, x, observed, seen, hidden):
    """Solves with S_oo, as at the top of this file."""
    means, covariances = given.means, given.covariances
    cholesky = _factor(covariances, seen)
    own = _residual(means, x, seen)
    beside = _block(covariances, seen.index, hidden.index)  # S_oh: [K, B, O, H]
    right = tf.concat([beside, own[..., tf.newaxis]], -1)
    right = tf.where(seen.valid[..., tf.newaxis], right, 0.0)
    solved = tf.linalg.triangular_solve(cholesky, right)
    explained, white = solved[..., :-1], solved[..., -1]  # L^-1 S_oh and L^-1 r
    moved = tf.linalg.matvec(explained, white, transpose_a=True)
    diagonal = tf.gather(tf.linalg.diag_part(covariances), hidden.index, axis=1)
    return (
        _log_density(cholesky, white, observed),
        tf.gather(means, hidden.index, axis=1) + moved,
        tf.maximum(diagonal - tf.reduce_sum(explained**2, 2), 0.0),
    )


def _by_precision(given, x, observed, hidden):
    """Solves with P_hh = C C^T: r is 0 where hidden, u = (P r)_h.

    E[x_h | x_o] = mu_h - P_hh^-1 u;  Cov[x_h | x_o] = P_hh^-1;
    r_o^T S_oo^-1 r_o = r^T P r - |C^-1 u|^2;  log det S_oo = log det S + log det P_hh
    """
    cholesky = _factor(given.precisions, hidden)
    residual = tf.where(observed, x - given.means[:, tf.newaxis], 0.0)  # [K, B, D]
    pulled = tf.matmul(residual, given.precisions)
    u = tf.einsum("kbd,bhd->kbh", pulled, hidden.select)
    size = tf.shape(cholesky)
    identity = tf.eye(size[-1], batch_shape=size[:2], dtype=tf.float64)
    solved = tf.linalg.triangular_solve(
        cholesky, tf.concat([identity, u[..., tf.newaxis]], -1)
    )
    root, white = solved[..., :-1], solved[..., -1]  # C^-1 and C^-1 u
    squares = tf.reduce_sum(residual * pulled, -1) - tf.reduce_sum(white**2, -1)
    log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(cholesky)), -1)
    log_det += 0.5 * given.log_dets[:, tf.newaxis]
    count = tf.reduce_sum(tf.cast(observed, tf.float64), -1)
    return (
        -0.5 * (squares + count * LOG_2PI) - log_det,
        tf.gather(given.means, hidden.index, axis=1)
        - tf.linalg.matvec(root, white, transpose_a=True),
        tf.reduce_sum(root**2, 2),
    )


def unpack(values, hidden: Packed) -> tf.Tensor:
    """Packed [..., B, H] -> [..., B, D], 0 at features that are not hidden."""
    return tf.einsum("...bh,bhd->...bd", values, hidden.select)


def _factor(matrices, packed):
    """Cholesky factors of packed parts, with ones where a row is filled up: [K, B, O, O]."""
    index, valid, _ = packed
    both = valid[:, :, tf.newaxis] & valid[:, tf.newaxis]
    identity = tf.eye(tf.shape(index)[1], dtype=tf.float64)
    return tf.linalg.cholesky(tf.where(both, _block(matrices, index, index), identity))


def _block(matrices, rows, columns):
    """Rows [B, O] and columns [B, H] of matrices [K, D, D]: [K, B, O, H]."""
    size = tf.shape(matrices)[-1]
    flat = tf.reshape(matrices, [tf.shape(matrices)[0], size * size])
    at = rows[:, :, tf.newaxis] * size + columns[:, tf.newaxis]
    return tf.gather(flat, at, axis=1)


def _residual(means, x, packed):
    """x_o - mu_o, packed, 0 where a row is filled up: [K, B, O]."""
    own = tf.gather(x, packed.index, batch_dims=1) - tf.gather(means, packed.index, axis=1)
    return tf.where(packed.valid, own, 0.0)


def _log_density(cholesky, white, observed):
    log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(cholesky)), -1)
    count = tf.reduce_sum(tf.cast(observed, tf.float64), -1)
    return -0.5 * (tf.reduce_sum(white**2, -1) + count * LOG_2PI) - log_det


def scores(solved: Solved) -> tf.Tensor:
    """a = V^T V r, the gradient of log p(x_o | component) in its mean: [K, B, D]."""
    return tf.linalg.matvec(solved.solve, solved.white, transpose_a=True)


def conditional_means(means, covariances, solved: Solved) -> tf.Tensor:
    """E[x | x_o, component]: [K, B, D]."""
    return means[:, tf.newaxis] + tf.matmul(scores(solved), covariances)
