"""Rows of a mixed table as closed forms read them: real, discrete and count columns apart."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Columns(NamedTuple):
    """Which columns are of which kind; positions among the D columns of x.

    Attributes:
      real: columns with a Gaussian in each component.
      discrete: columns with levels, categorical or ordinal.
      sizes: number of levels of each discrete column.
      count: columns of counts.
    """

    real: tuple[int, ...]
    discrete: tuple[int, ...]
    sizes: tuple[int, ...]
    count: tuple[int, ...]

    @classmethod
    def of(cls, spec) -> "Columns":
        """The columns of a `DataSpec`.

        Raises:
          ValueError: the data are no table.
        """
        if len(spec.x_shape) != 1:
            raise ValueError(
                f"Closed forms are for tables, rows of shape (D,), but this data has rows of "
                f"shape {spec.x_shape}. Flatten the images, or use a method with a network."
            )
        size = spec.num_features
        levels = spec.levels or (0,) * size
        counts = spec.counts or (0.0,) * size
        return cls(
            tuple(d for d in range(size) if not levels[d] and not counts[d]),
            tuple(d for d in range(size) if levels[d]),
            tuple(n for n in levels if n),
            tuple(d for d in range(size) if counts[d]),
        )

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each discrete column's levels start when all stand side by side."""
        return tuple(int(n) for n in np.cumsum([0, *self.sizes])[:-1])

    @property
    def num_levels(self) -> int:
        """Levels of all discrete columns together, L."""
        return sum(self.sizes)


class Rows(NamedTuple):
    """Rows, their columns grouped by kind; float64 but for masks.

    Attributes:
      g: [B, R], real columns, 0 where hidden.
      observed: bool [B, R].
      levels: [B, L], one-hot for each discrete column, zeros where hidden.
      counts: [B, C], 0 where hidden.
      counted: [B, C], 1 where a count is observed.
    """

    g: tf.Tensor
    observed: tf.Tensor
    levels: tf.Tensor
    counts: tf.Tensor
    counted: tf.Tensor

    def take(self, index) -> "Rows":
        """The rows with these numbers."""
        return Rows(*(part[index] for part in self))


def read(x, observed, columns: Columns, to_g) -> Rows:
    """Groups the columns of x [B, D] and maps the real ones by `to_g`.

    Args:
      x: [B, D]; finite everywhere.
      observed: bool [B, D].
      columns: their kinds.
      to_g: [B, R] -> [B, R], a `marginals.to_g` of the table.
    """
    x = tf.cast(x, tf.float64)
    kept = tf.gather(observed, np.array(columns.real, int), axis=1)
    real = tf.gather(x, np.array(columns.real, int), axis=1)
    g = tf.where(kept, to_g(real), 0.0)
    parts = []
    for d, size in zip(columns.discrete, columns.sizes, strict=True):
        index = tf.where(observed[:, d], tf.cast(x[:, d], tf.int32), -1)
        parts.append(tf.one_hot(index, size, dtype=tf.float64))
    levels = tf.concat(parts, 1) if parts else tf.zeros([tf.shape(x)[0], 0], tf.float64)
    counted = tf.gather(observed, np.array(columns.count, int), axis=1)
    counts = tf.where(counted, tf.gather(x, np.array(columns.count, int), axis=1), 0.0)
    return Rows(g, kept, levels, counts, tf.cast(counted, tf.float64))
