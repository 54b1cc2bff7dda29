"""Gaussian posterior heads."""

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from vae_arbcond.distributions import CholeskyGaussian, DiagonalGaussian


class GaussianHeadContract:
    """Mixin: subclasses define `head`."""

    def network_output(self):
        return tf.random.stateless_normal([5, 4], [0, 1])

    def test_shapes(self):
        q = self.head(3)(self.network_output())
        self.assertEqual(q.batch_shape, (5,))
        self.assertEqual(q.event_shape, (3,))
        self.assertEqual(q.sample(7, seed=[0, 0]).shape, (7, 5, 3))
        self.assertEqual(q.log_prob(tf.zeros([7, 5, 3])).shape, (7, 5))

    def test_the_density_is_that_of_its_own_mean_and_covariance(self):
        q = self.head(3)(self.network_output())
        z = q.sample(seed=[0, 0])
        for row in range(5):
            mean, covariance = q.mean()[row].numpy(), q.covariance()[row].numpy()
            want = stats.multivariate_normal(mean, covariance).logpdf(z[row])
            self.assertAllClose(q.log_prob(z)[row], want, rtol=1e-4, atol=1e-4)

    def test_samples_have_that_mean_and_covariance(self):
        q = self.head(2)(self.network_output()[:1])
        z = q.sample(8000, seed=[0, 0])[:, 0].numpy()
        covariance = q.covariance()[0].numpy()
        sd = np.sqrt(np.diag(covariance))
        # Five standard errors: 6e-7 false alarms a number.
        self.assertAllLessEqual(np.abs(z.mean(0) - q.mean()[0]) - 5 * sd / np.sqrt(8000), 0.0)
        spread = np.sqrt((covariance**2 + np.outer(sd, sd) ** 2) / 8000)
        self.assertAllLessEqual(np.abs(np.cov(z.T) - covariance) - 5 * spread, 0.0)

    def test_scales_stay_above_their_bound(self):
        head = self.head(2, min_scale=0.5)
        q = head(self.network_output())
        head.params.bias.assign(tf.fill(head.params.bias.shape, -100.0))
        head.params.kernel.assign(tf.zeros_like(head.params.kernel))
        q = head(self.network_output())
        # L is then 0.5 on its diagonal and -100 below: its smallest stretch is the diagonal.
        diagonal = np.sqrt(np.linalg.det(q.covariance().numpy()))
        self.assertAllClose(diagonal, np.full(5, 0.25), rtol=1e-3)

    def test_samples_carry_gradients_to_every_weight(self):
        head = self.head(3)
        h = self.network_output()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(head(h).sample(seed=[0, 0]) ** 2)
        for gradient in tape.gradient(loss, head.trainable_variables):
            self.assertGreater(np.abs(gradient).min(), 0.0)

    def test_half_precision_networks_give_float32_densities(self):
        self.addCleanup(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy("mixed_bfloat16")
        q = self.head(2)(self.network_output())
        self.assertEqual(q.dtype, tf.float32)
        self.assertEqual(q.log_prob(tf.zeros([5, 2])).dtype, tf.float32)


class DiagonalGaussianTest(GaussianHeadContract, tf.test.TestCase):
    head = DiagonalGaussian

    def test_coordinates_are_independent(self):
        covariance = self.head(3)(self.network_output()).covariance().numpy()
        self.assertAllEqual(covariance * (1 - np.eye(3)), np.zeros([5, 3, 3]))


class CholeskyGaussianTest(GaussianHeadContract, tf.test.TestCase):
    head = CholeskyGaussian

    def test_coordinates_may_depend_on_each_other(self):
        covariance = self.head(3)(self.network_output()).covariance().numpy()
        below = np.tril(np.ones([3, 3]), -1) > 0
        self.assertAllGreater(np.abs(covariance[:, below]), 0.0)
        self.assertAllClose(covariance, np.swapaxes(covariance, 1, 2))
