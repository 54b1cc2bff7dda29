"""VAEAC, GSNN and NN for the tables of `vaeac_tables.py`: one network, one way to train it.

`train` of the library compiles its loop for every training, which for these short ones is most
of the time. Here the loop is compiled once a table and method, and the five splits share it.
"""

import hashlib
import json

import numpy as np
import tensorflow as tf

from vae_arbcond import optimizers
from vae_arbcond.conditioners import VAEAC
from vae_arbcond.data.pipeline import batch_indices
from vae_arbcond.distributions import MixedColumns
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.skip_networks import SkipMlpDecoder, SkipMlpEncoder

VARIANTS = {
    "vaeac": {},
    "gsnn": {"alpha": 0.0},
    "nn": {"alpha": 0.0, "deterministic": True},
}
SETTINGS = {  # for all tables and variants
    "hidden": 128,
    "depth": 3,
    "latent_size": 16,
    "steps": 3_000,  # at least, and or one for every `cells_a_step` training cells
    "cells_a_step": 8,
    "limit": 5.0,  # standard deviations beyond which a network sees no difference
    "batch": 64,
    "learning_rate": 1e-3,
    "decay_rows": 300.0,  # weight decay times the number of training rows
    "clip_norm": 10.0,
    "averaging": 0.99,
    "every": 100,
    "patience": 8,
    "mask_copies": 3,
    "validation_samples": 25,
}
DIGEST = hashlib.sha256(json.dumps(SETTINGS, sort_keys=True).encode()).hexdigest()[:8]
MASK = BernoulliMask(0.8)  # The paper's: hidden with probability 0.2.
_fold_in = tf.random.experimental.stateless_fold_in


def limited(x, spec):
    """x [N, D] with numbers between plus and minus `limit`: what networks are given.

    A pixel that is blank but for one row has a value a hundred standard deviations out, and
    what a network says to that is of no use for any column.
    """
    if spec.discrete is not None and spec.discrete.all():
        return x
    limit = SETTINGS["limit"]
    near = np.clip(x, -limit, limit)
    return near if spec.discrete is None else np.where(spec.discrete, x, near)


class Fitter:
    """A network for tables of one shape that can be fitted again and again.

    Args:
      variant: a key of `VARIANTS`.
      spec: of the tables.
      num_rows: training rows. Weight decay is a prior's pull beside the mean loss of a row, so
        it shrinks as rows are added.
    """

    def __init__(self, variant: str, spec, num_rows: int):
        self.variant, self.spec = variant, spec
        steps = num_rows * spec.num_features // SETTINGS["cells_a_step"]
        self.num_steps = max(SETTINGS["steps"], steps // 100 * 100)
        self.method = self._fresh(0)
        self.method.optimizer = optimizers.adam_cosine(
            self.num_steps,
            learning_rate=SETTINGS["learning_rate"],
            weight_decay=SETTINGS["decay_rows"] / num_rows,
            clip_norm=SETTINGS["clip_norm"],
        )
        self.variables = self.method.variables_to_train()
        self.method.optimizer.build(self.variables)
        self.averages = [tf.Variable(v.value, trainable=False) for v in self.variables]
        # A variable: a tuple would be compiled in, and every split have the first one's noise.
        self.noise_seed = tf.Variable([0, 1], trainable=False, dtype=tf.int32)
        self.method.train_seed = self.noise_seed
        size = [None, spec.num_features]
        self._compiled = tf.function(
            self._steps,
            input_signature=[
                tf.TensorSpec([], tf.int64),
                tf.TensorSpec(size),
                tf.TensorSpec(size, tf.bool),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([2], tf.int32),
            ],
        )

    def _fresh(self, seed):
        shape = (SETTINGS["hidden"], SETTINGS["depth"])
        made = VAEAC(
            SETTINGS["latent_size"],
            SkipMlpEncoder(*shape),
            SkipMlpEncoder(*shape),
            SkipMlpDecoder(*shape),
            MixedColumns(fixed_scale=1.0),
            **VARIANTS[self.variant],
        )
        return made.create_variables(self.spec, seed)

    def _steps(self, first, x_all, present_all, rows, seed):
        rows = tf.reshape(rows, [-1, SETTINGS["batch"]])
        total = tf.zeros([])
        for i in tf.range(tf.shape(rows)[0]):
            step = first + tf.cast(i, tf.int64)
            x, present = tf.gather(x_all, rows[i]), tf.gather(present_all, rows[i])
            observed = MASK(x, present, _fold_in(seed, step)) & present
            total += self.method.train_step((x, present, observed))["loss"]
            # Young averages forget quickly: the first steps are far from where it ends.
            count = tf.cast(step + 1, tf.float32)
            keep = tf.minimum(SETTINGS["averaging"], count / (count + 10.0))
            for average, variable in zip(self.averages, self.variables, strict=True):
                average.assign_add((1.0 - keep) * (variable.value - average))
        return total

    def fit(self, data, seed: int) -> dict:
        """Trains from fresh weights; keeps the averaged weights of the best validation.

        Args:
          data: training and validation rows.
          seed: of weights, order, masks and noise.

        Returns:
          The best validation IWAE (nats a hidden cell), its step, the last step, and what
          tells whether a result is of the settings here.
        """
        self.method.set_weights(self._fresh(seed).get_weights())
        for variable in self.method.optimizer.variables:
            if variable.path.endswith("learning_rate"):
                continue
            variable.assign(tf.zeros_like(variable))
        for average, variable in zip(self.averages, self.variables, strict=True):
            average.assign(variable.value)
        self.noise_seed.assign([seed, 1])
        x = tf.constant(limited(data.train.x, self.spec))
        present = tf.constant(data.train.present)
        question = self._question(data.valid, seed)
        best, best_step, weights = -np.inf, 0, None
        every = SETTINGS["every"]
        for first in range(0, self.num_steps, every):
            rows = batch_indices(
                first, len(data.train), SETTINGS["batch"], tf.constant([seed, 3]), every
            )
            self._compiled(
                tf.constant(first, tf.int64), x, present, rows, tf.constant([seed, 5])
            )
            raw = [variable.value.numpy() for variable in self.variables]
            self._assign(self.averages)
            value = self._validate(*question)
            if value > best:
                best, best_step = value, first + every
                weights = self.method.get_weights()
            if first + every - best_step >= SETTINGS["patience"] * every:
                break
            self._assign(raw)
        self.method.set_weights(weights)
        return {
            "validation": best,
            "best_step": best_step,
            "steps": first + every,
            "settings": DIGEST,
        }

    def impute(self, x, observed, count: int, seed: int) -> np.ndarray:
        """Means of the decoder [S, N, D] for draws of z; observed cells as they were."""
        asked = limited(x, self.spec)
        draws = self.method.impute_means(asked, observed, count, [seed, 1]).numpy()
        return np.where(observed, x, draws)

    def _assign(self, values):
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    def _question(self, valid, seed):
        """Validation rows under several masks: few rows alone would choose by chance."""
        copies = [SETTINGS["mask_copies"], 1]
        x = np.tile(limited(valid.x, self.spec), copies)
        present = np.tile(valid.present, copies)
        observed = MASK(x, present, [seed, 77]).numpy() & present
        return x, observed, present & ~observed

    def _validate(self, x, observed, hidden):
        samples = SETTINGS["validation_samples"]
        told = self.method.log_likelihood(x, observed, hidden, samples, [0, 1])
        return float(told.value.numpy().sum() / hidden.sum())
