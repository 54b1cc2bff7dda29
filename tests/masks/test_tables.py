"""Masks that depend on values: their rates, what they depend on, and what they never read."""

import numpy as np
import tensorflow as tf
from mask_contract import FALSE_ALARM, MaskContract
from scipy import stats

from vae_arbcond import masks
from vae_arbcond.masks import tables


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def call(generator, x, present=None, seed=(0, 0)):
    present = np.ones(x.shape, bool) if present is None else present
    return generator(tf.constant(x), tf.constant(present), seed).numpy()


class ValueMaskContract(MaskContract):
    """The contract, where only absent values must not matter."""

    features = (7,)
    event = ()

    def test_hidden_and_absent_values_do_not_matter(self):
        x, present = self.arguments()
        absent = tf.where(present, x, np.nan)
        self.assertAllEqual(
            self.generator()(x, present, [1, 2]), self.generator()(absent, present, [1, 2])
        )

    def test_an_image_is_refused(self):
        with self.assertRaisesRegex(ValueError, "x must be \\[B, D\\]"):
            self.generator()(tf.zeros([2, 4, 4]), tf.ones([2, 4, 4], tf.bool), [0, 0])
        with self.assertRaisesRegex(ValueError, "x must be \\[B, D\\]"):
            self.generator()(tf.zeros([2, 4, 3]), tf.ones([2, 4], tf.bool), [0, 0])

    def test_wrong_numbers_are_refused(self):
        cls = type(self.generator())
        for prob in (0.0, 1.0, float("nan")):
            with self.assertRaisesRegex(ValueError, "must lie between 0 and 1"):
                cls(observed_prob=prob)
        for strength in (101.0, float("nan"), float("inf")):
            with self.assertRaisesRegex(ValueError, "from -100 to 100"):
                cls(strength=strength)


class InterceptTest(tf.test.TestCase):
    def test_it_gives_the_mean_that_was_asked_for(self):
        # Gauss-Hermite with 150 points is good to 1e-6 for slopes up to 5.
        points, weights = np.polynomial.hermite_e.hermegauss(150)
        weights = weights / weights.sum()
        for prob in (0.01, 0.3, 0.5, 0.9):
            for strength in (0.0, 0.5, -2.0, 5.0):
                a = tables.logistic_intercept(prob, strength)
                mean = weights @ (1 / (1 + np.exp(-(a + strength * points))))
                self.assertAllClose(mean, prob, rtol=0, atol=2e-6)
        self.assertAlmostEqual(tables.logistic_intercept(0.2, 0.0), np.log(0.25), places=9)

    def test_a_steep_slope_is_a_threshold(self):
        # Slope 100: sigmoid(100 s - 100 t) is 1 above t but for 1 / 100 around it.
        threshold = -tables.logistic_intercept(0.3, 100.0) / 100.0
        self.assertAllClose(threshold, stats.norm.isf(0.3), atol=1e-3)


