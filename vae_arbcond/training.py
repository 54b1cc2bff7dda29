"""One training loop for everything that is trained.

`model.fit` of Keras 3 fails under several workers and with several steps a call under
`MirroredStrategy`, so the loop is ours: a `tf.function` runs many steps, with `strategy.run`
inside, and Keras' callbacks are driven from outside. Where it trains is the strategy whose
scope `train` is called in.
"""

import dataclasses
import math
import numbers
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gin
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond import pictures, runs, teachable
from vae_arbcond.conditioners.base import (
    ArbitraryConditioner,
    DensityConditioner,
    LatentConditioner,
)
from vae_arbcond.data.pipeline import Dataset, Splits, batch_indices
from vae_arbcond.models.base import FitStage, Stage, Trainable
from vae_arbcond.optimizers import adam
from vae_arbcond.registry import PACKAGE

STEPS_PER_CALL = 64  # optimiser steps inside one call of the compiled loop
_fold_in = tf.random.experimental.stateless_fold_in


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what was kept."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What `train` returns: the best conditioner seen and how it went."""

    conditioner: Trainable
    splits: Splits
    metrics: dict


@gin.configurable(module=PACKAGE)
def train(
    run_dir: str,
    conditioner: Trainable,
    data: Splits,
    mask: Callable,
    num_steps: int = 2000,
    batch_size: int = 64,
    optimizer: Callable[[int], keras.optimizers.Optimizer] = adam,
    validate_every: int = 250,
    validation_mask: Callable | None = None,
    validation_samples: int = 100,
    patience: int | None = 10,
    keep_best: bool = True,
    noise: float = 0.0,
    seed: int = 0,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 1,
    config_text: str = "",
) -> TrainingResult:
    """Trains a conditioner (or a model alone) and leaves a run directory behind.

    Args:
      run_dir: created; `runs.load` reads it. It always holds the best model so far (the last
        one with `keep_best` False).
      conditioner: what to train; every one of its `stages()` is run in order.
      data: training, validation and test rows with their schema. Without validation rows
        nothing stops early and the last weights are kept.
      mask: mask generator for training.
      num_steps: optimiser steps of every stage that does not say its own.
      batch_size: rows a step, over all replicas.
      optimizer: called for each stage with its number of steps.
      validate_every: steps between validations; also the epochs of the progress bar.
      validation_mask: mask generator for validation, drawn once; None takes `mask`.
      validation_samples: samples of z for the validation log-likelihood. 0 looks at the loss
        alone, for methods whose likelihood takes long.
      patience: validations without improvement after which a stage stops; None never stops.
      keep_best: True keeps the weights of the best validation; False the last ones, and no
        stage stops early (the way of papers that train for a number of steps).
      noise: standard deviation of Gaussian noise added to real features of each batch.
      seed: of weights, masks, order and noise.
      resume: continue an interrupted run from its last checkpoint.
      callbacks: further Keras callbacks.
      verbose: 0 silent, 1 progress bar with ETA, 2 a line an epoch.
      config_text: the configuration, kept in the run directory before training starts.

    Raises:
      runs.RunError: `run_dir` holds a run already and `resume` is False, or nothing to resume.
      ValueError: the training rows or the masks leave nothing to learn (`teachable`).
      TrainingError: the loss stopped being finite; the best model so far is kept.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_steps", num_steps, 1),
        ("validate_every", validate_every, 1),
        ("validation_samples", validation_samples, 0),
        ("patience", 1 if patience is None else patience, 1),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(
                f"train.{name} must be a whole number, {least} or more; got {value!r}."
            )
    if not noise >= 0:
        raise ValueError(f"train.noise is a standard deviation, 0 or more; got {noise!r}.")
    strategy = tf.distribute.get_strategy()
    if batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"batch_size is {batch_size}, which {strategy.num_replicas_in_sync} replicas "
            f"cannot share equally; take a multiple of {strategy.num_replicas_in_sync}."
        )
    run = runs.start(run_dir, data.train.schema, resume)
    settings = {
        "data": data,
        "mask": mask,
        "validation_mask": validation_mask or mask,
        "validation_samples": validation_samples,
        "batch_size": batch_size,
        "noise": noise,
        "seed": seed,
        "patience": patience,
        "keep_best": keep_best,
        "validate_every": validate_every,
    }
    try:
        if config_text:
            run.save_config(config_text)
        train_rows = teachable.rows_with_values(data.train)
        if verbose and len(train_rows) < len(data.train):
            print(
                f"{len(data.train) - len(train_rows)} of {len(data.train)} training rows hold "
                f"no value at all and are left out."
            )
        settings["data"] = data._replace(train=train_rows)
        conditioner.create_variables(data.train.spec, seed)
        conditioner.check_data(train_rows.x, train_rows.present)
        conditioner.adapt(train_rows.x, train_rows.present)
        started = time.time()
        history = {}
        restore = _Restore(resume, model_lost=resume and not run.has_whole_model())
        for number, stage in enumerate(conditioner.stages()):
            if isinstance(stage, FitStage):
                history[stage.name] = _fit(run, conditioner, stage, settings, verbose)
                continue
            teachable.check_columns(train_rows)
            teachable.check_mask(stage.trainable, train_rows, mask, seed)
            stage = stage._replace(num_steps=stage.num_steps or num_steps)
            its_optimizer = optimizer(stage.num_steps)
            loop = _StageLoop(run, conditioner, stage, number, its_optimizer, **settings)
            history[stage.name] = loop.run_all(restore, list(callbacks), verbose)
    except BaseException:
        # A mistake noticed before anything was saved must not block the directory.
        if not resume:
            run.discard_if_empty()
        raise
    metrics = {
        "num_parameters": int(conditioner.count_params()),
        "seconds": round(time.time() - started, 1),
        "seed": seed,
        "schema": runs.fingerprint(run.path),
        "stages": history,
        "versions": runs.versions(),
    }
    run.save_metrics({"training": metrics})
    return TrainingResult(conditioner, data, metrics)


def _fit(run, whole, stage: FitStage, settings, verbose) -> dict:
    """Runs a stage that finds its answer by itself; returns what to tell of it.

    Such a stage is a pure function of data and seed, so a resumed training repeats it and
    needs no checkpoint of it.
    """
    data, seed = settings["data"], settings["seed"]
    started = time.time()
    told = dict(stage.fit(data.train.x, data.train.present, seed))
    if verbose:
        found = ", ".join(f"{name} {value}" for name, value in told.items())
        print(f"{stage.name}: {found} ({time.time() - started:.1f} s).")
    wrong = [v.path for v in whole.weights if not np.isfinite(v.numpy()).all()]
    if wrong:
        raise TrainingError(
            f"{stage.name} left numbers that are not finite in {', '.join(wrong)}. Look for "
            f"cells of an absurd size in the training rows."
        )
    run.save_model(whole)
    validation = _Validation(
        whole, data.valid, settings["validation_mask"], settings["validation_samples"], seed
    )
    checks = validation()
    with tf.summary.create_file_writer(str(run.path / runs.TENSORBOARD)).as_default(step=1):
        for name, value in checks.items():
            tf.summary.scalar(f"{stage.name}/{name}", value)
    if verbose and checks:
        print(f"{stage.name}: {validation.name} {checks[validation.name]:.4f}.")
    return told | checks


class _Restore(NamedTuple):
    """How a training takes up an earlier one: at all, and whether its model.keras is gone."""

    resume: bool
    model_lost: bool


class _StageLoop:
    """Steps, validations, checkpoints and early stopping of one stage."""

    def __init__(
        self,
        run,
        whole,
        stage: Stage,
        number,
        optimizer,
        *,
        data,
        mask,
        validation_mask,
        validation_samples,
        batch_size,
        noise,
        seed,
        patience,
        keep_best,
        validate_every,
    ):
        self.run, self.whole, self.stage, self.number = run, whole, stage, number
        self.data, self.mask, self.batch_size = data, mask, batch_size
        self.noise, self.seed, self.patience = noise, seed, patience
        self.keep_best = keep_best
        self.validate_every = min(validate_every, stage.num_steps)
        self.trainable = stage.trainable
        self.trainable.train_seed = (seed, 1000 + number)
        self.optimizer = optimizer
        self.trainable.optimizer = optimizer
        optimizer.build(self.trainable.variables_to_train())
        self.validation = _Validation(
            self.trainable, data.valid, validation_mask, validation_samples, seed
        )
        # One object is saved, so that weights, optimiser and progress always fit together.
        self.progress = {
            "step": tf.Variable(0, dtype=tf.int64, trainable=False),
            "wait": tf.Variable(0, dtype=tf.int64, trainable=False),
            "best": tf.Variable(-math.inf, dtype=tf.float64, trainable=False),
            "best_step": tf.Variable(0, dtype=tf.int64, trainable=False),
            "finished": tf.Variable(False, trainable=False),
        }
        # Dropout's generators are state that Keras does not count among the weights.
        layers = [
            layer for layer in whole._flatten_layers() if hasattr(layer, "seed_generator")
        ]
        checkpoint = tf.train.Checkpoint(
            weights=whole,
            optimizer=optimizer,
            dropout=[layer.seed_generator.state.value for layer in layers],
            **self.progress,
        )
        self.manager = tf.train.CheckpointManager(
            checkpoint, str(run.path / runs.CHECKPOINTS / f"stage_{number}"), max_to_keep=2
        )

    def run_all(self, restore: _Restore, callbacks, verbose) -> dict:
        if restore.resume and self._restore() and restore.model_lost:
            self._replace_lost_model()
        num_steps, step = self.stage.num_steps, int(self._read("step"))
        if verbose and step:
            print(f"{self.stage.name}: continuing at step {step} of {num_steps}.")
        epochs = math.ceil(num_steps / self.validate_every)
        bars = [keras.callbacks.ProgbarLogger()] if verbose else []
        summaries = _Summaries(self.run.path / runs.TENSORBOARD, self)
        hooks = keras.callbacks.CallbackList(
            [*bars, summaries, *callbacks],
            model=self.trainable,
            verbose=verbose,
            epochs=epochs,
            steps=self.validate_every,
        )
        self.trainable.stop_training = False
        compiled = self._compile()
        hooks.on_train_begin()
        while step < num_steps and not self._stopped():
            step = self._epoch(step, compiled, hooks)
        hooks.on_train_end()
        return self._finish(verbose)

    def _restore(self):
        """Takes up the newest checkpoint that can be read; whether there was any."""
        problems = []
        for path in reversed(self.manager.checkpoints):
            try:
                # The optimiser's slots exist already, so a mismatch is an error, not silent.
                self.manager.checkpoint.restore(path).assert_existing_objects_matched()
                return True
            except (tf.errors.OpError, IndexError, ValueError, AssertionError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                problems.append(f"{path}: {reason}")
        if problems:
            raise runs.RunError(
                f"No checkpoint of stage {self.stage.name!r} can be read "
                f"({'; '.join(problems)}). They are damaged, or of a model configured "
                f"differently. Resume with the configuration of the run, or start a new run "
                f"in another directory."
            )
        return False

    def _replace_lost_model(self):
        """Writes the checkpoint's weights where the best model was, which is gone."""
        step = int(self._read("step"))
        print(
            f"{self.run.path / runs.MODEL} was missing or damaged, and the best weights with "
            f"it; those of step {step} of stage {self.stage.name!r} take their place until a "
            f"validation finds better ones."
        )
        self.run.save_model(self.whole)
        self.run.forget_evaluation()
        checks = self.validation()
        self.progress["best"].assign(self._score(checks))
        self.progress["best_step"].assign(step)

    def _read(self, name):
        # A variable made in a strategy's scope is one a replica: read, do not convert.
        return self.progress[name].read_value().numpy()

    def _stopped(self):
        return bool(self._read("finished")) or self.trainable.stop_training

    def _epoch(self, step, compiled, hooks) -> int:
        """Runs up to the next validation, validates, saves; returns the new step."""
        epoch = step // self.validate_every
        hooks.on_epoch_begin(epoch)
        end = min((epoch + 1) * self.validate_every, self.stage.num_steps)
        totals, first = {}, step
        while step < end:
            count = min(STEPS_PER_CALL, end - step)
            hooks.on_train_batch_begin(step - epoch * self.validate_every)
            sums = {k: float(v) for k, v in compiled(step, count).items()}
            step += count
            self._check_finite(sums, step)
            totals = {k: totals.get(k, 0.0) + v for k, v in sums.items()}
            logs = {k: v / (step - first) for k, v in totals.items()}
            hooks.on_train_batch_end(step - 1 - epoch * self.validate_every, logs)
        checks = self.validation()
        self._check_finite(checks, step)
        logs.update(checks)
        self._keep_best(logs, step)
        self.progress["step"].assign(step)
        self.manager.save(checkpoint_number=step)
        hooks.on_epoch_end(epoch, logs)
        return step

    @staticmethod
    def _score(logs) -> float:
        """Higher is better: the validation log-likelihood, or minus the loss."""
        return logs.get("val_log_likelihood", -logs.get("val_loss", math.inf))

    def _keep_best(self, logs, step):
        # Without validation rows the newest weights count as the best, and nothing stops.
        value = self._score(logs)
        newest = not (self.keep_best and self.validation.has_rows)
        if value > float(self._read("best")) or newest:
            self.progress["best"].assign(value)
            self.progress["best_step"].assign(step)
            self.progress["wait"].assign(0)
            self.run.save_model(self.whole)
        else:
            self.progress["wait"].assign_add(1)
        if self.patience is not None and int(self._read("wait")) >= self.patience:
            self.progress["finished"].assign(True)

    def _finish(self, verbose) -> dict:
        """Puts the best weights back; returns what to tell of the stage."""
        best_step, step = int(self._read("best_step")), int(self._read("step"))
        self.whole.set_weights(runs.load(self.run.path).conditioner.get_weights())
        name = self.validation.name
        sign = 1.0 if name == "val_log_likelihood" else -1.0
        best = sign * float(self._read("best"))
        told = {"steps": step, "best_step": best_step}
        if not self.validation.has_rows:
            return told
        if verbose:
            early = " Stopped early." if step < self.stage.num_steps else ""
            kept = "best" if self.keep_best else "last"
            print(f"{self.stage.name}: {kept} {name} {best:.4f} at step {best_step}.{early}")
        return told | {name: best}

    def _check_finite(self, sums, step):
        wrong = [name for name, value in sums.items() if not math.isfinite(value)]
        if wrong:
            best_step = int(self._read("best_step"))
            kept = f"The model of step {best_step} is in {self.run.path}."
            if not best_step:
                kept = "No model was saved yet."
            raise TrainingError(
                f"{', '.join(wrong)} stopped being finite before step {step} of stage "
                f"{self.stage.name!r}. Lower the optimiser's learning_rate, set its clip_norm "
                f"= 10.0, or raise the likelihood head's min_scale. {kept}"
            )

    def _compile(self):
        """(first step, count) -> sums over the steps of each loss term, compiled."""
        strategy = tf.distribute.get_strategy()
        replicas = strategy.num_replicas_in_sync
        share = self.batch_size // replicas
        x_all = tf.constant(self.data.train.x)
        present_all = tf.constant(self.data.train.present)
        discrete = self.data.train.spec.discrete
        order_seed = tf.constant([self.seed, 1 + 2 * self.number], tf.int32)
        mask_seed = tf.constant([self.seed, 2 + 2 * self.number], tf.int32)

        def one_step(step, index):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            index = tf.slice(index, [replica * share], [share])
            x, present = tf.gather(x_all, index), tf.gather(present_all, index)
            seed = _fold_in(_fold_in(mask_seed, step), replica)
            x = with_noise(x, self.noise, discrete, _fold_in(seed, 1))
            observed = self.mask(x, present, _fold_in(seed, 0)) & present
            return self.trainable.train_step((x, present, observed))

        @tf.function(reduce_retracing=True, autograph=False)
        def compiled(first, count):
            rows = batch_indices(
                first, x_all.shape[0], self.batch_size, order_seed, STEPS_PER_CALL
            )
            rows = tf.reshape(rows, [STEPS_PER_CALL, self.batch_size])

            def run(step):
                terms = strategy.run(one_step, args=(step, rows[step - first]))
                return {
                    name: strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
                    for name, value in terms.items()
                }

            # Not `for i in tf.range`: that needs AutoGraph, which this function is without.
            _, sums = tf.while_loop(
                lambda i, _: i < count,
                lambda i, sums: (i + 1, tf.nest.map_structure(tf.add, sums, run(first + i))),
                (tf.constant(1, tf.int64), run(first)),
                parallel_iterations=1,
            )
            return sums

        return lambda first, count: compiled(
            tf.constant(first, tf.int64), tf.constant(count, tf.int64)
        )


