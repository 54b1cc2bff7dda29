"""Half-Gaussianised marginals: a monotone map of each column, with inverse and Jacobian.

A column's `g` is a weighted mean of its value and of the normal score of its rank, so that
skewed and heavy-tailed columns come nearer to a Gaussian, yet no distance is lost altogether.
The empirical distribution function is smoothed over `HALF_WIDTH` standard deviations: a value
that many rows share then has its mid-rank, and a slope, instead of a jump.

The map is piecewise linear on a grid that is even in g, so that the inverse, which is asked
most often, is an index and no search. Beyond the training values both go on linearly.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

HALF_WIDTH = 0.05  # of the smoothing, in standard deviations of the column
KNOTS = 257
NODES = 32  # of the Gauss-Hermite rule for means through the inverse
PLACES, SCALES = 257, 65  # grid of `Table`
MARGIN, WIDEST = 2.0, 4.0  # how far the grid goes beyond the knots, and up to which scale
MIN_DISTINCT = 3  # distinct values a column needs for its ranks to say more than its values
LARGEST = float(np.finfo(np.float64).max)
SMALLEST = 1e-7  # spread, relative to the largest value, below which float32 knows no spread


class Marginals(NamedTuple):
    """Piecewise linear maps x -> g of D columns; arrays or tensors, float64.

    Attributes:
      low: g of the first knot: [D].
      step: distance of two knots in g, > 0: [D].
      knots: x of the knots, strictly increasing: [D, M].
      slope: dx / dg beyond the knots, > 0: [D].
      least, most: smallest and largest training value; equal for a constant column: [D].
    """

    low: np.ndarray
    step: np.ndarray
    knots: np.ndarray
    slope: np.ndarray
    least: np.ndarray
    most: np.ndarray


def fit_marginals(x, present, strength: float = 0.5) -> Marginals:
    """Maps that bring the present values of each column to mean 0 and deviation 1.

    A column without spread (constant, or without any value) is moved to 0 and keeps its
    scale; with fewer than three distinct values it is standardised only.

    Args:
      x: [N, D]; anything where not present.
      present: bool [N, D].
      strength: share of the normal scores in g, in [0, 1); 0 only standardises.

    Raises:
      ValueError: `strength` is out of range.
    """
    if not 0.0 <= strength < 1.0:
        raise ValueError(
            f"strength is the share of normal scores in [0, 1), got {strength}; at 1 values "
            f"beyond the training range could not be told apart."
        )
    x, present = np.asarray(x, np.float64), np.asarray(present)
    columns = [_fit_column(x[present[:, d], d], strength) for d in range(x.shape[1])]
    if not columns:
        nothing = np.zeros([0])
        return Marginals(nothing, nothing, np.zeros([0, KNOTS]), nothing, nothing, nothing)
    return Marginals(*(np.stack(part) for part in zip(*columns, strict=True)))


def _fit_column(values, strength):
    mean, scale = location_and_scale(values)
    ends = (values.min(), values.max()) if len(values) else (-LARGEST, LARGEST)
    if len(values) and ends[1] - ends[0] <= SMALLEST * np.abs(values).max():
        ends = (mean, mean)  # What float32 cannot tell from a constant.
    u = np.sort((values - mean) / scale)
    if strength == 0.0 or len(np.unique(u)) < MIN_DISTINCT:
        knots = mean + scale * np.linspace(-4.0, 4.0, KNOTS)
        return -4.0, 8.0 / (KNOTS - 1), knots, scale, *ends
    grid = _grid(u)
    g = strength * normal_scores(grid, u) + (1.0 - strength) * grid
    of_values = np.interp(u, grid, g)
    middle, spread = of_values.mean(), of_values.std()
    g = (g - middle) / spread
    even = np.linspace(g[0], g[-1], KNOTS)
    knots = mean + scale * np.interp(even, g, grid)
    beyond = scale * spread / (1.0 - strength)
    return g[0], even[1] - even[0], knots, beyond, *ends


def location_and_scale(values) -> tuple[float, float]:
    """Mean and standard deviation of a column's present values; (0, 1) without any.

    What float32 cannot tell from a constant is one, and has scale 1 (or the size of the
    constant, where that is larger, so that its rounding is no outlier).
    """
    if not len(values):
        return 0.0, 1.0
    # Divided first: squares of 1e200 would be infinite, and those of 1e-200 nothing.
    size = np.abs(values).max()
    if size == 0.0:
        return 0.0, 1.0
    mean, spread = (values / size).mean() * size, (values / size).std() * size
    return (mean, spread) if spread > SMALLEST * size else (mean, max(1.0, size))


def _grid(u):
    """Where a column's map is computed: its quantiles, with the kinks of the smoothing."""
    shares = np.linspace(0.0, 1.0, 2 * KNOTS)
    kinks = np.concatenate([u - HALF_WIDTH, u + HALF_WIDTH])
    even = np.linspace(u[0] - HALF_WIDTH, u[-1] + HALF_WIDTH, KNOTS)
    return np.unique(np.concatenate([np.quantile(kinks, shares), even]))


