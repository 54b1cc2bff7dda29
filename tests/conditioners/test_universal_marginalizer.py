"""Universal Marginalizer: orders, and the questions it is trained with."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from vae_arbcond import networks
from vae_arbcond.conditioners import UniversalMarginalizer
from vae_arbcond.distributions import MixedColumns
from vae_arbcond.shapes import DataSpec


def marginalizer(features=4, **options):
    keras.utils.set_random_seed(0)
    made = UniversalMarginalizer(networks.mlp((8,)), MixedColumns(), **options)
    return made.create_variables(DataSpec((features,)), 0)


def watched(method):
    """Every mask of observed features that the network is asked with, eagerly."""
    asked, marginals = [], method.marginals

    def watch(x, observed):
        asked.append(observed.numpy())
        return marginals(x, observed)

    method.marginals = watch
    return asked


@pytest.mark.parametrize("order", [None, (2, 0, 3, 1)])
def test_a_fixed_order_s_likelihood_is_the_chain_rule_by_hand(order):
    method = marginalizer(random_order=False, order=order)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    observed = np.array([[True, False, False, False]] * 3)
    target = np.array([[False, True, True, False]] * 3)
    total, known = 0.0, observed.copy()
    for feature in [f for f in order or range(4) if target[0, f]]:
        seen = np.where(known, x, 0.0).astype(np.float32)
        total += method.marginals(seen, tf.constant(known)).log_prob(x)[:, feature].numpy()
        known[:, feature] = True
    estimate = method.log_likelihood(x, observed, target, 7, [0, 1])
    np.testing.assert_allclose(estimate.value, total, rtol=1e-5)
    np.testing.assert_array_equal(estimate.stderr, np.zeros(3))


@pytest.mark.parametrize("random_order", [True, False])
def test_a_draw_shows_the_network_what_it_drew_before(random_order):
    method = marginalizer(random_order=random_order)
    asked, seen, marginals = [], [], method.marginals

    def watch(x, observed):
        asked.append(observed.numpy())
        seen.append(np.where(observed, x, 0.0))
        return marginals(x, observed)

    method.marginals = watch
    x = tf.constant([[1.0, 0.0, 0.0, 0.0]] * 6)
    observed = tf.constant([[True, False, False, False]] * 6)
    draws = method._impute(x, observed, tf.constant(1), tf.constant([0, 1])).numpy()[0]
    # A mask a step, each with one feature more: 1, 2 and 3 of four are known (Eq. 11).
    assert [mask.sum(-1).tolist() for mask in asked[:3]] == [[1] * 6, [2] * 6, [3] * 6]
    for mask, known in zip(asked[:3], seen[:3], strict=True):
        np.testing.assert_array_equal(known, np.where(mask, draws, 0.0))
    firsts = {tuple(row) for row in asked[1].tolist()}
    assert (len(firsts) > 1) == random_order  # Rows have orders of their own, or one.


def test_random_orders_average_the_densities_of_every_order():
    method = marginalizer(3)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    nothing = np.zeros([2, 3], bool)
    of_orders = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        fixed = marginalizer(3, random_order=False, order=order)
        fixed.set_weights(method.get_weights())
        of_orders.append(fixed.log_likelihood(x, nothing, ~nothing, 1, [0, 1]).value)
    want = np.log(np.mean(np.exp(of_orders), 0))
    estimate = method.log_likelihood(x, nothing, ~nothing, 500, [0, 1])
    # Two rows within five standard errors: 1e-6 false alarms.
    assert np.all(np.abs(estimate.value - want) < 5 * estimate.stderr + 1e-5)


def test_training_in_random_order_asks_with_every_number_of_hidden_features():
    method = marginalizer()
    asked = watched(method)
    x = tf.zeros([4000, 4])
    present, nothing = tf.ones([4000, 4], tf.bool), tf.zeros([4000, 4], tf.bool)
    method.loss_terms(x, present, nothing, tf.constant([0, 1]), None, True)
    # With u ~ U[0, 1] and all four hidden by the mask, 0 .. 4 are equally likely (B.3).
    counts = np.bincount((~asked[0]).sum(-1), minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.chisquare(asked[0].sum(0)).pvalue > 1e-4  # no feature before another


def test_training_in_a_fixed_order_asks_only_what_the_chain_rule_asks():
    order = (2, 0, 3, 1)
    method = marginalizer(random_order=False, order=order)
    asked = watched(method)
    x = tf.zeros([4000, 4])
    present = tf.ones([4000, 4], tf.bool)
    observed = tf.constant([[False, True, False, False]] * 4000)
    method.loss_terms(x, present, observed, tf.constant([0, 1]), None, True)
    # 1 is observed; 2, 0 and 3 are shown in this order, none, one or two of them.
    wanted = {(False, True, False, False), (False, True, True, False)}
    wanted.add((True, True, True, False))
    rows, counts = np.unique(asked[0], axis=0, return_counts=True)
    assert {tuple(row) for row in rows.tolist()} == wanted
    assert stats.chisquare(counts).pvalue > 1e-4


def test_creating_the_weights_does_not_walk_the_chain():
    method = UniversalMarginalizer(networks.mlp((8,)), MixedColumns())
    asked = watched(method)
    method.create_variables(DataSpec((50,)), 0)
    # A draw alone would be 50: a minute for an image, whenever a model is loaded.
    assert len(asked) < 5


@pytest.mark.parametrize("random_order", [True, False])
def test_the_chain_objective_is_on_average_what_the_chain_rule_gives(random_order):
    x = np.random.default_rng(0).normal(size=(1, 3)).astype(np.float32)
    nothing = np.zeros([1, 3], bool)
    orders = itertools.permutations(range(3)) if random_order else [(0, 1, 2)]
    method = marginalizer(3, random_order=random_order, objective="chain")
    of_orders = []
    for order in orders:
        fixed = marginalizer(3, random_order=False, order=order)
        fixed.set_weights(method.get_weights())
        of_orders.append(fixed.log_likelihood(x, nothing, ~nothing, 1, [0, 1]).value[0])
    count = 20_000
    rows = np.repeat(x, count, 0), np.ones([count, 3], bool), np.zeros([count, 3], bool)
    loss = method.loss_terms(*map(tf.constant, rows), tf.constant([0, 1]), None, True)["chain"]
    stderr = np.std(loss) / np.sqrt(count)
    # Five standard errors: 6e-7 false alarms.
    assert abs(np.mean(loss) + np.mean(of_orders)) < 5 * stderr
    assert stderr < 0.02 * np.mean(loss)  # So that another weight would be noticed.


def test_what_is_missing_in_training_is_neither_shown_nor_scored():
    method = marginalizer()
    asked = watched(method)
    present = tf.random.stateless_uniform([50, 4], [0, 1]) < 0.5
    x = tf.where(present, 1.0, np.nan)
    nothing = tf.zeros([50, 4], tf.bool)
    loss = method.loss_terms(x, present, nothing, tf.constant([0, 1]), None, True)
    assert np.isfinite(loss["marginals"]).all()
    assert not (asked[0] & ~present.numpy()).any()


def test_orders_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="Set random_order = False"):
        marginalizer(order=(0, 1, 2, 3))
    with pytest.raises(ValueError, match="each of the 4 features' numbers"):
        marginalizer(random_order=False, order=(0, 1, 2))
    with pytest.raises(ValueError, match="objective is 'marginals' or 'chain'"):
        marginalizer(objective="joint")
