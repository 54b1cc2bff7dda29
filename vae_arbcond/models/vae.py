"""Variational autoencoder (Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114v11)."""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import over_features
from vae_arbcond.models.base import LatentVariableModel, kl_divergence
from vae_arbcond.models.schedules import ConstantBeta
from vae_arbcond.networks import MaskedInput
from vae_arbcond.registry import register
from vae_arbcond.shapes import fold_batch

tfd = tfp.distributions


@register
class VAE(LatentVariableModel):
    """p(z) = N(0, I), p(x | z) from a decoder, q(z | x) from an encoder.

    Rows may have gaps: the encoder sees the mask of present entries beside the values, and
    only present entries are scored.

    Args:
      latent_size: length of z.
      encoder: network, [N, inputs] -> [N, H] (images: [N, H, W, C + 1] -> [N, H]).
      posterior_head: [N, H] -> q(z | x), e.g. DiagonalGaussian or CholeskyGaussian; must
        draw reparameterised samples.
      decoder: network, [N, latent_size] -> what `likelihood_head` takes.
      likelihood_head: decoder output -> p(x | z), e.g. MixedColumns or Bernoulli.
      beta: schedule of the KL term's weight in training, step -> float; None = always 1.
    """

    def __init__(
        self,
        latent_size: int,
        encoder,
        posterior_head,
        decoder,
        likelihood_head,
        beta=None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.latent_size = latent_size
        self.inputs_layer = MaskedInput()
        self.encoder, self.posterior_head = encoder, posterior_head
        self.decoder, self.likelihood_head = decoder, likelihood_head
        self.beta = ConstantBeta() if beta is None else beta

    def prior(self):
        return tfd.MultivariateNormalDiag(tf.zeros([self.latent_size]))

    def posterior(self, x, present):
        q = self.posterior_head(self.encoder(self.inputs_layer(x, present)))
        if q.event_shape != [self.latent_size]:
            raise ValueError(
                f"The VAE's posterior_head has event_size {q.event_shape[0]}, but its "
                f"latent_size is {self.latent_size}. Give both the same number."
            )
        return q

    def likelihood(self, z):
        return self.likelihood_head(fold_batch(self.decoder, z))

    def elbo(self, x, present, seed, beta=1.0, posterior=None):
        """The evidence lower bound (Kingma and Welling, Eq. 3; VAEAC, Eq. 1). [B], nats.

        One reparameterised sample of z.
        """
        q = self.posterior(x, present) if posterior is None else posterior
        if q.reparameterization_type != tfd.FULLY_REPARAMETERIZED:
            raise ValueError(
                f"The ELBO's gradient needs reparameterised draws of q(z | x), which "
                f"{type(self.posterior_head).__name__} does not have. Use a Gaussian or a "
                f"flow as posterior_head; as a partial posterior any head will do."
            )
        z = q.sample(seed=seed)
        log_px = over_features(self.likelihood(z), present).log_prob(x)
        return log_px - beta * kl_divergence(q, self.prior(), z)

    def build_for(self, spec):
        if self.spec == spec:
            return  # Built before, and perhaps trained, alone: its weights stay.
        super().build_for(spec)
        self.inputs_layer.build_for(spec)
        self.likelihood_head.build_for(spec)
