"""Estimators against closed forms and brute force.

Statistical bounds state their false-alarm rate; seeds are fixed, so they cannot flake.
"""

import numpy as np
import tensorflow as tf
from scipy import special, stats

from vae_arbcond import estimators


def gaussian_weights(shift, num_samples, rows, seed=0):
    """z ~ q = N(shift, 1) for p(z) = N(0, 1), p(y | z) = N(z, 1): log-weights at y = 1.

    Returns log p(y | z) + log p(z) - log q(z) and log p(t | z) for t = 0.5, t ~ N(z, 1); both
    [S, rows] float32.
    """
    z = shift + np.random.default_rng(seed).normal(size=[num_samples, rows])
    normal = stats.norm.logpdf
    weights = normal(1.0, z, 1.0) + normal(z) - normal(z, shift, 1.0)
    return np.float32(weights), np.float32(normal(0.5, z, 1.0))


def test_what_is_known_exactly_has_no_error_and_all_of_its_samples():
    estimate = estimators.exact(tf.constant([-1.5, 2.0]), tf.constant(7))
    np.testing.assert_array_equal(estimate.value, [-1.5, 2.0])
    np.testing.assert_array_equal(estimate.ess, [7.0, 7.0])
    for nothing in (estimate.stderr, estimate.pareto_k, estimate.non_finite):
        np.testing.assert_array_equal(nothing, [0.0, 0.0])


# p(z | y = 1) = N(0.5, 0.5), so p(t | y) = N(0.5, 1.5) and p(y) = N(0, 2).
LOG_P_TARGET = stats.norm.logpdf(0.5, 0.5, np.sqrt(1.5))
LOG_P_Y = stats.norm.logpdf(1.0, 0.0, np.sqrt(2.0))


def pareto_shape(log_weights):
    """Shape of one column's tail, written out loop by loop from Zhang and Stephens (2009)."""
    ordered = np.sort(np.asarray(log_weights, np.float64))[::-1]
    size = int(min(len(ordered) / 5, 3 * np.sqrt(len(ordered))))
    weights = np.exp(ordered - ordered[0])
    x = np.sort(weights[:size] - weights[size])
    quartile, points = x[int(size / 4 + 0.5) - 1], 30 + int(np.sqrt(size))
    thetas, profile = [], []
    for j in range(1, points + 1):
        theta = 1 / x[-1] + (1 - np.sqrt(points / (j - 0.5))) / (3 * quartile)
        k = np.mean([np.log1p(-theta * value) for value in x])
        thetas.append(theta)
        profile.append(size * (np.log(-theta / k) - k - 1))
    theta = np.sum(np.array(thetas) * special.softmax(profile))
    k = np.mean(np.log1p(-theta * x))
    return (size * k + 10 * 0.5) / (size + 10)


