"""Rejection sampling from the prior, as Wu, Domke and Sanner, 2018, compare with.

https://arxiv.org/abs/1805.07785, Sec. 4.2.
"""

import tensorflow as tf

from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.monte_carlo.base import Chains, MonteCarlo, split_seed
from vae_arbcond.distributions import over_features
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_sizes, in_groups

AT_ONCE = 256  # candidates scored at once


@register
class RejectionSampler(MonteCarlo):
    """Draws z ~ p(z), keeps it with probability p(x_o | z) / M: exact, for a small z.

    M is the largest p(x_o | z) among the candidates, so draws are exact in the limit of many
    candidates alone. `acceptance` tells how many were kept; where fewer than `num_draws` were,
    they come up several times. Of thousands of candidates few are left once much is observed
    or z has more than a few numbers.

    Args:
      model, correct_likelihood, train_model: as for `MonteCarlo`.
      num_draws: how many of the kept are used, at most.
      num_candidates: draws of the prior; the same for all rows of a call.
    """

    def __init__(
        self,
        model,
        num_draws: int = 400,
        num_candidates: int = 10_000,
        correct_likelihood: bool = True,
        train_model: bool = True,
        name: str | None = None,
    ):
        super().__init__(model, 1, num_draws, correct_likelihood, train_model, name=name)
        check_sizes(self, num_candidates=num_candidates)
        if num_candidates < num_draws:
            raise ValueError(
                f"RejectionSampler is to keep {num_draws} draws of {num_candidates} "
                f"candidates. Give it many times as many candidates as draws."
            )
        self.num_candidates = num_candidates

    def _chains(self, x, observed, start, seed):
        del start
        candidate_seed, keep_seed = split_seed(seed, 2)
        z = self.model.prior().sample([self.num_candidates], seed=candidate_seed)

        def score(z):
            likelihood = self.model.likelihood(z[:, tf.newaxis])
            return over_features(likelihood, observed).log_prob(x)

        signature = tf.TensorSpec([None, x.shape[0]])
        log_p = in_groups(score, (z,), signature, AT_ONCE)  # [M, B]
        uniform = tf.random.stateless_uniform(tf.shape(log_p), keep_seed)
        kept = tf.math.log(uniform) < log_p - tf.reduce_max(log_p, 0)
        # The best candidate itself is always kept, so that there is one.
        kept |= tf.equal(log_p, tf.reduce_max(log_p, 0))
        rejected = tf.cast(tf.transpose(~kept), tf.int32)  # [B, M]
        order = tf.argsort(rejected, axis=-1, stable=True)
        count = tf.maximum(self.num_candidates - tf.reduce_sum(rejected, -1), 1)
        places = tf.range(self.num_draws)[tf.newaxis] % count[:, tf.newaxis]
        chosen = tf.gather(z, tf.gather(order, places, batch_dims=1))  # [B, T, Z]
        share = tf.cast(count, tf.float32) / self.num_candidates
        z = sampling.swap_leading(chosen)[:, tf.newaxis]
        return Chains(z, share[tf.newaxis], tf.zeros_like(share))
