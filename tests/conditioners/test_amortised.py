"""FillZeros and the re-tuned encoder: what encoders are asked, what trains, and the bound."""

from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from contract import SEED, LatentConditionerContract, TrainableContract, example_inputs
from oracles import LinearGaussian

from vae_arbcond import networks
from vae_arbcond.conditioners import FillZeros, ReTunedEncoder
from vae_arbcond.distributions import (
    CholeskyGaussian,
    DiagonalGaussian,
    FeatureScaleNormal,
    MixedColumns,
)
from vae_arbcond.models import VAE, Stage
from vae_arbcond.models.base import FitStage
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions
SPEC = DataSpec((3,), levels=(0, 3, 0))


def vae():
    keras.utils.set_random_seed(0)
    return VAE(2, networks.mlp((4,)), DiagonalGaussian(2), networks.mlp((4,)), MixedColumns())


def re_tuned(**arguments):
    made = ReTunedEncoder(vae(), networks.mlp((4,)), DiagonalGaussian(2), **arguments)
    return made.create_variables(SPEC)


@pytest.mark.slow
class ReTunedEncoderContractTest(
    LatentConditionerContract, TrainableContract, tf.test.TestCase
):
    @classmethod
    def make(cls):
        # The copy of the encoder is a stage of its own kind, and tried below.
        keras.utils.set_random_seed(0)
        model = VAE(
            2,
            networks.mlp((4,)),
            DiagonalGaussian(2),
            networks.mlp((4,)),
            FeatureScaleNormal(),
        )
        # A wide untrained posterior leaves the weights no heavy tail.
        head = CholeskyGaussian(2, min_scale=0.5)
        made = ReTunedEncoder(model, networks.mlp((4,)), head, start_at_encoder=False)
        return made.create_variables(DataSpec((4,)))


class FillZerosTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.x, self.observed = example_inputs(SPEC)

    def check(self, made, filled, told):
        """The answer is the model's own encoder's to these values and this mask."""
        hidden = tf.constant(np.where(self.observed, self.x, 0.0).astype(np.float32))
        got = made.infer(hidden, tf.constant(self.observed), SEED).posterior.mean()
        want = made.model.posterior(tf.constant(filled.astype(np.float32)), tf.constant(told))
        self.assertAllClose(got, want.mean(), rtol=1e-5, atol=1e-5)

    def test_the_encoder_sees_zeros_where_cells_are_hidden_and_is_told_they_are_there(self):
        made = FillZeros(vae()).create_variables(SPEC)
        everything = np.ones_like(self.observed)
        self.check(made, np.where(self.observed, self.x, 0.0), everything)

    def test_it_can_fill_with_the_mean_and_the_most_frequent_level_of_what_is_present(self):
        made = FillZeros(vae(), fill_mean=True).create_variables(SPEC)
        rows, present = example_inputs(SPEC, rows=50, seed=1)
        rows[:, 0] += 3.0
        rows[:40, 1] = 2
        made.adapt(np.where(present, rows, np.nan), present)
        fill = [rows[present[:, 0], 0].mean(), 2.0, rows[present[:, 2], 2].mean()]
        self.assertAllClose(made.fill, fill)
        filled = np.where(self.observed, self.x, fill)
        self.check(made, filled, np.ones_like(self.observed))

    def test_it_can_show_the_encoder_the_mask(self):
        made = FillZeros(vae(), show_mask=True).create_variables(SPEC)
        self.check(made, self.x, self.observed)

    def test_a_mean_that_nothing_is_filled_with_is_refused(self):
        with self.assertRaisesRegex(ValueError, "would change nothing. Drop one of the two"):
            FillZeros(vae(), fill_mean=True, show_mask=True)

    def test_its_training_is_that_of_the_model(self):
        made = FillZeros(vae())
        self.assertEqual([stage.trainable for stage in made.stages()], [made.model])
        self.assertEqual(FillZeros(vae(), train_model=False).stages(), [])

    def test_a_conditioner_in_place_of_a_model_is_refused(self):
        with self.assertRaisesRegex(TypeError, "pass its model: conditioner.model"):
            FillZeros(FillZeros(vae()))

    def test_a_keras_file_keeps_the_fill(self):
        made = FillZeros(vae(), fill_mean=True).create_variables(SPEC)
        made.fill.assign([1.0, 2.0, 3.0])
        path = f"{self.create_tempdir().full_path}/model.keras"
        made.save(path)
        loaded = keras.saving.load_model(path)
        self.assertAllEqual(loaded.fill, [1.0, 2.0, 3.0])


