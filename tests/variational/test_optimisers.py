"""Optimisers of many queries: every rule climbs, every query for itself."""

import numpy as np
import pytest
import tensorflow as tf

from vae_arbcond.variational import LBFGS, FirstOrder
from vae_arbcond.variational.optimisers import CONVERGED, DIVERGED, RUNNING, Problem
from vae_arbcond.variational.vectors import Layout

SEED = tf.constant([1, 2])
GOALS = tf.constant([[1.0, -2.0], [0.0, 0.5], [3.0, 3.0]])


def no_refresh(parameters, rows, step):
    del step
    return parameters, tf.zeros(tf.shape(rows[0])[:1], tf.bool)


def quadratic(parameters, rows, seed, exact):
    """-|p - goal|^2 / 2, without noise."""
    del seed, exact
    value = -0.5 * tf.reduce_sum((parameters[0] - rows[0]) ** 2, -1)
    return value, value


def problem(bound=quadratic, refresh=no_refresh):
    return Problem(bound, (GOALS,), refresh)


def start():
    return (tf.zeros([3, 2]),)


@pytest.mark.parametrize(
    "method",
    [
        FirstOrder("adam", 0.1),
        FirstOrder("rmsprop", 0.1),
        FirstOrder("sgd", 0.1),
        FirstOrder("adadelta", 5.0, num_steps=600),
        LBFGS(tolerance=1e-5),
    ],
    ids=lambda m: getattr(m, "rule", "lbfgs"),
)
def test_every_method_finds_the_top(method):
    found = tf.function(lambda: method.maximise(problem(), start(), SEED))()
    np.testing.assert_allclose(found.parameters[0], GOALS, atol=0.1)
    np.testing.assert_allclose(found.bound, 0.0, atol=0.01)
    assert set(found.status.numpy()) <= {RUNNING, CONVERGED}


def test_adam_takes_the_steps_of_keras():
    import keras

    method = FirstOrder("adam", 0.1, num_steps=5, check_every=5, patience=None)
    found = method.maximise(problem(), start(), SEED)
    variable = keras.Variable(tf.zeros([3, 2]))
    optimizer = keras.optimizers.Adam(0.1, epsilon=1e-8)
    for i in range(5):
        optimizer.learning_rate = 0.1 * float(method._schedule(np.array(i)))
        optimizer.apply([variable.value - GOALS], [variable])
    np.testing.assert_allclose(found.parameters[0], variable.numpy(), rtol=1e-5)


def test_noise_is_fresh_or_fixed_as_asked():
    for fixed, different in ((False, 7), (True, 2)):
        seeds = set()

        def watched(parameters, rows, seed, exact, seeds=seeds):
            seeds.add(tuple(seed.numpy()))
            return quadratic(parameters, rows, seed, exact)

        method = FirstOrder(num_steps=6, check_every=3, fixed_noise=fixed)
        method.maximise(problem(watched), start(), SEED)
        assert len(seeds) == different  # That of the checks is one of them.


def test_a_layout_gives_back_the_parameters_it_was_given():
    parameters = (tf.reshape(tf.range(6.0), [2, 3]), tf.reshape(tf.range(8.0), [2, 2, 2]))
    layout = Layout(parameters)
    assert layout.vector(parameters).shape == (2, 7)
    for part, back in zip(parameters, layout.nest(layout.vector(parameters)), strict=True):
        np.testing.assert_array_equal(part, back)


def test_every_query_stops_by_itself():
    # The second query starts at its top and has nothing to gain.
    near = (tf.constant([[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]]),)
    found = FirstOrder(patience=2).maximise(problem(), near, SEED)
    steps = found.steps.numpy()
    assert steps[1] == 40 and steps[0] > 40 and steps[2] > 40


def test_whether_finished_queries_leave_the_batch_changes_nothing():
    method = FirstOrder(patience=2)
    one = method.maximise(problem(), start(), SEED, compact=True)
    two = method.maximise(problem(), start(), SEED, compact=False)
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("method", [FirstOrder(num_steps=60), LBFGS()], ids=["adam", "lbfgs"])
def test_a_query_that_leaves_the_numbers_gets_its_best_back(method):
    # A line search may step back from the edge by itself; it must not say that it converged.
    def cliff(parameters, rows, seed, exact):
        value, surrogate = quadratic(parameters, rows, seed, exact)
        # The third goal lies beyond an edge where there is no number.
        beyond = parameters[0][:, 0] > 1.5
        nan = tf.where(beyond, np.nan, 0.0)
        return value + nan, surrogate + nan

    found = method.maximise(problem(cliff), start(), SEED)
    stepping_back = isinstance(method, LBFGS)
    assert found.status.numpy()[2] in ((RUNNING, DIVERGED) if stepping_back else (DIVERGED,))
    assert (found.status.numpy()[:2] != DIVERGED).all()
    assert np.isfinite(tf.concat(tf.nest.flatten(found.parameters), 0)).all()
    assert np.isfinite(found.bound).all() and found.parameters[0][2, 0] <= 1.5


def test_queries_that_are_done_stay_where_they_are():
    done = tf.constant([True, False, False])
    for method in (FirstOrder(), LBFGS()):
        found = method.maximise(problem(), start(), SEED, done)
        np.testing.assert_array_equal(found.parameters[0][0], [0.0, 0.0])
        assert found.status.numpy()[0] == CONVERGED
        assert found.steps.numpy()[0] == 0 and found.steps.numpy()[1] > 0
        assert abs(found.parameters[0][1, 1] - 0.5) < 0.1


def test_lbfgs_tells_the_bound_on_noise_it_was_not_fitted_to():
    def noisy(parameters, rows, seed, exact):
        # A maximum of 1, where noise puts it: a fit reaches it on its own noise.
        del exact
        goal = rows[0] + tf.random.stateless_normal(rows[0].shape, seed)
        value = 1.0 - 0.5 * tf.reduce_sum((parameters[0] - goal) ** 2, -1)
        return value, value

    goals = 100.0 * tf.ones([3, 2])
    found = LBFGS().maximise(Problem(noisy, (goals,), no_refresh), start(), SEED)
    assert (found.bound.numpy() < 0.99).all() and (found.bound.numpy() > -30.0).all()


def test_no_improvement_leaves_the_start():
    def flat(parameters, rows, seed, exact):
        del seed, exact
        value = 0.0 * tf.reduce_sum(parameters[0] * rows[0], -1)
        return value, value

    found = FirstOrder().maximise(problem(flat), start(), SEED)
    np.testing.assert_array_equal(found.parameters[0], np.zeros([3, 2]))
    assert (found.status.numpy() == CONVERGED).all()


def test_misuse_is_refused_in_a_sentence():
    for options, said in (
        ({"rule": "adagrad"}, "is one of adadelta, adam, rmsprop, sgd; got 'adagrad'"),
        ({"patience": 0}, "patience must be 1 or more"),
        ({"tolerance": -1.0}, "tolerance must be 0 or more"),
        ({"num_steps": 0}, "num_steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ):
        with pytest.raises(ValueError, match=said):
            FirstOrder(**options)
