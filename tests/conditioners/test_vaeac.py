"""VAEAC: its loss is the paper's, and its variants behave as the paper says."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

from vae_arbcond import networks, optimizers
from vae_arbcond.conditioners import (
    VAEAC,
    ImportanceLikelihood,
    MonteCarloLikelihood,
    RatioLikelihood,
    UniversalMarginalizer,
    sampling,
)
from vae_arbcond.distributions import MixedColumns, SharedScaleNormal
from vae_arbcond.shapes import DataSpec
from vae_arbcond.skip_networks import SkipMlpDecoder, SkipMlpEncoder

tfd = tfp.distributions
SEED = tf.constant([3, 4])


def vaeac(features=3, head=None, hidden=16, latent_size=2, **options):
    keras.utils.set_random_seed(0)
    made = VAEAC(
        latent_size,
        SkipMlpEncoder(hidden, 2),
        networks.mlp((hidden,)),  # A proposal network needs no states.
        SkipMlpDecoder(hidden, 2),
        head or MixedColumns(),
        **options,
    )
    return made.create_variables(DataSpec((features,)), 0)


def question(rows=6, features=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    present = rng.random(x.shape) < 0.8
    return tf.constant(x), tf.constant(present), tf.constant(rng.random(x.shape) < 0.5)


def test_the_bound_scores_what_is_hidden_and_present_and_nothing_else():
    x, present, observed = question()
    method = vaeac()
    terms = method.loss_terms(x, present, observed, SEED, None, True)
    prior, context = method.prior(x, observed & present)
    q = method.proposal(x, observed & present, present)
    z = q.sample(seed=tfp.random.split_seed(SEED, n=2)[0])
    each = method.likelihood(z, context).log_prob(x).numpy()
    score = np.where(present & ~observed, each, 0.0).sum(-1)
    kl = tfd.kl_divergence(q, prior).numpy()
    np.testing.assert_allclose(terms["negative_bound"], kl - score, rtol=1e-5)
    assert set(terms) == {"negative_bound", "regulariser"}


def test_the_hybrid_weighs_the_bound_and_the_stochastic_network():
    x, present, observed = question()
    whole = vaeac().loss_terms(x, present, observed, SEED, None, True)
    gsnn = vaeac(alpha=0.0).loss_terms(x, present, observed, SEED, None, True)
    mixed = vaeac(alpha=0.3).loss_terms(x, present, observed, SEED, None, True)
    bound = whole["negative_bound"]
    np.testing.assert_allclose(mixed["negative_bound"], 0.3 * bound, rtol=1e-5)
    np.testing.assert_allclose(mixed["gsnn"], 0.7 * gsnn["gsnn"], rtol=1e-5)
    assert "negative_bound" not in gsnn


def test_the_regulariser_is_the_log_density_of_eq_8_but_for_constants():
    method = vaeac(mean_scale=2.0, scale_weight=0.5)
    prior = tfd.MultivariateNormalDiag([[1.0, -3.0], [0.0, 0.0]], [[0.5, 2.0], [1.0, 1.0]])
    gamma = tfd.Gamma(1.5, 0.5)  # log density: 0.5 log s - 0.5 s + constant
    normal = tfd.Normal(0.0, 2.0)
    each = normal.log_prob(prior.mean()) + gamma.log_prob(prior.stddev())
    want = tf.reduce_sum(each, -1)
    got = method.regulariser(prior)
    np.testing.assert_allclose(got[0] - got[1], want[0] - want[1], rtol=1e-5)


def test_the_regulariser_is_added_to_the_log_likelihood():
    x, present, observed = question()
    method = vaeac(scale_weight=0.5)
    terms = method.loss_terms(x, present, observed, SEED, None, True)
    want = method.regulariser(method.prior(x, observed & present)[0])
    # The loss is the negative: it must grow where the prior's parameters become unlikely.
    np.testing.assert_allclose(terms["regulariser"], -want, rtol=1e-5)


def test_the_proposal_sees_what_is_hidden_and_that_it_is_hidden():
    x, present, observed = question()
    method, everything = vaeac(), tf.ones_like(observed)
    q = method.proposal(x, observed, everything)
    for other in (
        method.proposal(x, ~observed, everything),  # the same x, another question
        method.proposal(tf.where(observed, x, x + 1.0), observed, everything),
        method.proposal(x, observed, present),  # features that are missing altogether
    ):
        assert np.abs(q.mean() - other.mean()).max() > 1e-3


def two_modes(alpha):
    """Draws of x, which is -1 or 1, from a network trained with a weight alpha."""
    method = vaeac(1, SharedScaleNormal(initial_scale=0.3), 32, 1, alpha=alpha)
    method.optimizer = optimizers.adam(3e-3)
    method.optimizer.build(method.variables_to_train())

    @tf.function
    def train():
        for i in tf.range(1500):
            coins = tf.random.stateless_uniform([128, 1], tf.stack([7, i])) < 0.5
            x = tf.where(coins, 1.0, -1.0)
            present = tf.ones_like(coins)
            method.train_step((x, present, ~present))

    method.train_seed = (0, 1)
    train()
    x = np.zeros([1, 1], np.float32)
    return method.impute_means(x, np.zeros([1, 1], bool), 400, [0, 1]).numpy()[:, 0, 0]


def test_without_the_bound_the_network_collapses_to_the_mean():
    # VAEAC, C.1: the best of Eq. 21 with alpha = 0 gives every z the average of the modes.
    means = two_modes(0.0)
    assert np.abs(means).max() < 0.15


def test_with_the_bound_both_modes_are_drawn():
    means = two_modes(1.0)
    share = np.mean(means > 0)
    # 400 draws of a coin: the share is 0.05 off by chance, four standard errors are 0.1;
    # the rest is for what training leaves.
    assert 0.3 < share < 0.7
    assert np.mean(np.abs(np.abs(means) - 1.0) < 0.2) > 0.85


def test_the_deterministic_network_has_one_answer():
    x, _, observed = question()
    method = vaeac(alpha=0.0, deterministic=True)
    means = method.impute_means(x, observed, 5, [0, 1]).numpy()
    np.testing.assert_array_equal(means, np.broadcast_to(means[:1], means.shape))
    estimate = method.log_likelihood(x, observed, ~observed, 30, [0, 1])
    np.testing.assert_allclose(estimate.stderr, 0.0, atol=1e-5)


def test_the_deterministic_network_trains_without_noise():
    x, present, observed = question()
    method = vaeac(alpha=0.0, deterministic=True)
    one, two = (
        method.loss_terms(x, present, observed, tf.constant(seed), None, True)["gsnn"]
        for seed in ([0, 1], [2, 3])
    )
    np.testing.assert_array_equal(one, two)


def test_the_two_estimators_agree():
    x, _, observed = question(rows=20)
    target = ~observed
    method = vaeac(min_scale=1.0)  # Wide, so that an untrained proposal covers the prior.
    importance = ImportanceLikelihood()(method, x, observed, target, 4000, [0, 1])
    monte_carlo = MonteCarloLikelihood()(method, x, observed, target, 4000, [0, 2])
    error = np.sqrt(importance.stderr**2 + monte_carlo.stderr**2)
    trusted = np.maximum(importance.pareto_k, monte_carlo.pareto_k) < 0.6
    assert trusted.mean() > 0.5
    # At most twenty rows within five standard errors: 1e-5 false alarms.
    gap = np.abs(importance.value - monte_carlo.value)
    assert np.all((gap < 5 * error + 1e-4)[trusted])


def test_the_monte_carlo_estimate_is_eq_17_by_hand():
    x, _, observed = question()
    target, method = ~observed, vaeac()
    estimate = MonteCarloLikelihood()(method, x, observed, target, 3, SEED)
    seen = tf.where(observed, x, 0.0)
    prior, context = method.prior(seen, observed)
    draw_seed = sampling.split(SEED)[1]
    z = prior.sample(64, seed=sampling.chunk_seeds(draw_seed, 0).z)[:3]
    each = method.likelihood(z, context).log_prob(tf.where(target, x, 0.0)).numpy()
    each = np.where(target, each, 0.0).sum(-1)
    np.testing.assert_allclose(
        estimate.value, special.logsumexp(each, axis=0) - np.log(3), rtol=1e-4, atol=1e-5
    )


def test_the_importance_estimate_is_eq_18_by_hand():
    x, _, observed = question()
    target, method = ~observed, vaeac()
    estimate = ImportanceLikelihood()(method, x, observed, target, 3, SEED)
    seen = tf.where(observed, x, 0.0)
    prior, context = method.prior(seen, observed)
    q = method.proposal(x, observed, observed | target)
    draw_seed = sampling.split(SEED)[1]
    z = q.sample(64, seed=sampling.chunk_seeds(draw_seed, 0).z)[:3]
    each = method.likelihood(z, context).log_prob(x).numpy()
    each = np.where(target, each, 0.0).sum(-1)
    weights = each + prior.log_prob(z) - q.log_prob(z)
    want = special.logsumexp(weights, axis=0) - np.log(3)
    want = np.where(target.numpy().any(-1), want, 0.0)
    np.testing.assert_allclose(estimate.value, want, rtol=1e-4, atol=1e-5)


def test_estimators_that_a_method_has_not_are_refused_by_name():
    x, _, observed = question()
    gsnn = vaeac(alpha=0.0)
    with pytest.raises(TypeError, match=r"alpha = 0 \(a GSNN\).* Use MonteCarloLikelihood"):
        ImportanceLikelihood()(gsnn, x, observed, ~observed, 10, [0, 1])
    assert gsnn.estimator == str(MonteCarloLikelihood())
    assert vaeac().estimator == str(ImportanceLikelihood())
    other = UniversalMarginalizer(networks.mlp((4,)), MixedColumns())
    other.create_variables(DataSpec((3,)))
    with pytest.raises(TypeError, match="MonteCarloLikelihood needs a method with a prior"):
        MonteCarloLikelihood()(other, x, observed, ~observed, 10, [0, 1])


def test_what_the_generator_takes_from_the_prior_network_is_computed_once_a_row():
    x, _, observed = question()
    method, prepared = vaeac(), []
    prepare = method.generative_network.prepare

    def watch(states):
        prepared.append(states[0].shape[0])
        return prepare(states)

    method.generative_network.prepare = watch
    seen = tf.where(observed, x, 0.0)
    # Three chunks of samples, eagerly: a call in each would be seen.
    method._impute(seen, observed, tf.constant(150), SEED)
    assert prepared == [6]
    method._log_likelihood(x, observed, ~observed, tf.constant(150), SEED)
    assert prepared == [6, 6]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 1.5}, "alpha is a share from 0 to 1, got 1.5"),
        ({"deterministic": True}, "set alpha = 0"),
        ({"latent_size": 0}, "latent_size must be a whole number, 1 or more, got 0"),
        ({"mean_scale": 0.0}, "mean_scale must be a number above 0"),
        ({"scale_weight": -1.0}, "scale_weight must be a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        vaeac(**options)


def test_networks_without_states_are_refused_by_name():
    dense = networks.mlp((8,))
    with pytest.raises(TypeError, match=r"has no prepare.*Use SkipMlpDecoder"):
        VAEAC(2, SkipMlpEncoder(8, 2), dense, dense, MixedColumns())
    method = VAEAC(2, dense, dense, SkipMlpDecoder(8, 2), MixedColumns())
    with pytest.raises(TypeError, match=r"must return \(h, states\).*Use SkipMlpEncoder"):
        method.create_variables(DataSpec((3,)))


def test_networks_of_different_depths_are_refused():
    method = VAEAC(
        2, SkipMlpEncoder(8, 3), SkipMlpEncoder(8, 3), SkipMlpDecoder(8, 2), MixedColumns()
    )
    with pytest.raises(ValueError, match="has depth 2, but the network whose states"):
        method.create_variables(DataSpec((3,)))


def test_there_is_no_ratio_without_a_joint_model():
    x, _, observed = question()
    with pytest.raises(TypeError, match="VAEAC models conditionals only"):
        RatioLikelihood()(vaeac(), x, observed, ~observed, 10, [0, 1])
