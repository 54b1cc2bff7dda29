"""Estimators by name, on a model whose answers are exact."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from oracles import LinearGaussian
from toy_conditioners import ExactConditioner

from vae_arbcond.conditioners import (
    DefaultLikelihood,
    DensityConditioner,
    Inference,
    PredictiveLikelihood,
    RatioLikelihood,
)

tfd = tfp.distributions
NAMED = (DefaultLikelihood(), RatioLikelihood(), PredictiveLikelihood())


@pytest.fixture(scope="module")
def question():
    model = LinearGaussian.random(4, 2, seed=0)
    x = model.sample(12, seed=1)
    observed = np.random.default_rng(2).random(x.shape) < 0.5
    observed[0], observed[1] = False, True
    method = ExactConditioner(model).create_variables(model.data_spec)
    return model, method, x, observed


@pytest.mark.parametrize("likelihood", NAMED, ids=str)
def test_with_the_exact_posterior_every_one_finds_the_exact_answer(likelihood, question):
    model, method, x, observed = question
    estimate = likelihood(method, x, observed, ~observed, 2000, [0, 1])
    want = model.exact_log_prob(x, observed, ~observed)
    # Twelve rows within five standard errors, and float32: 7e-6 false alarms.
    error = np.abs(estimate.value - want)
    assert np.all(error <= 5 * estimate.stderr + 1e-4)
    assert estimate.stderr.numpy().max() < 0.2


@pytest.mark.parametrize("likelihood", NAMED, ids=str)
def test_what_is_neither_seen_nor_scored_plays_no_part(likelihood, question):
    _, method, x, observed = question
    target = ~observed & (np.arange(4) < 2)
    want = likelihood(method, x, observed, target, 50, [0, 1]).value
    poisoned = np.where(observed | target, x, np.nan).astype(np.float32)
    got = likelihood(method, poisoned, observed, target, 50, [0, 1]).value
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("likelihood", NAMED, ids=str)
def test_wrong_questions_are_refused(likelihood, question):
    _, method, x, observed = question
    with pytest.raises(TypeError, match="target must be bool"):
        likelihood(method, x, observed, 1.0 - observed, 10, [0, 1])
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        likelihood(method, x, observed, ~observed, 0, [0, 1])


@pytest.mark.parametrize("likelihood", NAMED, ids=str)
def test_what_is_observed_adds_nothing_as_a_target(likelihood, question):
    _, method, x, observed = question
    want = likelihood(method, x, observed, ~observed, 50, [0, 1]).value
    got = likelihood(method, x, observed, np.ones_like(observed), 50, [0, 1]).value
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_joint_half_of_a_ratio_draws_from_the_model_s_own_encoder(question):
    # Eq. 18's proposal is q(z | x), Eq. 19's q(z | x_o): a method whose two differ.
    model, _, x, _ = question

    class Shifted(ExactConditioner):
        def infer(self, x, observed, seed):
            exact = super().infer(x, observed, seed).posterior
            return Inference(
                tfd.MultivariateNormalTriL(exact.mean() + 0.7, exact.scale.to_dense())
            )

    method = Shifted(model).create_variables(model.data_spec)
    x = tf.constant(x)
    everything = tf.ones_like(x, tf.bool)
    joint = method.joint_log_weights(x, everything, 20, tf.constant([0, 1]))
    # With the exact posterior as the proposal every weight is log p(x); with another none is.
    want = model.exact_log_prob(x.numpy(), ~everything.numpy(), everything.numpy())
    np.testing.assert_allclose(joint, np.broadcast_to(want, joint.shape), rtol=1e-3, atol=1e-3)
    given = method.log_weights(x, everything, ~everything, 20, tf.constant([0, 1]))[0]
    assert np.std(given, axis=0).min() > 1e-2


@pytest.mark.parametrize("likelihood", NAMED, ids=str)
def test_an_empty_target_has_log_likelihood_exactly_0(likelihood, question):
    _, method, x, observed = question
    for target in (np.zeros_like(observed), observed):
        estimate = likelihood(method, x, observed, target, 50, [0, 1])
        np.testing.assert_array_equal(estimate.value, np.zeros(len(x)))
        np.testing.assert_array_equal(estimate.stderr, np.zeros(len(x)))


@pytest.mark.parametrize("likelihood", NAMED, ids=str)
def test_no_rows_have_no_estimates(likelihood, question):
    _, method, x, observed = question
    estimate = likelihood(method, x[:0], observed[:0], ~observed[:0], 10, [0, 1])
    assert all(field.shape == (0,) for field in estimate)


@pytest.mark.parametrize("likelihood", NAMED[1:], ids=str)
def test_a_method_without_a_latent_is_refused(likelihood, question):
    _, _, x, observed = question
    with pytest.raises(TypeError, match=r"needs a method with a latent.*DefaultLikelihood"):
        likelihood(DensityConditioner(), x, observed, ~observed, 10, [0, 1])
    with pytest.raises(TypeError, match="has no likelihood to estimate"):
        likelihood(object(), x, observed, ~observed, 10, [0, 1])