class MissingAtRandomMaskTest(ValueMaskContract, tf.test.TestCase):
    def generator(self):
        return masks.MissingAtRandomMask(0.4, (1, 4))

    def test_the_rate_is_what_was_asked_for_and_drivers_are_always_observed(self):
        for prob, strength in [(0.5, 2.0), (0.2, 3.0), (0.9, 1.0)]:
            generator = masks.MissingAtRandomMask(prob, (0, 2), strength)
            observed = call(generator, normal(8000, 3))
            self.assertTrue(observed[:, [0, 2]].all())
            test = stats.binomtest(int(observed[:, 1].sum()), 8000, prob)
            self.assertGreater(test.pvalue, FALSE_ALARM)

    def test_a_columns_own_value_says_nothing_and_the_drivers_say_much(self):
        x = normal(6000, 3)
        hidden = ~call(masks.MissingAtRandomMask(0.5, (0,), 2.0), x)[:, 1]
        own = stats.ttest_ind(x[hidden, 1], x[~hidden, 1]).pvalue
        driver = stats.ttest_ind(x[hidden, 0], x[~hidden, 0]).pvalue
        self.assertGreater(own, FALSE_ALARM)
        self.assertLess(driver, 1e-30)

    def test_hiding_is_logistic_in_a_score_of_length_1(self):
        x = normal(20_000, 2)
        hidden = ~call(masks.MissingAtRandomMask(0.7, (0,), 1.5), x)[:, 1]
        a = tables.logistic_intercept(0.3, 1.5)
        # One driver: its weight is 1 or -1. 20 bins of 1000 rows by its value.
        order = np.argsort(x[:, 0])
        rate = hidden[order].reshape(20, 1000).mean(1)
        sign = np.sign(rate[-1] - rate[0])
        want = 1 / (1 + np.exp(-(a + 1.5 * sign * x[order, 0])))
        want = want.reshape(20, 1000).mean(1)
        z_scores = (rate - want) / np.sqrt(want * (1 - want) / 1000)
        self.assertGreater(stats.chi2.sf((z_scores**2).sum(), 20), FALSE_ALARM)

    def test_given_the_drivers_columns_hide_independently(self):
        x = np.zeros([6000, 3], np.float32)  # drivers alike in all rows
        hidden = ~call(masks.MissingAtRandomMask(0.5, (0,), 3.0), x)[:, 1:]
        table = np.histogram2d(hidden[:, 0], hidden[:, 1], bins=2)[0]
        self.assertGreater(stats.chi2_contingency(table).pvalue, FALSE_ALARM)

    def test_a_share_chooses_columns_that_stay_the_same(self):
        x = normal(400, 10)
        generator = masks.MissingAtRandomMask(always_observed=0.3)
        never = [call(generator, x, seed=(0, s)).all(0) for s in range(3)]
        self.assertAllEqual([n.sum() for n in never], [3, 3, 3])
        self.assertAllEqual(never[0], never[1])
        others = [
            call(masks.MissingAtRandomMask(mechanism_seed=s), x).all(0) for s in range(1, 4)
        ]
        self.assertTrue(any((never[0] != other).any() for other in others))
        # ceil(0.95 * 10) would be all of them.
        nine = masks.MissingAtRandomMask(always_observed=0.95)
        self.assertEqual(call(nine, x).all(0).sum(), 9)

    def test_a_row_without_its_drivers_is_hidden_as_at_the_mean(self):
        x = normal(6000, 2) + 5.0
        present = np.ones(x.shape, bool)
        present[:, 0] = False
        hidden = ~call(masks.MissingAtRandomMask(0.5, (0,), 4.0), x, present)[:, 1]
        self.assertGreater(stats.binomtest(int(hidden.sum()), 6000, 0.5).pvalue, FALSE_ALARM)

    def test_wrong_columns_are_refused(self):
        for share in (0.0, 1.0, 3):
            with self.assertRaisesRegex(ValueError, "share of the columns"):
                masks.MissingAtRandomMask(always_observed=share)
        with self.assertRaisesRegex(ValueError, "once each"):
            masks.MissingAtRandomMask(always_observed=(1, 1))
        with self.assertRaisesRegex(ValueError, "no column 5 in a table of 3"):
            call(masks.MissingAtRandomMask(always_observed=(5,)), normal(3, 3))
        with self.assertRaisesRegex(ValueError, "leaves none of 2 columns"):
            call(masks.MissingAtRandomMask(always_observed=(0, 1)), normal(3, 2))
        with self.assertRaisesRegex(ValueError, "a table needs two; got 1"):
            call(masks.MissingAtRandomMask(), normal(3, 1))
        with self.assertRaisesRegex(ValueError, "mechanism_seed is a whole number"):
            masks.MissingAtRandomMask(mechanism_seed=-1)


class SelfMaskingMaskTest(ValueMaskContract, tf.test.TestCase):
    def generator(self):
        return masks.SelfMaskingMask(0.4, 2.0, (0, 2, 3))

    def test_the_rate_is_what_was_asked_for(self):
        for prob, strength in [(0.5, 2.0), (0.2, 3.0), (0.9, -1.0)]:
            observed = call(masks.SelfMaskingMask(prob, strength), normal(4000, 3))
            test = stats.binomtest(int(observed.sum()), observed.size, prob)
            self.assertGreater(test.pvalue, FALSE_ALARM)

    def test_hiding_is_logistic_in_the_value_and_blind_to_other_values(self):
        x = normal(20_000, 2)
        hidden = ~call(masks.SelfMaskingMask(0.7, 1.5), x)
        a = tables.logistic_intercept(0.3, 1.5)
        want = 1 / (1 + np.exp(-(a + 1.5 * x)))
        for column in (0, 1):
            # By the other column's value, too: 2 x 20 bins of 1000 rows.
            for by in (0, 1):
                order = np.argsort(x[:, by])
                rate = hidden[order, column].reshape(20, 1000).mean(1)
                p = want[order, column].reshape(20, 1000).mean(1)
                var = (want * (1 - want))[order, column].reshape(20, 1000).mean(1) / 1000
                z_scores = (rate - p) / np.sqrt(var)
                self.assertGreater(stats.chi2.sf((z_scores**2).sum(), 20), FALSE_ALARM)

    def test_a_negative_strength_hides_small_values(self):
        x = normal(2000, 1)
        hidden = ~call(masks.SelfMaskingMask(0.5, -3.0), x)
        self.assertLess(x[hidden].mean(), -0.4)
        self.assertGreater(x[~hidden].mean(), 0.4)

    def test_a_great_strength_hides_what_is_above_the_mean(self):
        x = normal(2000, 1)
        observed = call(masks.SelfMaskingMask(0.5, 100.0), x)
        far = np.abs(x) > 0.2  # within: sigmoid(20), wrong once in 5e8
        self.assertAllEqual(observed[far], x[far] < 0)

    def test_other_columns_are_observed(self):
        observed = call(masks.SelfMaskingMask(0.5, 2.0, (1,)), normal(300, 3))
        self.assertTrue(observed[:, [0, 2]].all())
        self.assertFalse(observed[:, 1].all())
        with self.assertRaisesRegex(ValueError, "no column 3 in a table of 3"):
            call(masks.SelfMaskingMask(columns=(3,)), normal(3, 3))
        with self.assertRaisesRegex(ValueError, "one or more columns by number"):
            masks.SelfMaskingMask(columns=())


if __name__ == "__main__":
    tf.test.main()
