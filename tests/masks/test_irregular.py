"""Random fields and brush strokes, against the recipes they come from."""

import itertools
import math
from unittest import mock

import numpy as np
import tensorflow as tf
from mask_contract import FALSE_ALARM, MaskContract, draw
from scipy import stats

from vae_arbcond import masks
from vae_arbcond.masks import irregular


def bicubic(noise, scale):
    """`noise` enlarged `scale` times with the kernel of Keys, a = -0.5; no edges: cropped."""

    def weights(length):
        place = (np.arange(length * scale) + 0.5) / scale - 0.5
        d = np.abs(place[:, None] - np.arange(length))
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        return np.where(d < 1, near, np.where(d < 2, far, 0.0))

    field = weights(noise.shape[0]) @ noise @ weights(noise.shape[1]).T
    return field[2 * scale : -2 * scale, 2 * scale : -2 * scale]


class PatternMaskTest(MaskContract, tf.test.TestCase):
    def generator(self):
        return masks.PatternMask(resolution=0.5)

    def test_the_hidden_area_lies_between_the_bounds(self):
        hidden = (~draw(masks.PatternMask(), 200, 64, 64)).mean((1, 2))
        self.assertGreater(hidden.min(), 0.2)
        self.assertLess(hidden.max(), 0.3)
        hidden = (~draw(masks.PatternMask(0.1, 0.4, 0.1, 0.15), 200, 20, 33)).mean((1, 2))
        self.assertGreater(hidden.min(), 0.1)
        self.assertLess(hidden.max(), 0.15)

    def test_the_field_is_tensorflows_bicubic_enlargement(self):
        noise = np.random.default_rng(0).random((7, 8))
        enlarged = tf.image.resize(noise[..., np.newaxis], (28, 32), "bicubic")[..., 0]
        # Pixel j of the enlargement lies at (j + 0.5) / 4 - 0.5: pixel 6 at 1 + 0.125.
        mask, offset = masks.PatternMask(0.25), tf.constant([0.125], tf.float64)
        rows, columns = mask._weights(13, offset)[0], mask._weights(17, offset)[0]
        self.assertEqual((rows.shape[1], columns.shape[1]), (7, 8))
        field = rows.numpy() @ noise @ columns.numpy().T
        # TensorFlow computes in float32 and reads its kernel from a table of 1024 steps.
        self.assertAllClose(field, enlarged[6:19, 6:23], atol=2e-3)

    def test_without_bounds_it_has_the_statistics_of_a_cropped_large_field(self):
        # Both sides are independent crops of 10 x 10 pixels at 1/4 numbers a pixel. Means over
        # them of the hidden share and of the share of neighbours that differ; two-sided z
        # tests at FALSE_ALARM each.
        rng = np.random.default_rng(0)
        want = []
        for _ in range(600):
            field = bicubic(rng.random((8, 8)), 4) < 0.25  # 16 x 16
            top, left = rng.integers(0, 7, 2)
            want.append(field[top : top + 10, left : left + 10])
        # The phase of the crop is one of 4 there and any number here; the mean over phases
        # of these statistics differs by less than their standard error.
        got = ~draw(masks.PatternMask(0.25, 0.25, 0.0, 1.0), 600, 10, 10)
        kept = [w for w in want if 0 < w.mean() < 1]
        for statistic in (
            lambda h: h.mean(),
            lambda h: (h[1:] != h[:-1]).mean(),
            lambda h: (h[:, 1:] != h[:, :-1]).mean(),
            lambda h: (h[2:, 2:] & h[:-2, :-2]).mean(),
        ):
            ours, theirs = ([statistic(h) for h in some] for some in (got, kept))
            p_value = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
            self.assertGreater(p_value, FALSE_ALARM)

    def test_holes_are_blobs_whose_size_the_resolution_sets(self):
        def edges(resolution):
            hidden = ~draw(masks.PatternMask(resolution), 30, 64, 64)
            return (hidden[:, 1:] != hidden[:, :-1]).mean()

        self.assertGreater(edges(0.12), 1.5 * edges(0.06))

    def test_a_row_that_never_fits_keeps_its_nearest_draw(self):
        def two_or_all_of_nine(seed):
            two = tf.constant([[1, 1, 0], [0, 0, 0], [0, 0, 0]]) > 0
            coins = irregular.uniform([4], seed)[:, tf.newaxis, tf.newaxis] < 0.5
            return tf.where(coins, two, tf.ones_like(two))

        with mock.patch.object(irregular, "ATTEMPTS", 60):
            hidden = irregular._until_within(
                two_or_all_of_nine, 4, (3, 3), 0.3, 0.6, tf.constant([0, 1])
            )
        # 2 / 9 is nearer than 1. Never once in 60 throws: 4e-18.
        self.assertAllEqual(hidden.numpy().sum((1, 2)), [2, 2, 2, 2])

    def test_bounds_that_no_number_of_pixels_meets_are_refused(self):
        for mask, size in (
            (masks.PatternMask(1.0, 0.25, 0.23, 0.3), (3, 3)),  # between 2 / 9 and 3 / 9
            (masks.PatternMask(), (1, 1)),
            (masks.FreeFormMask(), (1, 1)),
            (masks.FreeFormMask(0.25, 0.5), (2, 2)),  # 1 / 4 and 2 / 4 are out
        ):
            with self.assertRaisesRegex(ValueError, "no whole number of the . pixels"):
                draw(mask, 2, *size)
        self.assertAllEqual(
            (~draw(masks.FreeFormMask(0.25, 0.75), 3, 2, 2)).sum((1, 2)), [2] * 3
        )

    def test_wrong_arguments_are_refused(self):
        with self.assertRaisesRegex(ValueError, "resolution is how many random numbers"):
            masks.PatternMask(0.0)
        with self.assertRaisesRegex(ValueError, "between 0 and 1; got 1.0"):
            masks.PatternMask(density=1.0)
        with self.assertRaisesRegex(ValueError, "0 <= min_hidden < max_hidden <= 1"):
            masks.PatternMask(min_hidden=0.3, max_hidden=0.3)


