"""train(): a run directory, resuming, early stopping, several replicas, a loss gone wrong."""

import dataclasses
import json
import math

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from vae_arbcond import runs, training
from vae_arbcond.conditioners import GaussianMixtureConditioner, PosteriorMatching
from vae_arbcond.data.pipeline import make_splits
from vae_arbcond.data.sources import Source
from vae_arbcond.distributions import CholeskyGaussian, MixedColumns
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.models import VAE
from vae_arbcond.networks import mlp, residual_mlp
from vae_arbcond.optimizers import adam


def table(num_rows=160):
    rng = np.random.default_rng(0)
    z = rng.normal(size=num_rows)
    frame = pd.DataFrame({name: z + 0.3 * rng.normal(size=num_rows) for name in "abc"})
    frame["kind"] = np.where(z + 0.3 * rng.normal(size=num_rows) > 0, "high", "low")
    return make_splits(Source("toy", frame), seed=0)


def conditioner(dropout=0.0, **options):
    model = VAE(
        2,
        residual_mlp(16, 1, dropout=dropout),
        CholeskyGaussian(2),
        mlp((16,)),
        MixedColumns(),
    )
    return PosteriorMatching(
        model, residual_mlp(16, 1), CholeskyGaussian(2), closed_form=True, **options
    )


def train(run_dir, method=None, **options):
    settings = {"num_steps": 60, "validate_every": 20, "batch_size": 32, "verbose": 0}
    settings |= {"data": table(), "mask": BernoulliMask(0.5)}
    return training.train(
        run_dir=str(run_dir), conditioner=method or conditioner(), **(settings | options)
    )


def test_noise_moves_real_columns_and_leaves_levels_and_counts():
    x = tf.tile([[0.5, 2.0, 7.0]], [5000, 1])
    discrete = np.array([False, True, True])
    moved = training.with_noise(x, 0.1, discrete, [0, 1]).numpy() - x.numpy()
    np.testing.assert_array_equal(moved[:, 1:], 0.0)
    # The standard error of a standard deviation of 5,000 draws is 0.001; five of them.
    assert abs(moved[:, 0].std() - 0.1) < 0.005
    everywhere = training.with_noise(x, 0.1, None, [0, 1]).numpy() - x.numpy()
    assert (everywhere != 0).mean() > 0.99
    assert training.with_noise(x, 0.0, discrete, [0, 1]) is x


def test_a_run_directory_is_complete_and_gives_the_same_model_back(tmp_path):
    result = train(tmp_path / "run", config_text="# how\n")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "model.keras",
        "schema.json",
        "metrics.json",
        "config.gin",
        "checkpoints",
        "tensorboard",
    }
    loaded = runs.load(tmp_path / "run")
    test = result.splits.test
    observed = np.arange(test.x.size).reshape(test.x.shape) % 2 == 0
    np.testing.assert_array_equal(
        loaded.conditioner.impute(test.x, observed, 3, [0, 1]),
        result.conditioner.impute(test.x, observed, 3, [0, 1]),
    )
    assert loaded.config == "# how\n"
    assert loaded.schema == result.splits.train.schema
    stage = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["stages"]
    assert stage["training"]["steps"] == 60


def test_training_improves_the_validation_likelihood(tmp_path):
    short = train(tmp_path / "short", num_steps=2)
    long = train(tmp_path / "long", num_steps=400, validate_every=100, optimizer=fast)
    gain = _best(long) - _best(short)
    # Columns correlate at 0.9: knowing one is worth about 0.8 nats a column.
    assert gain > 0.3, f"gained {gain:.3f} nats a feature"


def fast(num_steps):
    return adam(num_steps, learning_rate=5e-3)


def _best(result):
    return result.metrics["stages"]["training"]["val_log_likelihood"]