class ValuesTest(tf.test.TestCase):
    def test_each_value_is_its_formula(self):
        w, t = (np.random.default_rng(0).normal(size=[2, 7, 3]) * 3).astype(np.float32)
        mean_exp = special.logsumexp(w, 0) - np.log(7)
        self.assertAllClose(estimators.importance(w).value, mean_exp, rtol=1e-6)
        self.assertAllClose(estimators.predictive(w).value, mean_exp, rtol=1e-6)
        normalised = np.exp(w) / np.exp(w).sum(0)
        self.assertAllClose(
            estimators.corrected_predictive(w, t).value,
            np.log((normalised * np.exp(t)).sum(0)),
            rtol=1e-5,
        )
        self.assertAllClose(estimators.log_mean_exp(w), mean_exp, rtol=1e-6)
        self.assertAllClose(
            estimators.effective_sample_size(w), 1 / (normalised**2).sum(0), rtol=1e-5
        )

    def test_the_corrected_predictive_corrects_a_wrong_proposal(self):
        for shift in (0.5, -0.5):
            w, t = gaussian_weights(shift, 4000, 20)
            estimate = estimators.corrected_predictive(w, t)
            error = estimate.value.numpy() - LOG_P_TARGET
            # Twenty rows within five standard errors each: 1e-5 false alarms.
            self.assertAllLessEqual(np.abs(error) - 5 * estimate.stderr, 0.0)
            # The mean of 80,000 samples: measured off by 0.002 nats.
            self.assertLess(abs(error.mean()), 0.01)

    def test_without_correction_the_proposal_s_own_predictive_comes_out(self):
        _, t = gaussian_weights(-0.5, 4000, 20)
        wrong = stats.norm.logpdf(0.5, -0.5, np.sqrt(2.0))  # z ~ N(-0.5, 1), t ~ N(z, 1).
        estimate = estimators.predictive(t)
        self.assertAllLessEqual(np.abs(estimate.value - wrong) - 5 * estimate.stderr, 0.0)
        self.assertGreater(abs(wrong - LOG_P_TARGET), 0.2)

    def test_the_importance_estimate_finds_the_evidence(self):
        w, _ = gaussian_weights(0.0, 4000, 20)
        estimate = estimators.importance(w)
        self.assertAllLessEqual(np.abs(estimate.value - LOG_P_Y) - 5 * estimate.stderr, 0.0)

    def test_its_expectation_is_a_lower_bound_that_tightens(self):
        few = estimators.importance(gaussian_weights(-0.5, 2, 4000)[0]).value.numpy()
        more = estimators.importance(gaussian_weights(-0.5, 50, 4000)[0]).value.numpy()
        self.assertLess(few.mean(), more.mean())
        # 4000 replicates; five standard errors: 6e-7 false alarms.
        self.assertLess(more.mean(), LOG_P_Y + 5 * more.std() / np.sqrt(4000))
        self.assertAllClose(more.mean(), LOG_P_Y, atol=0.02)

    def test_the_ratio_is_the_difference_with_errors_added(self):
        joint = estimators.importance(gaussian_weights(0.0, 100, 3)[0])
        observed = estimators.importance(gaussian_weights(-0.5, 100, 3, seed=1)[0])
        estimate = estimators.ratio(joint, observed)
        self.assertAllClose(estimate.value, joint.value - observed.value)
        self.assertAllClose(
            estimate.stderr, np.sqrt(joint.stderr**2 + observed.stderr**2), rtol=1e-6
        )
        self.assertAllEqual(estimate.ess, np.minimum(joint.ess, observed.ess))
        self.assertAllEqual(estimate.pareto_k, np.maximum(joint.pareto_k, observed.pareto_k))

    def test_an_empty_target_is_exactly_0(self):
        w, t = gaussian_weights(-0.5, 37, 4)
        estimate = estimators.corrected_predictive(w, np.zeros_like(t))
        self.assertAllEqual(estimate.value, np.zeros(4))
        self.assertAllEqual(estimate.stderr, np.zeros(4))

    def test_densities_far_out_of_float32_s_range_do_no_harm(self):
        w, t = gaussian_weights(-0.5, 50, 4)
        far = estimators.corrected_predictive(w - 3000.0, t + 2000.0)
        near = estimators.corrected_predictive(w, t)
        # Numbers of 3000 nats carry steps of 2e-4 in float32.
        self.assertAllClose(far.value - 2000.0, near.value, atol=2e-3)
        self.assertTrue(np.isfinite(far.stderr).all())