def published_rectangles(rng, side, most, limit):
    """CoModGAN's rectangles, as its code draws them with NumPy."""
    hidden = np.zeros([side, side], bool)
    for _ in range(rng.integers(most)):
        w, h = rng.integers(limit), rng.integers(limit)
        x = rng.integers(-(w // 2), side - w + w // 2)
        y = rng.integers(-(h // 2), side - h + h // 2)
        hidden[max(y, 0) : min(y + h, side), max(x, 0) : min(x + w, side)] = True
    return hidden


def published_strokes(draws, side, low, high):
    """CoModGAN's strokes by their definition: what is near one of their segments.

    Args:
      draws: [1 + 40 N], uniform: how many strokes; for each, how many points, how wide, where
        the first point is (y, x), how far the angles reach down and up, 17 angles, 17 lengths.
      side: of the image.
      low, high: bounds on the width, in pixels.
    """
    y, x = np.mgrid[:side, :side].astype(float)
    hidden, radius = np.zeros([side, side], bool), math.hypot(side, side) / 8
    strokes = draws[1:].reshape(-1, 40)
    for stroke in strokes[: int(draws[0] * (len(strokes) + 1))]:
        num = 4 + int(stroke[0] * 14)  # randint(4, 18)
        width = max(int(low + (high - low) * stroke[1]), 1)
        points = [(int(side * stroke[2]), int(side * stroke[3]))]
        least = 2 * math.pi / 5 - 2 * math.pi / 15 * stroke[4]
        greatest = 2 * math.pi / 5 + 2 * math.pi / 15 * stroke[5]
        for i in range(num):
            angle = least + (greatest - least) * stroke[6 + i]
            angle = 2 * math.pi - angle if i % 2 == 0 else angle
            r = stats.norm.ppf(stroke[23 + i] + 2.0**-33, radius, radius // 2)
            r = np.clip(r, 0, 2 * radius)
            py = int(np.clip(points[-1][0] + r * math.sin(angle), 0, side))
            px = int(np.clip(points[-1][1] + r * math.cos(angle), 0, side))
            points.append((py, px))
        for (y0, x0), (y1, x1) in itertools.pairwise(points):
            length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)
            t = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1)
            gap = (x - x0 - t * (x1 - x0)) ** 2 + (y - y0 - t * (y1 - y0)) ** 2
            hidden |= gap <= width**2 / 4 + 1e-9
    return hidden


class FreeFormMaskTest(MaskContract, tf.test.TestCase):
    pairs = 800  # It takes its time.

    def generator(self):
        return masks.FreeFormMask(0.1, 0.8, max_brush=0.3)

    def agree(self, ours, theirs):
        """z tests at FALSE_ALARM on the hidden share, its square, quarters and edges."""
        side = ours[0].shape[0]
        for statistic in (
            lambda h: h.mean(),
            lambda h: h.mean() ** 2,
            lambda h: h[: side // 4, : side // 2].mean(),
            lambda h: h[side // 4 : side // 2, side // 4 : side // 2].mean(),
            lambda h: (h[1:] != h[:-1]).mean(),
            lambda h: (h[:, 1:] != h[:, :-1]).mean(),
        ):
            samples = ([statistic(h) for h in some] for some in (ours, theirs))
            self.assertGreater(stats.ttest_ind(*samples, equal_var=False).pvalue, FALSE_ALARM)

    def test_rectangles_are_those_of_the_published_recipe(self):
        rng = np.random.default_rng(1)
        theirs = []
        while len(theirs) < 1500:
            hidden = published_rectangles(rng, 16, 10, 8)
            hidden |= published_rectangles(rng, 16, 5, 16)
            if 0 < hidden.mean() < 1:
                theirs.append(hidden)
        self.agree(~draw(masks.FreeFormMask(strokes=False), 1500, 16, 16), theirs)

    def test_strokes_are_those_of_the_published_recipe(self):
        draws = np.random.default_rng(4).random([25, 1 + 40 * 19])
        for side in (32, 64):
            low, high = 3 * side / 64, 12 * side / 64
            mask = masks.FreeFormMask(min_brush=3 / 64, max_brush=12 / 64)
            ours = mask._strokes(tf.constant(draws), (side, side))
            theirs = np.stack([published_strokes(row, side, low, high) for row in draws])
            self.assertAllEqual(ours, theirs)

    def test_masks_are_flipped_both_ways_in_half_of_all_draws(self):
        # Strokes run to the right, so without flips more would be painted there.
        mask = masks.FreeFormMask(min_brush=0.02, max_brush=0.03)
        draws = np.random.default_rng(5).random([600, 1 + 40 * 19])
        plain = mask._strokes(tf.constant(draws), (32, 32)).numpy()
        painted = ~draw(mask, 600, 32, 32)
        for axis in (1, 2):
            halves = np.split(painted, 2, axis=axis)
            balance = halves[0].mean((1, 2)) - halves[1].mean((1, 2))
            self.assertGreater(stats.ttest_1samp(balance, 0.0).pvalue, FALSE_ALARM)
        across = np.split(plain, 2, axis=2)
        balance = across[0].mean((1, 2)) - across[1].mean((1, 2))
        self.assertLess(stats.ttest_1samp(balance, 0.0).pvalue, FALSE_ALARM)

    def test_a_stroke_is_what_is_near_its_line(self):
        path = tf.constant([[[2, 3], [2, 10], [7, 10], [7, 10]]])
        got = irregular._stroke(path, tf.constant([3]), (12, 14)).numpy()[0]
        y, x = np.mgrid[:12, :14]
        near = np.zeros([12, 14], bool)
        for t in np.linspace(0, 1, 2001):
            for (y0, x0), (y1, x1) in [((2, 3), (2, 10)), ((2, 10), (7, 10))]:
                gap = (y - y0 - t * (y1 - y0)) ** 2 + (x - x0 - t * (x1 - x0)) ** 2
                near |= gap <= 1.5**2
        self.assertAllEqual(got, near)

    def test_the_hidden_area_lies_between_the_bounds(self):
        for low, high in [(0.0, 0.2), (0.2, 0.4), (0.8, 1.0)]:
            hidden = (~draw(masks.FreeFormMask(low, high), 40, 32, 32)).mean((1, 2))
            self.assertGreater(hidden.min(), low)
            self.assertLess(hidden.max(), high)

    def test_wrong_arguments_are_refused(self):
        with self.assertRaisesRegex(ValueError, "0 <= min_hidden < max_hidden <= 1"):
            masks.FreeFormMask(0.5, 0.4)
        with self.assertRaisesRegex(ValueError, "widths as fractions"):
            masks.FreeFormMask(min_brush=12, max_brush=48)


if __name__ == "__main__":
    tf.test.main()
