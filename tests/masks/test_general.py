"""Masks for tables and images, mixtures of masks, and masks in gin files."""

import copy
import itertools

import gin
import keras
import numpy as np
import tensorflow as tf
from mask_contract import FALSE_ALARM, MaskContract, chi_square_p_value, draw
from scipy import stats

from vae_arbcond import config, masks, registry


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


def mask_of(gin_file):
    """The training mask of a gin file."""
    gin.clear_config()
    config.load([gin_file])
    return copy.deepcopy(gin.query_parameter("train.mask"))  # gin makes it when it is copied.


class GinFilesTest(tf.test.TestCase):
    def test_every_file_of_masks_makes_one_that_draws(self):
        folder = config.resource_dir("gin")
        files = sorted(p.relative_to(folder) for p in folder.glob("masks/*.gin"))
        self.assertGreaterEqual(len(files), 9)
        for file in files:
            mask = mask_of(str(file))
            is_table = file.stem in ("table", "missing_at_random", "self_masking")
            observed = draw(mask, 40, *((9,) if is_table else (28, 28)))
            self.assertTrue(observed.any() and not observed.all(), msg=str(file))

    def test_the_papers_mixtures_are_as_published(self):
        # Posterior Matching's code: weights 2, 1, 1, 1, 1, 2, 2, the four halves apart.
        several = (masks.BernoulliMask(0.5), masks.HalfMask(), masks.SquareMask(14))
        for name, bounds in [("mnist", (0.3, 1.0)), ("omniglot", (0.1, 0.6))]:
            expected = (*several, masks.RectangleMask(*bounds))
            expected = masks.MixtureMask(expected, (2.0, 4.0, 2.0, 2.0))
            self.assertEqual(mask_of(f"masks/{name}.gin"), expected)
        first = (masks.PatternMask(), masks.BernoulliMask(0.2), masks.CentreMask())
        first = masks.MixtureMask((*first, masks.HalfMask()), (2.0, 2.0, 2.0, 4.0))
        several = (first, masks.FixedRectanglesMask(), masks.RectangleMask(0.3, 1.0))
        expected = masks.MixtureMask(several, (1.0, 1.0, 2.0))
        self.assertEqual(mask_of("masks/celeba.gin"), expected)


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

    def test_texts_and_single_numbers_are_refused_by_name(self):
        for make, says in (
            (lambda: masks.BernoulliMask("0.5"), "BernoulliMask: observed_prob is a number"),
            (lambda: masks.UniformCountMask("0"), "UniformCountMask: low is a number"),
            (lambda: masks.CentreMask("1"), "CentreMask: side is a number; got '1'"),
            (lambda: masks.RectangleMask(0.1, None), "max_hidden is a number; got None"),
            (lambda: masks.FreeFormMask(strokes="no"), "strokes is True or False; got 'no'"),
            (
                lambda: masks.MixtureMask([masks.HalfMask()], 1.0),
                r"MixtureMask: weights is a list, \(0.5, 0.5\) say; got 1.0",
            ),
            (lambda: masks.SelfMaskingMask(columns=3), "columns is a list, .* got 3"),
            (lambda: masks.FixedRectanglesMask(size=128), "size is a list, .* got 128"),
            (
                lambda: masks.FixedRectanglesMask([(0.0, 0.0, 10.0, 10.0)]),
                "a rectangle is .*, whole numbers with 0 <= top",
            ),
        ):
            with self.assertRaisesRegex(ValueError, says):
                make()

    def test_names_are_registered_under_the_package(self):
        self.assertEqual(
            keras.saving.get_registered_name(masks.HalfMask), f"{registry.PACKAGE}>HalfMask"
        )


if __name__ == "__main__":
    tf.test.main()