def test_the_seed_decides_the_weights_and_nothing_else_does():
    spec = table().train.spec
    one, two = (conditioner(0.1).create_variables(spec, 3).get_weights() for _ in range(2))
    other = conditioner(0.1).create_variables(spec, 4).get_weights()
    for a, b, c in zip(one, two, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.ndim < 2 or not np.array_equal(a, c)  # Biases start at 0 for every seed.


class StopAfter(keras.callbacks.Callback):
    """Interrupts training as a person would, in the middle of the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(tmp_path):
    # With dropout, whose generators are state as well.
    whole = train(tmp_path / "whole", conditioner(0.3))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", conditioner(0.3), callbacks=[StopAfter()])
    with pytest.raises(runs.RunError, match="already holds a run"):
        train(tmp_path / "parts", conditioner(0.3))
    parts = train(tmp_path / "parts", conditioner(0.3), resume=True)
    for got, want in zip(
        parts.conditioner.get_weights(), whole.conditioner.get_weights(), strict=True
    ):
        # Same batches, masks and noise; sums may differ in the last bits.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_resumed_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(runs.RunError, match="nothing to resume"):
        train(tmp_path / "none", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(runs.RunError, match="is a file"):
        train(tmp_path / "file")


def test_a_second_stage_is_resumed_without_repeating_the_first(tmp_path, capsys):
    method = conditioner(pretrain_steps=40)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", method, callbacks=[StopInMatching()])
    capsys.readouterr()
    result = train(tmp_path / "run", conditioner(pretrain_steps=40), resume=True, verbose=2)
    assert "continuing at step 40 of 40" in capsys.readouterr().out
    assert list(result.metrics["stages"]) == ["VAE", "matching"]


class StopInMatching(keras.callbacks.Callback):
    """Interrupts the second epoch of a PosteriorMatching stage, not of the VAE's."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1 and isinstance(self.model, PosteriorMatching):
            raise KeyboardInterrupt


def test_pretraining_leaves_the_base_as_the_first_stage_left_it(tmp_path):
    class Remember(keras.callbacks.Callback):
        seen = None

        def on_train_begin(self, logs=None):
            if isinstance(self.model, PosteriorMatching):
                Remember.seen = self.model.model.get_weights()

    result = train(tmp_path / "run", conditioner(pretrain_steps=40), callbacks=[Remember()])
    for got, want in zip(result.conditioner.model.get_weights(), Remember.seen, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_last_weights_are_kept_where_asked(tmp_path, capsys):
    class Ruin(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:  # of 0, 1, 2
                self.model.set_weights([3.0 * w for w in self.model.get_weights()])

    options = {"callbacks": [Ruin()], "patience": 1}
    result = train(tmp_path / "run", keep_best=False, verbose=2, **options)
    stage = result.metrics["stages"]["training"]
    assert stage["best_step"] == stage["steps"] == 60
    lines = capsys.readouterr().out.splitlines()
    scores = [
        float(s.split("val_log_likelihood: ")[1].split()[0])
        for s in lines
        if "/3" not in s and "loss:" in s
    ]
    assert scores[-1] < max(scores) and scores[-1] == pytest.approx(_best(result), rel=1e-3)
    assert any("last val_log_likelihood" in line for line in lines)
    saved = runs.load(tmp_path / "run").conditioner.get_weights()
    for got, want in zip(saved, result.conditioner.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_training_stops_early_and_keeps_the_best_weights(tmp_path):
    # A learning rate that ruins the model after a while.
    result = train(
        tmp_path / "run",
        num_steps=2000,
        validate_every=10,
        patience=3,
        optimizer=lambda steps: adam(learning_rate=0.03),
    )
    stage = result.metrics["stages"]["training"]
    assert stage["steps"] < 2000
    assert stage["best_step"] == stage["steps"] - 30


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path):
    with pytest.raises(training.TrainingError, match=r"Lower the optimiser's .*No model was"):
        train(tmp_path / "run", optimizer=lambda steps: adam(learning_rate=math.inf))


def test_a_validation_that_hides_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="hides nothing that is present"):
        train(tmp_path / "run", validation_mask=BernoulliMask(1.0))


def test_without_validation_samples_the_loss_decides(tmp_path):
    result = train(tmp_path / "run", validation_samples=0, num_steps=20)
    stage = result.metrics["stages"]["training"]
    assert "val_log_likelihood" not in str(stage) and "val_loss" in str(stage)


def test_without_validation_rows_the_last_weights_are_kept(tmp_path):
    source = Source("toy", table().train.raw)
    data = make_splits(source, valid_fraction=0.0, seed=0)
    result = train(tmp_path / "run", data=data, patience=1)
    assert result.metrics["stages"]["training"] == {"steps": 60, "best_step": 60}


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    train(tmp_path / "run", num_steps=40)
    folder = tmp_path / "run" / "checkpoints" / "stage_0"
    newest = folder / "ckpt-40.data-00000-of-00001"
    newest.write_bytes(newest.read_bytes()[:1000])
    result = train(tmp_path / "run", num_steps=40, resume=True)
    assert result.metrics["stages"]["training"]["steps"] == 40
    for path in folder.glob("ckpt-*.data-*"):
        path.write_bytes(b"")
    with pytest.raises(runs.RunError, match="No checkpoint of stage 'training' can be read"):
        train(tmp_path / "run", num_steps=40, resume=True)


def mirrored(devices):
    # TensorFlow numbers collective operations per process, so that a second strategy in one
    # process meets the numbers of the first: sum on one device instead.
    return tf.distribute.MirroredStrategy(
        [device.name for device in devices],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def test_two_replicas_train_one_model(tmp_path):
    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) >= 2  # conftest.py configures them.
    strategy = mirrored(devices[:2])
    with strategy.scope():
        result = train(tmp_path / "run", num_steps=400, validate_every=100, optimizer=fast)
        with pytest.raises(ValueError, match="multiple of 2"):
            train(tmp_path / "odd", batch_size=31)
    short = train(tmp_path / "short", num_steps=2)
    # The same gain as on one device, up to other noise; that the gradient is exactly that of
    # one device is the next test.
    assert _best(result) - _best(short) > 0.3
    test = result.splits.test
    loaded = runs.load(tmp_path / "run").conditioner
    observed = np.zeros(test.x.shape, bool)
    assert np.isfinite(loaded.impute(test.x, observed, 2, [0, 1])).all()


@pytest.mark.parametrize("clip", [None, 1.0])
def test_two_replicas_take_the_steps_of_one(clip):
    """The sum over replicas of each one's share is the gradient of the whole batch."""
    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) >= 2  # conftest.py configures them.

    class Square(training.Trainable):
        def __init__(self):
            super().__init__()
            self.v = self.add_weight(shape=(3,), initializer="ones")
            self.w = self.add_weight(shape=(3,), initializer="ones")

        def loss_terms(self, x, present, observed, seed, step, training):
            return {"square": tf.reduce_sum((x - self.v * self.w) ** 2, -1)}

    x = 3.0 * np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    weights = []
    for count in (1, 2):
        strategy = mirrored(devices[:count])
        with strategy.scope():
            model = Square()
            model.built = True
            model.optimizer = keras.optimizers.SGD(0.02, global_clipnorm=clip)
            model.optimizer.build(model.trainable_variables)
        share = 8 // count

        @tf.function
        def steps(model=model, share=share, strategy=strategy):
            def replica(step):
                i = tf.distribute.get_replica_context().replica_id_in_sync_group
                part = tf.slice(tf.constant(x), [i * share, 0], [share, 3])
                seen = tf.ones_like(part, tf.bool)
                return model.train_step((part * tf.cast(1 + step % 3, tf.float32), seen, seen))

            for step in tf.range(20):
                strategy.run(replica, args=(step,))

        steps()
        weights.append([model.v.numpy(), model.w.numpy()])
    assert np.abs(weights[0][0] - 1.0).min() > 0.01
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5)


