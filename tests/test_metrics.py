"""Metrics: values worked out by hand or by brute force, and what they refuse.

Every statistical test uses a fixed seed, so it cannot flake; the rate it states tells how
lucky a wrong metric would have to be.
"""

import unittest

import numpy as np
from scipy import integrate, stats

from vae_arbcond import metrics

NAN, INF = float("nan"), float("inf")


def random_arguments(*features, draws=None, rows=30, seed=0):
    """truth, imputed or draws, and scored with about half of the cells True."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=[rows, *features])
    shape = truth.shape if draws is None else [draws, *truth.shape]
    return truth, rng.normal(size=shape), rng.random([rows, *features[:2]]) < 0.5


class MetricsTestCase(unittest.TestCase):
    def assert_close(self, got, expected):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


class ErrorOfOneCompletionTest(MetricsTestCase):
    truth = np.array([[1.0, 10.0, 5.0], [2.0, 20.0, 5.0], [3.0, 60.0, 5.0]])
    imputed = np.array([[1.0, 13.0, NAN], [4.0, 24.0, NAN], [0.0, 60.0, NAN]])
    scored = np.array([[True, True, False], [True, True, False], [False, True, False]])

    def test_rmse_pools_all_scored_cells(self):
        got = metrics.rmse(self.truth, self.imputed, self.scored)
        self.assert_close(got, np.sqrt((0 + 4 + 9 + 16 + 0) / 5))

    def test_nrmse_mean_averages_features_that_have_scored_cells(self):
        # Feature 0: sqrt((0 + 4) / 2) / 2; feature 1: sqrt((9 + 16 + 0) / 3) / 10.
        got = metrics.nrmse_mean(self.truth, self.imputed, self.scored, [2.0, 10.0, 0.0])
        self.assert_close(got, (np.sqrt(2) / 2 + np.sqrt(25 / 3) / 10) / 2)

    def test_mean_imputation_of_a_whole_table_scores_exactly_1(self):
        truth = np.random.default_rng(0).normal(3.0, 7.0, [50, 4])
        imputed = np.broadcast_to(truth.mean(0), truth.shape)
        got = metrics.nrmse_mean(truth, imputed, np.ones(truth.shape, bool), truth.std(0))
        self.assert_close(got, 1.0)

    def test_scale_may_be_one_number(self):
        arguments = random_arguments(4)
        self.assert_close(
            metrics.nrmse_mean(*arguments, 2.0),
            metrics.nrmse_mean(*arguments, np.full(4, 2.0)),
        )

    def test_channels_of_a_pixel_are_averaged(self):
        truth, imputed, scored = random_arguments(3, 2, 4)
        squares = (truth - imputed) ** 2
        self.assert_close(
            metrics.rmse(truth, imputed, scored), np.sqrt(np.mean(squares[scored]))
        )
        scale = np.arange(1.0, 7.0).reshape(3, 2)
        terms = [
            np.sqrt(np.mean(squares[:, i, j][scored[:, i, j]])) / scale[i, j]
            for i, j in np.ndindex(3, 2)
        ]
        got = metrics.nrmse_mean(truth, imputed, scored, scale)
        self.assert_close(got, np.mean(terms))

    def test_a_scale_that_is_no_standard_deviation_is_refused(self):
        for bad in (0.0, -1.0, NAN, INF):
            with self.assertRaisesRegex(ValueError, r"feature \(1,\) has"):
                metrics.nrmse_mean(self.truth, self.imputed, self.scored, [2.0, bad, 1.0])
        with self.assertRaisesRegex(ValueError, r"shape \(3,\); got shape \(2,\)"):
            metrics.nrmse_mean(self.truth, self.imputed, self.scored, [2.0, 1.0])


class NrmseMinTest(MetricsTestCase):
    def test_each_row_chooses_its_best_draw(self):
        truth = np.zeros([2, 2])
        draws = np.array([[[1.0, 1.0], [4.0, NAN]], [[0.0, 2.0], [3.0, NAN]]])
        scored = np.array([[True, True], [True, False]])
        # Scales 1 and 2. Row 0: sqrt((1 + 1/4) / 2) against sqrt((0 + 1) / 2); row 1: 4, 3.
        got = metrics.nrmse_min(truth, draws, scored, [1.0, 2.0])
        self.assert_close(got, (np.sqrt(0.5) + 3.0) / 2)

    def test_rows_without_a_scored_cell_are_left_out(self):
        truth, draws, scored = random_arguments(3, draws=5)
        scored[4] = False
        scored[0] = True
        rest = np.delete(np.arange(30), 4)
        self.assert_close(
            metrics.nrmse_min(truth, draws, scored, 1.0),
            metrics.nrmse_min(truth[rest], draws[:, rest], scored[rest], 1.0),
        )

    def test_channels_agree_with_brute_force(self):
        truth, draws, scored = random_arguments(2, 2, 3, draws=4)
        scale = np.array([[1.0, 2.0], [3.0, 4.0]])
        error = ((draws - truth) / scale[..., np.newaxis]) ** 2
        rows = [
            min(np.sqrt(error[s, n][scored[n]].mean()) for s in range(4))
            for n in range(30)
            if scored[n].any()
        ]
        self.assert_close(metrics.nrmse_min(truth, draws, scored, scale), np.mean(rows))


class PfcTest(MetricsTestCase):
    def test_shares_of_wrong_cells_are_averaged_over_features(self):
        truth = np.array([[0, 1, 2], [1, 1, 2], [2, 0, 2]])
        imputed = np.array([[0, 0, 0], [2, 1, 0], [2, 1, 0]])
        scored = np.array([[True, True, False], [True, False, False], [True, False, False]])
        self.assert_close(metrics.pfc(truth, imputed, scored), (1 / 3 + 1) / 2)

    def test_levels_may_be_text(self):
        truth = np.array([["a", "x"], ["b", None]], object)
        imputed = np.array([["a", "y"], ["a", "x"]], object)
        scored = np.array([[True, True], [True, False]])
        self.assert_close(metrics.pfc(truth, imputed, scored), (1 / 2 + 1) / 2)
        self.assert_close(metrics.pfc([["a"], ["b"]], [["a"], ["c"]], [[True], [True]]), 0.5)

    def test_a_missing_level_in_a_scored_cell_is_an_error(self):
        truth = np.array([["a"], ["b"]], object)
        for missing in (None, NAN):
            imputed = np.array([["a"], [missing]], object)
            with self.assertRaisesRegex(ValueError, r"imputed is missing.*1 of 2.*\(1, 0\)"):
                metrics.pfc(truth, imputed, np.ones([2, 1], bool))

    def test_values_with_channels_are_refused(self):
        with self.assertRaisesRegex(ValueError, "one value a cell"):
            metrics.pfc(np.zeros([2, 3, 4]), np.zeros([2, 3, 4]), np.ones([2, 3], bool))


class PsnrTest(MetricsTestCase):
    def ten_draws(self):
        """Ten draws of two 2 x 2 images: five 1/4 too bright, five 1/8 too dark."""
        truth = np.full([2, 2, 2], 0.5)
        errors = np.tile([0.25, -0.125], 5)[:, np.newaxis, np.newaxis, np.newaxis]
        return truth, truth + errors * np.ones([10, 2, 2, 2])

    def test_the_three_definitions_differ_on_the_same_draws(self):
        truth, draws = self.ten_draws()
        # An error of 2**-k everywhere is a PSNR of k * 20 log10(2) dB.
        unit = 20 * np.log10(2)
        for metric, expected in [
            (metrics.psnr_mean10, 4 * unit),  # the mean is 1/16 too bright
            (metrics.psnr_sample, (2 + 3) / 2 * unit),
            (metrics.psnr_best10, 3 * unit),
        ]:
            db, num_perfect = metric(truth, draws)
            self.assertAlmostEqual(db, expected, places=9)
            self.assertEqual(num_perfect, 0)

    def test_each_image_counts_once_whatever_its_error(self):
        truth, draws = np.zeros([2, 2, 2]), np.zeros([10, 2, 2, 2])
        draws[:, 0], draws[:, 1] = 0.1, 0.001  # 20 dB and 60 dB; pooled they have 23
        for metric in (metrics.psnr_mean10, metrics.psnr_sample, metrics.psnr_best10):
            self.assertAlmostEqual(metric(truth, draws).db, 40.0, places=9)

    def test_all_pixels_and_channels_count(self):
        truth = np.zeros([1, 2, 2, 3])
        draws = np.zeros([4, 1, 2, 2, 3])
        draws[:, 0, 0, 0, 0] = 0.6
        got = metrics.psnr_sample(truth, draws)
        self.assertAlmostEqual(got.db, -10 * np.log10(0.36 / 12), places=9)

    def test_perfect_images_are_left_out_and_counted(self):
        truth, draws = np.zeros([3, 2, 2]), np.zeros([10, 3, 2, 2])
        draws[:, 1] = 0.1
        draws[4, 2] = 1.0  # imperfect in one draw only
        self.assertAlmostEqual(metrics.psnr_best10(truth, draws).db, 20.0, places=9)
        self.assertEqual(metrics.psnr_best10(truth, draws).num_perfect, 2)
        self.assertEqual(metrics.psnr_mean10(truth, draws).num_perfect, 1)
        self.assertAlmostEqual(metrics.psnr_mean10(truth, draws).db, 20.0, places=9)
        sample = metrics.psnr_sample(truth, draws)
        self.assertEqual(sample.num_perfect, 19)
        self.assertAlmostEqual(sample.db, (10 * 20.0 + 0.0) / 11, places=9)

    def test_all_perfect_is_infinite(self):
        truth, draws = np.zeros([3, 2, 2]), np.zeros([10, 3, 2, 2])
        self.assertEqual(metrics.psnr_mean10(truth, draws), (INF, 3))

    def test_peak_is_the_range_of_a_pixel(self):
        truth, draws = self.ten_draws()
        at_255 = metrics.psnr_sample(truth * 255, draws * 255, peak=255)
        self.assertAlmostEqual(at_255.db, metrics.psnr_sample(truth, draws).db, places=9)
        for bad in (0.0, -1.0, NAN):
            with self.assertRaisesRegex(ValueError, "peak is the largest"):
                metrics.psnr_sample(truth, draws, peak=bad)

    def test_bad_draws_are_refused(self):
        truth, draws = self.ten_draws()
        for metric in (metrics.psnr_mean10, metrics.psnr_best10):
            with self.assertRaisesRegex(ValueError, "defined by 10 draws; got 9"):
                metric(truth, draws[:9])
        with self.assertRaisesRegex(ValueError, r"draws of shape \(10, 2, 2, 1\)"):
            metrics.psnr_sample(truth, draws[..., :1])
        with self.assertRaisesRegex(ValueError, "is for images"):
            metrics.psnr_sample(truth[:, 0], draws[:, :, 0])
        with self.assertRaisesRegex(ValueError, "is for images"):
            metrics.psnr_sample(truth[:0], draws[:, :0])
        draws[7, 1, 0, 1] = NAN
        for metric in (metrics.psnr_mean10, metrics.psnr_sample, metrics.psnr_best10):
            with self.assertRaisesRegex(
                ValueError, r"draws is .* 1 of 2 .* first is at \(1,\)"
            ):
                metric(truth, draws)


class IntervalTest(MetricsTestCase):
    def test_nineteen_draws_at_90_per_cent_give_the_smallest_and_the_largest(self):
        draws = np.random.default_rng(0).permutation(19.0 * np.arange(19))
        lower, upper = metrics.interval(draws[:, np.newaxis], 0.9)
        self.assert_close([lower[0], upper[0]], [draws.min(), draws.max()])

    def test_ninety_nine_draws_at_90_per_cent_give_the_5th_and_the_95th(self):
        draws = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
        np.testing.assert_allclose(metrics.interval(draws, 0.9), [5.0, 95.0])

    def test_too_few_draws_are_refused_with_the_number_needed(self):
        for level, needed in [(0.9, 19), (0.5, 3), (0.8, 9), (0.95, 39), (0.99, 199)]:
            metrics.interval(np.zeros([needed, 2]), level)
            with self.assertRaisesRegex(ValueError, f"needs at least {needed} draws"):
                metrics.interval(np.zeros([needed - 1, 2]), level)

    def test_a_level_outside_0_to_1_is_refused(self):
        for level in (0.0, 1.0, 90, NAN):
            with self.assertRaisesRegex(ValueError, "between 0 and 1; got"):
                metrics.interval(np.zeros([1000, 2]), level)

    def test_coverage_counts_scored_cells_with_ends_included(self):
        draws = np.tile(np.arange(1.0, 100.0)[:, np.newaxis, np.newaxis], [1, 1, 4])
        truth = np.array([[5.0, 95.0, 4.9, 95.1]])
        self.assertEqual(
            metrics.interval_coverage(truth, draws, np.ones([1, 4], bool), 0.9), 0.5
        )
        scored = np.array([[True, True, True, False]])
        self.assert_close(metrics.interval_coverage(truth, draws, scored, 0.9), 2 / 3)

    def test_exact_draws_cover_as_often_as_the_level_says(self):
        # (S + 1) * 0.05 is whole for 19 and 99 draws: the coverage is exactly 0.9 in
        # expectation. With 40,000 independent cells its standard error is 0.0015; 3.9 of
        # them are exceeded with probability 1e-4. NumPy's default quantiles would cover
        # 0.82 with 19 draws.
        for num_draws, seed in [(19, 0), (99, 1)]:
            rng = np.random.default_rng(seed)
            loc = rng.normal(size=[10_000, 4])  # each cell has its own distribution
            truth = loc + rng.normal(size=loc.shape)
            draws = loc + rng.normal(size=[num_draws, *loc.shape])
            got = metrics.interval_coverage(truth, draws, np.ones(loc.shape, bool), 0.9)
            self.assertLess(abs(got - 0.9), 3.9 * 0.0015)

    def test_draws_that_are_too_narrow_cover_as_little_as_they_should(self):
        rng = np.random.default_rng(2)
        truth = rng.normal(size=[5000, 1])
        draws = 0.5 * rng.normal(size=[999, 5000, 1])
        got = metrics.interval_coverage(truth, draws, np.ones(truth.shape, bool), 0.9)
        expected = 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.95)) - 1  # 0.589
        # Standard error 0.007 of the cells and below 0.001 of the quantiles; four of them.
        self.assertLess(abs(got - expected), 0.03)


class CrpsTest(MetricsTestCase):
    def test_it_equals_all_pairs(self):
        for num_draws in (2, 3, 8):
            truth, draws, scored = random_arguments(3, 2, 2, draws=num_draws)
            draws = np.round(draws, 1)  # with ties
            pairs = np.abs(draws[:, np.newaxis] - draws).sum((0, 1))
            score = np.abs(draws - truth).mean(0) - pairs / (2 * num_draws * (num_draws - 1))
            self.assert_close(metrics.crps(truth, draws, scored), np.mean(score[scored]))

    def test_two_draws_by_hand(self):
        # (|1 - 2| + |5 - 2|) / 2 - |1 - 5| / 2 = 0.
        got = metrics.crps([[2.0]], [[[1.0]], [[5.0]]], [[True]])
        self.assertEqual(got, 0.0)
        self.assertEqual(metrics.crps([[7.0]], [[[4.0]], [[4.0]]], [[True]]), 3.0)

    def test_its_expectation_is_the_closed_form_of_a_normal_for_few_draws_too(self):
        # N(0, 1) scored at y: y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi).
        for num_draws, y in [(2, 0.3), (5, -1.0), (50, 2.0)]:
            draws = np.random.default_rng(num_draws).normal(size=[num_draws, 40_000, 1])
            truth = np.full([40_000, 1], y)
            every = np.ones(truth.shape, bool)
            got = metrics.crps(truth, draws, every)
            expected = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - np.pi**-0.5
            cells = [
                metrics.crps(truth[i::20], draws[:, i::20], every[i::20]) for i in range(20)
            ]
            stderr = np.std(cells, ddof=1) / np.sqrt(20)
            # Student-t, 19 degrees of freedom: 4.9 is exceeded with probability 1e-4. The
            # plain estimator, which divides by S**2, is off by 1 / (S sqrt(pi)).
            self.assertLess(abs(got - expected), 4.9 * stderr)
            self.assertGreater(1 / (num_draws * np.sqrt(np.pi)), 2 * 4.9 * stderr)

    def test_one_draw_is_refused(self):
        with self.assertRaisesRegex(ValueError, "at least 2; got 1"):
            metrics.crps([[2.0]], [[[1.0]]], [[True]])


class RandomizedPitTest(MetricsTestCase):
    def test_each_value_lies_in_the_slot_of_its_rank(self):
        draws = np.array([1.0, 2.0, 2.0, 3.0])[:, np.newaxis, np.newaxis] * np.ones(
            [4, 1, 500]
        )
        for truth, low, high in [
            (0.0, 0.0, 0.2),
            (2.0, 0.2, 0.8),
            (2.5, 0.6, 0.8),
            (9, 0.8, 1),
        ]:
            pit = metrics.randomized_pit(
                np.full([1, 500], truth), draws, np.ones([1, 500], bool), seed=0
            )
            self.assertEqual(pit.shape, (500,))
            self.assertTrue(low <= pit.min() < low + 0.1 * (high - low))
            self.assertTrue(high - 0.1 * (high - low) < pit.max() <= high)

    def test_exact_draws_give_a_uniform_pit_for_continuous_and_discrete_features(self):
        rng = np.random.default_rng(0)
        every = np.ones([5000, 2], bool)
        for sample in (rng.normal, lambda size: rng.poisson(1.0, size)):
            truth, draws = sample(size=[5000, 2]), sample(size=[7, 5000, 2])
            pit = metrics.randomized_pit(truth, draws, every, seed=3)
            # Kolmogorov-Smirnov against the uniform; false-alarm rate 1e-4.
            self.assertGreater(stats.kstest(pit, "uniform").pvalue, 1e-4)
            shifted = metrics.randomized_pit(truth + 1, draws, every, seed=3)
            self.assertLess(stats.kstest(shifted, "uniform").pvalue, 1e-12)

    def test_the_seed_decides_and_the_order_is_that_of_the_scored_cells(self):
        truth, draws, scored = random_arguments(3, 2, 2, draws=9)
        pit = metrics.randomized_pit(truth, draws, scored, seed=5)
        self.assertEqual(pit.shape, (2 * scored.sum(),))
        np.testing.assert_array_equal(
            pit, metrics.randomized_pit(truth, draws, scored, seed=5)
        )
        self.assertFalse(
            np.array_equal(pit, metrics.randomized_pit(truth, draws, scored, seed=6))
        )
        below = (draws < truth).sum(0)[scored].ravel()
        np.testing.assert_array_equal(np.floor(pit * 10), below)


class CalibrationErrorTest(MetricsTestCase):
    def test_it_is_the_area_between_the_distribution_function_and_the_diagonal(self):
        pit = np.random.default_rng(0).beta(0.4, 0.9, size=12)

        def gap(u):
            return abs(np.mean(pit <= u) - u)

        expected = integrate.quad(gap, 0, 1, points=np.sort(pit), limit=400)[0]
        self.assertAlmostEqual(metrics.calibration_error(pit), expected, places=7)

    def test_known_values(self):
        self.assertEqual(metrics.calibration_error(np.zeros(7)), 0.5)
        self.assertEqual(metrics.calibration_error(np.ones(7)), 0.5)
        self.assertEqual(metrics.calibration_error([0.5]), 0.25)
        # n values in the middles of n equal slots: the least there is, 1 / (4 n).
        self.assertAlmostEqual(
            metrics.calibration_error((np.arange(50) + 0.5) / 50), 1 / 200, places=12
        )

    def test_a_calibrated_pit_scores_about_what_the_documentation_says(self):
        pits = np.random.default_rng(0).random([400, 100])
        scaled = np.array([metrics.calibration_error(pit) for pit in pits]) * np.sqrt(100)
        stderr = scaled.std(ddof=1) / np.sqrt(400)
        # Expectation 0.3133 for large n, within 0.004 at n = 100; false-alarm rate 1e-4.
        self.assertLess(abs(scaled.mean() - 0.3133), 3.9 * stderr + 0.004)

    def test_what_is_no_pit_is_refused(self):
        for pit in ([], [0.2, 1.2], [-0.1], [NAN]):
            with self.assertRaisesRegex(ValueError, r"one or more values in \[0, 1\]"):
                metrics.calibration_error(pit)


OVER_SCORED_CELLS = {  # (truth, imputed or draws, scored) -> value; whether it takes draws
    "rmse": (metrics.rmse, False),
    "nrmse_mean": (lambda *cells: metrics.nrmse_mean(*cells, scale=1.0), False),
    "pfc": (metrics.pfc, False),
    "nrmse_min": (lambda *cells: metrics.nrmse_min(*cells, scale=1.0), True),
    "interval_coverage": (lambda *cells: metrics.interval_coverage(*cells, level=0.9), True),
    "crps": (metrics.crps, True),
    "randomized_pit": (lambda *cells: metrics.randomized_pit(*cells, seed=0), True),
}


def for_each_metric(check):
    """A test that runs check(self, metric, truth, values, scored) on every such metric."""

    def test(self):
        for name, (metric, takes_draws) in OVER_SCORED_CELLS.items():
            with self.subTest(name):
                check(self, metric, *random_arguments(4, draws=25 if takes_draws else None))

    return test


class BadInputTest(MetricsTestCase):
    """What every metric over scored cells refuses, and what it lets pass."""

    @for_each_metric
    def test_a_nan_or_infinity_among_scored_predictions_is_reported_with_its_place(
        self, metric, truth, values, scored
    ):
        for bad in (NAN, INF, -INF):
            place = tuple(int(i) for i in np.argwhere(scored)[3])
            values[(..., *place)] = bad
            pattern = (
                rf"1 of {scored.sum()} scored.*The first is at \({place[0]}, {place[1]}\)"
            )
            with self.assertRaisesRegex(ValueError, pattern):
                metric(truth, values, scored)

    @for_each_metric
    def test_one_bad_draw_among_many_is_reported(self, metric, truth, values, scored):
        if values.ndim == 3:
            values[13, scored] = NAN
            count = scored.sum()
            with self.assertRaisesRegex(ValueError, f"draws is .*{count} of {count}"):
                metric(truth, values, scored)

    @for_each_metric
    def test_a_nan_among_scored_truths_is_reported(self, metric, truth, values, scored):
        truth[scored] = NAN
        with self.assertRaisesRegex(ValueError, "truth is .* score present cells only"):
            metric(truth, values, scored)

    @for_each_metric
    def test_what_is_not_scored_has_no_influence(self, metric, truth, values, scored):
        before = metric(truth, values, scored)
        truth[~scored] = NAN
        values[..., ~scored] = NAN
        np.testing.assert_array_equal(metric(truth, values, scored), before)

    @for_each_metric
    def test_no_scored_cell_is_an_error(self, metric, truth, values, scored):
        with self.assertRaisesRegex(ValueError, "No cell is scored"):
            metric(truth, values, np.zeros_like(scored))

    @for_each_metric
    def test_a_scored_that_is_not_bool_is_refused(self, metric, truth, values, scored):
        with self.assertRaisesRegex(TypeError, "scored must be bool"):
            metric(truth, values, scored.astype(float))

    @for_each_metric
    def test_shapes_that_do_not_fit_are_refused(self, metric, truth, values, scored):
        with self.assertRaisesRegex(ValueError, "where truth is"):
            metric(truth, values[..., :-1], scored)
        with self.assertRaisesRegex(ValueError, "scored must be"):
            metric(truth, values, scored[:, :-1])
        with self.assertRaisesRegex(ValueError, "scored must be"):
            metric(truth, values, scored[:, 0])

    def test_float32_input_is_scored_in_float64(self):
        truth, draws, scored = random_arguments(4, draws=25)
        truth, draws = truth.astype(np.float32), draws.astype(np.float32)
        for name, (metric, takes_draws) in OVER_SCORED_CELLS.items():
            values = draws if takes_draws else draws[0]
            with self.subTest(name):
                got = metric(truth, values, scored)
                exact = metric(truth.astype(np.float64), values.astype(np.float64), scored)
                np.testing.assert_allclose(got, exact, rtol=1e-12)
        images, ten = truth.reshape(30, 2, 2), draws[:10].reshape(10, 30, 2, 2)
        for metric in (metrics.psnr_mean10, metrics.psnr_sample, metrics.psnr_best10):
            self.assert_close(metric(images, ten).db, metric(images, ten.astype(float)).db)


if __name__ == "__main__":
    unittest.main()