class NamedEstimatorsTest(tf.test.TestCase):
    """Estimates of other papers, on z ~ N(0, 1), y | z ~ N(z, 1), t | z ~ N(z, 1)."""

    def samples(self, loc, scale, rows=20, seed=3):
        noise = np.random.default_rng(seed).normal(size=[4000, rows])
        z = loc + scale * noise
        return z, stats.norm.logpdf(z, loc, scale)

    def test_a_conditional_prior_is_integrated_out_by_either_estimate(self):
        # p(z | y = 1) = N(0.5, 0.5) is the conditional prior, p(z | y, t) near the proposal.
        prior = stats.norm(0.5, np.sqrt(0.5))
        z, _ = self.samples(0.5, np.sqrt(0.5))
        monte_carlo = estimators.predictive(np.float32(stats.norm.logpdf(0.5, z)))
        z, log_q = self.samples(0.5, 0.6)
        importance = estimators.conditional_prior_importance(
            *np.float32([stats.norm.logpdf(0.5, z), prior.logpdf(z), log_q])
        )
        for estimate in (monte_carlo, importance):
            error = np.abs(estimate.value - LOG_P_TARGET)
            # Twenty rows within five standard errors each: 1e-5 false alarms.
            self.assertAllLessEqual(error - 5 * estimate.stderr, 0.0)
        self.assertLess(importance.stderr.numpy().mean(), monte_carlo.stderr.numpy().mean())

    def test_the_marginal_of_the_missing_forgets_what_was_observed(self):
        z, log_q = self.samples(0.5, 1.0)
        estimate = estimators.marginal_of_missing(
            *np.float32([stats.norm.logpdf(0.5, z), stats.norm.logpdf(z), log_q])
        )
        alone = stats.norm.logpdf(0.5, 0.0, np.sqrt(2.0))
        self.assertAllLessEqual(np.abs(estimate.value - alone) - 5 * estimate.stderr, 0.0)
        self.assertGreater(abs(alone - LOG_P_TARGET), 0.1)

    def test_features_that_depend_on_each_other_given_z_are_integrated_out(self):
        # x | z ~ N(W z, C) with a full C: x_o given z has a closed form, and so has x_o.
        rng = np.random.default_rng(0)
        w, root = rng.normal(size=[3, 2]), np.tril(rng.normal(size=[3, 3]))
        covariance = root @ root.T + 0.3 * np.eye(3)
        x_o = np.array([0.4])  # Feature 0 observed, 1 and 2 integrated out.
        z = rng.normal(size=[300, 20, 2])  # From the prior, which is the proposal.
        mean = z @ w.T
        scale = 1.5 * np.sqrt(np.diag(covariance)[1:])
        hidden = mean[..., 1:] + scale * rng.normal(size=[200, 300, 20, 2])
        log_proposal = stats.norm.logpdf(hidden, mean[..., 1:], scale).sum(-1)
        whole = np.concatenate([np.broadcast_to(x_o, [*hidden.shape[:-1], 1]), hidden], -1)
        residual = whole - mean
        log_joint = (
            -0.5
            * np.einsum("...i,ij,...j->...", residual, np.linalg.inv(covariance), residual)
            - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
        )
        marginal = estimators.log_marginal(*np.float32([log_joint, log_proposal]))
        exact = stats.norm.logpdf(x_o, mean[..., 0], np.sqrt(covariance[0, 0]))
        self.assertLess(np.abs(marginal - exact).mean(), 0.1)
        estimate = estimators.importance(marginal)
        total = covariance[0, 0] + w[0] @ w[0]
        error = np.abs(estimate.value - stats.norm.logpdf(x_o, 0.0, np.sqrt(total)))
        self.assertAllLessEqual(error - 5 * estimate.stderr, 0.0)


