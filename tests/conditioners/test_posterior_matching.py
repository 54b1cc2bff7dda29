"""Posterior Matching's losses against closed forms, and what trains when.

Equation numbers are those of https://arxiv.org/abs/2201.12414v4.
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from contract import SEED, example_inputs

from vae_arbcond import networks
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.distributions import CholeskyGaussian, DiagonalGaussian, FeatureScaleNormal
from vae_arbcond.models import VAE, Stage
from vae_arbcond.registry import register
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions
SPEC = DataSpec((3,))


@register
class TwoBumps(keras.layers.Layer):
    """A mixture of two Gaussians: a density without a known KL, not reparameterised."""

    def __init__(self, event_size: int, name: str | None = None):
        super().__init__(name=name)
        self.event_size = event_size
        self.params = keras.layers.Dense(2 + 4 * event_size)

    def call(self, h):
        params = self.params(h)
        shape = tf.concat([tf.shape(params)[:-1], [2, 2 * self.event_size]], 0)
        loc, raw = tf.split(tf.reshape(params[..., 2:], shape), 2, axis=-1)
        bumps = tfd.MultivariateNormalDiag(loc, 0.1 + tf.nn.softplus(raw))
        return tfd.MixtureSameFamily(tfd.Categorical(params[..., :2]), bumps)


def vae(**arguments):
    keras.utils.set_random_seed(0)
    return VAE(
        2,
        networks.mlp((8,)),
        CholeskyGaussian(2),
        networks.mlp((8,)),
        FeatureScaleNormal(),
        **arguments,
    )


def matching(head=None, **arguments):
    made = PosteriorMatching(
        vae(), networks.mlp((8,)), head or CholeskyGaussian(2), **arguments
    )
    return made.create_variables(SPEC)


def batch():
    x, observed = example_inputs(SPEC, rows=6)
    present = np.random.default_rng(3).random(observed.shape) < 0.8
    return tf.constant(x), tf.constant(present), tf.constant(observed)


def cross_entropy(q, p):
    """-E_q[log p] of two Gaussians, by its formula: [B]."""
    mean, covariance = p.mean(), p.covariance()
    apart = (q.mean() - mean)[..., tf.newaxis]
    inverse = tf.linalg.inv(covariance)
    quadratic = tf.matmul(apart, inverse @ apart, transpose_a=True)[..., 0, 0]
    log_det = tf.linalg.logdet(2 * np.pi * covariance)
    return 0.5 * (tf.linalg.trace(inverse @ q.covariance()) + quadratic + log_det)


class LossTest(tf.test.TestCase):
    replicates = 40_000

    def sampled(self, made, q_of, x, observed):
        """Eq. 5 for every row, many times: [B, replicates]."""
        x, observed = (tf.repeat(a, self.replicates, axis=0) for a in (x, observed))
        losses = made.matching_loss(q_of(x), x, observed, SEED)
        return tf.reshape(losses, [-1, self.replicates]).numpy()

    def test_the_sampled_loss_of_eq_5_has_the_mean_of_eq_2(self):
        made, (x, _, observed) = matching(), batch()

        def q_of(x):
            return made.model.posterior(x, tf.ones_like(x, tf.bool))

        draws = self.sampled(made, q_of, x, observed)
        want = cross_entropy(q_of(x), made.partial_posterior(x, observed)).numpy()
        stderr = draws.std(1) / np.sqrt(self.replicates)
        # Five standard errors: 6e-7 false alarms a row.
        self.assertAllLessEqual(np.abs(draws.mean(1) - want) - 5 * stderr, 0.0)

    def test_eq_3_is_eq_2_without_the_entropy_of_the_full_posterior(self):
        made, (x, present, observed) = matching(closed_form=True), batch()
        q = made.model.posterior(x, present)
        closed = made.matching_loss(q, x, observed, SEED)
        eq_2 = cross_entropy(q, made.partial_posterior(x, observed))
        self.assertAllClose(closed + q.entropy(), eq_2, rtol=1e-4, atol=1e-4)
        self.assertAllGreaterEqual(closed, 0.0)

    def test_the_gradient_of_the_sampled_loss_is_that_of_the_closed_form_on_average(self):
        self.check_gradient(stop_gradient=True)

    def test_the_gradient_through_z_is_that_of_eq_2_on_average(self):
        self.check_gradient(stop_gradient=False)

    def check_gradient(self, stop_gradient):
        made, (x, present, observed) = matching(stop_gradient=stop_gradient), batch()
        variables = [*made.partial_encoder.trainable_variables]
        if not stop_gradient:
            variables += made.model.encoder.trainable_variables

        @tf.function
        def sampled(seed):
            many = [tf.repeat(a, 100, axis=0) for a in (x, present, observed)]
            with tf.GradientTape() as tape:
                q = made.model.posterior(*many[:2])
                loss = tf.reduce_mean(made.matching_loss(q, many[0], many[2], seed))
            return _flat(tape.gradient(loss, variables))

        draws = np.stack([sampled(tf.constant([5, i])) for i in range(100)])
        with tf.GradientTape() as tape:
            q = made.model.posterior(x, present)
            loss = tf.reduce_mean(cross_entropy(q, made.partial_posterior(x, observed)))
        want = _flat(tape.gradient(loss, variables)).numpy()
        stderr = draws.std(0) / np.sqrt(len(draws))
        # About 130 numbers within six standard errors each: 3e-7 false alarms.
        self.assertAllLessEqual(np.abs(draws.mean(0) - want) - 6 * stderr, 1e-6)
        self.assertGreater(np.abs(want).max(), 20 * stderr.max())

    def test_joint_training_adds_the_bound_with_the_same_posterior(self):
        made, (x, present, observed) = matching(), batch()
        terms = made.loss_terms(x, present, observed, SEED, 10, False)
        self.assertEqual(set(terms), {"matching", "negative_elbo"})
        elbo_seed, match_seed = tf.unstack(tfp.random.split_seed(SEED, n=2), 2)
        self.assertAllClose(terms["negative_elbo"], -made.model.elbo(x, present, elbo_seed))
        q = made.model.posterior(x, present)
        want = made.matching_loss(q, x, observed & present, match_seed)
        self.assertAllClose(terms["matching"], want)

    def test_without_the_model_only_the_matching_is_left(self):
        for arguments in ({"train_model": False}, {"pretrain_steps": 5}):
            terms = matching(**arguments).loss_terms(*batch(), SEED, 10, False)
            self.assertEqual(set(terms), {"matching"})


def _flat(gradients):
    return tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)


class StopGradientTest(tf.test.TestCase):
    def encoder_gradients(self, **arguments):
        made, (x, present, observed) = matching(**arguments), batch()
        variables = made.model.encoder.trainable_variables
        with tf.GradientTape() as tape:
            loss = made.loss_terms(x, present, observed, SEED, 10, False)["matching"]
        return tape.gradient(loss, variables)

    def test_it_keeps_the_matching_out_of_the_encoder(self):
        for closed_form in (False, True):
            gradients = self.encoder_gradients(closed_form=closed_form)
            self.assertEqual(gradients, [None] * len(gradients))

    def test_without_it_the_encoder_is_drawn_towards_what_can_be_told(self):
        for closed_form in (False, True):
            for gradient in self.encoder_gradients(
                closed_form=closed_form, stop_gradient=False
            ):
                self.assertGreater(np.abs(gradient).max(), 0.0)

    def test_it_never_keeps_the_bound_out_of_the_encoder(self):
        made = matching()
        variables = made.model.encoder.trainable_variables
        with tf.GradientTape() as tape:
            loss = made.loss_terms(*batch(), SEED, 10, False)["negative_elbo"]
        for gradient in tape.gradient(loss, variables):
            self.assertGreater(np.abs(gradient).max(), 0.0)


class WhatTrainsTest(tf.test.TestCase):
    def test_jointly_everything_trains(self):
        made = matching()
        self.assertLen(made.variables_to_train(), len(made.weights))
        self.assertEqual(made.stages(), [Stage("training", made)])

    def test_a_frozen_model_leaves_the_partial_posterior_to_train(self):
        made = matching(train_model=False)
        want = [*made.partial_encoder.weights, *made.partial_posterior_head.weights]
        self.assertEqual([v.path for v in made.variables_to_train()], [v.path for v in want])
        self.assertEqual(made.stages(), [Stage("training", made)])

    def test_pre_training_trains_the_model_and_then_the_matching(self):
        made = matching(pretrain_steps=7)
        self.assertEqual(
            made.stages(), [Stage("VAE", made.model, 7), Stage("matching", made, None)]
        )
        self.assertLen(made.model.variables_to_train(), len(made.model.weights))
        self.assertLen(made.variables_to_train(), 4)

    def test_pre_training_a_model_that_is_left_as_it_is_is_refused(self):
        with self.assertRaisesRegex(ValueError, "pretrain_steps=3 .* Drop one of the two"):
            matching(train_model=False, pretrain_steps=3)

    def test_a_trained_vae_keeps_its_weights_when_it_is_wrapped_and_saved(self):
        trained = vae().create_variables(SPEC)
        for variable in trained.weights:
            variable.assign_add(tf.ones_like(variable))
        want = [v.numpy() for v in trained.weights]
        made = PosteriorMatching(
            trained, networks.mlp((8,)), CholeskyGaussian(2), train_model=False
        ).create_variables(SPEC)
        path = f"{self.create_tempdir().full_path}/model.keras"
        made.save(path)
        for conditioner in (made, keras.saving.load_model(path)):
            for value, variable in zip(want, conditioner.model.weights, strict=True):
                self.assertAllEqual(value, variable.numpy())


class HeadsTest(tf.test.TestCase):
    def test_any_density_will_do_for_the_sampled_loss(self):
        # A model that learns meanwhile would move what is matched.
        made = matching(TwoBumps(2), train_model=False)
        made.optimizer = keras.optimizers.Adam(1e-2)
        made.optimizer.build(made.variables_to_train())
        step = tf.function(made.train_step, autograph=False)
        losses = [step(batch())["matching"].numpy() for _ in range(60)]
        self.assertLess(np.mean(losses[-10:]), np.mean(losses[:10]))
        x, _, observed = batch()
        self.assertTrue(np.isfinite(made.impute(x, observed, 70, SEED)).all())
        estimate = made.log_likelihood(x, observed, ~observed, 70, SEED)
        self.assertTrue(np.isfinite(estimate.value).all())

    def test_a_closed_form_that_does_not_exist_is_refused_in_a_sentence(self):
        for stop_gradient in (True, False):
            with self.assertRaisesRegex(
                ValueError,
                "KL divergence between MultivariateNormalTriL and MixtureSameFamily, and none "
                "is known. Set closed_form=False",
            ):
                matching(TwoBumps(2), closed_form=True, stop_gradient=stop_gradient)

    def test_a_closed_form_from_a_full_posterior_without_one_is_refused_too(self):
        model = vae()
        model.posterior_head = TwoBumps(2)
        with self.assertRaisesRegex(ValueError, "between MixtureSameFamily and Multi"):
            PosteriorMatching(
                model, networks.mlp((8,)), CholeskyGaussian(2), closed_form=True
            ).create_variables(SPEC)

    def test_diagonal_and_full_posteriors_have_closed_forms_with_each_other(self):
        for head in (DiagonalGaussian(2), CholeskyGaussian(2)):
            made, (x, present, observed) = matching(head, closed_form=True), batch()
            q = made.model.posterior(x, present)
            p = made.partial_posterior(x, observed)
            self.assertAllClose(
                made.matching_loss(q, x, observed, SEED),
                tfd.kl_divergence(q, p),
            )
