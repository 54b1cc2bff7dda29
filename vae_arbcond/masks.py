"""Mask generators: which features the model may see.

Each is a pure function `generator(x, present, seed) -> observed` of its arguments: no state,
no NumPy random numbers. The same seed gives the same mask eagerly, inside a `tf.function`,
in an input pipeline and compiled by XLA. True means observed in every mask.

The definitions are those of Posterior Matching (Strauss and Oliva, 2022,
https://arxiv.org/abs/2201.12414v4) and its published code, and of VAEAC (Ivanov et al., 2019,
https://arxiv.org/abs/1806.02382v3), whose masks write 1 for UNobserved: here they are turned
round. `RectangleMask` and `HalfMask` are for images, the others for tables and images.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from vae_arbcond import shapes
from vae_arbcond.registry import register

SIDES = ("left", "top", "right", "bottom")
# What a fraction times a count may be off by: 0.29 * 100 is 28.999999999999996 in float64.
_ROUNDING = 1e-9


class MaskGenerator(Protocol):
    """What a mask generator is: anything that can be called like this."""

    def __call__(self, x: tf.Tensor, present: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws one mask a row; rows are independent of each other.

        Args:
          x: float32 [B, *F, *E]. B may be unknown while a graph is built. The generators of
            this file ignore the values; one whose mask depends on them fits here as well.
          present: bool [B, *F]; True = the value exists in the data.
          seed: int32 [2].

        Returns:
          observed: bool [B, *F]; True = the model may see the feature. It may be True where
          a value is absent: what a model sees is `observed & present`.

        Raises:
          TypeError: `present` is not bool.
          ValueError: a shape does not fit, or a table was given to a mask for images.
        """
        ...