def normal_scores(at, values):
    """Normal quantile of the smoothed empirical distribution function of `values`: [M].

    F(a) = mean over i of clip((a - v_i + h) / 2h, 0, 1): at a value that k of n rows share it
    is the mid-rank, (number below + k / 2) / n. Kept half a row away from 0 and 1.

    Args:
      at: [M].
      values: [n], sorted.
    """
    n, h = len(values), HALF_WIDTH
    sums = np.concatenate([[0.0], np.cumsum(values)])
    below = np.searchsorted(values, at - h, "right")  # F counts these as 1,
    near = np.searchsorted(values, at + h, "left")  # and these up to here in part.
    near = np.maximum(near, below)
    partly = (near - below) * (at + h) - (sums[near] - sums[below])
    share = (below + partly / (2 * h)) / n
    return tf.math.ndtri(np.clip(share, 0.5 / n, 1.0 - 0.5 / n)).numpy()


def to_g(marginals: Marginals, x) -> tf.Tensor:
    """x [B, D] -> g [B, D], float64."""
    place, share, _ = _segment(marginals, x)
    return marginals.low + (tf.cast(place, tf.float64) + share) * marginals.step


def log_slope(marginals: Marginals, x) -> tf.Tensor:
    """log dg / dx at x: [B, D], nats. What a density of g lacks to be one of x."""
    return -tf.math.log(_segment(marginals, x)[2])


def _segment(marginals, x):
    """(segment, place in it in units of `step`, dx / dg) of each entry of x [B, D]."""
    knots = tf.convert_to_tensor(marginals.knots)
    count = knots.shape[-1]
    x = tf.cast(x, tf.float64)
    place = tf.transpose(tf.searchsorted(knots, tf.transpose(x), side="right")) - 1
    inside = tf.clip_by_value(place, 0, count - 2)
    column = tf.broadcast_to(tf.range(tf.shape(x)[1])[tf.newaxis], tf.shape(x))
    at = column * count + inside
    flat = tf.reshape(knots, [-1])
    start, end = tf.gather(flat, at), tf.gather(flat, at + 1)
    before, after = place < 0, place >= count - 1
    slope = tf.where(before | after, marginals.slope, (end - start) / marginals.step)
    # Beyond the last knot the line starts there and not at the one before it.
    share = (x - tf.where(after, end, start)) / (slope * marginals.step)
    return inside, share + tf.cast(after, tf.float64), slope


