"""Monte Carlo methods against the exact posterior of a linear-Gaussian model.

The whole contract takes minutes to trace for a method that runs chains: it is kept for
`--slow`, and a short one is run on the quickest of them.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from contract import (
    SEED,
    GaussianOracleContract,
    LatentConditionerContract,
    row_seeds,
)
from oracles import LinearGaussian

from vae_arbcond.conditioners import (
    GridPosterior,
    HamiltonianMonteCarlo,
    MetropolisWithinGibbs,
    PseudoGibbs,
    RejectionSampler,
)
from vae_arbcond.conditioners.monte_carlo import Chains
from vae_arbcond.conditioners.monte_carlo.base import fitted_proposal
from vae_arbcond.models import FactorAnalysis
from vae_arbcond.registry import register
from vae_arbcond.shapes import DataSpec

tfd = tfp.distributions


def model() -> LinearGaussian:
    return LinearGaussian.random(num_features=4, rank=2, seed=0, noise_scale=1.0)


@register
class Vague(LinearGaussian):
    """A model whose encoder is wrong: one and a half times the exact standard deviations."""

    def posterior(self, x, present):
        exact = super().posterior(x, present)
        return tfd.MultivariateNormalTriL(exact.mean(), 1.5 * exact.scale_tril)


def built(method, oracle=None, **arguments):
    oracle = oracle or model()
    return method(oracle, **arguments).create_variables(oracle.data_spec)


def questions(rows=6):
    x = model().sample(rows, seed=1)
    observed = np.random.default_rng(2).random(x.shape) < 0.5
    observed[0], observed[1] = False, True
    return x, observed


class ChainsTest(tf.test.TestCase):
    def errors(self, chains, effective):
        """Mean and covariance of z, less the exact ones, in standard errors: [B, ...] each."""
        x, observed = questions()
        exact = model().posterior(tf.constant(x), tf.constant(observed))
        mean, covariance = exact.mean().numpy(), exact.covariance().numpy()
        z = tf.reshape(chains.z, [-1, *chains.z.shape[2:]]).numpy()
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        of_mean = (z.mean(0) - mean) / sd * np.sqrt(effective)
        apart = z - z.mean(0)
        got = np.einsum("nbi,nbj->bij", apart, apart) / len(z)
        # Variance of a sample covariance: (c_ij**2 + c_ii c_jj) / effective.
        spread = np.sqrt((covariance**2 + sd[:, :, None] ** 2 * sd[:, None] ** 2) / effective)
        return of_mean, (got - covariance) / spread

    def check(self, method, effective, **arguments):
        """Five standard errors, for 6 rows x 5 moments: 2e-5 false alarms."""
        chains = built(method, **arguments).sample_posterior(*questions(), SEED)
        for errors in self.errors(chains, effective):
            self.assertLess(np.abs(errors).max(), 5.0)
        return chains

    def test_hamiltonian_chains_have_the_exact_moments(self):
        # 2,000 draws, of which half count as independent.
        chains = self.check(
            HamiltonianMonteCarlo,
            1000,
            num_chains=50,
            num_draws=40,
            num_burn_in=30,
            num_leapfrog_steps=4,
        )
        self.assertEqual(chains.z.shape, (40, 50, 6, 2))
        self.assertEqual(chains.acceptance.shape, (50, 6))
        # Dual averaging goes for .75; at the first step size, .1, it would be .997.
        self.assertAllInRange(chains.acceptance.numpy()[:, 1:].mean(0), 0.6, 0.97)
        self.assertAllInRange(chains.step_size[1:], 0.2, 3.0)
        self.assertAllInRange(chains.r_hat, 0.9, 1.1)

    def test_metropolis_within_gibbs_has_the_exact_moments(self):
        # Draws of a chain depend on each other; measured 400 or more independent ones.
        settings = {"num_chains": 100, "num_draws": 20, "num_burn_in": 40}
        chains = self.check(MetropolisWithinGibbs, 400, num_steps_between=3, **settings)
        # The encoder is exact, so that nothing is ever refused but for rounding.
        self.assertAllInRange(chains.acceptance, 0.9, 1.0)

    def test_rejection_sampling_has_the_exact_moments(self):
        chains = self.check(RejectionSampler, 400, num_draws=400, num_candidates=20_000)
        self.assertAllInRange(chains.acceptance, 0.01, 1.0)
        # Where nothing is observed nothing is rejected.
        self.assertAllEqual(chains.acceptance[0, 0], 1.0)

    def test_pseudo_gibbs_goes_wrong_with_the_encoder_and_metropolis_puts_it_right(self):
        x, observed = (part[2:] for part in questions())
        settings = {"num_chains": 200, "num_draws": 5, "num_steps_between": 5}
        exact = model().posterior(tf.constant(x), tf.constant(observed)).stddev().numpy()
        ratios = []
        for method in (PseudoGibbs, MetropolisWithinGibbs):
            oracle = Vague.random(num_features=4, rank=2, seed=0, noise_scale=1.0)
            chains = built(method, oracle, num_burn_in=60, **settings)
            z = chains.sample_posterior(x, observed, SEED).z.numpy()
            ratios.append((z.std((0, 1)) / exact).mean())
        print(f"spread of z, in exact ones: pseudo-Gibbs {ratios[0]:.2f}, MwG {ratios[1]:.2f}")
        # Eight standard deviations of 200 or more draws each: their mean has a standard error
        # of 0.02 at most, and five of them are 0.1.
        self.assertGreater(ratios[0], 1.2)
        self.assertAllInRange(ratios[1], 0.9, 1.1)

    def test_nothing_observed_gives_draws_of_the_prior(self):
        x, observed = questions()
        oracle = Vague.random(num_features=4, rank=2, seed=0, noise_scale=1.0)
        made = built(PseudoGibbs, oracle, num_chains=100, num_draws=40)
        z = made.sample_posterior(x, observed & False, SEED).z.numpy().reshape(-1, 2)
        # 24,000 independent normals: mean within 5 / sqrt(24,000), variance within five
        # times sqrt(2 / 24,000).
        self.assertAllLess(np.abs(z.mean(0)), 0.033)
        self.assertAllLess(np.abs(z.var(0) - 1.0), 0.046)

    def test_steps_too_long_are_refused(self):
        made = built(
            HamiltonianMonteCarlo,
            num_burn_in=0,
            adapt_step_size=False,
            step_size=5.0,
            num_leapfrog_steps=2,
            vary_length=False,
            num_draws=20,
        )
        chains = made.sample_posterior(*(part[1:2] for part in questions()), SEED)
        self.assertAllEqual(chains.step_size, [5.0])
        self.assertLess(chains.acceptance.numpy().mean(), 0.2)

    def test_r_hat_tells_chains_that_do_not_agree(self):
        z = np.random.default_rng(0).normal(size=[50, 2, 3, 2]).astype(np.float32)
        z[:, 1, 2] += 5.0
        chains = Chains(tf.constant(z), tf.ones([2, 3]), tf.zeros([3]))
        self.assertAllInRange(chains.r_hat[:2], 0.9, 1.1)
        self.assertGreater(chains.r_hat[2], 2.0)
        alone = chains._replace(z=chains.z[:, :1])
        self.assertAllEqual(np.isnan(alone.r_hat), [True] * 3)


class ProposalTest(tf.test.TestCase):
    def test_it_has_the_draws_mean_and_covers_what_never_moved(self):
        z = np.random.default_rng(0).normal(size=[30, 2, 3, 2]).astype(np.float32)
        z[:, :, 1] = 4.0
        prior = tfd.MultivariateNormalDiag(tf.zeros([2]))
        fitted = fitted_proposal(tf.constant(z), prior, tf.constant([False, False, True]))
        self.assertAllClose(fitted.mean()[0], 0.9 * z[:, :, 0].mean((0, 1)), atol=1e-5)
        self.assertTrue(np.isfinite(fitted.log_prob(z[0, 0])).all())
        # Nothing is known of the third row: the prior, exactly.
        at = tf.constant(z[:, 0])
        self.assertAllClose(fitted.log_prob(at)[:, 2], prior.log_prob(at)[:, 2], atol=1e-5)


class AnswersTest(tf.test.TestCase):
    """A short contract, on rejection sampling and on Gibbs sampling with an exact encoder."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = built(
            PseudoGibbs, num_chains=50, num_draws=4, num_burn_in=10, correct_likelihood=False
        )
        cls.rejecting = built(RejectionSampler, num_draws=50, num_candidates=1000)

    def test_hidden_values_influence_nothing_and_observed_ones_come_back(self):
        x, observed = questions()
        for made in (self.made, self.rejecting):
            draws = made.impute(x, observed, 7, SEED).numpy()
            poisoned = np.where(observed, x, np.nan).astype(np.float32)
            self.assertAllEqual(made.impute(poisoned, observed, 7, SEED), draws)
            self.assertAllEqual(
                draws[:, observed], np.tile(x[observed], [7, 1]).reshape(7, -1)
            )
            self.assertNotAllEqual(draws[0][~observed], draws[1][~observed])

    def test_with_a_seed_for_each_row_the_rest_of_the_batch_does_not_matter(self):
        x, observed = questions()
        seeds = row_seeds(len(x))
        draws = self.made.impute(x, observed, 5, seeds)
        order = [3, 0, 5]
        again = self.made.impute(x[order], observed[order], 5, seeds[order])
        self.assertAllEqual(again, draws.numpy()[:, order])

    def test_likelihoods_are_exact_within_their_error_bars(self):
        x, observed = questions(rows=20)
        exact = model().exact_log_prob(x, observed, ~observed)
        for made, samples in ((self.made, 200), (self.rejecting, 1000)):
            estimate = made.log_likelihood(x, observed, ~observed, samples, SEED)
            gap = estimate.value.numpy() - exact
            print(f"{type(made).__name__}: gap {gap.mean():+.4f} nats ({made.estimator})")
            # Where nothing is observed the prior explains badly; six bars for 20 rows, of
            # which those of a chain count dependent draws as independent.
            self.assertAllLessEqual(np.abs(gap) - 6 * estimate.stderr, 0.02)
            self.assertEqual(estimate.value[1], 0.0)  # All of it is observed.

    def test_a_completion_is_close_to_the_exact_mean(self):
        x, observed = questions()
        mean, covariance = model().exact_moments(x, observed)
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        completed = self.rejecting.complete(x, observed, 50, SEED)
        # 50 draws, some of them several times: five standard errors of 30.
        self.assertAllLessEqual(np.abs(completed - mean) - 5 * sd / np.sqrt(30), 1e-5)


