"""A family's parameters as one vector a query, so that a step is a handful of operations."""

import tensorflow as tf


class Layout:
    """Where the parts of a nest of parameters [B, ...] lie in vectors [B, P].

    Args:
      parameters: nest of tensors whose shapes are known but for B.
    """

    def __init__(self, parameters):
        self._structure = parameters
        self._shapes = [part.shape[1:] for part in tf.nest.flatten(parameters)]
        self._sizes = [shape.num_elements() for shape in self._shapes]

    def vector(self, parameters) -> tf.Tensor:
        """Nest of [B, ...] -> [B, P]."""
        parts = tf.nest.flatten(parameters)
        rows = [
            part if part.shape.rank == 2 else tf.reshape(part, [-1, size])
            for part, size in zip(parts, self._sizes, strict=True)
        ]
        return rows[0] if len(rows) == 1 else tf.concat(rows, 1)

    def nest(self, vector):
        """[B, P] -> nest of [B, ...]."""
        rows = [vector] if len(self._sizes) == 1 else tf.split(vector, self._sizes, 1)
        parts = [
            row if shape.rank == 1 else tf.reshape(row, [-1, *shape])
            for row, shape in zip(rows, self._shapes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._structure, parts)
