"""Mask generators: their distributions, their seeds, and what they refuse.

Every statistical test here uses a fixed seed, so it cannot flake; the false-alarm rate it
states (1e-4 unless it says otherwise) tells how lucky a wrong generator would have to be.
"""

import dataclasses
import itertools
import json

import gin
import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from vae_arbcond import masks, registry

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

        graph = tf.function(call, input_signature=signature)
        compiled = tf.function(call, input_signature=signature, jit_compile=True)
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
        observed = draw(self.generator(), 8000, *self.features).reshape(4000, 2, -1)
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
            self.generator()(x[0, 0, 0], present[0, 0], [0, 0])
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


class BernoulliMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.BernoulliMask(0.3)

    def test_the_number_of_observed_features_is_binomial(self):
        for prob in (0.02, 0.3, 0.5):
            observed = draw(masks.BernoulliMask(prob), 500, 40)
            test = stats.binomtest(int(observed.sum()), observed.size, prob)
            self.assertGreater(test.pvalue, FALSE_ALARM)

    def test_features_of_a_row_are_independent(self):
        observed = draw(masks.BernoulliMask(0.5), 4000, 4)
        patterns = np.bincount(observed @ [1, 2, 4, 8], minlength=16)
        self.assertGreater(chi_square_p_value(patterns, np.full(16, 1 / 16)), FALSE_ALARM)

    def test_probabilities_0_and_1_are_exact(self):
        self.assertFalse(draw(masks.BernoulliMask(0.0), 300, 40).any())
        self.assertTrue(draw(masks.BernoulliMask(1.0), 300, 40).all())

    def test_a_number_outside_0_to_1_is_refused(self):
        for prob in (-0.1, 1.5, float("nan")):
            with self.assertRaisesRegex(ValueError, "must lie in \\[0, 1\\]; got"):
                masks.BernoulliMask(prob)


class UniformCountMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.UniformCountMask()

    def counts(self, generator, rows, features):
        return draw(generator, rows, features).sum(-1)

    def test_the_count_is_uniform_on_0_to_d_minus_1_by_default(self):
        counts = np.bincount(self.counts(masks.UniformCountMask(), 6000, 5), minlength=6)
        self.assertEqual(counts[5], 0)
        self.assertGreater(chi_square_p_value(counts[:5], np.full(5, 0.2)), FALSE_ALARM)

    def test_the_count_reaches_d_when_all_may_be_observed(self):
        generator = masks.UniformCountMask(all_observed=True)
        counts = np.bincount(self.counts(generator, 6000, 5), minlength=6)
        self.assertGreater(chi_square_p_value(counts, np.full(6, 1 / 6)), FALSE_ALARM)

    def test_every_subset_of_the_drawn_size_is_equally_probable(self):
        observed = draw(masks.UniformCountMask(), 12_000, 4)
        pairs = observed[observed.sum(-1) == 2] @ [1, 2, 4, 8]
        codes = [sum(pair) for pair in itertools.combinations([1, 2, 4, 8], 2)]
        counts = [np.sum(pairs == code) for code in codes]
        self.assertEqual(sum(counts), len(pairs))
        self.assertGreater(chi_square_p_value(counts, np.full(6, 1 / 6)), FALSE_ALARM)

    def test_the_count_says_nothing_about_which_features_are_observed(self):
        # One row a seed: the first row is where the two draws would meet if they shared one.
        @tf.function
        def first_rows(seeds):
            def first_row(seed):
                present = tf.ones([1, 2], tf.bool)
                return masks.UniformCountMask()(tf.zeros([1, 2]), present, seed)[0]

            return tf.map_fn(first_row, seeds, fn_output_signature=tf.bool)

        seeds = tf.stack([tf.zeros([1000], tf.int32), tf.range(1000)], axis=1)
        observed = first_rows(seeds).numpy()
        ones = observed[observed.sum(-1) == 1]
        test = stats.binomtest(int(ones[:, 0].sum()), len(ones), 0.5)
        self.assertGreater(test.pvalue, FALSE_ALARM)

    def test_bounds_are_those_of_the_definition_for_every_draw(self):
        # (low, high, d) -> the first and the last count, worked out by hand.
        for low, high, features, first, last in [
            (0.0, 0.2, 256, 0, 50),  # floor(51.2) - 1, the paper's masks for acquisition
            (0.25, 0.75, 8, 2, 5),
            (0.29, 0.58, 100, 29, 57),  # 0.29 * 100 is 28.999999999999996 in float64
            (0.5, 0.5, 8, 4, 4),
            (0.0, 0.2, 4, 0, 0),  # an empty range: floor(0.8) - 1 < 0
            (0.9, 1.0, 2, 1, 1),
        ]:
            counts = self.counts(masks.UniformCountMask(low, high), 1500, features)
            # With at most 51 values, one of the two ends is missed with probability
            # 2 * (50 / 51)**1500 < 1e-12.
            self.assertEqual((counts.min(), counts.max()), (first, last))

    def test_bounds_of_the_published_code_map_as_documented(self):
        low, high, features = 0.25, 0.5, 8
        start, width = int(low * features), int(high * features)
        counts = self.counts(masks.UniformCountMask(low, low + high), 4000, features)
        self.assertEqual(counts.min(), start)
        self.assertEqual(counts.max(), start + width - 1)
        frequencies = np.bincount(counts)[start:]
        self.assertGreater(
            chi_square_p_value(frequencies, np.full(width, 1 / width)), FALSE_ALARM
        )

    def test_the_count_is_among_the_present_features_of_each_row(self):
        sizes = np.repeat([0, 1, 3, 6], 3000)
        order = tf.argsort(tf.random.stateless_uniform([12_000, 6], [4, 4]))
        present = order.numpy() < sizes[:, np.newaxis]  # a random place for each size
        observed = masks.UniformCountMask()(tf.zeros([12_000, 6]), present, [0, 1]).numpy()
        self.assertFalse(np.any(observed & ~present))
        counts = observed.sum(-1)
        self.assertEqual(counts[sizes <= 1].max(), 0)
        for size in (3, 6):
            frequencies = np.bincount(counts[sizes == size], minlength=size)
            self.assertLen(frequencies, size)
            p_value = chi_square_p_value(frequencies, np.full(size, 1 / size))
            self.assertGreater(p_value, FALSE_ALARM)

    def test_a_full_count_observes_exactly_what_is_present(self):
        x, present = self.arguments()
        generator = masks.UniformCountMask(low=1.0, all_observed=True)
        self.assertAllEqual(generator(x, present, [0, 0]), present)

    def test_contradictory_bounds_are_refused(self):
        for low, high in [(-0.1, 1.0), (0.6, 0.4), (0.0, 1.1), (float("nan"), 1.0)]:
            with self.assertRaisesRegex(ValueError, "0 <= low <= high <= 1; got"):
                masks.UniformCountMask(low, high)
        with self.assertRaisesRegex(ValueError, "Set high=1.0"):
            masks.UniformCountMask(0.0, 0.5, all_observed=True)
        with self.assertRaisesRegex(ValueError, "Lower low"):
            masks.UniformCountMask(1.0, 1.0)


