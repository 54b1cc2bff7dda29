"""What a mask generator is, and what all of them are made of.

Draws are made from whole numbers of a named algorithm (Philox), so that a seed means the same
eagerly, in a `tf.function` and compiled by XLA.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from vae_arbcond import shapes

# What a fraction times a count may be off by: 0.29 * 100 is 28.999999999999996 in float64.
ROUNDING = 1e-9


class MaskGenerator(Protocol):
    """What a mask generator is: anything that can be called like this."""

    def __call__(self, x: tf.Tensor, present: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws one mask a row; rows are independent of each other.

        Args:
          x: float32 [B, *F, *E]. B may be unknown while a graph is built. Most
            generators ignore the values; those of tables.py look at present ones.
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


def check_call(x, present, seed):
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


def check_image(present, name):
    """Refuses what is not [B, H, W]."""
    if present.shape.rank != 3:
        raise ValueError(
            f"{name} hides a part of an image, so present must be [B, H, W]; got shape "
            f"{tuple(present.shape)}. For a table use BernoulliMask or UniformCountMask."
        )


def image_size(present, name):
    """(height, width) as numbers, for masks that must know them while a graph is built."""
    check_image(present, name)
    height, width = present.shape[1:]
    if height is None or width is None:
        raise ValueError(
            f"{name} needs to know the image's height and width while the graph "
            f"is built; got present of shape {tuple(present.shape)}. Fix them with "
            f"tf.ensure_shape(present, [None, height, width])."
        )
    return height, width


def check_whole(name, argument, value, least=1):
    """Refuses what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name}: {argument} is a whole number of at least {least}; got {value!r}."
        )


def check_numbers(name, **values):
    """Refuses what is not a number: a text out of a configuration, say."""
    for argument, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: {argument} is a number; got {value!r}.")


def check_sequence(name, argument, value, example):
    """Refuses a single number where several are wanted."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{name}: {argument} is a list, {example} say; got {value!r}.")


def check_area(name, min_hidden, max_hidden):
    """Refuses bounds on a hidden fraction that leave no room between them."""
    check_numbers(name, min_hidden=min_hidden, max_hidden=max_hidden)
    if not 0.0 <= min_hidden < max_hidden <= 1.0:
        raise ValueError(
            f"{name}: min_hidden and max_hidden are fractions of the image's area with "
            f"0 <= min_hidden < max_hidden <= 1; got min_hidden={min_hidden}, "
            f"max_hidden={max_hidden}."
        )


def split(seed, n):
    """`n` seeds, each int32 [2], for draws independent of each other."""
    return tf.unstack(tf.random.split(seed, n, alg="philox"))


def uniform(shape, seed):
    """float64 of the given shape, uniform on 0, 1/2**32, ..., 1 - 1/2**32."""
    # Made from whole numbers of a named algorithm: TensorFlow's own floats differ between
    # XLA and the other kernels for the same seed, and float32 has only 2**23 steps.
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    return (tf.cast(bits, tf.float64) + 2.0**31) / 2.0**32


def uniform_index(count, seed):
    """For each entry n >= 1 of `count` (int32), one draw uniform on 0..n-1."""
    draws = uniform(tf.shape(count), seed)
    return tf.cast(draws * tf.cast(count, tf.float64), tf.int32)


def choose(weights, batch, seed):
    """`batch` indices drawn with probability proportional to `weights` (numbers >= 0)."""
    # By inversion: a weight of 0 is an empty interval, so its index never comes up.
    ends = np.cumsum(np.asarray(weights, np.float64))
    draws = uniform([batch], seed)
    return tf.searchsorted(tf.constant(ends / ends[-1]), draws, side="right")


def random_run(length, run, seed):
    """bool [B, length]: True on `run` [B] neighbouring entries at a uniform place."""
    start = uniform_index(length - run + 1, seed)[:, tf.newaxis]
    place = tf.range(length)
    return (place >= start) & (place < start + run[:, tf.newaxis])
