"""Encoding and decoding in turns: `PseudoGibbs` and `MetropolisWithinGibbs`.

Rezende, Mohamed and Wierstra, 2014, https://arxiv.org/abs/1401.4082v3, App. F; Mattei and
Frellsen, 2018, https://arxiv.org/abs/1802.04826, which corrects it. Wu, Domke
and Sanner, 2018, https://arxiv.org/abs/1805.07785, Sec. 7.2, show where the former fails.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners.monte_carlo.base import (
    Chains,
    MonteCarlo,
    split_seed,
)
from vae_arbcond.distributions import over_features
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_counts, expand_features


@register
class PseudoGibbs(MonteCarlo):
    """x_u ~ p(x_u | z), z ~ q(z | x_o, x_u), again and again (Rezende et al., App. F).

    Not p(z | x_o): its equilibrium is as wrong as the encoder is, which shows where little is
    observed. Log-likelihoods are corrected nevertheless, see `MonteCarlo`.

    Args:
      model, num_chains, num_draws, correct_likelihood, train_model: as for `MonteCarlo`.
      num_burn_in: steps before the first draw.
      num_steps_between: steps between draws, which are left out.
    """

    corrected = False

    def __init__(
        self,
        model,
        num_chains: int = 4,
        num_draws: int = 100,
        num_burn_in: int = 20,
        num_steps_between: int = 0,
        correct_likelihood: bool = True,
        train_model: bool = True,
        name: str | None = None,
    ):
        super().__init__(
            model, num_chains, num_draws, correct_likelihood, train_model, name=name
        )
        check_counts(self, num_burn_in=num_burn_in, num_steps_between=num_steps_between)
        self.num_burn_in, self.num_steps_between = num_burn_in, num_steps_between

    def _chains(self, x, observed, start, seed):
        return self._re_encode(x, observed, start, self.num_burn_in, seed)

    def _re_encode(self, x, observed, start, burn_in, seed):
        z, accepted = tfp.mcmc.sample_chain(
            self.num_draws,
            start,
            kernel=ReEncoding(self.model, x, observed, self.corrected),
            num_burnin_steps=burn_in,
            num_steps_between_results=self.num_steps_between,
            trace_fn=lambda z, accepted: accepted,
            seed=seed,
        )
        acceptance = tf.reduce_mean(tf.cast(accepted, tf.float32), 0)
        return Chains(z, acceptance, tf.zeros(tf.shape(x)[:1]))


@register
class MetropolisWithinGibbs(PseudoGibbs):
    """Pseudo-Gibbs whose steps may be refused, so that p(z, x_u | x_o) is its equilibrium.

    Mattei and Frellsen, 2018: the encoder proposes z, and it is accepted with probability
    min(1, w(z_new) / w(z)), w(z) = p(x | z) p(z) / q(z | x) at the completed x. It starts with
    steps of pseudo-Gibbs, which always move.

    Args:
      model, num_chains, num_draws, correct_likelihood, train_model: as for `MonteCarlo`.
      num_warm_up: steps of pseudo-Gibbs first.
      num_burn_in: steps with refusals before the first draw.
      num_steps_between: steps between draws, which are left out.
    """

    corrected = True

    def __init__(
        self,
        model,
        num_chains: int = 4,
        num_draws: int = 100,
        num_warm_up: int = 20,
        num_burn_in: int = 200,
        num_steps_between: int = 0,
        correct_likelihood: bool = True,
        train_model: bool = True,
        name: str | None = None,
    ):
        super().__init__(
            model,
            num_chains,
            num_draws,
            num_burn_in,
            num_steps_between,
            correct_likelihood,
            train_model,
            name=name,
        )
        check_counts(self, num_warm_up=num_warm_up)
        self.num_warm_up = num_warm_up

    def _chains(self, x, observed, start, seed):
        warm_seed, seed = split_seed(seed, 2)
        if self.num_warm_up:
            start = tfp.mcmc.sample_chain(
                1,
                start,
                kernel=ReEncoding(self.model, x, observed, corrected=False),
                num_burnin_steps=self.num_warm_up - 1,
                trace_fn=None,
                seed=warm_seed,
            )[0]
        return self._re_encode(x, observed, start, self.num_burn_in, seed)


class ReEncoding(tfp.mcmc.TransitionKernel):
    """One step of (pseudo-)Gibbs: z [C, B, Z] -> z; its result says which were accepted.

    Args:
      model: a LatentVariableModel.
      x: float32 [B, *F, *E], zero where hidden.
      observed: bool [B, *F].
      corrected: True accepts by Metropolis and Hastings' rule, False always.
    """

    def __init__(self, model, x, observed, corrected: bool):
        self.model, self.x, self.observed, self.corrected = model, x, observed, corrected

    @property
    def is_calibrated(self):
        return True  # Not of pseudo-Gibbs, whose docstring says so: TFP would warn each time.

    def bootstrap_results(self, init_state):
        return tf.ones(tf.shape(init_state)[:-1], tf.bool)

    def one_step(self, current_state, previous_kernel_results, seed=None):
        del previous_kernel_results
        z = current_state
        fill_seed, encode_seed, accept_seed = split_seed(seed, 3)
        likelihood = self.model.likelihood(z)
        kept = expand_features(self.observed, self.x)
        x = tf.where(kept, self.x, likelihood.sample(seed=fill_seed))  # [C, B, *F, *E]
        flat = tf.reshape(x, tf.concat([[-1], tf.shape(self.x)[1:]], 0))
        flat = tf.ensure_shape(flat, [None, *self.x.shape[1:]])
        ndims = self.observed.shape.rank
        present = tf.ones(tf.shape(flat)[:ndims], tf.bool)
        present = tf.ensure_shape(present, flat.shape[:ndims])
        q = self.model.posterior(flat, present)
        proposed = tf.ensure_shape(
            tf.reshape(q.sample(seed=encode_seed), tf.shape(z)), z.shape
        )
        if not self.corrected:
            return proposed, tf.ones(tf.shape(z)[:-1], tf.bool)

        def log_weight(z, likelihood):
            rows = tf.reshape(z, tf.concat([[-1], tf.shape(z)[-1:]], 0))
            log_q = tf.reshape(q.log_prob(rows), tf.shape(z)[:-1])
            everything = tf.ones_like(self.observed)
            log_p = over_features(likelihood, everything).log_prob(x)
            return log_p + self.model.prior().log_prob(z) - log_q

        gain = log_weight(proposed, self.model.likelihood(proposed)) - log_weight(
            z, likelihood
        )
        uniform = tf.random.stateless_uniform(tf.shape(gain), accept_seed)
        accepted = tf.math.log(uniform) < gain
        return tf.where(accepted[..., tf.newaxis], proposed, z), accepted
