"""Networks: what goes in, what comes out, and how a mask enters."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_arbcond import networks
from vae_arbcond.shapes import DataSpec


def inputs(*shape):
    return tf.random.stateless_normal(shape, [0, 1])


def test_a_masked_network_with_too_few_units_is_refused():
    with pytest.raises(ValueError, match="needs at least as many hidden units"):
        networks.Made(8, 2, hidden=7)


class MaskedInputTest(tf.test.TestCase):
    def layer(self, spec):
        layer = networks.MaskedInput()
        layer.build_for(spec)
        return layer

    def test_a_table_is_its_seen_values_beside_the_mask(self):
        layer = self.layer(DataSpec((3,)))
        x = tf.constant([[1.0, np.nan, 3.0]])
        out = layer(x, tf.constant([[True, False, True]]))
        self.assertAllEqual(out, [[1.0, 0.0, 3.0, 1.0, 0.0, 1.0]])

    def test_ordinals_enter_as_steps_and_counts_as_logarithms(self):
        spec = DataSpec(
            (3,), levels=(4, 0, 0), ordered=(True, False, False), counts=(0.0, 9.0, 0.0)
        )
        x = tf.constant([[2.0, 0.0, 0.5], [3.0, 99.0, np.nan]])
        out = self.layer(spec)(x, tf.constant([[True, True, True], [False, True, False]]))
        small, large = np.log(1.0 / 10.0), np.log(100.0 / 10.0)
        self.assertAllClose(
            out,
            [
                [1.0, 1.0, 0.0, small, 0.5, 1.0, 1.0, 1.0],
                [0.0, 0.0, 0.0, large, 0.0, 0.0, 1.0, 0.0],
            ],
        )
        nothing = tf.zeros([1, 3], tf.bool)
        self.assertAllEqual(self.layer(spec)(x[:1] * np.nan, nothing), np.zeros([1, 8]))

    def test_a_level_enters_one_hot_and_a_hidden_one_as_zeros(self):
        layer = self.layer(DataSpec((4,), levels=(3, 0, 2, 2)))
        x = tf.constant([[2.0, 0.5, np.nan, 0.0], [0.0, np.inf, 1.0, 7.0]])
        observed = tf.constant([[True, True, False, True], [False, False, True, False]])
        self.assertAllEqual(
            layer(x, observed),
            [
                [0, 0, 1, 0.5, 0, 0, 1, 0, 1, 1, 0, 1],
                [0, 0, 0, 0.0, 0, 1, 0, 0, 0, 0, 1, 0],
            ],
        )

    def test_an_image_gets_the_mask_as_one_more_channel(self):
        observed = inputs(2, 4, 5) > 0
        grey = inputs(2, 4, 5)
        out = self.layer(DataSpec((4, 5)))(grey, observed)
        self.assertAllEqual(out[..., 0], tf.where(observed, grey, 0.0))
        self.assertAllEqual(out[..., 1], tf.cast(observed, tf.float32))
        colour = inputs(2, 4, 5, 3)
        out = self.layer(DataSpec((4, 5), (3,)))(colour, observed)
        self.assertEqual(out.shape, (2, 4, 5, 4))
        self.assertAllEqual(out[..., :3], tf.where(observed[..., None], colour, 0.0))

    def test_hidden_values_leave_value_and_gradient_alone(self):
        layer = self.layer(DataSpec((2,), levels=(0, 3)))
        x = tf.Variable([[np.nan, np.nan]])
        with tf.GradientTape() as tape:
            out = layer(x, tf.constant([[False, False]]))
        self.assertAllEqual(out, np.zeros([1, 6]))
        self.assertAllEqual(tape.gradient(out, x), [[0.0, 0.0]])

    def test_levels_of_an_image_are_refused(self):
        with self.assertRaisesRegex(ValueError, "come in tables"):
            self.layer(DataSpec((2, 2), levels=(3, 3)))


class FactoriesTest(tf.test.TestCase):
    def check(self, network, x, output_shape, num_weights):
        """Output shape, number of weights, no noise, and the same outputs from a file."""
        out = network(x)
        self.assertEqual(out.shape, output_shape)
        self.assertLen(network.trainable_variables, num_weights)
        self.assertAllEqual(network(x), out)
        path = f"{self.create_tempdir().full_path}/network.keras"
        network.save(path)
        self.assertAllEqual(keras.saving.load_model(path)(x), out)

    def test_mlp(self):
        self.check(networks.mlp((7, 5)), inputs(3, 4), (3, 5), 4)
        self.check(networks.mlp((7, 5), dropout=0.5), inputs(3, 4, 2), (3, 5), 4)

    def test_residual_mlp(self):
        # In: 2. A block: two linear maps of 2, two normalisations of 2.
        self.check(networks.residual_mlp(6, 0), inputs(3, 4), (3, 6), 2)
        self.check(networks.residual_mlp(6, 2), inputs(3, 4), (3, 6), 10)
        network = networks.residual_mlp(6, 2, "gelu", layer_norm=True, dropout=0.5)
        self.check(network, inputs(3, 4), (3, 6), 18)
        # Normalisations without weights leave those of the linear maps.
        network = networks.residual_mlp(6, 2, layer_norm=True, norm_weights=False)
        self.check(network, inputs(3, 4), (3, 6), 10)

    def test_conv_encoder(self):
        network = networks.conv_encoder(((4, 3, 1), (6, 3, 2), (8, 5, 2)))
        self.check(network, inputs(3, 8, 8, 2), (3, 2 * 2 * 8), 6)

    def test_conv_decoder(self):
        network = networks.conv_decoder((2, 3, 8), ((6, 3, 2), (4, 3, 2), (5, 3, 1)))
        self.check(network, inputs(3, 10), (3, 8, 12, 5), 8)

    def test_without_blocks_a_residual_mlp_is_linear(self):
        network = networks.residual_mlp(6, 0)
        a, b = inputs(3, 4), inputs(5, 4)[:3] + 1.0
        zero = network(tf.zeros_like(a))
        self.assertAllClose(network(a + b) - zero, network(a) + network(b) - 2 * zero)
        network = networks.residual_mlp(6, 0, final_activation=True)
        self.assertEqual(np.min(network(a)), 0.0)

    def test_a_new_block_is_near_the_identity(self):
        keras.utils.set_random_seed(0)
        h = inputs(200, 64)
        moved = networks.ResidualBlock(64)(h) - h
        # Variance scaling of 0.1 halves twice by ReLU: about 0.05 of the variance, not 1.
        self.assertLess(np.var(moved), 0.2 * np.var(h))
        self.assertGreater(np.var(moved), 0.0)

    def test_dropout_is_for_training_only(self):
        for network in (
            networks.mlp((50,), dropout=0.5),
            networks.residual_mlp(50, 1, dropout=0.5),
        ):
            x = inputs(3, 4)
            quiet = network(x, training=False)
            self.assertAllEqual(network(x, training=False), quiet)
            self.assertNotAllClose(network(x, training=True), quiet)

    def test_activations_are_those_asked_for(self):
        x = inputs(50, 4)
        self.assertAllInRange(networks.mlp((8,), "tanh")(x), -1.0, 1.0)
        self.assertLess(np.min(networks.mlp((8,), "leaky_relu")(x)), 0.0)
        self.assertAllGreaterEqual(networks.mlp((8,), "relu")(x), 0.0)
