"""`Trainable`: variables, seeds of a training step, and files."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from oracles import LinearGaussian

from vae_arbcond import networks
from vae_arbcond.distributions import DiagonalGaussian, FeatureScaleNormal
from vae_arbcond.models import VAE, ConstantBeta, MonotoneBeta, Stage
from vae_arbcond.models.base import clip_by_global_norm, kl_divergence
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions


def vae(beta=None):
    keras.utils.set_random_seed(0)
    network = networks.mlp
    return VAE(
        2, network((8,)), DiagonalGaussian(2), network((8,)), FeatureScaleNormal(), beta
    ).create_variables(DataSpec((3,)))


def batch():
    x = tf.random.stateless_normal([16, 3], [0, 1])
    return x, tf.ones_like(x, tf.bool), x > 0


def ready(model):
    model.optimizer = keras.optimizers.Adam(1e-2)
    model.optimizer.build(model.variables_to_train())
    return model


class TrainStepTest(tf.test.TestCase):
    def weights_after(self, model, steps):
        step = tf.function(model.train_step)
        for _ in range(steps):
            step(batch())
        return [v.numpy() for v in model.weights]

    def test_noise_is_a_function_of_the_seed_and_the_step(self):
        first = self.weights_after(ready(vae()), 3)
        second = self.weights_after(ready(vae()), 3)
        for one, two in zip(first, second, strict=True):
            self.assertAllEqual(one, two)

    def test_another_seed_gives_other_noise(self):
        other = ready(vae())
        other.train_seed = (0, 1)
        want = self.weights_after(ready(vae()), 1)
        self.assertNotAllClose(self.weights_after(other, 1)[0], want[0], atol=1e-6)

    def test_an_interrupted_training_goes_on_with_the_noise_it_would_have_had(self):
        whole = self.weights_after(ready(vae()), 4)
        first = ready(vae())
        state = self.weights_after(first, 2)
        second = ready(vae())
        for variable, value in zip(second.weights, state, strict=True):
            variable.assign(value)
        for variable, value in zip(
            second.optimizer.variables, first.optimizer.variables, strict=True
        ):
            variable.assign(value)
        for one, two in zip(self.weights_after(second, 2), whole, strict=True):
            self.assertAllEqual(one, two)

    def test_every_step_draws_new_noise(self):
        # A rate of 0 keeps the weights, so that only the noise moves the loss.
        model = vae()
        model.optimizer = keras.optimizers.SGD(0.0)
        model.optimizer.build(model.variables_to_train())
        losses = [model.train_step(batch())["loss"].numpy() for _ in range(5)]
        self.assertLen(set(losses), 5)

    def test_the_schedule_of_beta_follows_the_optimiser_s_step(self):
        model = ready(vae(MonotoneBeta(1, 3)))
        x, present, observed = batch()
        terms = [
            model.loss_terms(x, present, observed, [0, 0], step, False)["negative_elbo"]
            for step in (0, 1, 2, 3, 4)
        ]
        kl = tfd.kl_divergence(model.posterior(x, present), model.prior())
        for term, beta in zip(terms, (0.0, 0.0, 0.5, 1.0, 1.0), strict=True):
            self.assertAllClose(term - terms[0], beta * kl, atol=1e-4)

    def test_a_model_trains_in_one_stage_unless_it_says_otherwise(self):
        model = vae()
        self.assertEqual(model.stages(), [Stage("training", model, None)])
        self.assertEqual(model.beta, ConstantBeta(1.0))


class VariablesTest(tf.test.TestCase):
    def test_a_file_brings_back_weights_and_the_shape_of_the_data(self):
        model = vae(MonotoneBeta(1, 3))
        path = f"{self.create_tempdir().full_path}/vae.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        self.assertEqual(loaded.spec, DataSpec((3,)))
        self.assertEqual(loaded.beta, MonotoneBeta(1, 3))
        for one, two in zip(model.weights, loaded.weights, strict=True):
            self.assertAllEqual(one.numpy(), two.numpy())

    def test_creating_the_variables_again_keeps_them(self):
        model = vae()
        before = [v.numpy() for v in model.weights]
        model.create_variables(DataSpec((3,)))
        self.assertLen(model.weights, len(before))
        for old, variable in zip(before, model.weights, strict=True):
            self.assertAllEqual(old, variable.numpy())

    def test_other_data_needs_a_new_model(self):
        with self.assertRaisesRegex(ValueError, r"was built for DataSpec.*\(3,\).*Construct"):
            vae().create_variables(DataSpec((4,)))

    def test_the_number_of_feature_axes_is_that_of_the_data(self):
        self.assertEqual(vae().feature_ndims, 1)
        oracle = LinearGaussian.random(4, 2, 0)
        self.assertEqual(oracle.feature_ndims, 1)  # Before the data is known: a table.
        oracle.spec = DataSpec((8, 8))
        self.assertEqual(oracle.feature_ndims, 2)


class KlDivergenceTest(tf.test.TestCase):
    def test_it_is_the_closed_form_where_there_is_one(self):
        q = tfd.MultivariateNormalTriL([1.0, 0.0], [[0.5, 0.0], [0.3, 2.0]])
        p = tfd.MultivariateNormalDiag(tf.zeros([2]))
        got = kl_divergence(q, p, z=None)
        # 1/2 (trace C + |m|^2 - 2 - log det C), C = [[.25, .15], [.15, 4.09]].
        self.assertAllClose(got, 0.5 * (4.34 + 1.0 - 2.0 - np.log(1.0)))

    def test_it_is_the_sampled_form_elsewhere(self):
        q = tfd.MixtureSameFamily(
            tfd.Categorical([0.0, 0.0]), tfd.MultivariateNormalDiag([[-1.0], [1.0]])
        )
        p = tfd.MultivariateNormalDiag(tf.zeros([1]))
        z = q.sample(4000, seed=[0, 0])
        got = kl_divergence(q, p, z)
        self.assertAllClose(got, q.log_prob(z) - p.log_prob(z))
        # The integral on a grid; five standard errors of 4000 samples.
        grid = np.linspace(-9.0, 9.0, 4001, dtype=np.float32)[:, np.newaxis]
        density = np.exp(q.log_prob(grid))
        exact = np.trapezoid(density * (q.log_prob(grid) - p.log_prob(grid)), grid[:, 0])
        self.assertLess(abs(np.mean(got) - exact), 5 * np.std(got) / np.sqrt(4000))


class ClipByGlobalNormTest(tf.test.TestCase):
    def test_it_is_tensorflow_s_where_that_is_a_number(self):
        gradients = [tf.constant([3.0, 4.0]), tf.constant([[12.0]])]
        for norm in (1.0, 13.0, 100.0):
            want = tf.clip_by_global_norm(gradients, norm)[0]
            self.assertAllClose(clip_by_global_norm(gradients, norm), want, rtol=1e-6)

    def test_gradients_whose_squares_overflow_are_clipped_and_not_lost(self):
        gradients = [tf.constant([3e30, 4e30]), tf.constant([[0.0]])]
        clipped = clip_by_global_norm(gradients, 10.0)
        self.assertAllClose(clipped[0], [6.0, 8.0], rtol=1e-6)
        self.assertAllEqual(clipped[1], [[0.0]])

    def test_what_is_not_a_number_stays_so(self):
        for bad in (np.nan, np.inf):
            clipped = clip_by_global_norm([tf.constant([1.0, bad])], 10.0)
            self.assertTrue(np.isnan(clipped[0]).any())
