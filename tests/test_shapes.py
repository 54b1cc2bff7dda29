"""Shapes and what is said when they do not fit."""

import json

import numpy as np
import pytest
import tensorflow as tf

from vae_arbcond import networks, shapes
from vae_arbcond.schema import real
from vae_arbcond.shapes import DataSpec


class CheckMaskTest(tf.test.TestCase):
    def test_a_fitting_mask_comes_back_as_a_tensor(self):
        mask = shapes.check_mask(np.ones([2, 3], bool), tf.zeros([2, 3]), 1)
        self.assertEqual(mask.dtype, tf.bool)
        image = shapes.check_mask(np.ones([2, 4, 4], bool), tf.zeros([2, 4, 4, 3]), 2)
        self.assertEqual(image.shape, (2, 4, 4))

    def test_numbers_are_refused_with_both_ways_out(self):
        for dtype in (np.float32, np.int64, np.uint8):
            with self.assertRaisesRegex(TypeError, "observed must be bool") as caught:
                shapes.check_mask(np.ones([2, 3], dtype), tf.zeros([2, 3]), 1)
            message = str(caught.exception)
            self.assertIn(f"got {np.dtype(dtype).name}", message)
            self.assertIn("tf.cast(array, tf.bool)", message)
            self.assertIn("array == 0", message)

    def test_the_message_names_the_mask_and_its_meaning(self):
        for name, meaning in (
            ("observed", "the model may see the value"),
            ("present", "the value exists in the data"),
            ("target", "score this value"),
        ):
            with self.assertRaisesRegex(TypeError, f"{name} must be bool .True = {meaning}"):
                shapes.check_mask(np.ones([2, 3]), tf.zeros([2, 3]), 1, name)
            with self.assertRaisesRegex(ValueError, f"{name} has shape"):
                shapes.check_mask(np.ones([2, 4], bool), tf.zeros([2, 3]), 1, name)

    def test_a_wrong_shape_says_what_was_given_and_wanted(self):
        with self.assertRaises(ValueError) as caught:
            shapes.check_mask(np.ones([2, 4], bool), tf.zeros([2, 3]), 1)
        self.assertIn(
            "observed has shape (2, 4), but x of shape (2, 3)", str(caught.exception)
        )
        self.assertIn("needs (2, 3)", str(caught.exception))

    def test_a_mask_per_channel_or_without_batch_axis_gets_a_hint(self):
        with self.assertRaisesRegex(ValueError, "One entry per pixel, not per channel"):
            shapes.check_mask(np.ones([2, 4, 4, 3], bool), tf.zeros([2, 4, 4, 3]), 2)
        with self.assertRaisesRegex(ValueError, "add the batch axis with tf.broadcast_to"):
            shapes.check_mask(np.ones([3], bool), tf.zeros([2, 3]), 1)

    def test_an_unknown_batch_size_passes(self):
        @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec(None, tf.bool)])
        def check(x, observed):
            return shapes.check_mask(observed, x, 1)

        self.assertAllEqual(check(tf.zeros([2, 3]), np.ones([2, 3], bool)), np.ones([2, 3]))


class CheckXTest(tf.test.TestCase):
    def test_other_numbers_become_float32(self):
        x = shapes.check_x(np.array([[1, 2]]), (2,))
        self.assertEqual(x.dtype, tf.float32)
        self.assertAllEqual(x, [[1.0, 2.0]])

    def test_wrong_sizes_name_what_the_model_was_built_for(self):
        with self.assertRaisesRegex(ValueError, r"x has shape \(2, 4\).*shape \(3,\), so x"):
            shapes.check_x(np.zeros([2, 4]), (3,))

    def test_a_single_row_gets_a_hint(self):
        with self.assertRaisesRegex(ValueError, r"needs a batch axis: pass x\[None\]"):
            shapes.check_x(np.zeros([8, 8]), (8, 8))

    def test_anything_passes_before_the_data_is_known(self):
        self.assertEqual(shapes.check_x(np.zeros([2, 4]), None).shape, (2, 4))


class CheckSeedTest(tf.test.TestCase):
    def test_two_integers_or_two_for_each_row(self):
        self.assertEqual(shapes.check_seed([0, 1]).dtype, tf.int32)
        self.assertAllEqual(shapes.check_seed(np.array([[1, 2]], np.int64)), [[1, 2]])

    def test_other_shapes_are_refused_with_a_way_out(self):
        for seed in (7, [1, 2, 3], np.zeros([2, 2, 2], np.int32)):
            with self.assertRaisesRegex(
                ValueError, r"two for each row; got shape .*For one number n, pass \[0, n\]"
            ):
                shapes.check_seed(seed)
        with self.assertRaisesRegex(ValueError, "seed must be two integers; got"):
            shapes.check_seed([[1, 2]], allow_rows=False)


class HelpersTest(tf.test.TestCase):
    def test_a_mask_expands_to_the_axes_inside_a_feature(self):
        x = tf.zeros([2, 4, 4, 3])
        self.assertEqual(shapes.expand_features(tf.ones([2, 4, 4]), x).shape, (2, 4, 4, 1))
        self.assertEqual(shapes.expand_features(tf.ones([2, 4]), x[..., 0, 0]).shape, (2, 4))

    def test_fold_batch_is_the_network_on_every_entry(self):
        network = networks.mlp((5,))
        z = tf.random.stateless_normal([3, 2, 4], [0, 0])
        folded = shapes.fold_batch(network, z)
        self.assertEqual(folded.shape, (3, 2, 5))
        for s in range(3):
            self.assertAllClose(folded[s], network(z[s]))

    def test_fold_batch_keeps_known_sizes_in_a_graph(self):
        network = networks.mlp((5,))

        @tf.function(input_signature=[tf.TensorSpec([None, 2, 4])])
        def fold(z):
            folded = shapes.fold_batch(network, z)
            assert folded.shape.as_list() == [None, 2, 5]
            return folded

        self.assertEqual(fold(tf.zeros([0, 2, 4])).shape, (0, 2, 5))


class DataSpecTest(tf.test.TestCase):
    def test_it_survives_json(self):
        for spec in (
            DataSpec((3,)),
            DataSpec((4, 5), (3,)),
            DataSpec((2,), levels=(0, 3)),
        ):
            again = DataSpec.from_config(json.loads(json.dumps(spec.to_config())))
            self.assertEqual(again, spec)
            self.assertEqual(hash(again), hash(spec))  # Tuples again, not lists.

    def test_it_counts_features_not_channels(self):
        spec = DataSpec((4, 5), (3,))
        self.assertEqual(spec.num_features, 20)
        self.assertEqual(spec.x_shape, (4, 5, 3))


def test_schema_and_model_have_one_largest_count():
    assert shapes.LARGEST_COUNT == real.LARGEST_COUNT  # Neither may import the other.


def test_values_that_no_network_answers_are_refused():
    x, seen = tf.constant([[1e30, 0.0]]), tf.constant([[True, True]])
    with pytest.raises(ValueError, match=r"x holds 1e\+30 where observed is True"):
        shapes.check_finite(x, seen, "observed")
    shapes.check_finite(x, ~seen, "observed")