@register
@dataclasses.dataclass(frozen=True)
class BernoulliMask:
    """Each feature is observed independently of the others (missing completely at random).

    Args:
      observed_prob: probability that a feature IS observed, in [0, 1]. VAEAC's and ACFlow's
        MCAR(p) hides with probability p: that is `BernoulliMask(1 - p)`.
    """

    observed_prob: float = 0.5

    def __post_init__(self):
        if not 0.0 <= self.observed_prob <= 1.0:
            raise ValueError(
                f"BernoulliMask: observed_prob is the probability that a feature IS observed "
                f"and must lie in [0, 1]; got {self.observed_prob}."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = _check_call(x, present, seed)
        observed = _uniform(tf.shape(present), seed) < self.observed_prob
        return tf.ensure_shape(observed, present.shape)


@register
@dataclasses.dataclass(frozen=True)
class UniformCountMask:
    """Draws how many of a row's present features are observed, uniformly, and then which.

    With d present features in a row, the count is uniform on the whole numbers from
    floor(low * d) to floor(high * d) - 1; where that range is empty (few features, or
    low = high) it is floor(low * d). The defaults give 0..d-1: never all of them, as in
    Posterior Matching and ACE. `all_observed=True` gives 0..d.

    The published code of Posterior Matching draws floor(l * d) + U{0..floor(h * d) - 1} for
    its bounds (l, h). For l = 0 the bounds mean the same here: (0, 0.2) and d = 256 give
    0..50. For l > 0 that code ends l * d higher than its h says; its (l, h) is
    `UniformCountMask(l, l + h)` here where l * d is a whole number (elsewhere the last count
    may be one higher here), and has no equivalent where l + h > 1.

    Absent features are never observed.

    Args:
      low: least fraction of the present features, in [0, 1].
      high: greatest fraction, exclusive, in [low, 1].
      all_observed: whether a mask that hides nothing may occur; it needs high = 1.
    """

    low: float = 0.0
    high: float = 1.0
    all_observed: bool = False

    def __post_init__(self):
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise ValueError(
                f"UniformCountMask: low and high are fractions of the features with "
                f"0 <= low <= high <= 1; got low={self.low}, high={self.high}."
            )
        if self.all_observed and self.high < 1.0:
            raise ValueError(
                f"UniformCountMask: all_observed=True lets the count reach all features, but "
                f"high={self.high} ends it before. Set high=1.0, or all_observed=False."
            )
        if self.low == 1.0 and not self.all_observed:
            raise ValueError(
                "UniformCountMask: low=1.0 asks for all features, which all_observed=False "
                "rules out. Lower low, or set all_observed=True."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = _check_call(x, present, seed)
        shape = tf.shape(present)
        # Both sizes spelt out: a -1 cannot be inferred for an empty batch.
        flat = tf.reshape(present, [shape[0], tf.reduce_prod(shape[1:])])
        size = tf.reduce_sum(tf.cast(flat, tf.int32), axis=1)  # [B]
        count_seed, order_seed = _split(seed, 2)

        first = _floor_fraction(self.low, size)
        last = size if self.all_observed else _floor_fraction(self.high, size) - 1
        count = first + _uniform_index(tf.maximum(last - first + 1, 1), count_seed)
        # Scores of present features lie in [0, 1), so absent ones, at 2, come last.
        scores = tf.where(flat, _uniform(tf.shape(flat), order_seed), 2.0)
        rank = tf.argsort(tf.argsort(scores, stable=True), stable=True)
        observed = tf.reshape(rank < count[:, tf.newaxis], shape)
        return tf.ensure_shape(observed & present, present.shape)


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
    """

    min_hidden: float
    max_hidden: float

    def __post_init__(self):
        if not 0.0 <= self.min_hidden <= self.max_hidden <= 1.0 or self.max_hidden == 0.0:
            raise ValueError(
                f"RectangleMask: min_hidden and max_hidden are fractions of the image's area "
                f"with 0 <= min_hidden <= max_hidden <= 1 and max_hidden > 0; got "
                f"min_hidden={self.min_hidden}, max_hidden={self.max_hidden}."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`; `present` is [B, H, W] with known H and W."""
        present, seed = _check_call(x, present, seed)
        _check_image(present, "RectangleMask")
        height, width = present.shape[1:]
        if height is None or width is None:
            raise ValueError(
                f"RectangleMask needs to know the image's height and width while the graph "
                f"is built; got present of shape {tuple(present.shape)}. Fix them with "
                f"tf.ensure_shape(present, [None, height, width])."
            )
        sizes, probs = rectangle_sizes(height, width, self.min_hidden, self.max_hidden)
        size_seed, row_seed, column_seed = _split(seed, 3)
        size = tf.gather(tf.constant(sizes), _choose(probs, tf.shape(present)[0], size_seed))
        hidden_rows = _random_run(height, size[:, 0], row_seed)
        hidden_columns = _random_run(width, size[:, 1], column_seed)
        hidden = hidden_rows[:, :, tf.newaxis] & hidden_columns[:, tf.newaxis, :]
        return tf.ensure_shape(~hidden, present.shape)


def rectangle_sizes(height, width, min_hidden, max_hidden):
    """Sizes of the rectangle between two uniform corners, given bounds on its area.

    Of the height**2 pairs of rows, `height` give 1 row and 2 * (height - h + 1) give h > 1
    rows, and likewise for columns; rows and columns are independent before the bounds.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      min_hidden: least area, as a fraction of the image's; inclusive.
      max_hidden: greatest area; inclusive.

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
    within = (area >= min_hidden - _ROUNDING) & (area <= max_hidden + _ROUNDING)
    if not within.any():
        raise ValueError(
            f"RectangleMask: no rectangle of whole pixels covers between {min_hidden} and "
            f"{max_hidden} of an image of {height} x {width} pixels. Widen the bounds."
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
        present, seed = _check_call(x, present, seed)
        _check_image(present, "HalfMask")
        batch, height, width = tf.unstack(tf.shape(present))
        left = tf.broadcast_to(tf.range(width) < width // 2, [height, width])
        top = tf.broadcast_to((tf.range(height) < height // 2)[:, tf.newaxis], [height, width])
        hidden = {"left": left, "top": top, "right": ~left, "bottom": ~top}
        halves = tf.stack([~hidden[side] for side in self.sides])
        choice = _uniform_index(tf.fill([batch], len(self.sides)), seed)
        return tf.ensure_shape(tf.gather(halves, choice), present.shape)


@register
@dataclasses.dataclass(frozen=True)
class MixtureMask:
    """Each row uses one of `generators`, chosen with probability proportional to `weights`.

    Args:
      generators: mask generators; all of them are run for the whole batch.
      weights: one number >= 0 for each generator, not all 0; they need not sum to 1.
    """

    generators: Sequence[MaskGenerator]
    weights: Sequence[float]

    def __post_init__(self):
        object.__setattr__(self, "generators", _check_generators(self))
        object.__setattr__(self, "weights", tuple(self.weights))
        if len(self.weights) != len(self.generators):
            raise ValueError(
                f"MixtureMask needs one weight for each generator; got {len(self.weights)} "
                f"weights for {len(self.generators)} generators."
            )
        usable = all(math.isfinite(weight) and weight >= 0 for weight in self.weights)
        if not usable or sum(self.weights) <= 0:
            raise ValueError(
                f"MixtureMask: weights must be finite, at least 0 and not all 0; got "
                f"{self.weights}."
            )

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = _check_call(x, present, seed)
        choice_seed, *seeds = _split(seed, 1 + len(self.generators))
        pairs = zip(self.generators, seeds, strict=True)
        drawn = tf.stack([generator(x, present, seed) for generator, seed in pairs], axis=1)
        choice = _choose(self.weights, tf.shape(present)[0], choice_seed)
        observed = tf.gather(drawn, choice, axis=1, batch_dims=1)  # [B, G, *F] -> [B, *F]
        return tf.ensure_shape(observed, present.shape)


@register
@dataclasses.dataclass(frozen=True)
class IntersectionMask:
    """A feature is observed where every one of `generators`, drawn independently, says so.

    Two reasons to hide a feature at once: half of an image and single pixels of the rest, say.

    Args:
      generators: mask generators. The same one twice counts as two independent draws.
    """

    generators: Sequence[MaskGenerator]

    def __post_init__(self):
        object.__setattr__(self, "generators", _check_generators(self))

    def __call__(self, x, present, seed):
        """See `MaskGenerator`."""
        present, seed = _check_call(x, present, seed)
        pairs = zip(self.generators, _split(seed, len(self.generators)), strict=True)
        drawn = [generator(x, present, seed) for generator, seed in pairs]
        return tf.reduce_all(tf.stack(drawn), axis=0)


def _check_call(x, present, seed):
    """Checks the arguments of a call; returns (present, seed) as tensors."""
    present = tf.convert_to_tensor(present)
    if present.shape.rank is None or present.shape.rank < 2:
        raise ValueError(
            f"present must be [B, *F], a batch axis and one or more feature axes; got shape "
            f"{present.shape}. A single row needs a batch axis: pass present[None]."
        )
    x = tf.convert_to_tensor(x)
    shapes.check_mask(present, x, present.shape.rank - 1, name="present")
    return present, shapes.check_seed(seed, allow_rows=False)


def _check_image(present, name):
    if present.shape.rank != 3:
        raise ValueError(
            f"{name} hides a part of an image, so present must be [B, H, W]; got shape "
            f"{tuple(present.shape)}. For a table use BernoulliMask or UniformCountMask."
        )


def _check_generators(mask):
    name, generators = type(mask).__name__, mask.generators
    if not isinstance(generators, Sequence) or isinstance(generators, str) or not generators:
        raise ValueError(
            f"{name}: generators must be a list of one or more mask generators; got "
            f"{generators!r}."
        )
    for generator in generators:
        if isinstance(generator, type):
            raise TypeError(
                f"{name}: generators must be made, not only named; got the class "
                f"{generator.__name__}. Write {generator.__name__}(), in a gin file "
                f"@{generator.__name__}()."
            )
        if not callable(generator):
            raise TypeError(
                f"{name}: each generator is called as generator(x, present, seed); got "
                f"{generator!r}, which cannot be called."
            )
    return tuple(generators)


def _floor_fraction(fraction, size):
    """floor(fraction * size), int32, past the rounding of float64."""
    product = fraction * tf.cast(size, tf.float64)
    return tf.cast(tf.floor(product + _ROUNDING), tf.int32)


def _split(seed, n):
    """`n` seeds, each int32 [2], for draws independent of each other."""
    return tf.unstack(tf.random.split(seed, n, alg="philox"))


def _uniform(shape, seed):
    """float64 of the given shape, uniform on 0, 1/2**32, ..., 1 - 1/2**32."""
    # Made from whole numbers of a named algorithm: TensorFlow's own floats differ between
    # XLA and the other kernels for the same seed, and float32 has only 2**23 steps.
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    return (tf.cast(bits, tf.float64) + 2.0**31) / 2.0**32


def _uniform_index(count, seed):
    """For each entry n >= 1 of `count` (int32), one draw uniform on 0..n-1."""
    draws = _uniform(tf.shape(count), seed)
    return tf.cast(draws * tf.cast(count, tf.float64), tf.int32)


def _choose(weights, batch, seed):
    """`batch` indices drawn with probability proportional to `weights` (numbers >= 0)."""
    # By inversion: a weight of 0 is an empty interval, so its index never comes up.
    ends = np.cumsum(np.asarray(weights, np.float64))
    draws = _uniform([batch], seed)
    return tf.searchsorted(tf.constant(ends / ends[-1]), draws, side="right")


def _random_run(length, run, seed):
    """bool [B, length]: True on `run` [B] neighbouring entries at a uniform place."""
    start = _uniform_index(length - run + 1, seed)[:, tf.newaxis]
    place = tf.range(length)
    return (place >= start) & (place < start + run[:, tf.newaxis])
