"""Densities of subsets of the features, and point completions."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_arbcond.distributions import (
    Columns,
    Handmade,
    expected_features,
    over_features,
    point_from_expectation,
)

tfd = tfp.distributions


class OverFeaturesTest(tf.test.TestCase):
    def test_it_is_the_sum_over_the_subset(self):
        loc = tf.random.stateless_normal([6, 2, 3], [0, 0])
        x = tf.random.stateless_normal([2, 3], [0, 1])
        features = tf.constant([[True, False, True], [False, False, False]])
        got = over_features(tfd.Normal(loc, 0.5), features).log_prob(x)
        terms = tfd.Normal(loc, 0.5).log_prob(x) * tf.cast(features, tf.float32)
        self.assertEqual(got.shape, (6, 2))
        self.assertAllClose(got, tf.reduce_sum(terms, -1))
        self.assertAllEqual(got[:, 1], np.zeros(6))

    def test_every_axis_of_an_image_counts_as_features(self):
        x = tf.random.stateless_normal([2, 4, 5], [0, 1])
        features = x > 0
        got = over_features(tfd.Normal(tf.zeros([7, 2, 4, 5]), 1.0), features).log_prob(x)
        self.assertEqual(got.shape, (7, 2))
        terms = np.where(features, tfd.Normal(0.0, 1.0).log_prob(x), 0.0)
        self.assertAllClose(got[0], terms.sum((1, 2)), rtol=1e-5)

    def test_vector_features_count_whole(self):
        colour = tfd.MultivariateNormalDiag(tf.zeros([2, 4, 3]))
        features = tf.constant([[True] * 4, [True, False, False, False]])
        got = over_features(colour, features).log_prob(tf.zeros([2, 4, 3]))
        one = -1.5 * np.log(2 * np.pi)
        self.assertAllClose(got, [4 * one, one])

    def test_nan_outside_the_subset_touches_neither_value_nor_gradient(self):
        x = tf.constant([[1.0, np.nan, np.inf, 1.0]])
        features = tf.constant([[True, False, False, True]])
        loc = tf.Variable([[0.5, 0.0, 0.0, 0.0]])
        logits = tf.Variable([[[0.1, 0.2]]])

        def log_prob(x):
            parts = [tfd.Normal(loc[:, :3], 1.0), tfd.Categorical(logits, dtype=tf.float32)]
            mixed = Columns(parts, [[0, 1, 2], [3]])
            return over_features(mixed, features).log_prob(x)

        with tf.GradientTape(persistent=True) as tape:
            value = log_prob(x)
        clean = log_prob(tf.constant([[1.0, 0.0, 0.0, 1.0]]))
        self.assertAllEqual(value, clean)
        self.assertAllClose(tape.gradient(value, loc), [[0.5, 0.0, 0.0, 0.0]])
        self.assertTrue(np.isfinite(tape.gradient(value, logits)).all())

    def test_a_density_that_is_no_number_outside_the_subset_touches_nothing(self):
        each = tf.Variable([[1.0, np.nan, np.inf], [2.0, 3.0, -np.inf]])
        features = tf.constant([[True, False, False], [True, True, False]])
        with tf.GradientTape() as tape:
            value = over_features(Given(each), features).log_prob(tf.zeros([2, 3]))
        self.assertAllEqual(value, [1.0, 5.0])
        self.assertAllEqual(tape.gradient(value, each), [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])

    def test_a_density_that_rows_share_gets_the_gradient_of_all(self):
        each = tf.Variable([[1.0, 2.0]])
        features = tf.constant([[True, True], [False, True], [False, False]])
        with tf.GradientTape() as tape:
            value = over_features(Given(each), features).log_prob(tf.zeros([3, 2]))
        self.assertAllEqual(value, [3.0, 2.0, 0.0])
        self.assertAllEqual(tape.gradient(value, each), [[1.0, 2.0]])

    def test_a_feature_of_the_subset_may_stand_for_several(self):
        loc = tf.random.stateless_normal([2, 4, 3], [0, 0])
        features = tf.constant([[[True]] * 4, [[False], [True]] * 2])
        told = []
        for mask in (features, tf.tile(features, [1, 1, 3])):
            with tf.GradientTape() as tape:
                tape.watch(loc)
                value = over_features(tfd.Normal(loc, 1.0), mask).log_prob(tf.zeros([2, 4, 3]))
            told.append((value, tape.gradient(value, loc)))
        self.assertAllClose(*told)


class Given(Handmade):
    """Log-densities as they are given, whatever x is."""

    def __init__(self, each, name="Given"):
        made_of = dict(locals())
        self._each = each
        super().__init__(made_of, name)

    def _batch_shape(self):
        return self._each.shape

    def _event_shape(self):
        return tf.TensorShape([])

    def _log_prob(self, x):
        return tf.convert_to_tensor(self._each)


class PointCompletionTest(tf.test.TestCase):
    def test_expectations_of_each_family(self):
        self.assertAllClose(expected_features(tfd.Normal([1.0, 2.0], 1.0)), [[1.0], [2.0]])
        bernoulli = tfd.Bernoulli(probs=[0.3, 0.9], dtype=tf.float32)
        self.assertAllClose(expected_features(bernoulli), [[0.3], [0.9]])
        probs = np.float32([[0.2, 0.8], [0.6, 0.4]])
        categorical = tfd.Categorical(probs=probs, dtype=tf.float32)
        self.assertAllClose(expected_features(categorical), probs)
        columns = Columns([tfd.Normal([7.0], 1.0), categorical], [[1], [0, 2]])
        want = [[0.2, 0.8], [7.0, 0.0], [0.6, 0.4]]
        self.assertAllClose(expected_features(columns), want)

    def test_a_real_feature_keeps_its_mean_and_a_level_its_mode(self):
        expectation = tf.constant([[[0.2, 0.7, 0.1], [-5.0, 0.0, 0.0], [0.6, 0.4, 0.0]]])
        point = point_from_expectation(expectation, (3, 0, 2))
        self.assertAllClose(point, [[1.0, -5.0, 0.0]])
        self.assertEqual(point.dtype, tf.float32)

    def test_one_number_of_levels_stands_for_all(self):
        expectation = tf.random.stateless_uniform([2, 4, 4, 3], [0, 0])
        point = point_from_expectation(expectation, 3)
        self.assertAllEqual(point, np.argmax(expectation, -1))

    def test_without_levels_everything_is_real(self):
        self.assertAllEqual(point_from_expectation(tf.constant([[[2.5]]]), None), [[2.5]])
