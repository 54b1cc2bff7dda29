"""Feat. QAVI: its objective against closed forms of a linear Gaussian, and bad input."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import LinearGaussian

from vae_arbcond import networks
from vae_arbcond.conditioners import FeatureQueryAdaptive
from vae_arbcond.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    DiagonalGaussian,
    MixedColumns,
    PlanarFlow,
)
from vae_arbcond.models import VAE, FactorAnalysis
from vae_arbcond.shapes import DataSpec
from vae_arbcond.variational import FirstOrder

FEATURES = 4
SEED = tf.constant([1, 2])


def linear(**options):
    model = LinearGaussian.random(FEATURES, 2, seed=0)
    method = FeatureQueryAdaptive(model, train_model=False, **options)
    return method.create_variables(model.data_spec)


def questions(model, rows=8):
    x = model.sample(rows, seed=1)
    observed = np.random.default_rng(2).random(x.shape) < 0.5
    observed[0] = False
    observed[1] = True
    return tf.constant(np.where(observed, x, 0.0).astype(np.float32)), tf.constant(observed)


@functools.cache
def searched():
    """Method, x, observed and what its search found; several tests look at it."""
    method = linear()
    x, observed = questions(method.model)
    return method, x, observed, tf.function(method.optimise)(x, observed)


def test_the_bound_is_below_the_evidence_and_near_it():
    # With the exact encoder the gap is KL(q(x_M) || p(x_M | x_O)): that of a diagonal Gaussian
    # to a Gaussian with correlations, here below a nat.
    method, x, observed, found = searched()
    bound = found.bound.numpy()[1:]
    evidence = method.model.exact_log_prob(
        x.numpy(), np.zeros(x.shape, bool), observed.numpy()
    )[1:]
    # 100 draws, whose integrands spread by two nats: 0.2 a standard error.
    assert (bound <= evidence + 0.8).all()
    assert (bound >= evidence - 2.0).all()


def test_the_optimum_is_the_best_factorised_gaussian():
    # KL(q || p) with p = N(m, C) is least for a diagonal q at mean m and variances
    # 1 / (C^-1)_dd.
    method, x, observed, found = searched()
    means, covariances = method.model.exact_moments(x.numpy(), observed.numpy())
    q = method._features(found.parameters)
    for row in range(1, len(means)):
        u = ~observed.numpy()[row]
        if not u.any():
            continue
        precision = np.linalg.inv(covariances[row][np.ix_(u, u)])
        # The noise of 100 draws at a learning rate that falls to a twentieth.
        np.testing.assert_allclose(q.mean()[row][u], means[row][u], atol=0.25)
        want = np.diag(precision) ** -0.5
        np.testing.assert_allclose(q.stddev()[row][u], want, rtol=0.3)


def test_gamma_widens_q():
    method, x, observed, found = searched()
    wide = linear(gamma=10.0, minimizer=FirstOrder(num_steps=60))
    far = tf.function(wide.optimise)(x, observed)
    hidden = ~observed[2:].numpy()
    scales = [method._features(f.parameters).stddev().numpy()[2:] for f in (found, far)]
    assert (scales[1][hidden] > scales[0][hidden]).all()


def test_answers_are_corrected_and_blind_to_what_is_hidden():
    method = linear(minimizer=FirstOrder(num_steps=40), num_samples=30)
    x, observed = questions(method.model)
    sample = method.model.sample(8, seed=1)
    exact = method.model.exact_log_prob(sample, observed.numpy(), ~observed.numpy())
    estimate = method.log_likelihood(sample, observed, ~observed, 500, SEED)
    # Five standard errors, 6e-7 false alarms a row; self-normalised weights skew a little.
    gap = np.abs(estimate.value.numpy() - exact)
    assert (gap <= 5.0 * estimate.stderr.numpy() + 0.05).all()
    draws = method.impute(x, observed, 3, SEED)
    poisoned = tf.where(observed, x, np.nan)
    np.testing.assert_array_equal(method.impute(poisoned, observed, 3, SEED), draws)


def test_a_query_without_anything_observed_is_answered_by_the_prior():
    method = linear(minimizer=FirstOrder(num_steps=1), num_samples=4)
    x, observed = questions(method.model, rows=3)
    q, search = method.infer(x, observed, None)
    z = q.sample(5, seed=SEED)
    want = method.model.prior().log_prob(z[:, 0])
    np.testing.assert_array_equal(q.log_prob(z)[:, 0], want)
    assert search.bound[0] == 0.0 and search.steps[0] == 0


def test_the_bound_does_not_depend_on_the_neighbours():
    method = linear(num_samples=6)
    x, observed = questions(method.model, rows=4)
    start = method._start(x, SEED)
    together = method.bound(start, (x, observed), SEED)[0]
    last = tf.nest.map_structure(lambda part: part[3:], start)
    alone = method.bound(last, (x[3:], observed[3:]), SEED)[0]
    np.testing.assert_allclose(together[3:], alone, rtol=1e-4)  # float32


class KeepsItsBatch(FirstOrder):
    """Says how it was asked."""

    def maximise(self, problem, parameters, seed, done=None, compact=True):
        self.compact = compact
        return super().maximise(problem, parameters, seed, done, compact)


@pytest.mark.parametrize("gaussian", [True, False])
def test_queries_stay_where_the_encoder_draws_by_place(gaussian):
    keras.utils.set_random_seed(0)
    head = DiagonalGaussian(2) if gaussian else PlanarFlow(2, 1)
    model = VAE(2, networks.mlp((8,)), head, networks.mlp((8,)), MixedColumns())
    minimizer = KeepsItsBatch(num_steps=1)
    method = FeatureQueryAdaptive(model, minimizer, num_samples=4)
    method.create_variables(DataSpec((4,)))
    method.optimise(tf.zeros([2, 4]), tf.constant([[True, False] * 2] * 2))
    assert minimizer.compact is gaussian


def test_binary_features_get_continuous_bernoullis(tmp_path):
    keras.utils.set_random_seed(0)
    model = VAE(2, networks.mlp((8,)), DiagonalGaussian(2), networks.mlp((8,)), Bernoulli())
    method = FeatureQueryAdaptive(
        model, FirstOrder(num_steps=10), num_samples=8, unit_interval=True
    ).create_variables(DataSpec((5,)))
    x = tf.constant(np.random.default_rng(0).integers(2, size=[3, 5]), tf.float32)
    observed = tf.constant([[True, False, True, False, False]] * 3)
    start = method._start(x, SEED)
    completed = method._completed(start, x, observed, 6, SEED)
    assert (completed.numpy() >= 0).all() and (completed.numpy() <= 1).all()
    with tf.GradientTape() as tape:
        tape.watch(start)
        bound = method.bound(start, (x, observed), SEED)[1]
    hidden = ~observed.numpy()
    assert (tape.gradient(bound, start).loc.numpy()[hidden] != 0).all()
    draws = method.impute(x, observed, 4, SEED)
    assert set(np.unique(draws)) <= {0.0, 1.0}
    method.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.impute(x, observed, 4, SEED), draws)


def test_what_cannot_be_done_is_said_in_a_sentence():
    model = LinearGaussian.random(FEATURES, 2, seed=0)
    with pytest.raises(ValueError, match="beta"):
        FeatureQueryAdaptive(model, beta=-1.0)
    with pytest.raises(ValueError, match="gamma"):
        FeatureQueryAdaptive(model, gamma=0.0)
    with pytest.raises(TypeError, match="of several parts"):
        mixed = FactorAnalysis(1, components=2)
        FeatureQueryAdaptive(mixed).create_variables(DataSpec((4,)))
    nets = networks.mlp((8,)), DiagonalGaussian(2), networks.mlp((8,))
    for head in (Bernoulli(), ContinuousBernoulli()):
        with pytest.raises(ValueError, match=r"from 0 to 1.*Set unit_interval=True"):
            FeatureQueryAdaptive(VAE(2, *nets, head)).create_variables(DataSpec((4,)))
    with pytest.raises(ValueError, match=r"levels or counts. Use QueryAdaptive"):
        FeatureQueryAdaptive(model).create_variables(DataSpec((2,), levels=(0, 3)))