class DiagnosticsTest(tf.test.TestCase):
    def test_the_standard_error_is_the_spread_over_replicates(self):
        w, t = gaussian_weights(0.0, 400, 2000)
        for estimate in (
            estimators.corrected_predictive(w, t),
            estimators.importance(w),
            estimators.predictive(t),
        ):
            # The spread of 2000 replicates is known to 1.6 % and the jackknife is right to
            # first order only: 10 %.
            spread = np.std(estimate.value)
            self.assertAllClose(np.sqrt(np.mean(estimate.stderr**2)), spread, rtol=0.1)

    def test_one_sample_has_no_standard_error(self):
        w, t = gaussian_weights(0.0, 1, 3)
        for estimate in (
            estimators.corrected_predictive(w, t),
            estimators.importance(w),
        ):
            self.assertTrue(np.isnan(estimate.stderr).all())
            self.assertTrue(np.isfinite(estimate.value).all())
            self.assertAllClose(estimate.ess, np.ones(3))

    def test_a_standard_error_from_200_repeats_is_within_30_percent(self):
        # The spread of 200 is known to 5 %: 30 % are six standard errors.
        w, t = gaussian_weights(-0.3, 300, 200, seed=5)
        for estimate in (estimators.corrected_predictive(w, t), estimators.importance(w)):
            said = np.sqrt(np.mean(estimate.stderr.numpy() ** 2))
            self.assertAllClose(said, np.std(estimate.value), rtol=0.3)

    def test_the_jackknife_is_that_of_leaving_each_sample_out(self):
        w, t = gaussian_weights(-0.5, 12, 3)
        for estimate, value in (
            (estimators.importance(w), lambda w, t: special.logsumexp(w, 0) - np.log(len(w))),
            (
                estimators.corrected_predictive(w, t),
                lambda w, t: special.logsumexp(w + t, 0) - special.logsumexp(w, 0),
            ),
        ):
            left = [value(np.delete(w, s, 0), np.delete(t, s, 0)) for s in range(len(w))]
            want = np.sqrt((len(w) - 1) / len(w) * np.sum((left - np.mean(left, 0)) ** 2, 0))
            self.assertAllClose(estimate.stderr, want, rtol=1e-4)

    def test_a_good_proposal_has_a_light_tail_and_a_bad_one_a_heavy_one(self):
        # p(z | y) = N(0.5, 0.5). A proposal wider than it has bounded weights; one of a third
        # of its width leaves them without a variance: k = 1 - (1/3)**2 = 0.9 in theory.
        rng = np.random.default_rng(0)
        for width, low, high in ((1.3, -9.0, 0.5), (1 / 3, 0.7, 2.0)):
            scale = width * np.sqrt(0.5)
            z = 0.5 + scale * rng.normal(size=[4000, 20])
            log_q = stats.norm.logpdf(z, 0.5, scale)
            w = stats.norm.logpdf(1.0, z) + stats.norm.logpdf(z) - log_q
            k = estimators.importance(np.float32(w)).pareto_k.numpy()
            self.assertGreater(np.median(k), low)
            self.assertLess(np.median(k), high)

    def test_terms_that_are_not_finite_are_counted_and_never_dropped(self):
        w, t = gaussian_weights(0.0, 100, 4)
        w[3, 0], t[5, 1], w[7, 2], t[7, 2] = -np.inf, np.nan, np.inf, -np.inf
        estimate = estimators.corrected_predictive(tf.constant(w), tf.constant(t))
        self.assertAllEqual(estimate.non_finite, [1, 1, 1, 0])
        self.assertAllEqual(np.isfinite(estimate.value), [True, False, False, True])
        # An estimate that is no number is not to be trusted either.
        self.assertAllEqual(np.isinf(estimate.pareto_k), [False, True, True, False])
        # A sample that explains nothing still counts among the samples.
        kept = estimators.importance(np.delete(w, 3, 0)).value[0] + np.log(99 / 100)
        self.assertAllClose(estimators.importance(w).value[0], kept, rtol=1e-6)

    def test_weights_that_are_all_zero_are_not_called_good(self):
        k = estimators.pareto_k(np.full([100, 1], -np.inf, np.float32))
        self.assertAllEqual(k, [np.inf])

    def test_weights_that_repeat_have_no_tail_to_fit(self):
        values = np.random.default_rng(0).normal(size=[20, 1])
        k = estimators.pareto_k(np.float32(np.repeat(values, 50, axis=0)))
        self.assertAllEqual(k, [0.0])

    def test_equal_weights_are_all_effective_and_have_no_tail(self):
        for value in (0.0, -500.0):
            estimate = estimators.importance(np.full([100, 2], value, np.float32))
            self.assertAllClose(estimate.ess, [100.0, 100.0])
            self.assertAllEqual(estimate.pareto_k, np.zeros(2))
            self.assertAllClose(estimate.stderr, np.zeros(2), atol=1e-6)
            self.assertAllClose(estimate.value, [value, value])

    def test_weights_equal_but_for_rounding_have_no_tail_either(self):
        noise = np.random.default_rng(0).normal(size=[1000, 50]) * 1e-4
        k = estimators.pareto_k(np.float32(-100.0 + noise))
        self.assertAllEqual(k, np.zeros(50))

    def test_the_diagnostics_of_a_ratio_look_at_its_worse_half(self):
        w, t = gaussian_weights(-0.5, 400, 20)
        for weights, target in ((w, t), (np.zeros_like(w), w), (w, np.zeros_like(w))):
            estimate = estimators.corrected_predictive(weights, target)
            halves = [estimators.importance(half) for half in (weights, weights + target)]
            self.assertAllClose(estimate.ess, np.min([h.ess for h in halves], 0))
            self.assertAllClose(estimate.pareto_k, np.max([h.pareto_k for h in halves], 0))

    def test_one_dominant_weight_leaves_one_effective_sample(self):
        w = np.zeros([100, 1], np.float32)
        w[17] = 60.0
        self.assertAllClose(estimators.effective_sample_size(w), [1.0])

    def test_the_pareto_shape_is_that_of_the_algorithm_written_out(self):
        rng = np.random.default_rng(0)
        for count in (25, 60, 300, 2000):
            for scale in (0.3, 1.0, 4.0):
                w = np.float32(rng.normal(size=[count, 3]) * scale)
                want = [pareto_shape(column) for column in w.T]
                self.assertAllClose(estimators.pareto_k(w), want, rtol=1e-4, atol=1e-5)

    def test_the_pareto_shape_of_pareto_draws_is_found(self):
        for shape in (-0.3, 0.2, 0.7, 1.2):
            draws = stats.genpareto.rvs(shape, size=[20_000, 40], random_state=0)
            k = estimators.pareto_k(np.float32(np.log(1e-6 + draws))).numpy()
            # 424 tail samples: standard error of a shape about (1 + k) / sqrt(424), below
            # 0.11; the mean of 40 within five of 0.017, and the prior draws 2 % towards 0.5.
            self.assertLess(abs(k.mean() - shape), 5 * 0.017 + 0.02 * abs(0.5 - shape))

    def test_too_few_samples_have_no_pareto_shape(self):
        for count, known in ((1, False), (24, False), (25, True)):
            w = gaussian_weights(0.0, count, 3)[0]
            self.assertAllEqual(np.isfinite(estimators.pareto_k(w)), [known] * 3)

            @tf.function(input_signature=[tf.TensorSpec([None, None])])
            def shape(w):
                return estimators.pareto_k(w)

            # Where the number of samples is known only when the graph runs.
            self.assertAllEqual(shape(w), estimators.pareto_k(w))


