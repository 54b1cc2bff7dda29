"""Optimisers as gin-injectable factories.

`train` calls one for every stage of a training, with the stage's number of steps, so that a
schedule ends where its stage ends.
"""

import gin
import keras
import tensorflow as tf

from vae_arbcond.registry import PACKAGE


@gin.register(module=PACKAGE)
def adam(
    num_steps: int | None = None,
    learning_rate: float = 1e-3,
    decay_rate: float = 1.0,
    decay_steps: int = 5000,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> keras.optimizers.Optimizer:
    """Adam; learning rate times `decay_rate` every `decay_steps` steps, continuously.

    Args:
      num_steps: plays no part: this schedule has no end.
      learning_rate: at step 0. Posterior Matching: 1e-3.
      decay_rate: 1 keeps it constant. Posterior Matching: 0.9.
      decay_steps: steps for one factor of `decay_rate`.
      weight_decay: decoupled, on matrices only (the paper's published code: 1e-5).
      clip_norm: largest norm of the whole gradient; None does not clip.
    """
    del num_steps
    if decay_rate != 1.0:
        learning_rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate, decay_steps, decay_rate
        )
    return _adam(learning_rate, weight_decay, clip_norm)


@gin.register(module=PACKAGE)
def adam_cosine(
    num_steps: int,
    learning_rate: float = 1e-3,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> keras.optimizers.Optimizer:
    """Adam with a linear warm-up and a half cosine down to 0 at `num_steps`.

    Args:
      num_steps: step at which the rate reaches 0; `train` gives that of each stage.
      learning_rate: the highest rate.
      warmup_steps: steps from 0 to the highest rate.
      weight_decay, clip_norm: as for `adam`.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else learning_rate,
        max(num_steps - warmup_steps, 1),
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    return _adam(schedule, weight_decay, clip_norm)


@keras.saving.register_keras_serializable(PACKAGE)
class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, every weight's update one TensorFlow operation.

    Keras writes it as a dozen operations, each a pass over the weights and their moments: on a
    CPU that is as long as the whole forward pass of a small model.
    """

    def build(self, variables):
        if self.weight_decay:
            # What is no matrix is a bias, a scale or a threshold: 0 is no better a value.
            self.exclude_from_weight_decay(
                var_list=[v for v in variables if len(v.shape) < 2 or v.name == "bias"]
            )
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        slots = [slot[index].value for slot in (self._momentums, self._velocities)]
        if isinstance(variable, keras.Variable):
            variable = variable.value
        step = tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=slots[0].handle,
            v=slots[1].handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.convert_to_tensor(gradient),
        )


def _adam(learning_rate, weight_decay, clip_norm):
    return FusedAdam(
        learning_rate, weight_decay=weight_decay or None, global_clipnorm=clip_norm
    )