def to_x(marginals: Marginals, g, clip: bool = False) -> tf.Tensor:
    """g [..., D] -> x [..., D], float64: the inverse of `to_g`.

    A constant column's x is its value, whatever g is.

    Args:
      marginals: of the D columns.
      g: float64.
      clip: True keeps x inside the range of the training values.
    """
    knots = tf.convert_to_tensor(marginals.knots)
    count = knots.shape[-1]
    position = (g - marginals.low) / marginals.step
    within = tf.clip_by_value(position, 0.0, float(count - 1))
    place = tf.minimum(tf.cast(within, tf.int32), count - 2)
    at = place + tf.range(tf.shape(g)[-1]) * count
    flat = tf.reshape(knots, [-1])
    start = tf.gather(flat, at)
    rise = tf.reshape(knots[:, 1:] - knots[:, :-1], [-1])
    # One rise fewer than knots in each column.
    rise = tf.gather(rise, at - tf.range(tf.shape(g)[-1]))
    x = start + rise * (within - tf.cast(place, tf.float64))
    if clip:
        return tf.clip_by_value(x, marginals.least, marginals.most)
    x += (position - within) * marginals.step * marginals.slope
    # Its g has a spread, which a fit needs; nothing else was ever seen of x.
    constant = tf.equal(marginals.least, marginals.most)
    return tf.where(constant, tf.cast(marginals.least, x.dtype), x)


def expected_x(marginals: Marginals, means, scales, power: int = 1, clip: bool = False):
    """E[x^power] for g ~ N(means, scales^2), by a 32-node Gauss-Hermite rule: [..., D].

    Exact where the inverse is linear over most of the distribution; where it has steps, as in
    columns of few values, within some hundredths of a standard deviation.

    Args:
      marginals: of the D columns.
      means, scales: [..., D], float64.
      power: 1 or 2.
      clip: True keeps x inside the range of the training values.
    """
    places, shares = np.polynomial.hermite_e.hermegauss(NODES)
    total = tf.zeros_like(means)
    for place, share in zip(places, shares / shares.sum(), strict=True):
        total += share * to_x(marginals, means + place * scales, clip) ** power
    return total


def tabulate(marginals: Marginals) -> np.ndarray:
    """`expected_x`, clipped, on a grid of means and scales: [D, PLACES, SCALES].

    So many look-ups for every cell and component would take most of the time of a completion.
    """
    low, step = np.asarray(marginals.low), np.asarray(marginals.step)
    if not len(low):
        return np.zeros([0, PLACES, SCALES])
    reach = (marginals.knots.shape[-1] - 1) * step + 2 * MARGIN
    means = low - MARGIN + reach * np.linspace(0.0, 1.0, PLACES)[:, np.newaxis]  # [P, D]
    scales = np.linspace(0.0, WIDEST, SCALES)[:, np.newaxis, np.newaxis]
    means = np.broadcast_to(means, [SCALES, *means.shape])
    table = expected_x(marginals, tf.constant(means), tf.constant(scales), clip=True)
    return np.transpose(table, [2, 1, 0])


def look_up(marginals: Marginals, table, columns, means, scales) -> tf.Tensor:
    """`expected_x`, clipped, from `tabulate`, linear between its points: [..., B, H].

    Args:
      marginals: of the D columns.
      table: [D, PLACES, SCALES].
      columns: int32 [B, H], which of the D columns each cell is of.
      means, scales: [..., B, H], float64; beyond the grid they count as its edge.
    """
    per_step = (PLACES - 1) / (float(KNOTS - 1) * marginals.step + 2 * MARGIN)
    start = (MARGIN - marginals.low) * per_step
    at = means * tf.gather(per_step, columns) + tf.gather(start, columns)
    at = tf.clip_by_value(at, 0.0, float(PLACES - 1))
    place = tf.minimum(tf.cast(at, tf.int32), PLACES - 2)
    wide = tf.minimum(scales * ((SCALES - 1) / WIDEST), float(SCALES - 1))
    level = tf.minimum(tf.cast(wide, tf.int32), SCALES - 2)
    corner = (columns * PLACES + place) * SCALES + level
    flat = tf.reshape(table, [-1])
    low, low_wide, high, high_wide = (tf.gather(flat, corner + i) for i in _CORNERS)
    a, b = at - tf.cast(place, tf.float64), wide - tf.cast(level, tf.float64)
    narrow = low + b * (low_wide - low)
    return narrow + a * (high + b * (high_wide - high) - narrow)


_CORNERS = (0, 1, SCALES, SCALES + 1)
