"""Posterior Matching: arbitrary conditioning for any VAE.

Strauss and Oliva, 2022, https://arxiv.org/abs/2201.12414v4. The paper's q_theta(z | x_o) is
`partial_posterior`, its mask b is `observed` (True = observed, as in the paper).
"""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners.amortised import PartialPosterior, check_event_size
from vae_arbcond.models.base import Stage
from vae_arbcond.registry import register

tfd = tfp.distributions


@register
class PosteriorMatching(PartialPosterior):
    """Adds q(z | x_o) to any VAE by matching it to q(z | x).

    The loss scores the model's present entries (ELBO) and z (matching), never x_hidden itself.

    Args:
      model: any LatentVariableModel.
      partial_encoder: network, [x_o, observed] -> h, of the shape of the model's encoder.
      partial_posterior_head: h -> q(z | x_o). It never needs reparameterised samples for the
        sampled loss: any distribution with a `log_prob` will do.
      train_model: False leaves the model as it is: conditioning for a pre-trained VAE.
      stop_gradient: True keeps the matching loss out of the VAE's encoder (the paper's choice
        for tables); False lets the encoder be drawn towards what x_o can tell.
      closed_form: True minimises the KL divergence of Eq. 3, for pairs of distributions that
        have one (two Gaussians); False its one-sample form, Eq. 5.
      pretrain_steps: train the VAE alone for so many steps first, then match with the VAE
        frozen. 0 trains both together.
      correct_draws: resample draws towards the model's posterior; False is the paper's way.
    """

    def __init__(
        self,
        model,
        partial_encoder,
        partial_posterior_head,
        train_model: bool = True,
        stop_gradient: bool = True,
        closed_form: bool = False,
        pretrain_steps: int = 0,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(
            model, partial_encoder, partial_posterior_head, correct_draws, name=name
        )
        if pretrain_steps and not train_model:
            raise ValueError(
                f"pretrain_steps={pretrain_steps} trains the model first, but train_model is "
                f"False, which leaves it as it is. Drop one of the two."
            )
        self.train_model, self.stop_gradient = train_model, stop_gradient
        self.closed_form, self.pretrain_steps = closed_form, pretrain_steps
        self._joint = train_model and not pretrain_steps

    def matching_loss(self, full_posterior, x, observed, seed) -> tf.Tensor:
        """-log q(z | x_o) at one z ~ q(z | x) (Eq. 5), or KL(q(z | x) || q(z | x_o)) (Eq. 3).

        Eq. 5 estimates Eq. 2, its expectation over data and masks; Eq. 3 differs from Eq. 2
        by the entropy of q(z | x), which does not depend on theta.

        Args:
          full_posterior: q(z | x), batch_shape [B].
          x, observed: [B, *F, *E], [B, *F].
          seed: int32 [2].

        Returns:
          [B], nats.
        """
        partial = self.partial_posterior(x, observed)
        check_event_size(partial, full_posterior.event_shape)
        if self.closed_form:
            if self.stop_gradient:
                full_posterior = tf.nest.map_structure(
                    tf.stop_gradient, full_posterior, expand_composites=True
                )
            try:
                return tfd.kl_divergence(full_posterior, partial)
            except NotImplementedError as error:
                raise ValueError(
                    f"closed_form=True needs a KL divergence between "
                    f"{type(full_posterior).__name__} and {type(partial).__name__}, and none "
                    f"is known. Set closed_form=False for the sampled loss (Eq. 5)."
                ) from error
        z = full_posterior.sample(seed=seed)
        if self.stop_gradient:
            z = tf.nest.map_structure(tf.stop_gradient, z)
        return -partial.log_prob(z)

    def loss_terms(self, x, present, observed, seed, step, training):
        del training
        elbo_seed, match_seed = tf.unstack(tfp.random.split_seed(seed, n=2), 2)
        q = self.model.posterior(x, present)
        terms = {"matching": self.matching_loss(q, x, observed & present, match_seed)}
        if self._joint:
            beta = self.model.beta_at(step)
            terms["negative_elbo"] = -self.model.elbo(x, present, elbo_seed, beta, q)
        return terms

    def variables_to_train(self):
        if self._joint:
            return self.trainable_variables
        return super().variables_to_train()

    def stages(self):
        if self.pretrain_steps:
            return [
                Stage("VAE", self.model, self.pretrain_steps),
                Stage("matching", self),
            ]
        return [Stage("training", self)]
