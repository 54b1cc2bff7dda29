"""Masks for images: rectangles, halves, lines, squares, patches."""

import itertools

import numpy as np
import tensorflow as tf
from mask_contract import FALSE_ALARM, MaskContract, chi_square_p_value, draw
from scipy import stats

from vae_arbcond import masks


def rejection_distribution(height, width, min_hidden, max_hidden, min_side=1):
    """{(top, bottom, left, right): probability} of redrawing two uniform corners.

    Redrawing until a pair is admissible makes every admissible pair equally probable.
    """
    places = {}
    corners = itertools.product(range(height), range(height), range(width), range(width))
    for y1, y2, x1, x2 in corners:
        top, bottom, left, right = min(y1, y2), max(y1, y2), min(x1, x2), max(x1, x2)
        area = (bottom - top + 1) * (right - left + 1) / (height * width)
        side = min(bottom - top, right - left) + 1
        if min_hidden - 1e-9 <= area <= max_hidden + 1e-9 and side >= min_side:
            place = (top, bottom, left, right)
            places[place] = places.get(place, 0) + 1
    total = sum(places.values())
    return {place: pairs / total for place, pairs in places.items()}


class RectangleMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.RectangleMask(0.1, 0.6)

    def test_size_then_place_equals_redrawing_exactly(self):
        for height, width, *bounds in [
            (4, 5, 0.3, 1.0),
            (6, 3, 0.1, 0.6),
            (5, 5, 0, 0.2),
            (6, 5, 0, 0.7, 3),  # sides of at least three, VAEAC's way with faces
        ]:
            sizes, probs = masks.rectangle_sizes(height, width, *bounds)
            ours = {}
            for (rows, columns), prob in zip(sizes, probs, strict=True):
                tops, lefts = range(height - rows + 1), range(width - columns + 1)
                for top, left in itertools.product(tops, lefts):
                    place = (top, top + rows - 1, left, left + columns - 1)
                    ours[place] = prob / (len(tops) * len(lefts))
            expected = rejection_distribution(height, width, *bounds)
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


class HorizontalLineMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.HorizontalLineMask(2)

    def test_three_whole_lines_are_observed_at_a_uniform_place(self):
        observed = draw(masks.HorizontalLineMask(), 3000, 7, 4)
        lines = observed.all(2)
        self.assertAllEqual(lines, observed.any(2))
        self.assertAllEqual(lines.sum(1), np.full(3000, 3))
        first = lines.argmax(1)
        self.assertTrue(lines[np.arange(3000), first + 1].all())
        self.assertTrue(lines[np.arange(3000), first + 2].all())
        counts = np.bincount(first, minlength=5)
        self.assertGreater(chi_square_p_value(counts, np.full(5, 1 / 5)), FALSE_ALARM)

    def test_a_line_may_fill_the_image_and_not_more(self):
        self.assertTrue(draw(masks.HorizontalLineMask(4), 5, 4, 6).all())
        with self.assertRaisesRegex(ValueError, "does not fit into an image of 4 rows"):
            draw(masks.HorizontalLineMask(5), 5, 4, 6)

    def test_a_height_that_is_none_is_refused(self):
        for height in (0, -1, 2.5, True):
            with self.assertRaisesRegex(ValueError, "height is a whole number of at least 1"):
                masks.HorizontalLineMask(height)


class SquareMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.SquareMask(2)

    def test_one_square_is_hidden_and_its_last_place_never_drawn(self):
        size, height, width = 3, 6, 8
        hidden = ~draw(masks.SquareMask(size), 6000, height, width)
        self.assertAllEqual(hidden.sum((1, 2)), np.full(6000, size**2))
        top, left = hidden.any(2).argmax(1), hidden.any(1).argmax(1)
        for row in range(size):
            for column in range(size):
                self.assertTrue(hidden[np.arange(6000), top + row, left + column].all())
        # 0..H-size-1 and 0..W-size-1: 3 times 5 places.
        counts = np.bincount(5 * top + left, minlength=15)
        self.assertLen(counts, 15)
        self.assertGreater(chi_square_p_value(counts, np.full(15, 1 / 15)), FALSE_ALARM)
        self.assertFalse(hidden[:, -1].any() or hidden[:, :, -1].any())

    def test_the_papers_square_fits_and_a_square_as_large_as_the_image_does_not(self):
        self.assertAllEqual((~draw(masks.SquareMask(14), 50, 28, 28)).sum((1, 2)), [196] * 50)
        with self.assertRaisesRegex(ValueError, "must be smaller than the image.*4 x 6"):
            draw(masks.SquareMask(4), 5, 4, 6)
        with self.assertRaisesRegex(ValueError, "size is a whole number"):
            masks.SquareMask(0)


class CentreMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.CentreMask(0.4)

    def test_the_seed_decides(self):
        """The other way round: the one mask without a choice."""
        x, present = self.arguments()
        first = self.generator()(x, present, [1, 2])
        self.assertAllEqual(first, self.generator()(x, present, [2, 1]))

    def test_rows_draw_independently(self):
        """Nothing is drawn."""
        observed = draw(self.generator(), 5, 6, 5)
        self.assertAllEqual(observed, np.broadcast_to(observed[:1], observed.shape))

    def test_the_middle_of_the_papers_images_is_hidden(self):
        for side, first, last in [(64, 16, 48), (128, 32, 96), (28, 7, 21)]:
            expected = np.ones([side, side], bool)
            expected[first:last, first:last] = False
            self.assertAllEqual(draw(masks.CentreMask(), 1, side, side)[0], expected)

    def test_what_does_not_divide_is_rounded_down_and_to_the_top_left(self):
        hidden = ~draw(masks.CentreMask(), 1, 7, 10)[0]
        self.assertAllEqual(np.flatnonzero(hidden.any(1)), [2, 3, 4])
        self.assertAllEqual(np.flatnonzero(hidden.any(0)), [2, 3, 4, 5, 6])
        # 0.29 * 100 is 28.999999999999996 in float64.
        self.assertEqual((~draw(masks.CentreMask(0.29), 1, 100, 100)).sum(), 29 * 29)

    def test_a_side_that_is_none_is_refused(self):
        for side in (0.0, 1.2, float("nan")):
            with self.assertRaisesRegex(ValueError, "must lie in \\(0, 1\\]"):
                masks.CentreMask(side)
        with self.assertRaisesRegex(ValueError, "less than a pixel"):
            draw(masks.CentreMask(0.1), 1, 8, 8)


class FixedRectanglesMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.FixedRectanglesMask(((0, 0, 3, 2), (2, 1, 4, 5), (5, 4, 6, 5)), (6, 5))

    def drawn(self, generator, height, width, rows=600):
        """{(top, left, bottom, right): how often}; checks that each is a filled rectangle."""
        found = {}
        for hidden in ~draw(generator, rows, height, width):
            ys, xs = np.nonzero(hidden)
            place = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
            self.assertEqual(len(ys), (place[2] - place[0]) * (place[3] - place[1]))
            found[tuple(map(int, place))] = found.get(tuple(map(int, place)), 0) + 1
        return found

    def test_the_six_face_masks_are_those_of_both_papers_and_equally_probable(self):
        # Posterior Matching's code for 64 x 64, and VAEAC's for 128 x 128.
        small = [
            *((26, 17, 58, 36), (26, 29, 58, 48), (26, 15, 37, 50)),
            *((26, 15, 37, 34), (26, 31, 37, 50), (43, 20, 62, 44)),
        ]
        for side, expected in [(64, small), (128, masks.FACE_RECTANGLES)]:
            found = self.drawn(masks.FixedRectanglesMask(), side, side)
            self.assertCountEqual(found, expected)
            counts = [found[place] for place in expected]
            self.assertGreater(chi_square_p_value(counts, np.full(6, 1 / 6)), FALSE_ALARM)

    def test_rectangles_are_scaled_on_both_axes(self):
        generator = masks.FixedRectanglesMask(((1, 2, 3, 4),), (4, 8))
        self.assertEqual(self.drawn(generator, 8, 4, rows=3), {(2, 1, 6, 2): 3})
        with self.assertRaisesRegex(ValueError, "less than a pixel"):
            draw(masks.FixedRectanglesMask(((0, 0, 1, 1),), (100, 100)), 3, 8, 8)

    def test_what_is_no_rectangle_is_refused(self):
        for rectangle in [(0, 0, 3), (3, 0, 3, 4), (0, 0, 200, 4), (-1, 0, 3, 4)]:
            with self.assertRaisesRegex(ValueError, "a rectangle is \\(top, left, bottom"):
                masks.FixedRectanglesMask((rectangle,))
        with self.assertRaisesRegex(ValueError, "one or more rectangles"):
            masks.FixedRectanglesMask(())
        with self.assertRaisesRegex(ValueError, "size is \\(height, width\\)"):
            masks.FixedRectanglesMask(size=(128,))


class RandomPatchesMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.RandomPatchesMask(2)

    def test_places_are_drawn_without_replacement_and_without_the_last_one(self):
        # Two squares of one pixel: 3 rows and 3 columns to choose from in 4 x 4.
        hidden = ~draw(masks.RandomPatchesMask(1), 6000, 4, 4)
        self.assertAllEqual(hidden.sum((1, 2)), np.full(6000, 2))
        self.assertEqual(hidden.sum(1).max(), 1)
        self.assertEqual(hidden.sum(2).max(), 1)
        self.assertFalse(hidden[:, 3].any() or hidden[:, :, 3].any())
        # Pairs of different rows, 3, times ordered pairs of different columns, 6, each twice.
        codes = [int(code) for code in hidden[:, :3, :3].reshape(-1, 9) @ 2 ** np.arange(9)]
        _, counts = np.unique(codes, return_counts=True)
        self.assertLen(counts, 18)
        self.assertGreater(chi_square_p_value(counts, np.full(18, 1 / 18)), FALSE_ALARM)

    def test_patches_are_squares_that_may_overlap(self):
        hidden = ~draw(masks.RandomPatchesMask(10), 300, 28, 28)
        area = hidden.sum((1, 2))
        self.assertGreater(area.min(), 100)
        self.assertEqual(area.max(), 200)
        self.assertLess(area.min(), 200)
        one = ~draw(masks.RandomPatchesMask(3, count=1), 300, 9, 6)
        self.assertAllEqual(one.any(2).sum(1), np.full(300, 3))
        self.assertAllEqual(one.any(1).sum(1), np.full(300, 3))

    def test_what_does_not_fit_is_refused(self):
        with self.assertRaisesRegex(ValueError, "must be smaller than the image"):
            draw(masks.RandomPatchesMask(5), 3, 5, 9)
        with self.assertRaisesRegex(ValueError, "4 squares of 3 pixels.*5 x 9 pixels has 2"):
            draw(masks.RandomPatchesMask(3, count=4), 3, 5, 9)
        with self.assertRaisesRegex(ValueError, "count is a whole number"):
            masks.RandomPatchesMask(3, count=0)


class RotatingHalfMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.RotatingHalfMask()

    def test_four_angles_give_the_four_halves(self):
        observed = draw(masks.RotatingHalfMask(4), 3000, 4, 6)
        codes = observed[:, [0, 0, -1, -1], [0, -1, 0, -1]] @ [1, 2, 4, 8]
        counts = [np.sum(codes == code) for code in (1 + 2, 4 + 8, 1 + 4, 2 + 8)]
        self.assertEqual(sum(counts), 3000)
        self.assertGreater(chi_square_p_value(counts, np.full(4, 1 / 4)), FALSE_ALARM)
        self.assertAllEqual(observed.sum((1, 2)), np.full(3000, 12))

    def test_an_angle_and_its_opposite_hide_everything_between_them(self):
        seen = {}
        for observed in draw(masks.RotatingHalfMask(), 4000, 9, 9):
            seen[observed.tobytes()] = observed
        # 80 pixels have an opposite: all but those on the line have one side observed.
        for observed in seen.values():
            both = observed & observed[::-1, ::-1]
            self.assertFalse(both.any())
            self.assertLessEqual(observed.sum(), 40)
            self.assertGreaterEqual(observed.sum(), 36)  # at most 9 pixels on a line
        self.assertGreater(len(seen), 50)

    def test_every_pixel_is_observed_half_of_the_time(self):
        # Mean of 4000 draws of probability 0.5 minus what lies on the line, nothing here; 64
        # pixels, so a false alarm has the probability 64 * FALSE_ALARM / 64.
        count = draw(masks.RotatingHalfMask(), 4000, 8, 8).sum(0)
        z_scores = np.abs(count - 2000) / np.sqrt(1000)
        self.assertLess(z_scores.max(), stats.norm.isf(FALSE_ALARM / 64 / 2))

    def test_the_half_is_that_of_qavis_rotated_canvas(self):
        # The canvas of QAVI: 30 pixels larger, its lower half hidden, turned about its centre.
        height, width = 11, 14
        angle = np.deg2rad(30.0)
        down = np.arange(height + 30) + 0.5 - (height + 30) / 2
        across = np.arange(width + 30) + 0.5 - (width + 30) / 2
        canvas = np.cos(angle) * down[:, None] + np.sin(angle) * across < 0
        expected = canvas[15:-15, 15:-15]
        drawn = draw(masks.RotatingHalfMask(12), 200, height, width)
        self.assertTrue((drawn == expected).all((1, 2)).any())


class SizesTest(tf.test.TestCase):
    """The papers' sizes and others, and what every mask for images refuses."""

    GENERATORS = (
        masks.HorizontalLineMask(),
        masks.SquareMask(14),
        masks.CentreMask(),
        masks.FixedRectanglesMask(),
        masks.RandomPatchesMask(10),
        masks.RotatingHalfMask(),
        masks.PatternMask(),
        masks.FreeFormMask(),
    )

    def test_images_of_any_size_have_some_pixels_hidden_and_some_observed(self):
        for generator in self.GENERATORS:
            for height, width in [(28, 28), (32, 32), (64, 64), (128, 128), (20, 44)]:
                observed = draw(generator, 2, height, width)
                self.assertEqual(observed.shape, (2, height, width))
                self.assertTrue((~observed).any(), msg=str(generator))
                self.assertTrue(observed.any(), msg=str(generator))

    def test_tables_and_images_of_unknown_size_are_refused_with_the_remedy(self):
        for generator in self.GENERATORS:
            with self.assertRaisesRegex(ValueError, "must be \\[B, H, W\\]"):
                draw(generator, 3, 30)

            @tf.function(input_signature=[tf.TensorSpec([None, None, None], tf.bool)])
            def call(present, generator=generator):
                return generator(tf.zeros(tf.shape(present)), present, [0, 0])

            with self.assertRaisesRegex(ValueError, "Fix them with tf.ensure_shape"):
                call(tf.ones([2, 28, 28], tf.bool))


if __name__ == "__main__":
    tf.test.main()