def rejection_distribution(height, width, min_hidden, max_hidden):
    """{(top, bottom, left, right): probability} of redrawing two uniform corners.

    Redrawing until a pair is admissible makes every admissible pair equally probable.
    """
    places = {}
    corners = itertools.product(range(height), range(height), range(width), range(width))
    for y1, y2, x1, x2 in corners:
        top, bottom, left, right = min(y1, y2), max(y1, y2), min(x1, x2), max(x1, x2)
        area = (bottom - top + 1) * (right - left + 1) / (height * width)
        if min_hidden - 1e-9 <= area <= max_hidden + 1e-9:
            place = (top, bottom, left, right)
            places[place] = places.get(place, 0) + 1
    total = sum(places.values())
    return {place: pairs / total for place, pairs in places.items()}


class RectangleMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.RectangleMask(0.1, 0.6)

    def test_size_then_place_equals_redrawing_exactly(self):
        for height, width, low, high in [(4, 5, 0.3, 1.0), (6, 3, 0.1, 0.6), (5, 5, 0, 0.2)]:
            sizes, probs = masks.rectangle_sizes(height, width, low, high)
            ours = {}
            for (rows, columns), prob in zip(sizes, probs, strict=True):
                tops, lefts = range(height - rows + 1), range(width - columns + 1)
                for top, left in itertools.product(tops, lefts):
                    place = (top, top + rows - 1, left, left + columns - 1)
                    ours[place] = prob / (len(tops) * len(lefts))
            expected = rejection_distribution(height, width, low, high)
            self.assertCountEqual(ours, expected)
            for place, prob in expected.items():
                self.assertAlmostEqual(ours[place], prob, places=12)

    def test_draws_follow_the_distribution_of_redrawing(self):
        height, width, low, high = 4, 3, 0.3, 0.8
        expected = rejection_distribution(height, width, low, high)
        rectangles = {}
        for hidden in ~draw(masks.RectangleMask(low, high), 6000, height, width):
            ys, xs = np.nonzero(hidden)
            place = (ys.min(), ys.max(), xs.min(), xs.max())
            full = (place[1] - place[0] + 1) * (place[3] - place[2] + 1)
            self.assertEqual(len(ys), full)  # a filled rectangle, nothing else
            rectangles[place] = rectangles.get(place, 0) + 1
        self.assertLessEqual(set(rectangles), set(expected))
        counts = [rectangles.get(place, 0) for place in expected]
        self.assertGreater(chi_square_p_value(counts, list(expected.values())), FALSE_ALARM)

    def test_the_hidden_area_honours_inclusive_bounds_in_every_draw(self):
        for low, high in [(0.3, 1.0), (0.1, 0.6), (0.25, 0.25)]:
            hidden = (~draw(masks.RectangleMask(low, high), 3000, 8, 8)).mean((1, 2))
            self.assertGreaterEqual(hidden.min(), low)
            self.assertLessEqual(hidden.max(), high)

    def test_a_table_is_refused_with_what_to_use_instead(self):
        with self.assertRaisesRegex(ValueError, "For a table use BernoulliMask"):
            draw(masks.RectangleMask(0.1, 0.6), 3, 5)

    def test_impossible_bounds_are_refused(self):
        for low, high in [(-0.1, 0.5), (0.5, 0.4), (0.2, 1.2), (0.0, 0.0)]:
            with self.assertRaisesRegex(ValueError, "fractions of the image's area"):
                masks.RectangleMask(low, high)
        with self.assertRaisesRegex(ValueError, "no rectangle of whole pixels.*8 x 8"):
            draw(masks.RectangleMask(0.17, 0.18), 3, 8, 8)  # 11 pixels: no 11 x 1 in 8 x 8

    def test_an_image_of_unknown_size_is_refused_with_the_remedy(self):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None], tf.bool)])
        def call(present):
            x = tf.zeros(tf.shape(present))
            return masks.RectangleMask(0.1, 0.6)(x, present, [0, 0])

        with self.assertRaisesRegex(ValueError, "Fix them with tf.ensure_shape"):
            call(tf.ones([2, 8, 8], tf.bool))


class HalfMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.HalfMask()

    def test_each_side_hides_its_half(self):
        hidden = {s: ~draw(masks.HalfMask((s,)), 1, 4, 5)[0] for s in masks.SIDES}
        self.assertAllEqual(hidden["left"][0], [True, True, False, False, False])
        self.assertAllEqual(hidden["top"][:, 0], [True, True, False, False])
        self.assertAllEqual(hidden["right"], ~hidden["left"])
        self.assertAllEqual(hidden["bottom"], ~hidden["top"])
        for side in masks.SIDES:
            lines = hidden[side] if side in ("left", "right") else hidden[side].T
            self.assertAllEqual(lines, np.tile(lines[0], [len(lines), 1]))

    def test_sides_are_equally_probable(self):
        observed = draw(masks.HalfMask(("left", "bottom", "top")), 3000, 2, 2)
        corners = observed.reshape(-1, 4) @ [1, 2, 4, 8]
        codes = {"left": 2 + 8, "bottom": 1 + 2, "top": 4 + 8}
        counts = [np.sum(corners == code) for code in codes.values()]
        self.assertEqual(sum(counts), 3000)
        self.assertGreater(chi_square_p_value(counts, np.full(3, 1 / 3)), FALSE_ALARM)

    def test_an_image_of_unknown_size_is_fine(self):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None], tf.bool)])
        def call(present):
            return masks.HalfMask()(tf.zeros(tf.shape(present)), present, [0, 0])

        self.assertAllEqual(call(tf.ones([9, 4, 6], tf.bool)), draw(masks.HalfMask(), 9, 4, 6))

    def test_a_wrong_side_or_a_table_is_refused(self):
        with self.assertRaisesRegex(ValueError, "'left', 'top', 'right', 'bottom'.*'lower'"):
            masks.HalfMask(("left", "lower"))
        with self.assertRaisesRegex(ValueError, "one or more"):
            masks.HalfMask(())
        with self.assertRaisesRegex(ValueError, "listed once each"):
            masks.HalfMask(("left", "left"))
        with self.assertRaisesRegex(TypeError, "write \\('left',\\)"):
            masks.HalfMask("left")
        with self.assertRaisesRegex(ValueError, "must be \\[B, H, W\\]"):
            draw(masks.HalfMask(), 3, 5)


class MixtureMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        nested = masks.MixtureMask((masks.RectangleMask(0.3, 1.0), masks.HalfMask()), (1, 3))
        return masks.MixtureMask((masks.BernoulliMask(0.5), nested), (0.5, 0.5))

    def test_rows_use_each_generator_in_proportion_to_its_weight(self):
        names = ("left", "top", "right", "bottom")
        generator = masks.MixtureMask([masks.HalfMask((s,)) for s in names], [2, 1, 0, 5])
        corners = draw(generator, 4000, 2, 2).reshape(-1, 4) @ [1, 2, 4, 8]
        counts = [np.sum(corners == code) for code in (2 + 8, 4 + 8, 1 + 4, 1 + 2)]
        self.assertEqual(counts[2], 0)  # weight 0
        p_value = chi_square_p_value([counts[i] for i in (0, 1, 3)], [2 / 8, 1 / 8, 5 / 8])
        self.assertGreater(p_value, FALSE_ALARM)

    def test_the_choice_says_nothing_about_the_draw_it_chooses(self):
        pairs = (masks.HalfMask(("left", "right")), masks.HalfMask(("top", "bottom")))
        observed = draw(masks.MixtureMask(pairs, (1, 1)), 3000, 2, 2)
        corners = observed.reshape(-1, 4) @ [1, 2, 4, 8]
        counts = [np.sum(corners == code) for code in (2 + 8, 1 + 4, 4 + 8, 1 + 2)]
        self.assertGreater(chi_square_p_value(counts, np.full(4, 1 / 4)), FALSE_ALARM)

    def test_wrong_weights_are_refused(self):
        two = (masks.BernoulliMask(), masks.UniformCountMask())
        with self.assertRaisesRegex(ValueError, "got 3 weights for 2 generators"):
            masks.MixtureMask(two, (1, 2, 3))
        for weights in [(0, 0), (1, -1), (1, float("inf")), (1, float("nan"))]:
            with self.assertRaisesRegex(ValueError, "not all 0; got"):
                masks.MixtureMask(two, weights)

    def test_what_is_not_a_generator_is_refused(self):
        with self.assertRaisesRegex(ValueError, "one or more mask generators"):
            masks.MixtureMask((), ())
        with self.assertRaisesRegex(ValueError, "one or more mask generators"):
            masks.MixtureMask(masks.BernoulliMask(), (1,))
        with self.assertRaisesRegex(TypeError, "Write BernoulliMask\\(\\)"):
            masks.MixtureMask((masks.BernoulliMask,), (1,))
        with self.assertRaisesRegex(TypeError, "cannot be called"):
            masks.MixtureMask((0.5,), (1,))


class IntersectionMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.IntersectionMask((masks.UniformCountMask(), masks.HalfMask()))

    def test_it_observes_where_all_say_observed(self):
        generator = masks.IntersectionMask(
            (masks.HalfMask(("left",)), masks.HalfMask(("top",)))
        )
        expected = [[False, False], [False, True]]
        self.assertAllEqual(draw(generator, 2, 2, 2), [expected, expected])

    def test_the_same_generator_twice_draws_twice(self):
        half = masks.BernoulliMask(0.5)
        observed = draw(masks.IntersectionMask((half, half)), 4000, 5)
        test = stats.binomtest(int(observed.sum()), observed.size, 0.25)
        self.assertGreater(test.pvalue, FALSE_ALARM)

    def test_what_is_not_a_generator_is_refused(self):
        with self.assertRaisesRegex(ValueError, "IntersectionMask: generators must be a list"):
            masks.IntersectionMask(())


class GinTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)

    def test_a_nested_mask_is_made_from_a_gin_file(self):
        gin.parse_config("""
            MixtureMask.generators = [@BernoulliMask(), @IntersectionMask()]
            MixtureMask.weights = [2, 1]
            BernoulliMask.observed_prob = 0.2
            IntersectionMask.generators = [@HalfMask(), @RectangleMask()]
            HalfMask.sides = ("left", "top")
            RectangleMask.min_hidden = 0.3
            RectangleMask.max_hidden = 1.0
        """)
        both = (masks.HalfMask(("left", "top")), masks.RectangleMask(0.3, 1.0))
        expected = masks.MixtureMask(
            (masks.BernoulliMask(0.2), masks.IntersectionMask(both)), (2, 1)
        )
        self.assertEqual(gin.get_configurable("MixtureMask")(), expected)

    def test_a_misspelt_parameter_is_refused_when_the_file_is_parsed(self):
        with self.assertRaisesRegex(ValueError, "observed_probability"):
            gin.parse_config("BernoulliMask.observed_probability = 0.2")

    def test_a_generator_named_but_not_made_is_refused_with_the_remedy(self):
        gin.parse_config("IntersectionMask.generators = [@BernoulliMask]")
        with self.assertRaisesRegex(TypeError, "in a gin file @BernoulliMask\\(\\)"):
            gin.get_configurable("IntersectionMask")()

    def test_names_are_registered_under_the_package(self):
        self.assertEqual(
            keras.saving.get_registered_name(masks.HalfMask), f"{registry.PACKAGE}>HalfMask"
        )


if __name__ == "__main__":
    tf.test.main()
