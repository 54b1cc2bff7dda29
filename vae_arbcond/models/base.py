"""What a latent-variable model is, and what everything that can be trained has in common."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import LikelihoodHead
from vae_arbcond.models.schedules import ConstantBeta
from vae_arbcond.registry import dtype_policy
from vae_arbcond.shapes import DataSpec, check_discrete

tfd = tfp.distributions


class Stage(NamedTuple):
    """One part of a training: `trainable.train_step` for `num_steps` steps.

    Attributes:
      name: what the progress bar and the logs call it.
      trainable: whose loss is minimised: the method itself, or its base model.
      num_steps: None takes the number of steps that `train` is given.
    """

    name: str
    trainable: "Trainable"
    num_steps: int | None = None


class FitStage(NamedTuple):
    """A part of a training that finds its answer by itself, without an optimiser's steps.

    Attributes:
      name: what the logs call it.
      fit: (x [N, *F, *E], present [N, *F], seed) -> what to tell of it, numbers by name. A
        pure function of its arguments: an interrupted training calls it again.
    """

    name: str
    fit: Callable[..., dict]


class Player(NamedTuple):
    """Who minimises which loss terms in a training step.

    Attributes:
      terms: names of loss terms; None for all of them.
      variables: what it changes.
    """

    terms: tuple[str, ...] | None
    variables: list


class Trainable(keras.Model):
    """A Keras model without a single forward pass: densities, and loss terms to minimise.

    `create_variables(spec)` takes the place of `build`: the spec travels in the `.keras` file,
    so a loaded model has its weights and knows the shape of its data.
    """

    spec: DataSpec | None = None
    optimizer = None
    train_seed = (0, 0)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Half precision is for networks; data and densities stay float32.
        self.autocast = False

    @property
    def feature_ndims(self) -> int:
        """Number of axes in *F: 1 for a table, 2 for an image."""
        return 1 if self.spec is None else len(self.spec.feature_shape)

    def loss_terms(self, x, present, observed, seed, step, training) -> dict[str, tf.Tensor]:
        """Terms to minimise, each [B], by the name they are logged under.

        Args:
          x: float32 [B, *F, *E].
          present: bool [B, *F]; True = the value exists in the data.
          observed: bool [B, *F]; True = the model may see the value. Entries that are not
            present count as hidden whatever `observed` says.
          seed: int32 [2].
          step: integer scalar, for schedules; None asks for the objective itself (beta 1).
          training: True switches dropout on.
        """
        raise NotImplementedError

    def call(self, x, present, observed, seed, step, training=False):
        """`loss_terms`, entered through Keras so that `training` reaches every layer."""
        return self.loss_terms(x, present, observed, seed, step, training)

    def stages(self) -> "list[Stage | FitStage]":
        """The parts of a training, in order. One, unless a method overrides this."""
        return [Stage("training", self)]

    def variables_to_train(self) -> list:
        """Variables that `train_step` changes."""
        return self.trainable_variables

    def players(self) -> list[Player]:
        """Who minimises what: one player and the whole loss, but for adversarial methods.

        Together they change `variables_to_train()`, in that order. They move at once: each
        gradient is taken where the step before left the others.
        """
        return [Player(None, self.variables_to_train())]

    def validation_terms(self, x, present, observed, seed) -> dict[str, tf.Tensor]:
        """What a validation loss is the sum of, each [B]; the objective itself by default.

        Override where the loss does not tell a better model from a worse one.

        Args:
          x, present, observed, seed: as for `loss_terms`.
        """
        return self(x, present, observed, seed=seed, step=None, training=False)

    def train_step(self, batch):
        """One optimiser step on (x, present, observed); returns the mean of each loss term.

        The noise is a function of `train_seed`, the optimiser's step and the replica, so an
        interrupted training continues with the noise it would have had.
        """
        x, present, observed = batch
        step = self.optimizer.iterations
        context = tf.distribute.get_replica_context()
        seed = tf.random.experimental.stateless_fold_in(
            tf.convert_to_tensor(self.train_seed, tf.int32), step
        )
        seed = tf.random.experimental.stateless_fold_in(seed, context.replica_id_in_sync_group)
        players = self.players()
        variables = [variable for player in players for variable in player.variables]
        several = len(players) > 1
        with tf.GradientTape(persistent=several, watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            terms = self(x, present, observed, seed=seed, step=step, training=True)
            means = {name: tf.reduce_mean(term) for name, term in terms.items()}
            total = tf.add_n(list(means.values()))
            # The optimiser sums gradients over replicas; each holds its share of the batch.
            shares = [
                tf.add_n([means[name] for name in player.terms or means])
                / context.num_replicas_in_sync
                for player in players
            ]
        gradients = []
        for player, share in zip(players, shares, strict=True):
            gradients += tape.gradient(share, [v.value for v in player.variables])
        self.optimizer.apply(self._clip_together(gradients, context), variables)
        return {"loss": total, **means}

    def _clip_together(self, gradients, context):
        # The optimiser clips before it sums over replicas, each replica's share on its own.
        # Clip the sum instead; what is then handed on is below the optimiser's own bound.
        replicas, norm = context.num_replicas_in_sync, self.optimizer.global_clipnorm
        if not norm:
            return gradients
        summed = [g for g in gradients if g is not None]
        if replicas > 1:
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, summed)
        clipped = iter(clip_by_global_norm(summed, norm))
        return [None if g is None else next(clipped) / replicas for g in gradients]

    def create_variables(self, spec: DataSpec, seed: int = 0):
        """Creates all weights for data of this shape; returns self.

        Args:
          spec: the data's shape and, for tables, the number of levels of each column.
          seed: of the initial weights. Parts that have weights already keep them.
        """
        # Heads make layers once they know the data.
        with dtype_policy(self.dtype_policy.name):
            self.build_for(spec)
            self._seed_initializers(seed)
            x = tf.zeros([1, *spec.x_shape])
            seen = tf.ones([1, *spec.feature_shape], tf.bool)
            self(x, seen, seen, seed=tf.zeros([2], tf.int32), step=tf.constant(0))
            self.dry_run(x, seen)
        return self

    def _seed_initializers(self, seed: int) -> None:
        # Keras gives every initialiser and dropout a seed from Python's global generator when
        # a layer is constructed; these depend on `seed` and the layer's place only.
        for place, layer in enumerate(self._flatten_layers()):
            numbers = np.random.SeedSequence([seed, place]).generate_state(8)
            numbers = iter(numbers.astype(np.int64).tolist())
            generator = getattr(layer, "seed_generator", None)
            if generator is not None and layer.seed is None:
                generator.state.assign([next(numbers), next(numbers)])
            if layer.built and layer.weights:
                continue
            for value in vars(layer).values():
                drawn = isinstance(value, keras.Initializer) and hasattr(value, "_init_seed")
                if drawn and value._init_seed is None:
                    value.seed = next(numbers)

    def build_for(self, spec: DataSpec) -> None:
        """Tells the parts the data's shape. Overriders call super and pass it on.

        Raises:
          ValueError: the weights exist already, for data of another shape.
        """
        if self.spec not in (None, spec):
            raise ValueError(
                f"This {type(self).__name__} was built for {self.spec} and cannot be built "
                f"again for {spec}. Construct a new one for other data."
            )
        self.spec = spec
        self.built = True  # There is no single call for Keras to trace the weights from.

    def check_data(self, x: np.ndarray, present: np.ndarray) -> None:
        """Refuses training data [N, *F, *E]: levels and counts that are none, and what a
        likelihood head gives no probability.

        Raises:
          ValueError: names the column, or the head, and a value.
        """
        check_discrete(tf.constant(x), tf.constant(present), "present", self.spec)
        for layer in self._flatten_layers():
            if isinstance(layer, LikelihoodHead):
                layer.check_values(x[present])

    def adapt(self, x: np.ndarray, present: np.ndarray) -> None:
        """Keeps what a method needs to know of the training rows [N, *F, *E] before it trains.

        A pure function of the rows, as weights that are not trained: a resumed training calls
        it again.
        """

    def check_training_mask(self, present: np.ndarray, observed: np.ndarray, name: str):
        """Refuses masks [N, *F] from which nothing can be learnt; by default none.

        Args:
          present, observed: of some training rows.
          name: of the mask generator, for the message.

        Raises:
          ValueError: says what to do.
        """

    def dry_run(self, x, seen) -> None:
        """Calls whatever creates weights that `loss_terms` alone does not create."""

    def get_build_config(self):
        return None if self.spec is None else {"spec": self.spec.to_config()}

    def build_from_config(self, config):
        self.create_variables(DataSpec.from_config(config["spec"]))


class LatentVariableModel(Trainable):
    """p(z) p(x | z) with an inference network q(z | x). Base of every model in models/.

    The invariant that makes tables, pixels and mixed columns one problem: a mask has exactly
    the batch shape of the likelihood. `z` is opaque outside its own model.
    """

    beta = ConstantBeta()

    def prior(self) -> tfd.Distribution:
        """p(z): batch_shape []."""
        raise NotImplementedError

    def posterior(self, x, present) -> tfd.Distribution:
        """q(z | x) from x [B, *F, *E]: batch_shape [B]. Entries not `present` are unseen."""
        raise NotImplementedError

    def likelihood(self, z) -> tfd.Distribution:
        """p(x | z) for z [..., B, Z]: batch_shape [..., B, *F], event_shape *E."""
        raise NotImplementedError

    def elbo(self, x, present, seed, beta=1.0, posterior=None) -> tf.Tensor:
        """E_q[log p(x | z)] - beta KL(q(z | x) || p(z)): [B], nats.

        Args:
          x: float32 [B, *F, *E].
          present: bool [B, *F]; only present entries are scored.
          seed: int32 [2].
          beta: weight of the KL term; 1 is the bound.
          posterior: q(z | x) where the caller has it already.
        """
        raise NotImplementedError

    def loss_terms(self, x, present, observed, seed, step, training):
        """The negative ELBO of the present entries; the mask plays no part."""
        del observed, training
        return {"negative_elbo": -self.elbo(x, present, seed, beta=self.beta_at(step))}

    def beta_at(self, step):
        """The schedule's beta at a step; 1, the bound itself, where `step` is None."""
        return 1.0 if step is None else self.beta(step)


def clip_by_global_norm(gradients: list[tf.Tensor], norm: float) -> list[tf.Tensor]:
    """Gradients scaled down to a joint norm of at most `norm`, as long as they are finite.

    tf.clip_by_global_norm makes all of them NaN where their squares add up to more than
    float32 holds: a norm of 2e19, which a first step far from the data can have.
    """
    total = tf.linalg.global_norm(gradients)

    def plainly():
        return [g * (norm / tf.maximum(total, norm)) for g in gradients]

    def by_the_largest():
        # All entries at most 1, so that their squares fit.
        scale = tf.reduce_max([tf.reduce_max(tf.abs(g)) for g in gradients])
        parts = [g / scale for g in gradients]
        return [g * (norm / tf.linalg.global_norm(parts)) for g in parts]

    return tf.cond(tf.math.is_inf(total), by_the_largest, plainly)


def kl_divergence(q: tfd.Distribution, p: tfd.Distribution, z) -> tf.Tensor:
    """KL(q || p) [B] in closed form where TFP knows one, else log q(z) - log p(z) at z ~ q."""
    try:
        return tfd.kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)
