"""VAEAC: a variational autoencoder whose prior, too, is conditioned on what is observed.

Ivanov, Figurnov and Vetrov, 2019, https://arxiv.org/abs/1806.02382. The paper's b marks what
is unobserved; here `observed` is its opposite, as everywhere.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import estimators
from vae_arbcond.conditioners import sampling
from vae_arbcond.conditioners.base import Inference, LatentConditioner, check_hides
from vae_arbcond.distributions import DiagonalGaussian, over_features
from vae_arbcond.networks import MaskedInput
from vae_arbcond.registry import register
from vae_arbcond.shapes import check_positive, check_shares, check_sizes, expand_features

tfd = tfp.distributions


@register
class VAEAC(LatentConditioner):
    """p(x_u | x_o) = E p(x_u | z, x_o) over z ~ p(z | x_o): no joint model is needed.

    The loss scores what is hidden by the mask and present in the data, and nothing else
    (Eq. 7, a bound on Eq. 4; with Eq. 9 for training data with gaps). Train it with masks
    like those of the questions to come.

    Args:
      latent_size: length of z.
      prior_network: [x_o, observed] -> (h, states); p(z | x_o) is made from h, and the
        generative network reuses the states.
      proposal_network: [x, present, observed] -> (h, states) or h, for q(z | x, b).
      generative_network: has `prepare(states)`, run once a row, and `call(z, prepared)`.
      likelihood_head: what the generative network gives -> p(x | z, x_o).
      alpha: weight of the variational bound in the hybrid objective (Eq. 16); the rest goes to
        a Gaussian stochastic neural network (Eq. 15), which draws z from the prior. 1 is
        VAEAC, 0 the GSNN alone; below 1 modes are lost (appendix C).
      deterministic: z is the prior's mean and nothing else: the plain neural network of
        appendix D.2. Needs alpha = 0.
      mean_scale, scale_weight: of the prior on the prior's parameters (Eq. 8); the paper's
        1e4 and 1e-4 only keep them from growing without end.
      min_scale: lower bound on the standard deviations of z.
    """

    infer_draws = False  # Amortised, and each row for itself.

    def __init__(
        self,
        latent_size: int,
        prior_network,
        proposal_network,
        generative_network,
        likelihood_head,
        alpha: float = 1.0,
        deterministic: bool = False,
        mean_scale: float = 1e4,
        scale_weight: float = 1e-4,
        min_scale: float = 1e-3,
        name: str | None = None,
    ):
        super().__init__(None, correct_draws=False, name=name)
        check_shares(self, alpha=alpha)
        if deterministic and alpha:
            raise ValueError(
                f"A deterministic network has no variational bound to weigh: set alpha = 0 "
                f"(got {alpha}) or deterministic = False."
            )
        check_sizes(self, latent_size=latent_size)
        check_positive(self, mean_scale=mean_scale, min_scale=min_scale)
        if scale_weight:  # 0 leaves the standard deviations alone.
            check_positive(self, scale_weight=scale_weight)
        if not hasattr(generative_network, "prepare"):
            raise TypeError(
                f"VAEAC.generative_network takes z and what the prior network knows of the "
                f"row, which a {type(generative_network).__name__} does not: it has no "
                f"prepare(states). Use SkipMlpDecoder, LayeredDecoder or SkipConvDecoder."
            )
        self.inputs_layer = MaskedInput()
        self.prior_network, self.proposal_network = prior_network, proposal_network
        self.generative_network = generative_network
        self.prior_head = DiagonalGaussian(latent_size, min_scale)
        self.proposal_head = DiagonalGaussian(latent_size, min_scale)
        self.likelihood_head = likelihood_head
        self.alpha, self.deterministic = alpha, deterministic
        self.mean_scale, self.scale_weight = mean_scale, scale_weight

    @property
    def estimator(self):
        if self.alpha:
            return "importance sampling under the conditional prior (VAEAC, Eq. 18)"
        return "Monte Carlo under the conditional prior (VAEAC, Eq. 17)"

    def prior(self, x, observed):
        """p(z | x_o), batch_shape [B], and what the generative network needs of x_o."""
        known = self.prior_network(self.inputs_layer(x, observed))
        if not isinstance(known, tuple | list):
            raise TypeError(
                f"VAEAC.prior_network must return (h, states), for the generative network "
                f"reuses its states; a {type(self.prior_network).__name__} returns h alone. "
                f"Use SkipMlpEncoder, LayeredEncoder or SkipConvEncoder."
            )
        h, states = known
        return self.prior_head(h), self.generative_network.prepare(states)

    def proposal(self, x, observed, present) -> tfd.Distribution:
        """q(z | x, b), batch_shape [B]: sees all that is present, and what of it is hidden."""
        seen = self.inputs_layer(x, present)
        mask = tf.cast(observed, seen.dtype)
        mask = mask if seen.shape.rank == mask.shape.rank else mask[..., tf.newaxis]
        h = self.proposal_network(tf.concat([seen, mask], -1))
        return self.proposal_head(h[0] if isinstance(h, tuple | list) else h)

    def infer(self, x, observed, seed):
        del seed  # Amortised: nothing is drawn.
        prior, context = self.prior(x, observed)
        if self.deterministic:
            prior = tfd.VectorDeterministic(prior.mean())
        return Inference(prior, context)

    def likelihood(self, z, context) -> tfd.Distribution:
        """p(x | z, x_o), the integrand of Eq. 5: batch_shape [..., B, *F]."""
        return self.likelihood_head(self.generative_network(z, context))

    def loss_terms(self, x, present, observed, seed, step, training):
        """The negative of Eq. 16, a mixture of Eq. 6 and Eq. 15, and of Eq. 8: each [B]."""
        del step, training
        observed = observed & present
        hidden = present & ~observed
        prior, context = self.prior(x, observed)
        seeds = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        terms = {"regulariser": -self.regulariser(prior)}
        if self.alpha:
            q = self.proposal(x, observed, present)
            score = self._log_p_hidden(x, hidden, q.sample(seed=seeds[0]), context)
            terms["negative_bound"] = self.alpha * (tfd.kl_divergence(q, prior) - score)
        if self.alpha < 1.0:
            z = prior.mean() if self.deterministic else prior.sample(seed=seeds[1])
            score = self._log_p_hidden(x, hidden, z, context)
            terms["gsnn"] = (self.alpha - 1.0) * score
        return terms

    def regulariser(self, prior) -> tf.Tensor:
        """-|mean|^2 / (2 mean_scale^2) + scale_weight (log stddev - stddev), over z: [B].

        The terms that VAEAC, 4.3.2, names below Eq. 8: but for constants, the logs of
        N(mean | 0, mean_scale) and of a Gamma density of the standard deviation with shape
        1 + scale_weight and rate scale_weight. (The Gamma in Eq. 8 has shape 2 instead; with
        a weight of 1e-4 neither does more than keep scales from growing without end.)
        """
        scale = prior.stddev()
        each = -tf.square(prior.mean() / self.mean_scale) / 2.0
        each += self.scale_weight * (tf.math.log(scale) - scale)
        return tf.reduce_sum(each, -1)

    def _log_p_hidden(self, x, hidden, z, context):
        """log p(x_u | z, x_o) of what is hidden and present (Eq. 9): [..., B]."""
        return over_features(self.likelihood(z, context), hidden).log_prob(x)

    def _log_weights(self, x, observed, z, likelihood, posterior):
        # Draws of p(z | x_o) are what the model says: there is nothing to correct.
        return tf.zeros(tf.shape(z)[:2])

    def _log_likelihood(self, x, observed, target, num_samples, seed):
        if not self.alpha:  # Eq. 17; a GSNN has no proposal.
            return super()._log_likelihood(x, observed, target, num_samples, seed)
        seen = tf.where(expand_features(observed, x), x, 0.0)
        infer_seed, draw_seed = sampling.split(seed)
        prior, context = self.infer(seen, observed, infer_seed)
        proposal = self.proposal(x, observed, observed | target)

        def chunk(count, i):
            z = sampling.sample(proposal, count, sampling.chunk_seeds(draw_seed, i).z)
            log_p_target = self._log_p_hidden(x, target, z, context)
            return log_p_target, prior.log_prob(z), proposal.log_prob(z)

        parts = sampling.in_chunks(chunk, num_samples, (tf.float32,) * 3)
        estimate = estimators.conditional_prior_importance(
            *[part[:num_samples] for part in parts]
        )
        nothing = ~tf.reduce_any(target, list(range(1, target.shape.rank)))
        return estimators.certain_where(nothing, estimate)

    def variables_to_train(self):
        parts = [self.prior_network, self.prior_head, self.generative_network]
        parts += [self.likelihood_head]
        if self.alpha:
            parts += [self.proposal_network, self.proposal_head]
        return [variable for part in parts for variable in part.trainable_variables]

    def check_training_mask(self, present, observed, name):
        """Refuses masks that hide nothing: the loss would score nothing."""
        check_hides(self, present, observed, name)

    def build_for(self, spec):
        super().build_for(spec)
        self.inputs_layer.build_for(spec)
        self.likelihood_head.build_for(spec)

    def dry_run(self, x, seen):
        super().dry_run(x, seen)
        self.proposal(x, seen, seen)  # Its weights exist even where nothing uses them.
