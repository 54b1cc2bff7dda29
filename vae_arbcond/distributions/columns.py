"""A distribution over the columns of a mixed table: one family per group of columns."""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions.handmade import Handmade

tfd = tfp.distributions


class Columns(Handmade):
    """Independent columns of different families: batch_shape [..., D], event_shape [].

    Args:
      parts: distributions with batch_shape [..., D_k] and scalar events, dtype float32: one
        for the real columns, one for the categorical ones, say. sum_k D_k = D.
      indices: for each part, the positions of its columns among the D.
    """

    def __init__(self, parts, indices, name="Columns"):
        made_of = dict(locals())
        self._parts = list(parts)
        self._indices = [list(index) for index in indices]
        order = [i for index in self._indices for i in index]
        # order[k] is the column that stands at k after concatenation; invert it.
        self._positions = [order.index(column) for column in range(len(order))]
        reparameterized = all(
            p.reparameterization_type == tfd.FULLY_REPARAMETERIZED for p in self._parts
        )
        super().__init__(made_of, name, reparameterized)

    @property
    def parts(self):
        """(distribution with batch_shape [..., D_k], positions of its columns) pairs."""
        return list(zip(self._parts, self._indices, strict=True))

    def _batch_shape(self):
        return self._parts[0].batch_shape[:-1].concatenate(len(self._positions))

    def _batch_shape_tensor(self):
        leading = self._parts[0].batch_shape_tensor()[:-1]
        return tf.concat([leading, [len(self._positions)]], 0)

    def _event_shape(self):
        return tf.TensorShape([])

    def _event_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _join(self, values, axis=-1):
        joined = values[0] if len(values) == 1 else tf.concat(values, axis)
        if self._positions == sorted(self._positions):
            return joined
        return tf.gather(joined, self._positions, axis=axis)

    def _select(self, x, index):
        everything = list(range(len(self._positions)))
        return x if index == everything else tf.gather(x, index, axis=-1)

    def _log_prob(self, x):
        return self._join([p.log_prob(self._select(x, i)) for p, i in self.parts])

    def _sample_n(self, n, seed=None):
        seeds = tfp.random.split_seed(seed, n=len(self._parts))
        draws = zip(self._parts, tf.unstack(seeds, len(self._parts)), strict=True)
        return self._join([part.sample(n, seed=s) for part, s in draws])

    def expected_features(self):
        """[..., D, K]: (mean, 0, ...) of a real column, probabilities of a categorical one."""
        tables = []
        for part in self._parts:
            if isinstance(part, tfd.Categorical):
                tables.append(part.probs_parameter())
            else:
                tables.append(part.mean()[..., tf.newaxis])
        widest = max(table.shape[-1] for table in tables)
        padded = [
            tf.pad(t, [[0, 0]] * (t.shape.rank - 1) + [[0, widest - t.shape[-1]]])
            for t in tables
        ]
        return self._join(padded, axis=-2)