class BadInputTest(tf.test.TestCase):
    def test_too_few_draws_are_refused(self):
        with self.assertRaisesRegex(ValueError, "2 x 5 draws .* 20 at least"):
            PseudoGibbs(model(), num_chains=2, num_draws=5)

    def test_too_few_candidates_are_refused(self):
        with self.assertRaisesRegex(ValueError, "400 draws of 100 candidates"):
            RejectionSampler(model(), num_candidates=100)

    def test_adapting_without_burn_in_is_refused(self):
        with self.assertRaisesRegex(ValueError, "num_burn_in=3 steps are too few"):
            HamiltonianMonteCarlo(model(), num_burn_in=3)

    def test_numbers_out_of_range_are_refused(self):
        for arguments, expected in (
            ({"step_size": 0.0}, "step_size must be a number above 0"),
            ({"target_acceptance": 1.0}, "a share below 1"),
            ({"num_leapfrog_steps": 0}, "whole number, 1 or more"),
            ({"num_steps_between": -1}, "whole number, 0 or more"),
        ):
            with self.assertRaisesRegex(ValueError, expected):
                HamiltonianMonteCarlo(model(), **arguments)

    def test_a_discrete_latent_is_refused_with_what_serves_it(self):
        mixture = FactorAnalysis(1, components=2)
        for method in (HamiltonianMonteCarlo, GridPosterior):
            made = method(mixture)
            with self.assertRaisesRegex(TypeError, "discrete, hierarchical .* Posterior"):
                made.create_variables(DataSpec((3,)))

    def test_a_grid_over_three_numbers_is_refused(self):
        oracle = LinearGaussian.random(num_features=4, rank=3, seed=0)
        with self.assertRaisesRegex(ValueError, "3 numbers, and is for one or two"):
            built(GridPosterior, oracle)

    def test_a_grid_of_few_points_is_refused(self):
        with self.assertRaisesRegex(ValueError, "at least 10 points"):
            GridPosterior(model(), points=5)


class GridTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.made = built(GridPosterior, points=40)

    def exact(self):
        return model().posterior(*(tf.constant(part) for part in questions()))

    def test_likelihoods_evidence_and_completions_are_exact(self):
        x, observed = questions()
        estimate = self.made.log_likelihood(x, observed, ~observed, 1, SEED)
        want = model().exact_log_prob(x, observed, ~observed)
        self.assertAllClose(estimate.value, want, atol=1e-4)
        self.assertAllEqual(estimate.stderr, np.zeros(len(x)))
        want = model().exact_log_prob(x, observed & False, observed)
        self.assertAllClose(self.made.log_evidence(x, observed), want, atol=1e-4)
        completed = self.made.complete(x, observed, 1, SEED)
        self.assertAllClose(completed, model().exact_moments(x, observed)[0], atol=1e-4)

    def test_divergences_are_those_of_two_gaussians(self):
        exact = self.exact()
        other = tfd.MultivariateNormalTriL(exact.mean() + 0.2, 1.3 * exact.scale_tril)
        found = self.made.divergences(other, *questions(), 4000, SEED)
        self.assertAllClose(found.forward, tfd.kl_divergence(exact, other), atol=1e-3)
        gap = np.abs(found.reverse - tfd.kl_divergence(other, exact))
        # Five standard errors for six rows: 3e-6 false alarms.
        self.assertAllLessEqual(gap - 5 * found.reverse_stderr, 0.0)
        same = self.made.divergences(exact, *questions(), 100, SEED)
        self.assertAllClose(same.forward, np.zeros(6), atol=1e-3)
        self.assertAllClose(same.reverse, np.zeros(6), atol=1e-3)

    def test_a_narrow_posterior_is_found_by_the_finer_grid(self):
        oracle = LinearGaussian.random(num_features=4, rank=2, seed=0, noise_scale=0.01)
        x, observed = oracle.sample(4, seed=1), np.ones([4, 4], bool)
        want = oracle.exact_log_prob(x, observed & False, observed)
        # Cells of the first grid are 0.17 wide, ten standard deviations.
        fine = built(GridPosterior, oracle, points=60, num_zooms=2)
        self.assertAllGreater(fine.cells(x, observed), 10.0)
        self.assertAllClose(fine.log_evidence(x, observed), want, atol=1e-2)

    def test_draws_and_density_of_a_grid_agree(self):
        posterior = self.made.posterior(*questions())
        z = posterior.sample(3000, seed=SEED)
        self.assertAllClose(posterior.mean(), self.exact().mean(), atol=1e-3)
        self.assertAllClose(posterior.stddev(), self.exact().stddev(), rtol=0.02)
        gap = z.numpy().mean(0) - posterior.mean()
        self.assertAllLessEqual(
            np.abs(gap) - 5 * posterior.stddev().numpy() / np.sqrt(3000), 0.0
        )
        want = self.exact().log_prob(z).numpy()
        # Within a cell a density is flat: its width is a sixth of a standard deviation.
        self.assertLess(np.abs(posterior.log_prob(z) - want).mean(), 0.2)
        self.assertAllEqual(posterior.log_prob(100.0 + z), np.full(want.shape, -np.inf))

    def test_one_number_has_a_grid_too(self):
        oracle = LinearGaussian.random(num_features=3, rank=1, seed=0)
        x = oracle.sample(5, seed=1)
        observed = np.random.default_rng(2).random(x.shape) < 0.5
        made = built(GridPosterior, oracle)
        estimate = made.log_likelihood(x, observed, ~observed, 1, SEED)
        want = oracle.exact_log_prob(x, observed, ~observed)
        self.assertAllClose(estimate.value, want, atol=1e-4)


