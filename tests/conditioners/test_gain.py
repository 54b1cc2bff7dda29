"""GAIN: the contract, its losses by hand, and what it refuses."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from contract import ArbitraryConditionerContract, TrainableContract
from scipy import special

from vae_arbcond import networks, training
from vae_arbcond.conditioners import (
    GAIN,
    DefaultLikelihood,
    PredictiveLikelihood,
    RatioLikelihood,
)
from vae_arbcond.data.pipeline import make_splits
from vae_arbcond.data.sources import Source
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.shapes import DataSpec

SEED = tf.constant([3, 4])
MIXED = DataSpec((4,), levels=(0, 3, 0, 2), counts=(0.0, 0.0, 4.0, 0.0))


def gain(spec=MIXED, **options):
    keras.utils.set_random_seed(0)
    made = GAIN(networks.mlp((16,)), networks.mlp((16,)), **options)
    return made.create_variables(spec, 0)


class GainOnMixedColumnsTest(
    ArbitraryConditionerContract, TrainableContract, tf.test.TestCase
):
    @classmethod
    def make(cls):
        # With the contract's weak noise, no draw of one level would ever differ.
        return gain(MIXED, noise_scale=3.0)


class GainOnColourImagesTest(
    ArbitraryConditionerContract, TrainableContract, tf.test.TestCase
):
    @classmethod
    def make(cls):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Conv2D(4, 3, padding="same", activation="relu")]
        made = GAIN(
            keras.Sequential(list(layers)), networks.conv_encoder(((4, 3, 2),)), alpha=1.0
        )
        return made.create_variables(DataSpec((3, 2), (3,)), 0)


def question():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=9), rng.integers(3, size=9), rng.poisson(4.0, 9)], -1)
    x = np.concatenate([x, rng.integers(2, size=(9, 1))], -1).astype(np.float32)
    present = rng.random(x.shape) < 0.7
    return tf.constant(x), tf.constant(present), tf.constant(rng.random(x.shape) < 0.7)


def test_the_reconstruction_error_is_eq_12_by_hand():
    method = gain(MIXED)
    x, present, _ = question()
    code = method.encode(x, present)
    made, logs = method.generate(code, present, tf.zeros_like(code))
    got = method.reconstruction(code, made, logs).numpy()
    code, made = code.numpy(), made.numpy()  # Two numbers, three levels, two levels.
    hot, share = code[:, 2:5], made[:, 2:5]
    entropy = -np.sum(hot * np.log(share), -1) / 3.0
    squares = np.sum((hot - share) ** 2, -1) / 3.0
    np.testing.assert_allclose(got[:, 1], 0.2 * entropy + 0.8 * squares, rtol=1e-5)
    # Numbers enter by their range, six standard deviations until rows are seen.
    np.testing.assert_allclose(got[:, 0], (6.0 * (code - made)[:, 0]) ** 2, rtol=1e-5)


def test_the_two_players_terms_are_those_of_the_paper_by_hand():
    method = gain(MIXED, hint_rate=1.0)  # The hint is then the mask itself.
    x, present, observed = question()
    terms = method.loss_terms(x, present, observed, SEED, None, True)
    seen = present & observed
    code = method.encode(x, seen)
    noise_seed = tfp.random.split_seed(SEED, n=2)[0]
    noise = tf.random.stateless_uniform(code.shape, noise_seed, 0.0, method.noise_scale)
    made, logs = method.generate(code, seen, noise)
    each = tf.gather(seen, method.owner, axis=-1)  # One entry a feature, one a code.
    told = method.tell(tf.where(each, code, made), tf.cast(seen, tf.float32))
    chance = special.expit(told.numpy().astype(float))  # That a feature was observed.
    seen = seen.numpy()
    caught = -np.log(np.where(seen, chance, 1.0 - chance)).mean(-1)
    passed = np.where(seen, 0.0, -np.log(chance)).mean(-1)
    error = np.where(seen, method.reconstruction(code, made, logs), 0.0).mean(-1)
    np.testing.assert_allclose(terms["discriminator"], caught, rtol=1e-4)
    np.testing.assert_allclose(terms["adversarial"], passed, rtol=1e-4)
    np.testing.assert_allclose(terms["reconstruction"], 10.0 * error, rtol=1e-4)


def test_a_count_weighs_no_more_than_a_number_when_the_best_step_is_chosen():
    method = gain(MIXED)
    x, present, _ = (part.numpy() for part in question())
    x[:, 2] *= 1000.0
    method.adapt(x, present)
    errors = {}
    for d in (0, 2):
        shown = np.ones_like(present)
        shown[:, d] = False
        asked = map(tf.constant, (x, present, shown))
        told = method.validation_terms(*asked, SEED)
        errors[d] = float(np.mean(told["imputation_error"]))
    # In x's own unit the counts' error would be a million times the numbers'.
    assert errors[2] < 50.0 * errors[0]


def test_a_constant_column_is_filled_with_its_constant():
    method = gain(DataSpec((2,)))
    x = np.array([[7.0, 0.0], [7.0, 1.0], [7.0, 3.0]], np.float32)
    method.adapt(x, np.ones_like(x, bool))
    draws = method.impute(x, np.zeros(x.shape, bool), 5, SEED).numpy()
    np.testing.assert_array_equal(draws[..., 0], 7.0)
    everything = tf.ones(x.shape, tf.bool)
    terms = method.loss_terms(tf.constant(x), everything, everything, SEED, None, True)
    assert all(np.isfinite(term).all() for term in terms.values())


def test_bfloat16_does_not_round_the_ends_of_a_range():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        method = gain(DataSpec((2,)))
    finally:
        keras.config.set_dtype_policy(before)
    x = np.array([[1.001, 5.0], [1.003, 6.0]], np.float32)
    method.adapt(x, np.ones_like(x, bool))
    draws = method.impute(x, np.zeros(x.shape, bool), 5, SEED).numpy()[..., 0]
    assert draws.min() > 1.0009 and draws.max() < 1.0031  # bfloat16 knows 1 and 1.0078.


def test_what_the_mask_hides_plays_no_part_in_training():
    method = gain(MIXED)
    x, present, observed = question()
    terms = method.loss_terms(x, present, observed, SEED, None, True)
    for other in (tf.zeros_like(x), tf.where(present & observed, x, 1.0)):
        seen = tf.where(present & observed, x, other)
        again = method.loss_terms(seen, present & observed, observed, SEED, None, True)
        for name, term in terms.items():
            np.testing.assert_array_equal(again[name], term)


def test_the_hint_tells_as_often_as_it_should():
    observed = tf.random.stateless_uniform([100, 100], [0, 1]) < 0.5
    for rate in (0.01, 0.9):
        hint = gain(MIXED, hint_rate=rate).hint(observed, SEED).numpy()
        told = hint != 0.5
        np.testing.assert_array_equal(hint[told], observed.numpy()[told])
        # Five standard deviations of a share of 10,000 coins: 6e-7 false alarms.
        assert abs(told.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / 1e4)


def test_each_player_is_moved_by_its_own_terms_alone():
    x, present, observed = question()
    moved = {}
    for alpha in (1e-6, 1e6):  # Of no concern to the discriminator.
        method = gain(MIXED, alpha=alpha)
        method.optimizer = keras.optimizers.SGD(0.1)
        method.optimizer.build(method.variables_to_train())
        tf.function(method.train_step, autograph=False)((x, present, observed))
        generator, rival = [[v.numpy() for v in p.variables] for p in method.players()][::-1]
        moved[alpha] = generator, rival
    for one, two in zip(*[rival for _, rival in moved.values()], strict=True):
        np.testing.assert_array_equal(one, two)
    kernels = [generator[0] for generator, _ in moved.values()]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


def test_a_table_of_nothing_but_levels_is_completed():
    method = gain(DataSpec((3,), levels=(2, 3, 4)))
    draws = method.impute(tf.zeros([5, 3]), tf.zeros([5, 3], tf.bool), 4, SEED)
    assert draws.shape == (4, 5, 3) and set(np.unique(draws)) <= {0.0, 1.0, 2.0, 3.0}


def small_table():
    rng = np.random.default_rng(0)
    z = rng.normal(size=200)
    frame = pd.DataFrame({name: z + 0.3 * rng.normal(size=200) for name in "abc"})
    return make_splits(Source("toy", 10.0 + frame), seed=0)


def train(path, **options):
    method = GAIN(networks.mlp((8, 8)), networks.mlp((8, 8)))
    settings = {"num_steps": 90, "validate_every": 30, "batch_size": 32, "verbose": 0}
    settings |= {"mask": BernoulliMask(0.8), "data": small_table()}
    return training.train(run_dir=str(path), conditioner=method, **(settings | options))


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_train_runs_both_players_and_resumes_where_it_was(tmp_path):
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", callbacks=[Stop()])
    parts = train(tmp_path / "parts", resume=True)
    for got, want in zip(
        parts.conditioner.get_weights(), whole.conditioner.get_weights(), strict=True
    ):
        # Same batches, masks and noise; sums may differ in the last bits.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    told = json.loads((tmp_path / "parts" / "metrics.json").read_text())
    assert 0.0 < told["training"]["stages"]["training"]["val_loss"] < 5.0
    # The range is that of the training rows.
    x = small_table().train.x
    np.testing.assert_allclose(parts.conditioner.low, x.min(0), rtol=1e-6)
    draws = parts.conditioner.impute(x[:5], np.zeros([5, 3], bool), 4, SEED).numpy()
    assert (draws >= x.min(0) - 1e-5).all() and (draws <= x.max(0) + 1e-5).all()


def test_two_replicas_train_it_as_one_does(tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        result = train(tmp_path / "run", num_steps=4, validate_every=2)
    assert result.metrics["stages"]["training"]["steps"] == 4
    assert all(np.isfinite(w).all() for w in result.conditioner.get_weights())


def test_rows_without_gaps_and_a_mask_that_hides_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to tell apart"):
        train(tmp_path / "run", mask=BernoulliMask(1.0), validation_mask=BernoulliMask(0.5))


def test_a_likelihood_asked_of_it_is_a_sentence():
    method = gain(MIXED)
    assert not hasattr(method, "log_likelihood")
    with pytest.raises(AttributeError, match="GAIN has no log_likelihood: it draws"):
        _ = method.log_likelihood
    with pytest.raises(AttributeError, match="has no attribute 'log_likelyhood'"):
        _ = method.log_likelyhood
    x, present, observed = question()
    for likelihood in (DefaultLikelihood(), PredictiveLikelihood(), RatioLikelihood()):
        with pytest.raises(TypeError, match="GAIN has no likelihood to estimate"):
            likelihood(method, x, observed, present, 20, SEED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a number above 0"),
        ({"hint_rate": 1.5}, "hint_rate is a share from 0 to 1, got 1.5"),
        ({"cross_entropy": "half"}, "cross_entropy is a share from 0 to 1, got 'half'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gain(MIXED, **options)


def test_a_network_that_changes_an_image_s_size_is_refused():
    halves = keras.Sequential([keras.layers.Conv2D(2, 3, 2, padding="same")])
    method = GAIN(halves, networks.mlp((4,)))
    with pytest.raises(ValueError, match="maps of 14 x 14 from images of 28 x 28"):
        method.create_variables(DataSpec((28, 28)))
