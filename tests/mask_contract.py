"""What every mask generator must do: a mixin of tests, and how masks are drawn in tests.

Every statistical test of masks uses a fixed seed, so it cannot flake; the false-alarm rate it
states (1e-4 unless it says otherwise) tells how lucky a wrong generator would have to be.
"""

import dataclasses
import json

import gin
import keras
import numpy as np
import tensorflow as tf
from scipy import stats

FALSE_ALARM = 1e-4


def draw(generator, rows, *features, seed=(0, 0)):
    """`rows` masks as a NumPy array, where everything is present."""
    shape = [rows, *features]
    return generator(tf.zeros(shape), tf.ones(shape, tf.bool), seed).numpy()


def chi_square_p_value(counts, probs):
    """P(a worse fit | counts are multinomial with `probs`)."""
    expected = np.sum(counts) * np.asarray(probs)
    assert expected.min() >= 5, "too few draws for the chi-square approximation"
    return stats.chisquare(counts, expected).pvalue


class MaskContract:
    """Mixin: what every mask generator must do. Subclasses define `generator`."""

    features = (6, 5)  # Colour images of 6 x 5 pixels, so that every generator has its say.
    event = (3,)
    pairs = 4000  # of rows compared

    def arguments(self, rows=40):
        x = tf.random.stateless_normal([rows, *self.features, *self.event], [0, 1])
        present = tf.random.stateless_uniform([rows, *self.features], [0, 2]) < 0.8
        return x, present

    def test_a_mask_is_bool_with_one_entry_per_feature(self):
        x, present = self.arguments()
        observed = self.generator()(x, present, [1, 2])
        self.assertEqual(observed.dtype, tf.bool)
        self.assertEqual(observed.shape, present.shape)

    def test_the_seed_decides(self):
        x, present = self.arguments()
        first = self.generator()(x, present, [1, 2])
        self.assertAllEqual(first, self.generator()(x, present, np.array([1, 2], np.int64)))
        for other in ([2, 1], [1, 3], [0, 2]):
            self.assertNotAllEqual(first, self.generator()(x, present, other))

    def test_hidden_and_absent_values_do_not_matter(self):
        x, present = self.arguments()
        self.assertAllEqual(
            self.generator()(x, present, [1, 2]),
            self.generator()(tf.fill(x.shape, np.nan), present, [1, 2]),
        )

    def test_a_graph_of_unknown_batch_size_and_xla_give_the_eager_mask(self):
        generator = self.generator()
        signature = [
            tf.TensorSpec([None, *self.features, *self.event], tf.float32),
            tf.TensorSpec([None, *self.features], tf.bool),
            tf.TensorSpec([2], tf.int32),
        ]

        def call(x, present, seed):
            observed = generator(x, present, seed)
            assert observed.shape.as_list() == [None, *self.features]
            return observed

        graph = tf.function(call, input_signature=signature, autograph=False)
        compiled = tf.function(
            call, input_signature=signature, jit_compile=True, autograph=False
        )
        for rows in (1, 7):
            x, present = self.arguments(rows)
            eager = generator(x, present, [5, 6])
            self.assertAllEqual(graph(x, present, tf.constant([5, 6])), eager)
            self.assertAllEqual(compiled(x, present, tf.constant([5, 6])), eager)

    def test_an_empty_batch_gives_an_empty_mask(self):
        x, present = self.arguments(rows=0)
        self.assertEqual(self.generator()(x, present, [0, 0]).shape, (0, *self.features))

    def test_rows_draw_independently(self):
        # Pixels are exchangeable over rows, so under independence the number of observed
        # pixels that rows 2k and 2k+1 share has the mean sum_j P(j)**2.
        observed = draw(self.generator(), 2 * self.pairs, *self.features)
        observed = observed.reshape(self.pairs, 2, -1)
        marginal = observed.mean((0, 1))
        shared = (observed[:, 0] * 1.0 - marginal) * (observed[:, 1] * 1.0 - marginal)
        total = shared.sum(-1)  # mean 0 under independence
        z_score = total.mean() / (total.std() / np.sqrt(len(total)))
        self.assertLess(abs(z_score), stats.norm.isf(FALSE_ALARM / 2))
        # Independent rows are also not copies: a shared draw would repeat the mask.
        self.assertGreater(np.mean(np.any(observed[:, 0] != observed[:, 1], -1)), 0.1)

    def test_a_wrong_shape_dtype_or_seed_is_refused(self):
        x, present = self.arguments()
        with self.assertRaisesRegex(TypeError, "present must be bool"):
            self.generator()(x, tf.cast(present, tf.float32), [0, 0])
        with self.assertRaisesRegex(ValueError, "present has shape"):
            self.generator()(x, present[:, :-1], [0, 0])
        with self.assertRaisesRegex(ValueError, "batch axis"):
            first = (0,) * len(self.features)
            self.generator()(x[first], present[first], [0, 0])
        with self.assertRaisesRegex(ValueError, "seed must be two integers"):
            self.generator()(x, present, 3)

    def test_keras_configuration_survives_json(self):
        generator = self.generator()
        text = json.dumps(keras.saving.serialize_keras_object(generator))
        again = keras.saving.deserialize_keras_object(json.loads(text))
        self.assertEqual(again, generator)
        self.assertIs(type(again), type(generator))
        x, present = self.arguments()
        self.assertAllEqual(again(x, present, [3, 4]), generator(x, present, [3, 4]))

    def test_it_cannot_be_changed_and_can_be_a_key(self):
        generator = self.generator()
        field = dataclasses.fields(generator)[0].name
        with self.assertRaises(dataclasses.FrozenInstanceError):
            setattr(generator, field, 0.1)
        self.assertEqual(hash(generator), hash(self.generator()))

    def test_gin_finds_it_by_its_name(self):
        configurable = gin.get_configurable(type(self.generator()).__name__)
        self.assertEqual(configurable.__name__, type(self.generator()).__name__)
