"""What methods share that bring nothing to train besides their model."""

import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.conditioners.base import LatentConditioner
from vae_arbcond.distributions import over_features
from vae_arbcond.models.base import LatentVariableModel
from vae_arbcond.models.factor_analysis import ComponentAndVector

tfd = tfp.distributions


class ModelOnly(LatentConditioner):
    """A method that answers with a trained model alone. Implement `infer`.

    Args:
      model: a LatentVariableModel.
      train_model: False leaves the model as it is: inference for a pre-trained one.
      correct_draws: as for `LatentConditioner`.
    """

    def __init__(
        self,
        model,
        train_model: bool = True,
        correct_draws: bool = True,
        name: str | None = None,
    ):
        super().__init__(model, correct_draws, name=name)
        if not isinstance(model, LatentVariableModel):
            raise TypeError(
                f"{type(self).__name__} needs a latent-variable model, a VAE say, got a "
                f"{type(model).__name__}. Of a conditioner pass its model: conditioner.model."
            )
        self.train_model = train_model

    def stages(self):
        return self.model.stages() if self.train_model else []

    def variables_to_train(self):
        return []

    def loss_terms(self, x, present, observed, seed, step, training):
        """The model's own loss: the method has nothing to train."""
        return self.model.loss_terms(x, present, observed, seed, step, training)

    def log_joint(self, x, observed, z):
        """log p(x_o, z), nats: [..., B].

        Args:
          x: float32 [B, *F, *E]; hidden entries may be anything finite.
          observed: bool [B, *F].
          z: [..., B, Z].
        """
        log_p = over_features(self.model.likelihood(z), observed).log_prob(x)
        return log_p + self.model.prior().log_prob(z)

    def dry_run(self, x, seen):
        # Inference may take seconds; the model's parts are all there is to create.
        self.model.elbo(x, seen, tf.zeros([2], tf.int32))


def check_vector_latent(method, model) -> None:
    """Refuses models whose z is not one vector of real numbers. Call it once they are built.

    Raises:
      TypeError: names the method, the model and what serves such a model.
    """
    prior = model.prior()
    shape = getattr(prior, "event_shape", None)
    vector = isinstance(shape, tf.TensorShape) and shape.rank == 1
    real = getattr(prior, "dtype", None) == tf.float32
    if vector and real and not isinstance(prior, ComponentAndVector):
        return
    raise TypeError(
        f"{type(method).__name__} moves through z, one vector of real numbers, and the z of "
        f"this {type(model).__name__} is discrete, hierarchical or of several parts (its "
        f"prior is a {type(prior).__name__} of {getattr(prior, 'dtype', '?')} {shape}). "
        f"PosteriorMatching around the model serves any z that its head can draw; "
        f"FactorAnalysisConditioner is exact for factor analysers."
    )


def all_present(x, spec) -> tf.Tensor:
    """A mask that shows all of x [N, *F, *E]: bool [N, *F]."""
    return tf.ones(tf.shape(x)[: 1 + len(spec.feature_shape)], tf.bool)


def nothing_observed(observed) -> tf.Tensor:
    """bool [B]: which rows of a mask [B, *F] show nothing."""
    return ~tf.reduce_any(observed, list(range(1, observed.shape.rank)))