@pytest.mark.parametrize("damage", ["removed", "cut off"])
def test_a_lost_model_is_written_anew_from_the_checkpoint(damage, tmp_path, capsys):
    train(tmp_path / "run")
    runs.Run(tmp_path / "run").save_metrics({"evaluation": {"nrmse_mean": 0.5}})
    model = tmp_path / "run" / runs.MODEL
    if damage == "removed":
        model.unlink()
    else:
        model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(runs.RunError, match="--resume"):
        runs.load(tmp_path / "run")
    result = train(tmp_path / "run", resume=True)
    assert "missing or damaged" in capsys.readouterr().out
    assert "evaluation" not in runs.read_metrics(tmp_path / "run")
    loaded = runs.load(tmp_path / "run").conditioner.get_weights()
    for got, want in zip(loaded, result.conditioner.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_mistake_before_the_first_checkpoint_does_not_block_the_directory(tmp_path):
    def no_optimizer(num_steps):
        raise ArithmeticError("a mistake of a user's")

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    for path in (tmp_path / "run", tmp_path / "new"):
        with pytest.raises(ArithmeticError):
            train(path, optimizer=no_optimizer)
    assert not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "wrong",
    [{"num_steps": -5}, {"batch_size": "a"}, {"patience": 0}, {"seed": 0.5}, {"noise": -1.0}],
)
def test_settings_that_make_no_sense_are_named(wrong, tmp_path):
    with pytest.raises(ValueError, match=f"train.{next(iter(wrong))}"):
        train(tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def closed_form():
    return GaussianMixtureConditioner(components=(1, 2), folds=2, num_steps=4)


def test_a_stage_may_be_a_fit_and_leaves_a_run_like_any_other(tmp_path, capsys):
    result = train(tmp_path / "run", closed_form(), verbose=1)
    stage = result.metrics["stages"]["EM"]
    assert stage["components"] in (1, 2) and math.isfinite(stage["val_log_likelihood"])
    assert "EM: components" in capsys.readouterr().out
    assert result.metrics["num_parameters"] == result.conditioner.count_params() > 0
    loaded = runs.load_conditioner(tmp_path / "run")
    test = result.splits.test
    observed = np.arange(test.x.size).reshape(test.x.shape) % 2 == 0
    want = result.conditioner.complete(test.x, observed, 1, [0, 1])
    np.testing.assert_array_equal(
        loaded.conditioner.complete(test.x, observed, 1, [0, 1]), want
    )
    assert (tmp_path / "run" / "tensorboard").is_dir()
    # A fit is a pure function of data and seed: resuming repeats it.
    again = train(tmp_path / "run", closed_form(), resume=True)
    for one, two in zip(again.conditioner.weights, result.conditioner.weights, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def test_a_fit_that_is_refused_leaves_no_run_behind(tmp_path):
    splits = table()
    nothing = dataclasses.replace(splits.train, present=np.zeros_like(splits.train.present))
    with pytest.raises(ValueError, match="so there is nothing to learn from"):
        train(tmp_path / "run", closed_form(), data=splits._replace(train=nothing))
    assert not (tmp_path / "run").exists()