@pytest.mark.slow
class HamiltonianMonteCarloContractTest(
    LatentConditionerContract, GaussianOracleContract, tf.test.TestCase
):
    @classmethod
    def oracle(cls):
        return model()

    @classmethod
    def make(cls):
        return built(
            HamiltonianMonteCarlo,
            num_chains=50,
            num_draws=40,
            num_burn_in=20,
            num_leapfrog_steps=4,
        )


@pytest.mark.slow
class MetropolisWithinGibbsContractTest(
    LatentConditionerContract, GaussianOracleContract, tf.test.TestCase
):
    @classmethod
    def oracle(cls):
        return model()

    @classmethod
    def make(cls):
        settings = {"num_chains": 100, "num_draws": 40, "num_burn_in": 40}
        return built(MetropolisWithinGibbs, num_steps_between=1, **settings)


@pytest.mark.slow
class RejectionSamplerContractTest(LatentConditionerContract, tf.test.TestCase):
    @classmethod
    def make(cls):
        return built(RejectionSampler, num_draws=200, num_candidates=2000)


@pytest.mark.slow
class GridPosteriorContractTest(
    LatentConditionerContract, GaussianOracleContract, tf.test.TestCase
):
    max_gap = 1e-4

    @classmethod
    def oracle(cls):
        return model()

    @classmethod
    def make(cls):
        return built(GridPosterior, points=20)
