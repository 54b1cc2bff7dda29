"""Masks for images whose hidden part has a name: a rectangle, a half, a line, a face's eye."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from vae_arbcond.masks.base import (
    ROUNDING,
    check_call,
    check_image,
    check_numbers,
    check_sequence,
    check_whole,
    choose,
    image_size,
    random_run,
    split,
    uniform,
    uniform_index,
)
from vae_arbcond.registry import register

SIDES = ("left", "top", "right", "bottom")


@register
@dataclasses.dataclass(frozen=True)
class RectangleMask:
    """Images only. Hides one rectangle with random corners and a bounded area.

    Two corners are drawn uniformly over the pixels, both belong to the rectangle, and pairs
    whose area is out of bounds are drawn again, as in Posterior Matching. Instead of drawing
    again, the size is drawn from its distribution given the bounds (`rectangle_sizes`) and
    the place uniformly: the same distribution, without a loop.

    Args:
      min_hidden: least hidden fraction of the image's area, in [0, 1]. At least one pixel
        is always hidden.
      max_hidden: greatest hidden fraction, in (0, 1]. Both bounds are inclusive.
      min_side: least height and least width, in pixels. VAEAC trains on faces of 128 x 128
        with RectangleMask(0.0, 1.0, min_side=16).
    """

    min_hidden: float
    max_hidden: float
    min_side: int = 1

    def __post_init__(self):
        check_numbers("RectangleMask", min_hidden=self.min_hidden, max_hidden=self.max_hidden)
        if not 0.0 <= self.min_hidden <= self.max_hidden <= 1.0 or self.max_hidden == 0.0:
            raise ValueError(
                f"RectangleMask: min_hidden and max_hidden are fractions of the image's area "
                f"with 0 <= min_hidden <= max_hidden <= 1 and max_hidden > 0; got "
                f"min_hidden={self.min_hidden}, max_hidden={self.max_hidden}."
            )
        check_whole("RectangleMask", "min_side", self.min_side)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        height, width = image_size(present, "RectangleMask")
        bounds = self.min_hidden, self.max_hidden, self.min_side
        sizes, probs = rectangle_sizes(height, width, *bounds)
        size_seed, row_seed, column_seed = split(seed, 3)
        size = tf.gather(tf.constant(sizes), choose(probs, tf.shape(present)[0], size_seed))
        hidden_rows = random_run(height, size[:, 0], row_seed)
        hidden_columns = random_run(width, size[:, 1], column_seed)
        hidden = hidden_rows[:, :, tf.newaxis] & hidden_columns[:, tf.newaxis, :]
        return tf.ensure_shape(~hidden, present.shape)


def rectangle_sizes(height, width, min_hidden, max_hidden, min_side=1):
    """Sizes of the rectangle between two uniform corners, given bounds on its area.

    Of the height**2 pairs of rows, `height` give 1 row and 2 * (height - h + 1) give h > 1
    rows, and likewise for columns; rows and columns are independent before the bounds.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      min_hidden: least area, as a fraction of the image's; inclusive.
      max_hidden: greatest area; inclusive.
      min_side: least number of rows and of columns.

    Returns:
      sizes: int32 [K, 2], the (rows, columns) of each admissible size.
      probs: float64 [K], their probabilities. Given its size, every place of the rectangle
        inside the image is equally probable.

    Raises:
      ValueError: no rectangle of whole pixels has an area within the bounds.
    """

    def pairs(length):
        return np.where(np.arange(length) == 0, length, 2.0 * (length - np.arange(length)))

    rows, columns = np.arange(1, height + 1), np.arange(1, width + 1)
    area = np.outer(rows, columns) / (height * width)
    within = (area >= min_hidden - ROUNDING) & (area <= max_hidden + ROUNDING)
    within &= np.minimum.outer(rows, columns) >= min_side
    if not within.any():
        raise ValueError(
            f"RectangleMask: no rectangle of whole pixels covers between {min_hidden} and "
            f"{max_hidden} of an image of {height} x {width} pixels with sides of at least "
            f"{min_side}. Widen the bounds."
        )
    weights = np.outer(pairs(height), pairs(width))[within]
    sizes = np.argwhere(within).astype(np.int32) + 1
    return sizes, weights / weights.sum()


@register
@dataclasses.dataclass(frozen=True)
class HalfMask:
    """Images only. Hides one half of the image, chosen uniformly among `sides` for each row.

    'left' hides columns 0..W//2-1 and 'right' columns W//2..W-1, so the two are complements;
    where W is odd the middle column belongs to the right half. 'top' and 'bottom' likewise.

    Args:
      sides: the halves that may be hidden: some of 'left', 'top', 'right', 'bottom'.
    """

    sides: Sequence[str] = SIDES

    def __post_init__(self):
        if isinstance(self.sides, str):
            raise TypeError(
                f"HalfMask: sides is a tuple of names; got the text {self.sides!r}. For one "
                f"side, write ({self.sides!r},)."
            )
        object.__setattr__(self, "sides", tuple(self.sides))
        unknown = [side for side in self.sides if side not in SIDES]
        if unknown or not self.sides:
            raise ValueError(
                f"HalfMask: sides lists the halves that may be hidden, one or more of "
                f"{SIDES}; got {self.sides}."
            )
        if len(set(self.sides)) < len(self.sides):
            raise ValueError(
                f"HalfMask: sides are drawn with equal probability and listed once each; got "
                f"{self.sides}. For unequal probabilities put several HalfMask in a "
                f"MixtureMask."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W]."""
        present, seed = check_call(x, present, seed)
        check_image(present, "HalfMask")
        batch, height, width = tf.unstack(tf.shape(present))
        left = tf.broadcast_to(tf.range(width) < width // 2, [height, width])
        top = tf.broadcast_to((tf.range(height) < height // 2)[:, tf.newaxis], [height, width])
        hidden = {"left": left, "top": top, "right": ~left, "bottom": ~top}
        halves = tf.stack([~hidden[side] for side in self.sides])
        choice = uniform_index(tf.fill([batch], len(self.sides)), seed)
        return tf.ensure_shape(tf.gather(halves, choice), present.shape)


@register
@dataclasses.dataclass(frozen=True)
class HorizontalLineMask:
    """Images only. A horizontal line is OBSERVED and everything else hidden (VAEAC's MNIST).

    The line goes from the left edge to the right one; its place is uniform over those where
    it lies in the image whole.

    Args:
      height: of the line, in pixels.
    """

    height: int = 3

    def __post_init__(self):
        check_whole("HorizontalLineMask", "height", self.height)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        height, _ = image_size(present, "HorizontalLineMask")
        if self.height > height:
            raise ValueError(
                f"HorizontalLineMask: a line of {self.height} pixels does not fit into an "
                f"image of {height} rows. Make it lower."
            )
        batch = tf.shape(present)[0]
        rows = random_run(height, tf.fill([batch], self.height), seed)
        observed = tf.broadcast_to(rows[:, :, tf.newaxis], tf.shape(present))
        return tf.ensure_shape(observed, present.shape)


@register
@dataclasses.dataclass(frozen=True)
class SquareMask:
    """Images only. Hides a square of fixed size at a uniform place (Posterior Matching).

    As in the published code the last place of each axis is never drawn: of an image of W
    columns, the square's left one is uniform on 0..W-size-1, so the image's last row and
    column are always observed.

    Args:
      size: of the square, in pixels; smaller than the image.
    """

    size: int

    def __post_init__(self):
        check_whole("SquareMask", "size", self.size)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        height, width = image_size(present, "SquareMask")
        _check_patch("SquareMask", self.size, height, width)
        row_seed, column_seed = split(seed, 2)
        size = tf.fill([tf.shape(present)[0]], self.size)
        # One pixel less than the image has: the last place is left out.
        rows = tf.pad(random_run(height - 1, size, row_seed), [[0, 0], [0, 1]])
        columns = tf.pad(random_run(width - 1, size, column_seed), [[0, 0], [0, 1]])
        hidden = rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]
        return tf.ensure_shape(~hidden, present.shape)


@register
@dataclasses.dataclass(frozen=True)
class CentreMask:
    """Images only. Hides the rectangle in the middle: the same for every row and seed.

    The papers hide the middle 32 x 32 pixels of 64 x 64. Where the numbers do not divide, the
    rectangle is rounded down, and nearer to the top left.

    Args:
      side: of the rectangle, as a fraction of the image's side, in (0, 1].
    """

    side: float = 0.5

    def __post_init__(self):
        check_numbers("CentreMask", side=self.side)
        if not 0.0 < self.side <= 1.0:
            raise ValueError(
                f"CentreMask: side is the rectangle's side as a fraction of the image's and "
                f"must lie in (0, 1]; got {self.side}."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, _ = check_call(x, present, seed)
        hidden = np.outer(*(self._middle(n) for n in image_size(present, "CentreMask")))
        if not hidden.any():
            raise ValueError(
                f"CentreMask: side={self.side} of an image of {hidden.shape[0]} x "
                f"{hidden.shape[1]} pixels is less than a pixel. Raise side."
            )
        observed = tf.broadcast_to(tf.constant(~hidden), tf.shape(present))
        return tf.ensure_shape(observed, present.shape)

    def _middle(self, length):
        size = int(length * self.side + ROUNDING)
        start = (length - size) // 2
        place = np.arange(length)
        return (place >= start) & (place < start + size)


# (top, left, bottom, right), the last two exclusive, in images of 128 x 128: the left and the
# right half of a face, both eyes, the left eye, the right eye, the lower half. VAEAC (Table 6)
# read them off the figures of Li et al., 2017, https://arxiv.org/abs/1704.05838.
FACE_RECTANGLES = (
    (52, 33, 116, 71),
    (52, 57, 116, 95),
    (52, 29, 74, 99),
    (52, 29, 74, 67),
    (52, 61, 74, 99),
    (86, 40, 124, 88),
)


@register
@dataclasses.dataclass(frozen=True)
class FixedRectanglesMask:
    """Images only. Hides one of some fixed rectangles, each equally probable.

    The default are the six masks of generative face completion as VAEAC uses them, for faces
    cropped as there; at 64 x 64 they are those of Posterior Matching's code.

    Args:
      rectangles: (top, left, bottom, right) of each, in pixels; bottom and right exclusive.
      size: (height, width) of the images that `rectangles` speaks of. For images of another
        size they are scaled, halves rounded up.
    """

    rectangles: Sequence[Sequence[int]] = FACE_RECTANGLES
    size: Sequence[int] = (128, 128)

    def __post_init__(self):
        name = "FixedRectanglesMask"
        check_sequence(name, "size", self.size, "(128, 128)")
        check_sequence(name, "rectangles", self.rectangles, "((0, 0, 64, 128),)")
        for rectangle in self.rectangles:
            check_sequence(name, "each rectangle", rectangle, "(0, 0, 64, 128)")
        rectangles = tuple(tuple(rectangle) for rectangle in self.rectangles)
        object.__setattr__(self, "rectangles", rectangles)
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2:
            raise ValueError(f"FixedRectanglesMask: size is (height, width); got {self.size}.")
        for length in self.size:
            check_whole("FixedRectanglesMask", "each entry of size", length)
        if not rectangles:
            raise ValueError("FixedRectanglesMask: give one or more rectangles; got none.")
        height, width = self.size
        for rectangle in rectangles:
            top, left, bottom, right = rectangle if len(rectangle) == 4 else (0, 0, 0, 0)
            whole = all(isinstance(edge, int) for edge in rectangle)
            fits = whole and 0 <= top < bottom <= height and 0 <= left < right <= width
            if not fits:
                raise ValueError(
                    f"FixedRectanglesMask: a rectangle is (top, left, bottom, right), whole "
                    f"numbers with 0 <= top < bottom <= {height} and 0 <= left < right <= "
                    f"{width}; got {rectangle}."
                )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        height, width = image_size(present, "FixedRectanglesMask")
        observed = np.ones([len(self.rectangles), height, width], bool)
        for i, rectangle in enumerate(self.rectangles):
            top, bottom = (_scaled(v, height, self.size[0]) for v in rectangle[::2])
            left, right = (_scaled(v, width, self.size[1]) for v in rectangle[1::2])
            observed[i, top:bottom, left:right] = False
            if observed[i].all():
                raise ValueError(
                    f"FixedRectanglesMask: the rectangle {rectangle} is less than a pixel in "
                    f"an image of {height} x {width} pixels. Leave it out."
                )
        choice = uniform_index(tf.fill([tf.shape(present)[0]], len(observed)), seed)
        return tf.ensure_shape(tf.gather(tf.constant(observed), choice), present.shape)


@register
@dataclasses.dataclass(frozen=True)
class RandomPatchesMask:
    """Images only. Hides some squares at random places (QAVI's Random-Patches).

    As in QAVI's code the top rows of the squares are drawn from 0..H-size-1 without
    replacement, their left columns likewise from 0..W-size-1: no two squares share either,
    the last place of each axis is never drawn, and squares may overlap. The paper has 2
    squares of 10 pixels on MNIST and of 15 on SVHN.

    Args:
      size: of a square, in pixels.
      count: number of squares.
    """

    size: int
    count: int = 2

    def __post_init__(self):
        check_whole("RandomPatchesMask", "size", self.size)
        check_whole("RandomPatchesMask", "count", self.count)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        height, width = image_size(present, "RandomPatchesMask")
        _check_patch("RandomPatchesMask", self.size, height, width)
        if self.count > min(height, width) - self.size:
            raise ValueError(
                f"RandomPatchesMask: {self.count} squares of {self.size} pixels need as many "
                f"different first rows and columns, but an image of {height} x {width} pixels "
                f"has {min(height, width) - self.size}. Ask for fewer or smaller squares."
            )
        row_seed, column_seed = split(seed, 2)
        batch = tf.shape(present)[0]
        rows = self._runs(batch, height, row_seed)  # [B, count, H]
        columns = self._runs(batch, width, column_seed)  # [B, count, W]
        hidden = tf.reduce_any(rows[..., tf.newaxis] & columns[:, :, tf.newaxis], axis=1)
        return tf.ensure_shape(~hidden, present.shape)

    def _runs(self, batch, length, seed):
        scores = uniform([batch, length - self.size], seed)
        start = tf.argsort(scores, stable=True)[:, : self.count, tf.newaxis]
        place = tf.range(length)
        return (place >= start) & (place < start + self.size)


@register
@dataclasses.dataclass(frozen=True)
class RotatingHalfMask:
    """Images only. Hides what lies on one side of a line through the centre (QAVI).

    The line's angle is uniform on `steps` equally spaced ones. Pixels whose centre lies on
    the line are hidden. QAVI rotates a canvas 30 pixels larger than the image, by whole
    degrees; here the half plane has no edge, so images of any size may be used.

    Args:
      steps: number of angles; 4 gives the halves below, above, left and right.
    """

    steps: int = 360

    def __post_init__(self):
        check_whole("RotatingHalfMask", "steps", self.steps)

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = check_call(x, present, seed)
        height, width = image_size(present, "RotatingHalfMask")
        angles = 2.0 * np.pi * np.arange(self.steps) / self.steps
        normals = tf.constant(np.stack([np.cos(angles), np.sin(angles)], axis=1))
        choice = uniform_index(tf.fill([tf.shape(present)[0]], self.steps), seed)
        normal = tf.gather(normals, choice)[:, :, tf.newaxis, tf.newaxis]  # [B, 2, 1, 1]
        down = (np.arange(height) - (height - 1) / 2)[:, np.newaxis]
        across = np.arange(width) - (width - 1) / 2
        # Far above the rounding of float64, far below what a pixel off the line has.
        hidden = normal[:, 0] * down + normal[:, 1] * across >= -ROUNDING
        return tf.ensure_shape(~hidden, present.shape)


def _check_patch(name, size, height, width):
    if size >= min(height, width):
        raise ValueError(
            f"{name}: a square of {size} pixels must be smaller than the image, which is "
            f"{height} x {width}. Give a smaller size."
        )


def _scaled(value, length, base):
    """value * length / base to the nearest whole number, halves up."""
    return (2 * value * length + base) // (2 * base)
