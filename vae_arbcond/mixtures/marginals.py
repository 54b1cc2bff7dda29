"""Half-Gaussianised marginals: a monotone map of each column, with inverse and Jacobian.

A column's `g` is a weighted mean of its value and of the normal score of its rank, so that
skewed and heavy-tailed columns come nearer to a Gaussian, yet no distance is lost altogether.
The empirical distribution function is smoothed over `HALF_WIDTH` standard deviations: a value
that many rows share then has its mid-rank, and a slope, instead of a jump.

The map is piecewise linear on a grid that is even in g, so that the inverse, which is asked
most often, is an index and no search. Beyond the training values both go on linearly.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

HALF_WIDTH = 0.05  # of the smoothing, in standard deviations of the column
KNOTS = 257
PLACES, SCALES = 257, 65  # grid of `tabulate`
# In steps: how far its means go beyond the knots, and how far its scales, which stand closest
# where they are small.
MARGIN, WIDEST = 64.0, 192.0
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


@tf.function(reduce_retracing=True, autograph=False)  # Eagerly 257 steps of a loop are slow.
def expected_x(marginals: Marginals, means, scales) -> tuple[tf.Tensor, tf.Tensor]:
    """E[x] and E[x^2] for g ~ N(means, scales^2), x kept in the training range: [..., D] each.

    Exact: x is linear between two knots, and constant beyond the ends of the range.

        E[x; a < g < b] = c (Phi(b') - Phi(a')) - r s (phi(b') - phi(a')),
        a' = (a - m) / s, x = c + r (g - m)

    Args:
      marginals: of the D columns.
      means, scales: [..., D], float64.
    """
    places, values = _clipped_knots(marginals)  # [M, D] each
    scales = tf.maximum(scales, 1e-150)  # Without a spread all terms but one are 0.

    def at(j):
        z = (places[j] - means) / scales
        density = tf.exp(-0.5 * z**2) * _PHI_0
        return 0.5 * tf.math.erfc(-z * math.sqrt(0.5)), density, z * density

    def add(j, before, first, second):
        after = at(j)
        share, density, moment = (b - a for a, b in zip(before, after, strict=True))
        length = places[j] - places[j - 1]
        slope = tf.math.divide_no_nan(values[j] - values[j - 1], length)
        here = values[j - 1] + slope * (means - places[j - 1])
        rise = slope * scales
        first += here * share - rise * density
        second += (here**2 + rise**2) * share - 2.0 * here * rise * density - rise**2 * moment
        return j + 1, after, first, second

    start = at(0)
    below = start[0] * values[0], start[0] * values[0] ** 2
    count = tf.shape(places)[0]
    _, end, first, second = tf.while_loop(
        lambda j, *_: j < count, add, (1, start, *below), parallel_iterations=1
    )
    above = 1.0 - end[0]
    return first + above * values[-1], second + above * values[-1] ** 2


_PHI_0 = 1.0 / math.sqrt(2.0 * math.pi)


def _clipped_knots(marginals):
    """g and x of each knot, brought into the range of the training values: [M, D] each."""
    knots = tf.transpose(tf.convert_to_tensor(marginals.knots))
    least = tf.clip_by_value(marginals.least, knots[0], knots[-1])
    most = tf.clip_by_value(marginals.most, knots[0], knots[-1])
    ends = to_g(marginals, tf.stack([least, most]))
    number = tf.range(tf.cast(tf.shape(knots)[0], tf.float64), dtype=tf.float64)
    places = marginals.low + number[:, tf.newaxis] * marginals.step
    return tf.clip_by_value(places, ends[0], ends[1]), tf.clip_by_value(knots, least, most)


def tabulate(marginals: Marginals) -> np.ndarray:
    """E[x] of `expected_x` on a grid of means and scales: [D, PLACES, SCALES].

    So many pieces for every cell and component would take most of the time of a completion.
    In units of `step` the knots of all columns are 0, 1, ..., so E[(g - j)^+] is the same for
    all of them: x = x_0 + the sum over knots j of (change of slope at j) (g - j)^+.
    """
    if not len(np.asarray(marginals.low)):
        return np.zeros([0, PLACES, SCALES])
    knots = np.clip(marginals.knots, marginals.least[:, None], marginals.most[:, None])
    places = np.linspace(-MARGIN, KNOTS - 1 + MARGIN, PLACES)[:, np.newaxis, np.newaxis]
    scales = WIDEST * np.linspace(0.0, 1.0, SCALES)[:, np.newaxis] ** 2
    apart = tf.constant(places - np.arange(KNOTS))
    z = apart / np.maximum(scales, 1e-150)
    above = 0.5 * tf.math.erfc(-z * math.sqrt(0.5))
    hinges = apart * above + scales * tf.exp(-0.5 * z**2) * _PHI_0  # [P, S, M]
    rises = np.diff(knots, prepend=knots[:, :1], append=knots[:, -1:])
    table = knots[:, 0] + tf.tensordot(hinges, np.diff(rises).T, 1)
    return np.transpose(table, [2, 0, 1])


def look_up(marginals: Marginals, table, columns, means, scales) -> tf.Tensor:
    """E[x] of `expected_x` from `tabulate`, linear between its points: [..., B, H].

    Args:
      marginals: of the D columns.
      table: [D, PLACES, SCALES].
      columns: int32 [B, H], which of the D columns each cell is of.
      means, scales: [..., B, H], float64; beyond the grid they count as its edge.
    """
    per_place = (PLACES - 1) / ((KNOTS - 1 + 2 * MARGIN) * marginals.step)
    start = MARGIN * (PLACES - 1) / (KNOTS - 1 + 2 * MARGIN) - marginals.low * per_place
    at = means * tf.gather(per_place, columns) + tf.gather(start, columns)
    at = tf.clip_by_value(at, 0.0, float(PLACES - 1))
    place = tf.minimum(tf.cast(at, tf.int32), PLACES - 2)
    per_scale = (SCALES - 1) ** 2 / (WIDEST * marginals.step)
    wide = tf.sqrt(scales * tf.gather(per_scale, columns))
    wide = tf.minimum(wide, float(SCALES - 1))
    level = tf.minimum(tf.cast(wide, tf.int32), SCALES - 2)
    corner = (columns * PLACES + place) * SCALES + level
    flat = tf.reshape(table, [-1])
    low, low_wide, high, high_wide = (tf.gather(flat, corner + i) for i in _CORNERS)
    a, b = at - tf.cast(place, tf.float64), wide - tf.cast(level, tf.float64)
    narrow = low + b * (low_wide - low)
    return narrow + a * (high + b * (high_wide - high) - narrow)


_CORNERS = (0, 1, SCALES, SCALES + 1)
