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


class Conditional(NamedTuple):
    """Rows x components given x_o; K components, B rows.

    Attributes:
      log_density: log p(x_o | component): [K, B].
      means, variances: E and Var[x | x_o, component] of each feature: [K, B, D].
    """

    log_density: tf.Tensor
    means: tf.Tensor
    variances: tf.Tensor


def condition(means, covariances, x, observed, packed: Packed) -> Conditional:
    """What `solve` finds and the moments of all features, in fewer operations.

    Args: as for `solve`, with `packed` of all rows.
    """
    cholesky = _factor(covariances, packed)
    residual = tf.where(observed, x - means[:, tf.newaxis], 0.0)  # [K, B, D]
    picked = tf.einsum("bod,kbd->kbo", packed.select, residual)
    beside = tf.gather(covariances, packed.index, axis=1)  # S_o,: [K, B, O, D]
    beside = tf.where(packed.valid[..., tf.newaxis], beside, 0.0)
    right = tf.concat([beside, picked[..., tf.newaxis]], -1)
    solved = tf.linalg.triangular_solve(cholesky, right)
    explained, white = solved[..., :-1], solved[..., -1]  # L^-1 S_o,: and L^-1 r
    moved = tf.linalg.matvec(explained, white, transpose_a=True)
    diagonal = tf.linalg.diag_part(covariances)[:, tf.newaxis]
    return Conditional(
        _log_density(cholesky, white, observed),
        means[:, tf.newaxis] + moved,
        tf.maximum(diagonal - tf.reduce_sum(explained**2, 2), 0.0),
    )


def _factor(covariances, packed):
    """Cholesky factors of S_oo, with ones where a row is filled up: [K, B, O, O]."""
    index, valid, _ = packed
    size = tf.shape(covariances)[-1]
    flat = index[:, :, tf.newaxis] * size + index[:, tf.newaxis]
    flat_covariances = tf.reshape(covariances, [tf.shape(covariances)[0], size * size])
    both = valid[:, :, tf.newaxis] & valid[:, tf.newaxis]
    identity = tf.eye(tf.shape(index)[1], dtype=tf.float64)
    return tf.linalg.cholesky(
        tf.where(both, tf.gather(flat_covariances, flat, axis=1), identity)
    )


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