class TemperedWeightsTest(tf.test.TestCase):
    def weights(self, scale, rows=6, count=64):
        return np.float32(np.random.default_rng(0).normal(size=[count, rows]) * scale)

    def test_columns_sum_to_1_and_keep_their_order(self):
        w = self.weights(10.0)
        tempered = estimators.tempered_weights(w, 10.0).numpy()
        self.assertAllClose(tempered.sum(0), np.ones(6), rtol=1e-5)
        self.assertAllGreaterEqual(
            np.diff(np.take_along_axis(tempered, w.argsort(0), 0), 1, 0), 0
        )

    def test_enough_samples_stay_effective_and_no_more_than_needed(self):
        tempered = estimators.tempered_weights(self.weights(10.0), 10.0)
        effective = 1 / np.sum(np.square(tempered), 0)
        # The exponent is searched digit by digit, to 1e-6.
        self.assertAllClose(effective, np.full(6, 10.0), rtol=1e-3)

    def test_good_weights_are_left_as_they_are(self):
        w = self.weights(0.3)
        self.assertAllGreater(estimators.effective_sample_size(w), 32.0)
        self.assertAllClose(estimators.tempered_weights(w, 32.0), special.softmax(w, 0))

    def test_fewer_samples_than_wanted_count_alike(self):
        w = self.weights(3.0, count=4)
        self.assertAllClose(estimators.tempered_weights(w, 10.0), np.full([4, 6], 0.25))

    def test_each_row_has_an_exponent_of_its_own(self):
        w = np.concatenate([self.weights(0.3, 1), self.weights(10.0, 1)], 1)
        both = estimators.tempered_weights(w, 10.0)
        for row in range(2):
            alone = estimators.tempered_weights(w[:, row : row + 1], 10.0)
            self.assertAllClose(both[:, row : row + 1], alone)
