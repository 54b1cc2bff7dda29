"""Masks for images whose hidden part has no name: random fields, brush strokes.

Both are drawn again until the hidden area is within bounds. Every row has its own luck, and
the loop ends when the last one is done.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from vae_arbcond.masks.base import (
    ROUNDING,
    check_area,
    check_call,
    image_size,
    uniform,
)
from vae_arbcond.registry import register

ATTEMPTS = 1000


@register
@dataclasses.dataclass(frozen=True)
class PatternMask:
    """Images only. Hides the low parts of a smooth random field (context encoders).

    Pathak et al., 2016, https://arxiv.org/abs/1604.07379, as VAEAC and Posterior Matching
    describe it: uniform noise is enlarged bicubically 1 / resolution times, what is below
    `density` is a hole, and a crop is drawn again until its hidden area lies between the
    bounds, exclusively. They enlarge 600 x 600 numbers to 10,000 x 10,000 pixels once and
    crop from that; here the few numbers under a crop are drawn for it, with a uniform place
    of its corner between them: a crop of an endless field. Bicubic is the kernel with
    a = -0.5 (Keys, 1981; that of Pillow).

    A row that is out of bounds 1,000 times keeps the draw nearest to them. That takes seconds
    a batch, so choose bounds that many draws of this density meet.

    Args:
      resolution: numbers a pixel: 0.06 for images of 64 x 64, 0.03 for 128 x 128.
      density: threshold in (0, 1).
      min_hidden: least hidden fraction of the area, exclusive.
      max_hidden: greatest hidden fraction, exclusive.
    """

    resolution: float = 0.06
    density: float = 0.25
    min_hidden: float = 0.2
    max_hidden: float = 0.3

    def __post_init__(self):
        if not 0.0 < self.resolution <= 1.0:
            raise ValueError(
                f"PatternMask: resolution is how many random numbers there are a pixel and "
                f"must lie in (0, 1]; got {self.resolution}."
            )
        if not 0.0 < self.density < 1.0:
            raise ValueError(
                f"PatternMask: density is the height below which a uniform field is a hole "
                f"and must lie between 0 and 1; got {self.density}."
            )
        check_area("PatternMask", self.min_hidden, self.max_hidden)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        size = image_size(present, "PatternMask")
        _check_room("PatternMask", size, self.min_hidden, self.max_hidden)
        batch = tf.shape(present)[0]

        height, width = (self._count(length) for length in size)

        def propose(attempt_seed):
            # All at once: each call of the generator is costly to compile.
            draws = uniform([batch, height * width + 2], attempt_seed)
            noise = tf.reshape(draws[:, 2:], [batch, height, width])
            rows = self._weights(size[0], draws[:, 0])  # [B, H, h]
            columns = self._weights(size[1], draws[:, 1])  # [B, W, w]
            field = tf.matmul(tf.matmul(rows, noise), columns, transpose_b=True)
            return field < self.density

        hidden = _until_within(propose, batch, size, self.min_hidden, self.max_hidden, seed)
        return tf.ensure_shape(~hidden, present.shape)

    def _count(self, length):
        """How many numbers lie under so many pixels, two beyond each end included."""
        return math.ceil((length - 1) * self.resolution + 1) + 3

    def _weights(self, length, offset):
        """float64 [B, length, n]: how much each pixel takes of each of n numbers."""
        count = self._count(length)
        # Between the second and the third number at the least: two are wanted on both sides.
        place = 1.0 + offset[:, np.newaxis] + self.resolution * np.arange(length)
        distance = tf.abs(place[..., np.newaxis] - np.arange(count, dtype=np.float64))
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((2.5 - 0.5 * distance) * distance - 4.0) * distance + 2.0
        zero = tf.zeros_like(distance)
        return tf.where(distance < 1.0, near, tf.where(distance < 2.0, far, zero))


@register
@dataclasses.dataclass(frozen=True)
class FreeFormMask:
    """Images only. Hides random rectangles and brush strokes (CoModGAN).

    Zhao et al., 2021, https://arxiv.org/abs/2103.10428, as in its published code: with
    c = min(min_hidden + max_hidden, 1), fewer than 10 c rectangles of up to half the image's
    side and fewer than 5 c of up to the whole side, which may stick out; then fewer than 20 c
    strokes of 5 to 18 points that zigzag, round and U(12, 48) pixels wide; then both flips
    with probability 0.5; all again until the hidden area lies between the bounds,
    exclusively. Those are numbers for 256 x 256: here a stroke's width grows with the image,
    where the published code keeps it and strokes swallow small images. A stroke is all within
    half its width of the line through its points.

    A row that is out of bounds 1,000 times keeps the draw nearest to them.

    Args:
      min_hidden: least hidden fraction of the area, exclusive.
      max_hidden: greatest hidden fraction, exclusive.
      strokes: False leaves the strokes out, as QAVI does for less hidden area.
      min_brush: least width of a stroke, as a fraction of sqrt(H * W).
      max_brush: greatest width, exclusive, as such a fraction.
    """

    min_hidden: float = 0.0
    max_hidden: float = 1.0
    strokes: bool = True
    min_brush: float = 12 / 256
    max_brush: float = 48 / 256

    def __post_init__(self):
        check_area("FreeFormMask", self.min_hidden, self.max_hidden)
        if not isinstance(self.strokes, bool):
            raise ValueError(f"FreeFormMask: strokes is True or False; got {self.strokes!r}.")
        if not 0.0 < self.min_brush <= self.max_brush <= 1.0:
            raise ValueError(
                f"FreeFormMask: min_brush and max_brush are widths as fractions of the "
                f"image's side with 0 < min_brush <= max_brush <= 1; got "
                f"min_brush={self.min_brush}, max_brush={self.max_brush}."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        height, width = size = image_size(present, "FreeFormMask")
        _check_room("FreeFormMask", size, self.min_hidden, self.max_hidden)
        batch = tf.shape(present)[0]
        share = min(self.min_hidden + self.max_hidden, 1.0)
        most = [max(int(n * share), 1) for n in (10, 5, 20)]

        small = (max(height // 2, 1), max(width // 2, 1))
        needed = [4 * most[0] - 3, 4 * most[1] - 3, 40 * most[2] - 39, 2]

        def propose(attempt_seed):
            # All at once: each call of the generator is costly to compile.
            draws = uniform([batch, sum(needed)], attempt_seed)
            first, second, third, flips = tf.split(draws, needed, axis=1)
            hidden = _rectangles(first, size, small) | _rectangles(second, size, size)
            if self.strokes:
                painted = self._strokes(third, size)
                flips = flips[:, :, tf.newaxis, tf.newaxis] < 0.5
                painted = tf.where(flips[:, 0], painted[:, ::-1], painted)
                hidden |= tf.where(flips[:, 1], painted[:, :, ::-1], painted)
            return hidden

        hidden = _until_within(propose, batch, size, self.min_hidden, self.max_hidden, seed)
        return tf.ensure_shape(~hidden, present.shape)

    def _strokes(self, draws, size):
        """bool [B, H, W]: True under 0 to N strokes a row.

        Args:
          draws: float64 [B, 1 + 40 N], uniform.
          size: (height, width).
        """
        used, draws = _used(draws, 40)
        points = 4 + _index(draws[..., 0], 14)  # after the first one
        brush = self.min_brush + (self.max_brush - self.min_brush) * draws[..., 1]
        brush = tf.maximum(tf.cast(math.sqrt(size[0] * size[1]) * brush, tf.int32), 1)
        path = _zigzag(draws[..., 2:], size)  # [B, N, 18, 2]
        # Beyond its last point a stroke stays where it is.
        last = tf.minimum(tf.range(18), points[..., tf.newaxis])
        path = tf.gather(path, last, batch_dims=2)
        # Unused strokes are moved off the image, where they paint nothing.
        path -= tf.where(used, 0, 2 * sum(size))[..., tf.newaxis, tf.newaxis]

        def paint(i, painted):
            return i + 1, painted | _stroke(path[:, i], brush[:, i], size)

        # One stroke of every row at a time: all at once would need too much memory.
        most_used = tf.reduce_max(tf.reduce_sum(tf.cast(used, tf.int32), axis=1))
        painted = tf.zeros([tf.shape(draws)[0], *size], tf.bool)
        _, painted = tf.while_loop(lambda i, _: i < most_used, paint, (0, painted))
        return painted


def _check_room(name, size, low, high):
    """Refuses images of which no whole number of pixels is a share within the bounds."""
    pixels = size[0] * size[1]
    least = math.floor(low * pixels + ROUNDING) + 1
    if least >= high * pixels - ROUNDING:
        raise ValueError(
            f"{name}: no whole number of the {pixels} pixels of an image of {size[0]} x "
            f"{size[1]} lies between min_hidden={low} and max_hidden={high}, both exclusive. "
            f"Widen the bounds, or use larger images."
        )


def _until_within(propose, batch, size, low, high, seed):
    """Draws each row again until its share of True lies between low and high.

    Args:
      propose: seed -> bool [B, *size].
      batch: scalar int32 tensor.
      size: (height, width).
      low, high: fractions of the area, exclusive.
      seed: int32 [2].

    Returns:
      bool [B, *size]: each row's first draw within the bounds; after `ATTEMPTS` without one,
      its nearest to them.
    """
    pixels = size[0] * size[1]

    def go_on(attempt, excess, _):
        return tf.reduce_any(excess > 0.0) & (attempt < ATTEMPTS)

    def again(attempt, excess, kept):
        drawn = propose(tf.random.fold_in(seed, attempt, alg="philox"))
        area = tf.reduce_sum(tf.cast(drawn, tf.int32), axis=(1, 2)) / pixels
        # How far out of bounds; on a bound is out, by less than any other count of pixels.
        outside = tf.maximum(low - area, area - high)
        outside = tf.maximum(outside, 0.1 / pixels)
        new = tf.where((area > low) & (area < high), tf.zeros_like(outside), outside)
        better = new < excess
        kept = tf.where(better[:, tf.newaxis, tf.newaxis], drawn, kept)
        return attempt + 1, tf.where(better, new, excess), kept

    start = (
        tf.constant(0),
        tf.fill([batch], tf.constant(2.0, tf.float64)),
        tf.zeros([batch, *size], tf.bool),
    )
    shapes = (tf.TensorShape([]), tf.TensorShape([None]), tf.TensorShape([None, *size]))
    return tf.while_loop(go_on, again, start, shape_invariants=shapes)[2]


def _index(draws, count):
    """Uniform draws in [0, 1) as int32 ones on 0..count-1."""
    return tf.cast(draws * tf.cast(count, tf.float64), tf.int32)


def _used(draws, each):
    """Splits uniform draws [B, 1 + each * N] into how many things there are and their draws.

    Returns:
      bool [B, N]: the first n of each row are True, n uniform on 0..N.
      float64 [B, N, each].
    """
    num = (draws.shape[1] - 1) // each
    used = tf.range(num) < _index(draws[:, :1], num + 1)
    return used, tf.reshape(draws[:, 1:], [tf.shape(draws)[0], num, each])


def _rectangles(draws, size, limits):
    """bool [B, H, W]: True in 0 to N rectangles with sides below `limits`.

    Args:
      draws: float64 [B, 1 + 4 N], uniform.
      size: (height, width).
      limits: of height and width, exclusive.
    """
    used, draws = _used(draws, 4)
    inside = []
    for axis in (0, 1):
        side = _index(draws[..., 2 * axis], limits[axis])
        half = side // 2
        # randint(-half, length - side + half), whose end is exclusive.
        start = _index(draws[..., 2 * axis + 1], size[axis] - side + 2 * half) - half
        place = tf.range(size[axis])
        after = place >= start[..., tf.newaxis]
        inside.append(after & (place < (start + side)[..., tf.newaxis]))
    rows = inside[0] & used[..., tf.newaxis]
    return tf.reduce_any(rows[..., tf.newaxis] & inside[1][:, :, tf.newaxis], axis=1)


def _zigzag(draws, size):
    """int32 [B, N, 18, 2]: (down, across) of the points of strokes.

    Args:
      draws: float64 [B, N, 38], uniform.
      size: (height, width).
    """
    start, wide, turn, normal = tf.split(draws, [2, 2, 17, 17], axis=2)
    wide = 2 * math.pi / 15 * wide
    least = 2 * math.pi / 5 - wide[..., :1]
    angle = least + (wide[..., :1] + wide[..., 1:]) * turn
    angle = tf.where(tf.range(17) % 2 == 0, 2 * math.pi - angle, angle)
    radius = math.hypot(*size) / 8
    # Half a step from 0 and 1, where the normal quantile is infinite.
    length = radius + radius // 2 * tf.math.ndtri(normal + 2.0**-33)
    length = tf.clip_by_value(length, 0.0, 2 * radius)
    step = tf.stack([length * tf.sin(angle), length * tf.cos(angle)], axis=-1)
    ends = tf.constant(size, tf.int32)
    start = _index(start, ends)

    def move(point, by):
        # As in the published code: clipped to the image, its far edge included, and cut to
        # whole numbers at every step.
        moved = tf.maximum(tf.cast(point, tf.float64) + by, 0.0)
        return tf.minimum(tf.cast(moved, tf.int32), ends)

    steps = tf.transpose(step, [2, 0, 1, 3])  # [17, B, N, 2]
    path = tf.concat([start[tf.newaxis], tf.scan(move, steps, start)], axis=0)
    return tf.transpose(path, [1, 2, 0, 3])


def _stroke(path, brush, size):
    """bool [B, H, W]: pixels within half a brush of the line through `path`.

    Args:
      path: int32 [B, P, 2], (down, across).
      brush: int32 [B], pixels.
      size: (height, width).
    """
    # All in whole numbers, so that a pixel at the very edge is decided alike everywhere.
    down, across = tf.unstack(path[..., tf.newaxis], axis=2)  # [B, P, 1]
    rows, columns = tf.range(size[0]) - down, tf.range(size[1]) - across
    brush = brush[:, tf.newaxis, tf.newaxis]
    apart = (rows**2)[..., tf.newaxis] + (columns**2)[:, :, tf.newaxis]  # [B, P, H, W]
    near = tf.reduce_any(4 * apart <= (brush**2)[..., tf.newaxis], axis=1)
    # Of a segment (u, v) from (0, 0): a point (y, x) projects onto it where
    # 0 <= y u + x v <= length**2, and is |x u - y v| / length away from its line.
    u, v = down[:, 1:] - down[:, :-1], across[:, 1:] - across[:, :-1]
    rows, columns = rows[:, :-1], columns[:, :-1]
    length = tf.cast(u**2 + v**2, tf.float64)
    reach = tf.sqrt(length * tf.cast(brush, tf.float64) ** 2) / 2
    # A segment of no length is a disc already, and every pixel is 0 away from its line.
    reach = tf.where(length > 0.0, tf.cast(reach, tf.int32), -1)[..., tf.newaxis]
    along = (rows * u)[..., tf.newaxis] + (columns * v)[:, :, tf.newaxis]
    aside = (columns * u)[:, :, tf.newaxis] - (rows * v)[..., tf.newaxis]
    between = (along >= 0) & (along <= tf.cast(length, tf.int32)[..., tf.newaxis])
    return near | tf.reduce_any(between & (tf.abs(aside) <= reach), axis=1)