def with_noise(x, noise: float, discrete, seed) -> tf.Tensor:
    """x [B, *F, *E] with Gaussian noise of standard deviation `noise` on its real features.

    Args:
      discrete: bool [D], `DataSpec.discrete`: indices and counts stay what they are.
      seed: int32 [2].
    """
    if not noise:
        return x
    jitter = noise * tf.random.stateless_normal(tf.shape(x), seed)
    return x + (jitter if discrete is None else tf.where(discrete, 0.0, jitter))


class _Validation:
    """The same question at every validation: rows, masks and noise are drawn once."""

    def __init__(self, trainable, data: Dataset, mask, num_samples, seed):
        self.trainable, self.num_samples = trainable, num_samples
        self.x, self.present = tf.constant(data.x), tf.constant(data.present)
        self.has_rows = len(data) > 0
        self.has_density = isinstance(trainable, DensityConditioner) and num_samples > 0
        # Far from the seeds of training, which count up from 1.
        seeds = tfp.random.split_seed(tf.constant([seed, 1_000_000], tf.int32), n=3)
        mask_seed, self.loss_seed, self.seed = tf.unstack(seeds, 3)
        self.observed = mask(self.x, self.present, mask_seed) & self.present
        self.target = self.present & ~self.observed
        completes = isinstance(trainable, ArbitraryConditioner)
        if self.has_rows and completes and not self.target.numpy().any():
            raise ValueError(
                f"The validation mask {mask} hides nothing that is present, so there is "
                f"nothing to validate on. Set train.validation_mask to one that hides "
                f"something."
            )
        self.name = "val_log_likelihood" if self.has_density else "val_loss"
        self._loss = tf.function(self._loss_terms, autograph=False)

    def _loss_terms(self):
        terms = self.trainable.validation_terms(
            self.x, self.present, self.observed, self.loss_seed
        )
        return tf.add_n([tf.reduce_mean(term) for term in terms.values()])

    def __call__(self) -> dict:
        """val_loss, and val_log_likelihood: nats a hidden present feature, for densities."""
        if not self.has_rows:
            return {}
        logs = {"val_loss": float(self._loss())}
        if self.has_density:
            estimate = self.trainable.log_likelihood(
                tf.where(tf.math.is_finite(self.x), self.x, 0.0),
                self.observed,
                self.target,
                self.num_samples,
                self.seed,
            )
            count = np.sum(self.target.numpy())
            logs["val_log_likelihood"] = float(np.sum(estimate.value.numpy()) / count)
        return logs


class _Summaries(keras.callbacks.Callback):
    """TensorBoard: loss terms, validation, and a grid of inpaintings for images."""

    def __init__(self, path: pathlib.Path, loop: _StageLoop):
        super().__init__()
        self.loop = loop
        self.writer = tf.summary.create_file_writer(str(path))

    def on_epoch_end(self, epoch, logs=None):
        step = int(self.loop._read("step"))
        validation = self.loop.validation
        with self.writer.as_default(step=step):
            for name, value in (logs or {}).items():
                tf.summary.scalar(f"{self.loop.stage.name}/{name}", value)
            is_image = self.model.feature_ndims == 2 and validation.has_rows
            if isinstance(self.model, LatentConditioner) and is_image:
                x, observed = validation.x[:8], validation.observed[:8]
                completions = self.model.impute_means(x, observed, 4, validation.seed)
                grid = pictures.inpainting_grid(x, observed, completions)
                tf.summary.image("inpaintings", grid[np.newaxis])
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()
