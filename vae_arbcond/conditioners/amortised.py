"""Encoders that see a part of x: what amortised methods share, and two to compare with.

`FillZeros` asks the model's own encoder (Nazabal et al., 2020, https://arxiv.org/abs/1807.03653);
`ReTunedEncoder` trains another on masked rows (Collier, Nazabal and Williams, 2020,
https://arxiv.org/abs/2006.05301), as Agarwal et al. (QAVI) compare with.
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners.base import Inference, LatentConditioner
from vae_arbcond.conditioners.model_only import ModelOnly
from vae_arbcond.models.base import FitStage, Stage
from vae_arbcond.networks import MaskedInput
from vae_arbcond.registry import register
from vae_arbcond.shapes import expand_features, means_and_modes

tfd = tfp.distributions


class PartialPosterior(LatentConditioner):
    """A method with an encoder of its own for q(z | x_o) beside its model.

    Args:
      model: any LatentVariableModel.
      partial_encoder: network, [x_o, observed] -> h, of the shape of the model's encoder.
      partial_posterior_head: h -> q(z | x_o).
      correct_draws: as for `LatentConditioner`.
    """

    infer_draws = False  # Amortised, and each row for itself.

    def __init__(
        self,
        model,
        partial_encoder,
        partial_posterior_head,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(model, correct_draws, name=name)
        self.inputs_layer = MaskedInput()
        self.partial_encoder = partial_encoder
        self.partial_posterior_head = partial_posterior_head

    def partial_posterior(self, x, observed) -> tfd.Distribution:
        """q_theta(z | x_o): batch_shape [B]."""
        return self.partial_posterior_head(
            self.partial_encoder(self.inputs_layer(x, observed))
        )

    def infer(self, x, observed, seed):
        del seed  # Amortised: nothing is drawn.
        return Inference(self.partial_posterior(x, observed))

    def variables_to_train(self):
        return [
            *self.partial_encoder.trainable_variables,
            *self.partial_posterior_head.trainable_variables,
        ]

    def build_for(self, spec):
        super().build_for(spec)
        self.inputs_layer.build_for(spec)

    def dry_run(self, x, seen):
        super().dry_run(x, seen)
        # The decoder's and encoder's weights exist even where the loss does not reach them.
        self.model.elbo(x, seen, tf.zeros([2], tf.int32))


def check_event_size(partial: tfd.Distribution, z_shape: tf.TensorShape) -> None:
    """Refuses a partial posterior of another size than the model's z.

    Raises:
      ValueError: names both sizes.
    """
    if partial.event_shape != z_shape:
        raise ValueError(
            f"The partial posterior's head has event_size {list(partial.event_shape)}, but "
            f"the model's z is of size {list(z_shape)} (its latent_size). Give both the same "
            f"number."
        )


@register
class FillZeros(ModelOnly):
    """q(z | x) of the model's encoder, asked at x with its hidden cells filled.

    The encoder is told that all cells are there, as it mostly was in training. In the units
    of a table's numbers zero is the mean; of an image it is black.

    Args:
      model: a LatentVariableModel.
      fill_mean: True fills with the training rows' mean, levels with the most frequent one;
        `adapt(x, present)` keeps them, and `train` calls it.
      show_mask: True tells the encoder which cells are hidden, which a model trained on rows
        with gaps knows what to make of.
      train_model: False leaves the model as it is.
      correct_draws: resample draws towards the model's posterior; False is the papers' way.
    """

    infer_draws = False  # Amortised, and each row for itself.

    def __init__(
        self,
        model,
        fill_mean: bool = False,
        show_mask: bool = False,
        train_model: bool = True,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(model, train_model, correct_draws, name=name)
        if fill_mean and show_mask:
            raise ValueError(
                "FillZeros with show_mask=True shows the encoder no value in hidden cells, so "
                "fill_mean=True would change nothing. Drop one of the two."
            )
        self.fill_mean, self.show_mask = fill_mean, show_mask

    def build_for(self, spec):
        super().build_for(spec)
        if self.fill_mean:
            self.fill = self.add_weight(
                shape=spec.x_shape,
                initializer=keras.initializers.Zeros(),
                trainable=False,
                name="fill",
            )

    def adapt(self, x, present):
        """Keeps each feature's mean over the rows where it is present, or its mode."""
        if not self.fill_mean:
            return
        typical = means_and_modes(x, present, self.spec.levels)
        self.fill.assign(typical.astype(np.float32))

    def infer(self, x, observed, seed):
        del seed  # Amortised: nothing is drawn.
        fill = tf.convert_to_tensor(self.fill) if self.fill_mean else 0.0
        filled = tf.where(expand_features(observed, x), x, fill)
        told = observed if self.show_mask else tf.ones_like(observed)
        return Inference(self.model.posterior(filled, told))


