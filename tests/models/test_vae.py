"""The VAE's evidence lower bound against a linear-Gaussian model solved by hand."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from oracles import LinearGaussian

from vae_arbcond import networks
from vae_arbcond.distributions import (
    Bernoulli,
    CholeskyGaussian,
    DiagonalGaussian,
    FeatureScaleNormal,
    MadeMixture,
    MixedColumns,
    Normal,
)
from vae_arbcond.models import VAE
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions


def linear_vae(posterior_head=CholeskyGaussian):
    """A VAE with a linear decoder and the oracle it therefore is."""
    keras.utils.set_random_seed(0)
    vae = VAE(
        2,
        networks.residual_mlp(8, 1),
        posterior_head(2),
        networks.residual_mlp(8, 0),
        FeatureScaleNormal(initial_scale=0.5),
    ).create_variables(DataSpec((4,)))
    at = vae.likelihood(tf.constant([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    loc, first, second = at.mean().numpy().astype(np.float64)
    weights = np.stack([first - loc, second - loc], -1)
    return vae, LinearGaussian(weights, at.stddev()[0].numpy(), loc)


class ElboTest(tf.test.TestCase):
    replicates = 4000

    def setUp(self):
        super().setUp()
        self.vae, self.oracle = linear_vae()
        self.x = tf.constant(self.oracle.sample(5, seed=1))
        self.present = tf.constant(np.random.default_rng(2).random([5, 4]) < 0.6)

    def mean_elbo(self, vae, x, present, exact=False):
        """Mean over replicates and its standard error, each [B]."""
        many = [tf.repeat(a, self.replicates, axis=0) for a in (x, present)]
        posterior = self.oracle.posterior(*many) if exact else None
        draws = vae.elbo(*many, [0, 1], posterior=posterior).numpy()
        draws = draws.reshape(len(x), self.replicates)
        return draws.mean(1), draws.std(1) / np.sqrt(self.replicates)

    def exact(self, present):
        nothing = np.zeros_like(present)
        return self.oracle.exact_log_prob(self.x, nothing, np.asarray(present))

    def test_with_the_exact_posterior_it_is_the_log_likelihood(self):
        everything = tf.ones_like(self.present)
        for present in (everything, self.present):
            mean, stderr = self.mean_elbo(self.vae, self.x, present, exact=True)
            # Five standard errors: 6e-7 false alarms a row.
            self.assertAllLessEqual(np.abs(mean - self.exact(present)) - 5 * stderr, 1e-4)

    def test_elsewhere_it_lies_below_by_the_divergence_from_the_exact_posterior(self):
        for head in (CholeskyGaussian, DiagonalGaussian):
            vae, self.oracle = linear_vae(head)
            mean, stderr = self.mean_elbo(vae, self.x, self.present)
            gap = tfd.kl_divergence(
                vae.posterior(self.x, self.present),
                self.oracle.posterior(self.x, self.present),
            ).numpy()
            self.assertAllGreater(gap, 0.01)
            error = self.exact(self.present) - gap - mean
            self.assertAllLessEqual(np.abs(error) - 5 * stderr, 1e-3)

    def test_beta_weighs_the_divergence_from_the_prior(self):
        def elbo(beta):
            return self.vae.elbo(self.x, self.present, [0, 1], beta)

        q = self.vae.posterior(self.x, self.present)
        kl = tfd.kl_divergence(q, self.vae.prior())
        self.assertAllClose(elbo(0.0) - elbo(1.0), kl, atol=1e-4)
        self.assertAllClose(elbo(0.0) - elbo(3.0), 3 * kl, atol=1e-4)

    def test_a_posterior_at_hand_is_not_computed_again(self):
        q = self.vae.posterior(self.x, self.present)
        self.assertAllEqual(
            self.vae.elbo(self.x, self.present, [0, 1], posterior=q),
            self.vae.elbo(self.x, self.present, [0, 1]),
        )

    def test_gaps_are_neither_seen_nor_scored(self):
        poisoned = tf.where(self.present, self.x, np.nan)
        with tf.GradientTape() as tape:
            elbo = self.vae.elbo(poisoned, self.present, [0, 1])
        self.assertAllEqual(elbo, self.vae.elbo(self.x, self.present, [0, 1]))
        for gradient in tape.gradient(elbo, self.vae.trainable_variables):
            self.assertTrue(np.isfinite(gradient).all())

    def test_the_encoder_tells_a_gap_from_a_zero(self):
        everything = tf.ones_like(self.present)
        zeros = tf.zeros_like(self.x)
        self.assertNotAllClose(
            self.vae.posterior(zeros, everything).mean(),
            self.vae.posterior(zeros, self.present).mean(),
        )

    def test_a_row_without_any_value_costs_its_divergence_only(self):
        nothing = tf.zeros_like(self.present)
        q = self.vae.posterior(self.x, nothing)
        self.assertAllClose(
            self.vae.elbo(self.x, nothing, [0, 1]), -tfd.kl_divergence(q, self.vae.prior())
        )


class ShapesTest(tf.test.TestCase):
    def check(self, vae, spec, num_weights):
        vae.create_variables(spec)
        self.assertLen(vae.trainable_variables, num_weights)
        self.assertLen(vae.weights, num_weights)
        x = tf.zeros([5, *spec.x_shape])
        present = tf.ones([5, *spec.feature_shape], tf.bool)
        self.assertEqual(vae.posterior(x, present).batch_shape, (5,))
        z = vae.prior().sample([7, 5], seed=[0, 0])
        self.assertEqual(vae.likelihood(z).batch_shape, (7, 5, *spec.feature_shape))
        self.assertEqual(vae.elbo(x, present, [0, 0]).shape, (5,))

    def test_a_mixed_table(self):
        mlp = networks.mlp
        vae = VAE(3, mlp((8,)), DiagonalGaussian(3), mlp((8,)), MixedColumns())
        # Encoder, posterior, decoder, means, logits: two each; one vector of scales.
        self.check(vae, DataSpec((4,), levels=(0, 3, 2, 0)), 11)

    def test_grey_images_with_convolutions(self):
        convolutions = ((4, 3, 2), (8, 3, 2))
        vae = VAE(
            3,
            networks.conv_encoder(convolutions),
            DiagonalGaussian(3),
            networks.conv_decoder((2, 2, 8), convolutions),
            Bernoulli(per_feature=True),
        )
        self.check(vae, DataSpec((8, 8)), 14)

    def test_images_with_dense_networks(self):
        mlp = networks.mlp
        vae = VAE(3, mlp((8,)), CholeskyGaussian(3), mlp((8,)), Normal())
        self.check(vae, DataSpec((4, 5)), 8)

    def test_a_head_that_cannot_model_the_data_says_so_at_once(self):
        mlp = networks.mlp
        vae = VAE(3, mlp((8,)), CholeskyGaussian(3), mlp((8,)), Normal())
        with self.assertRaisesRegex(ValueError, "Use MixedColumns"):
            vae.create_variables(DataSpec((2,), levels=(0, 3)))

    def test_the_prior_is_standard_normal(self):
        vae, _ = linear_vae()
        z = tf.constant([0.5, -2.0])
        self.assertEqual(vae.prior().batch_shape, ())
        self.assertAllClose(
            vae.prior().log_prob(z), -0.5 * 4.25 - np.log(2 * np.pi), rtol=1e-6
        )


class PosteriorHeadTest(tf.test.TestCase):
    def test_a_posterior_without_reparameterised_draws_is_refused(self):
        with self.assertRaisesRegex(ValueError, "needs reparameterised draws.*MadeMixture"):
            linear_vae(lambda size: MadeMixture(size, 2, 8, 1))