class ReTuningTest(tf.test.TestCase):
    batch: ClassVar = example_inputs(SPEC, rows=6)

    def test_the_loss_is_the_bound_of_what_the_mask_shows(self):
        made, (x, observed) = re_tuned(), self.batch
        present = np.random.default_rng(3).random(observed.shape) < 0.8
        masks = tf.constant(present), tf.constant(observed)
        terms = made.loss_terms(tf.constant(x), *masks, SEED, 0, True)
        seen = tf.constant(observed & present)
        q = made.partial_posterior(tf.constant(x), seen)
        want = -made.model.elbo(tf.constant(x), seen, SEED, posterior=q)
        self.assertAllClose(terms["negative_elbo"], want)

    def test_without_the_mask_the_encoder_is_told_that_all_is_there(self):
        made, (x, observed) = re_tuned(show_mask=False), self.batch
        filled = tf.constant(np.where(observed, x, 0.0).astype(np.float32))
        inputs = made.inputs_layer(filled, tf.ones_like(observed))
        want = made.partial_posterior_head(made.partial_encoder(inputs)).mean()
        got = made.partial_posterior(tf.constant(x), tf.constant(observed)).mean()
        self.assertAllEqual(got, want)

    def test_only_the_encoder_trains_and_the_model_before_it(self):
        made = re_tuned(pretrain_steps=7)
        first, copy, last = made.stages()
        self.assertEqual(first, Stage("VAE", made.model, 7))
        self.assertIsInstance(copy, FitStage)
        self.assertEqual(last, Stage("re-tuning", made))
        own = [*made.partial_encoder.weights, *made.partial_posterior_head.weights]
        self.assertEqual([v.path for v in made.variables_to_train()], [v.path for v in own])
        frozen = re_tuned(train_model=False, start_at_encoder=False)
        self.assertEqual(frozen.stages(), [Stage("re-tuning", frozen)])

    def test_it_starts_at_the_models_encoder(self):
        made, (x, observed) = re_tuned(), self.batch
        made.stages()[1].fit(x, observed, 0)
        got = made.partial_posterior(tf.constant(x), tf.constant(observed)).mean()
        want = made.model.posterior(tf.constant(x), tf.constant(observed)).mean()
        self.assertAllEqual(got, want)

    def test_other_networks_than_the_models_are_refused_as_a_start(self):
        made = ReTunedEncoder(vae(), networks.mlp((5,)), DiagonalGaussian(2))
        with self.assertRaisesRegex(ValueError, "or set start_at_encoder=False"):
            made.create_variables(SPEC)

    def test_another_size_of_z_is_refused(self):
        made = ReTunedEncoder(
            vae(), networks.mlp((4,)), DiagonalGaussian(3), start_at_encoder=False
        )
        with self.assertRaisesRegex(ValueError, r"event_size \[3\], but the model's z is of"):
            made.create_variables(SPEC)

    def test_pre_training_a_model_that_is_left_as_it_is_is_refused(self):
        with self.assertRaisesRegex(ValueError, "pretrain_steps=3 .* Drop one of the two"):
            re_tuned(train_model=False, pretrain_steps=3)

    def test_the_encoder_comes_close_to_the_exact_posterior(self):
        keras.utils.set_random_seed(0)
        model = LinearGaussian.random(num_features=4, rank=2, seed=0, noise_scale=1.0)
        made = ReTunedEncoder(
            model,
            networks.residual_mlp(32, 1),
            CholeskyGaussian(2),
            start_at_encoder=False,
            train_model=False,
        ).create_variables(model.data_spec)
        rows = tf.constant(model.sample(2000, seed=3))
        mask = tf.constant(np.random.default_rng(4).random(rows.shape) < 0.5)
        made.optimizer = keras.optimizers.Adam(1e-2)
        made.optimizer.build(made.variables_to_train())

        @tf.function
        def train():
            for i in tf.range(300):
                chosen = tf.random.stateless_uniform([128], [7, i], 0, 2000, tf.int32)
                seen = tf.gather(mask, chosen)
                made.train_step((tf.gather(rows, chosen), tf.ones_like(seen), seen))

        def divergence():
            q = made.partial_posterior(rows[:200], mask[:200])
            return tfd.kl_divergence(q, model.posterior(rows[:200], mask[:200])).numpy().mean()

        before = divergence()
        train()
        print(
            f"ReTunedEncoder: KL to the exact posterior {before:.3f}, then {divergence():.3f}"
        )
        # Measured 0.02 after 300 steps, from 1.0.
        self.assertLess(divergence(), 0.08)