@register
class ReTunedEncoder(PartialPosterior):
    """An encoder trained on masked rows, for a decoder that stays as it is.

    It maximises E_q[log p(x_o | z)] - KL(q(z | x_o) || p(z)), the evidence lower bound of the
    cells that the mask shows; what it hides plays no part. Train it with masks like those of
    the questions to come. Where the model is trained, too, that comes first.

    Args:
      model: a LatentVariableModel.
      partial_encoder: network, [x_o, observed] -> h.
      partial_posterior_head: h -> q(z | x_o); must draw reparameterised samples.
      start_at_encoder: True starts at the model's own encoder and head, which must be of the
        same shapes: they are tuned again. False starts afresh.
      show_mask: True is Collier et al.'s way; False fills with zeros and tells the encoder
        that all cells are there.
      train_model: False leaves the model as it is: for a pre-trained VAE.
      pretrain_steps: of the model; None takes as many as the encoder gets.
      correct_draws: resample draws towards the model's posterior; False is the papers' way.
    """

    def __init__(
        self,
        model,
        partial_encoder,
        partial_posterior_head,
        start_at_encoder: bool = True,
        show_mask: bool = True,
        train_model: bool = True,
        pretrain_steps: int | None = None,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(
            model, partial_encoder, partial_posterior_head, correct_draws, name=name
        )
        if pretrain_steps is not None and not train_model:
            raise ValueError(
                f"pretrain_steps={pretrain_steps} trains the model first, but train_model is "
                f"False, which leaves it as it is. Drop one of the two."
            )
        self.start_at_encoder, self.show_mask = start_at_encoder, show_mask
        self.train_model, self.pretrain_steps = train_model, pretrain_steps

    def partial_posterior(self, x, observed):
        if self.show_mask:
            return super().partial_posterior(x, observed)
        filled = tf.where(expand_features(observed, x), x, 0.0)
        return super().partial_posterior(filled, tf.ones_like(observed))

    def loss_terms(self, x, present, observed, seed, step, training):
        del step, training  # The bound itself: the decoder needs no warming up.
        seen = observed & present
        q = self.partial_posterior(x, seen)
        check_event_size(q, self.model.prior().event_shape)
        return {"negative_elbo": -self.model.elbo(x, seen, seed, posterior=q)}

    def stages(self):
        model = [Stage("VAE", self.model, self.pretrain_steps)] if self.train_model else []
        copy = [FitStage("start", self.copy_encoder)] if self.start_at_encoder else []
        return [*model, *copy, Stage("re-tuning", self)]

    def copy_encoder(self, x=None, present=None, seed: int = 0) -> dict:
        """Starts at the model's encoder: a stage of training that looks at no rows."""
        del x, present, seed
        for own, its in zip(*self._encoders(), strict=True):
            own.assign(its)
        return {"copied_weights": len(self._encoders()[0])}

    def _encoders(self):
        """Weights of the own encoder and head, and of the model's."""
        own = [*self.partial_encoder.weights, *self.partial_posterior_head.weights]
        parts = [getattr(self.model, name, None) for name in ("encoder", "posterior_head")]
        return own, [weight for part in parts if part is not None for weight in part.weights]

    def dry_run(self, x, seen):
        super().dry_run(x, seen)
        if not self.start_at_encoder:
            return
        own, its = ([tuple(w.shape) for w in weights] for weights in self._encoders())
        if own != its:
            raise ValueError(
                f"start_at_encoder=True copies weights of shapes {its}, those of the encoder "
                f"and head of this {type(self.model).__name__}, to the partial encoder, which "
                f"has {own}. Give both the same networks, or set start_at_encoder=False."
            )
