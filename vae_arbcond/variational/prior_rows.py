"""A posterior that is the prior in some rows, exactly."""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import Handmade

tfd = tfp.distributions


class PriorRows(Handmade):
    """q(z), and p(z) in chosen rows: batch_shape [B] (or [], after indexing), event_shape [Z].

    Args:
      q: batch_shape [B].
      prior: p(z), batch_shape [].
      chosen: bool [B], the rows that are the prior.
    """

    def __init__(self, q, prior, chosen, name="PriorRows"):
        made_of = dict(locals())
        self._q, self._prior, self._chosen = q, prior, chosen
        super().__init__(made_of, name)

    def __getitem__(self, index):
        row = index[0] if isinstance(index, tuple) else index
        return PriorRows(self._q[row], self._prior, self._chosen[row])

    def _batch_shape(self):
        return self._q.batch_shape

    def _batch_shape_tensor(self):
        return self._q.batch_shape_tensor()

    def _event_shape(self):
        return self._q.event_shape

    def _event_shape_tensor(self):
        return self._q.event_shape_tensor()

    def _sample_n(self, n, seed=None):
        seeds = tf.unstack(tfp.random.split_seed(tfp.random.sanitize_seed(seed), n=2), 2)
        z = self._q.sample(n, seed=seeds[0])
        shape = tf.concat([[n], self._q.batch_shape_tensor()], 0)
        free = tf.ensure_shape(self._prior.sample(shape, seed=seeds[1]), z.shape)
        return tf.where(self._chosen[..., tf.newaxis], free, z)

    def _log_prob(self, z):
        return tf.where(self._chosen, self._prior.log_prob(z), self._q.log_prob(z))

    def _mean(self):
        return tf.where(self._chosen[..., tf.newaxis], self._prior.mean(), self._q.mean())

    def _variance(self):
        both = self._prior.variance(), self._q.variance()
        return tf.where(self._chosen[..., tf.newaxis], *both)

    def _covariance(self):
        both = self._prior.covariance(), self._q.covariance()
        return tf.where(self._chosen[..., tf.newaxis, tf.newaxis], *both)
