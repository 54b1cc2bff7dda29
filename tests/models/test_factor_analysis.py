"""Factor analysis: the contract with its exact conditioner, other methods on it, EM."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import SEED, GaussianOracleContract, LatentConditionerContract
from oracles import LinearGaussian, gaussian_conditional

from vae_arbcond import networks
from vae_arbcond.conditioners import FactorAnalysisConditioner, PosteriorMatching
from vae_arbcond.distributions import CholeskyGaussian, MixedColumns
from vae_arbcond.mixtures.factors import Factors
from vae_arbcond.models import VAE, FactorAnalysis
from vae_arbcond.shapes import DataSpec


def parameters(components, size, factors, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(
        np.log(rng.dirichlet([4.0] * components)),
        rng.normal(size=[components, size]),
        rng.normal(size=[components, size, factors]),
        rng.uniform(0.2, 0.6, size=[components, size]),
    )


def model_of(factors, spec=None):
    components, size, latent = factors.loadings.shape
    made = FactorAnalysis(latent, components)
    made.create_variables(DataSpec((size,)) if spec is None else spec)
    made.store(factors)
    return made


def brute_force(factors, x, observed, target):
    """log p(x_target | x_observed) and E[x | x_observed] from dense covariances."""
    joint, given, means = [], [], []
    for k in range(len(factors.log_weights)):
        mean = factors.means[k]
        covariance = factors.loadings[k] @ factors.loadings[k].T + np.diag(
            factors.variances[k]
        )
        for into, seen in ((joint, observed | target), (given, observed)):
            into.append(factors.log_weights[k] + log_density(mean, covariance, x, seen))
        means.append(gaussian_conditional(mean, covariance, x, observed)[0])
    joint, given = np.array(joint), np.array(given)
    total = np.logaddexp.reduce(given, 0)
    shares = np.exp(given - total)[..., np.newaxis]
    return np.logaddexp.reduce(joint, 0) - total, (shares * np.array(means)).sum(0)


def log_density(mean, covariance, x, observed):
    values = np.zeros(len(x))
    for row, o in enumerate(observed):
        r, s = x[row, o] - mean[o], covariance[np.ix_(o, o)]
        log_det = np.linalg.slogdet(2 * np.pi * s)[1] if o.any() else 0.0
        values[row] = -0.5 * (r @ np.linalg.solve(s, r) + log_det)
    return values


class ExactContract(LatentConditionerContract):
    """Likelihoods and completions need no z; draws infer it once."""

    def test_one_question_infers_once_and_holds_one_chunk_of_z_at_a_time(self):
        conditioner, (x, observed) = self.make(), self.inputs()
        infer, inferred = conditioner.infer, []

        def counted(*args):
            inferred.append(args)
            return infer(*args)

        conditioner.infer = counted
        conditioner.log_likelihood(x, observed, ~observed, 200, SEED)
        conditioner.complete(x, observed, 200, SEED)
        self.assertEmpty(inferred)
        conditioner.impute(x, observed, 200, SEED)
        self.assertLen(inferred, 1)


class OneComponentTest(ExactContract, GaussianOracleContract, tf.test.TestCase):
    """Plain factor analysis with an oracle's own parameters."""

    max_gap = 1e-4  # float32 output of a float64 computation

    @classmethod
    def oracle(cls):
        return LinearGaussian.random(num_features=4, rank=2, seed=0)

    @classmethod
    def make(cls):
        exact = cls.oracle().exact
        noise = np.diag(exact["covariance"] - exact["w"] @ exact["w"].T)
        factors = (np.zeros(1), exact["mean"][None], exact["w"][None], noise[None])
        made = FactorAnalysisConditioner(model_of(Factors(*factors)))
        return made.create_variables(cls.oracle().data_spec)

    def test_its_error_bar_is_0(self):
        x, observed = self.inputs()
        estimate = self.log_likelihood(x, observed, ~observed)
        self.assertAllEqual(estimate.stderr, np.zeros(len(x)))


class MixtureTest(ExactContract, tf.test.TestCase):
    """Three components: a discrete and a continuous latent."""

    @classmethod
    def make(cls):
        made = FactorAnalysisConditioner(model_of(parameters(3, 4, 2)))
        return made.create_variables(DataSpec((4,)))

    def test_answers_agree_with_brute_force(self):
        factors = parameters(3, 4, 2)
        rng = np.random.default_rng(1)
        x = rng.normal(size=[30, 4]).astype(np.float32).astype(np.float64)
        observed = rng.random(x.shape) < 0.5
        observed[0], observed[1] = False, True
        value, mean = brute_force(factors, x, observed, ~observed)
        got = self.log_likelihood(x, observed, ~observed).value
        self.assertAllClose(got, value, rtol=1e-6, atol=1e-6)
        completed = self.conditioner().conditional_mean(x, observed)
        self.assertAllClose(completed, mean, rtol=1e-6, atol=1e-6)

    def test_moments_agree_with_numpy(self):
        factors = parameters(3, 4, 2)
        rng = np.random.default_rng(1)
        x = rng.normal(size=[30, 4]).astype(np.float32).astype(np.float64)
        observed = rng.random(x.shape) < 0.5
        observed[0], observed[1] = False, True
        mean, square, total = 0.0, 0.0, 0.0
        for k in range(3):
            loadings = factors.loadings[k]
            own = factors.means[k], loadings @ loadings.T + np.diag(factors.variances[k])
            share = np.exp(factors.log_weights[k] + log_density(*own, x, observed))[:, None]
            m, c = gaussian_conditional(*own, x, observed)
            mean, total = mean + share * m, total + share
            square = square + share * (np.diagonal(c, axis1=1, axis2=2) + m**2)
        moments = self.conditioner().conditional_moments(x, observed)
        self.assertAllClose(moments.mean, mean / total, rtol=1e-6, atol=1e-6)
        variance = square / total - (mean / total) ** 2
        self.assertAllClose(moments.variance, variance, rtol=1e-6, atol=1e-6)

    def test_quantiles_invert_the_distribution_function(self):
        x, observed = np.zeros([1, 4], np.float32), np.array([[True, False, False, True]])
        wanted = np.array([0.01, 0.5, 0.9])
        at = self.conditioner().quantiles(x, observed, wanted).numpy()
        self.assertAllEqual(at[:, 0, 0], x[0, [0, 0, 0]])
        factors, below, total = parameters(3, 4, 2), 0.0, 0.0
        for k in range(3):
            loadings = factors.loadings[k]
            own = factors.means[k], loadings @ loadings.T + np.diag(factors.variances[k])
            share = np.exp(factors.log_weights[k] + log_density(*own, x, observed))
            mean, covariance = gaussian_conditional(*own, x, observed)
            scale = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
            z = ((at[:, 0] - mean) / np.maximum(scale, 1e-9))[:, 1:3]
            below, total = (
                below + share * 0.5 * tf.math.erfc(-z * np.sqrt(0.5)).numpy(),
                total + share,
            )
        self.assertAllClose(below / total, np.repeat(wanted[:, None], 2, 1), atol=1e-6)
        with self.assertRaisesRegex(ValueError, "between 0 and 1"):
            self.conditioner().quantiles(x, observed, [0.0])

    def test_every_importance_weight_is_the_same(self):
        x, observed = self.inputs()
        nothing = np.zeros_like(observed)
        log_weights, _ = self.conditioner().log_weights(
            tf.constant(x), tf.constant(observed), tf.constant(nothing), 50, tf.constant(SEED)
        )
        # log p(x_o) for every z: float32 densities of about 10 nats.
        self.assertAllClose(log_weights, np.repeat(log_weights[:1], 50, 0), atol=1e-4)

    def test_the_elbo_is_the_log_likelihood(self):
        x, observed = self.inputs()
        value, _ = brute_force(parameters(3, 4, 2), x, np.zeros_like(observed), observed)
        elbo = self.conditioner().model.elbo(tf.constant(x), tf.constant(observed), SEED)
        self.assertAllClose(elbo, value, rtol=1e-5, atol=1e-5)
        # With its posterior given, from a sample of z: the bound is tight for every z.
        q = self.conditioner().model.posterior(tf.constant(x), tf.constant(observed))
        model = self.conditioner().model
        sampled = model.elbo(tf.constant(x), tf.constant(observed), SEED, posterior=q)
        self.assertAllClose(sampled, value, rtol=1e-4, atol=1e-4)

    def test_means_of_draws_are_the_exact_means(self):
        x, observed = self.inputs()
        draws = self.impute(x, observed, 4000).astype(np.float64)
        mean = self.conditioner().conditional_mean(x, observed)
        # Five standard errors.
        bound = 5 * draws.std(0) / np.sqrt(4000) + 1e-5
        self.assertAllLessEqual(np.abs(draws.mean(0) - mean) - bound, 0.0)


def test_any_other_conditioner_runs_on_it_and_is_compared_with_the_exact_answer():
    model = model_of(parameters(1, 4, 2))
    # Wide, untrained: importance weights have no heavy tail.
    head = CholeskyGaussian(2, min_scale=0.5)
    other = PosteriorMatching(model, networks.mlp((8,)), head, train_model=False)
    other.create_variables(DataSpec((4,)))
    exact = FactorAnalysisConditioner(model).create_variables(DataSpec((4,)))
    x = np.random.default_rng(0).normal(size=[20, 4]).astype(np.float32)
    observed = np.random.default_rng(1).random(x.shape) < 0.5
    want = exact.log_likelihood(x, observed, ~observed, 1, SEED)
    got = other.log_likelihood(x, observed, ~observed, 4000, SEED)
    trusted = got.pareto_k.numpy() < 0.7
    assert trusted.mean() > 0.5
    gap = np.abs(got.value.numpy() - want.value.numpy())
    assert (gap <= 5 * got.stderr.numpy() + 1e-2)[trusted].all()


def simulate(factors, rows, share, seed):
    rng = np.random.default_rng(seed)
    k = rng.choice(len(factors.log_weights), rows, p=np.exp(factors.log_weights))
    z = rng.normal(size=[rows, factors.loadings.shape[-1]])
    noise = rng.normal(size=[rows, factors.means.shape[1]]) * np.sqrt(factors.variances[k])
    x = factors.means[k] + np.einsum("ndq,nq->nd", factors.loadings[k], z) + noise
    return x.astype(np.float32), rng.random(x.shape) >= share


def test_em_recovers_the_covariance_of_simulated_rows_within_three_standard_errors():
    truth = parameters(1, 6, 2, seed=3)
    share = 0.2
    x, present = simulate(truth, 3000, share, seed=4)
    model = FactorAnalysis(2).create_variables(DataSpec((6,)))
    model.fit_rows(np.where(present, x, np.nan), present)
    want = truth.loadings[0] @ truth.loadings[0].T + np.diag(truth.variances[0])
    found = model.factors
    got = (found.loadings[0] @ tf.transpose(found.loadings[0])).numpy()
    got += np.diag(found.variances[0])
    # Standard errors of sample moments over the rows that show both columns; those of the
    # maximum likelihood estimate are smaller.
    both = 3000 * (1 - share) ** 2
    spread = np.sqrt((want**2 + np.outer(np.diag(want), np.diag(want))) / both)
    assert (np.abs(got - want) < 3 * spread).all()
    mean_spread = np.sqrt(np.diag(want) / (3000 * (1 - share)))
    assert (np.abs(found.means[0] - truth.means[0]) < 3 * mean_spread).all()


def test_em_finds_two_components_and_is_deterministic():
    truth = parameters(2, 5, 1, seed=5)
    truth = truth._replace(means=np.array([[-3.0] * 5, [3.0] * 5]))
    x, present = simulate(truth, 1500, 0.3, seed=6)
    fits = []
    for _ in range(2):
        model = FactorAnalysis(1, 2).create_variables(DataSpec((5,)))
        model.fit_rows(np.where(present, x, np.nan), present, seed=7)
        fits.append(model.factors)
    order = np.argsort(fits[0].means[:, 0])
    share = np.exp(fits[0].log_weights)[order]
    spread = np.sqrt(np.prod(np.exp(truth.log_weights)) / 1500)
    assert np.abs(share - np.exp(truth.log_weights)).max() < 3 * spread
    size = np.sqrt((truth.loadings**2).sum(-1) + truth.variances)
    rows = 1500 * np.exp(truth.log_weights).min() * 0.7
    assert (
        np.abs(fits[0].means.numpy()[order] - truth.means) < 3 * size / np.sqrt(rows)
    ).all()
    for one, two in zip(*fits, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "latent_size", "message"),
    [
        (DataSpec((3,), levels=(0, 2, 0)), 1, "tables of numbers alone"),
        (DataSpec((4, 4)), 2, "tables of numbers alone"),
        (DataSpec((3,)), 3, "room for 2 factors"),
    ],
)
def test_data_that_do_not_fit_are_refused(spec, latent_size, message):
    with pytest.raises(ValueError, match=message):
        FactorAnalysis(latent_size).create_variables(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 1}, "num_steps=1"),
        ({"min_variance": 0.0}, "min_variance=0.0"),
        ({"min_variance": -1.0}, "min_variance=-1.0"),
        ({"min_variance": float("nan")}, "min_variance=nan"),
        ({"min_variance": 1.0}, "min_variance=1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FactorAnalysis(1, **arguments)


def test_more_steps_climb_higher_with_one_component_too():
    x, present = simulate(parameters(1, 6, 2, seed=3), 200, 0.2, seed=4)
    objectives = []
    for num_steps in (2, 20):
        model = FactorAnalysis(2, num_steps=num_steps).create_variables(DataSpec((6,)))
        objectives.append(model.fit_rows(x, present)["objective"])
    assert objectives[1] > objectives[0]


def awkward_tables():
    rng = np.random.default_rng(0)
    base = rng.normal(size=[40, 4])
    whole = np.ones_like(base, bool)
    constant, twice, outlier = base.copy(), base.copy(), base.copy()
    constant[:, 1] = 7.0
    twice[:, 2] = twice[:, 0]
    outlier[0, 0] = 1e12
    empty_row, empty_column = whole.copy(), whole.copy()
    empty_row[5], empty_column[:, 2] = False, False
    wide = rng.normal(size=[5, 30])
    return {
        "fewer rows than columns": (wide, rng.random(wide.shape) < 0.7),
        "a constant column": (constant, whole),
        "a duplicate column": (twice, whole),
        "an empty row": (base, empty_row),
        "an empty column": (base, empty_column),
        "two rows": (base[:2], whole[:2]),
        "values of 1e12": (1e12 * base, whole),
        "values of 1e-12": (1e-12 * base, whole),
        "one value of 1e12": (outlier, whole),
    }


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("name", awkward_tables())
def test_an_awkward_table_is_fitted_and_answered_with_finite_numbers(name, components):
    x, present = awkward_tables()[name]
    x = x.astype(np.float32)
    model = FactorAnalysis(2, components, num_steps=4)
    made = FactorAnalysisConditioner(model).create_variables(DataSpec((x.shape[1],)))
    model.fit_rows(np.where(present, x, np.nan), present)
    observed = np.random.default_rng(1).random(x.shape) < 0.5
    moments = made.conditional_moments(x, observed)
    assert np.isfinite(moments.mean).all() and np.isfinite(moments.variance).all()
    joint, given = (model.elbo(x, o, SEED) for o in (np.ones_like(observed), observed))
    assert np.isfinite(joint).all() and np.isfinite(given).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_where_present_is_refused(value):
    x, present = np.ones([5, 3], np.float32), np.ones([5, 3], bool)
    x[2, 1] = value
    model = FactorAnalysis(1).create_variables(DataSpec((3,)))
    with pytest.raises(ValueError, match="where present is True"):
        model.fit_rows(x, present)


def test_a_seed_that_is_none_is_refused_kindly():
    model = FactorAnalysis(1).create_variables(DataSpec((3,)))
    with pytest.raises(ValueError, match="a whole number, 0 or more; got -1"):
        model.fit_rows(np.zeros([5, 3]), np.ones([5, 3], bool), -1)


def test_what_was_not_fitted_says_so():
    made = FactorAnalysisConditioner(FactorAnalysis(1)).create_variables(DataSpec((3,)))
    x, observed = np.zeros([1, 3]), np.zeros([1, 3], bool)
    for ask in (
        lambda: made.complete(x, observed, 1, SEED),
        lambda: made.impute(x, observed, 1, SEED),
        lambda: made.log_likelihood(x, observed, ~observed, 1, SEED),
        lambda: made.conditional_moments(x, observed),
    ):
        with pytest.raises(ValueError, match="has not been fitted"):
            ask()


@pytest.mark.parametrize("fitted", [True, False])
def test_a_saved_conditioner_knows_whether_it_was_fitted(fitted, tmp_path):
    model = FactorAnalysis(2).create_variables(DataSpec((4,)))
    if fitted:
        model.store(parameters(1, 4, 2))
    made = FactorAnalysisConditioner(model).create_variables(DataSpec((4,)))
    made.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").model.fitted is fitted


def test_too_few_rows_and_other_models_are_refused():
    model = FactorAnalysis(1, 3).create_variables(DataSpec((3,)))
    with pytest.raises(ValueError, match="2 training rows hold a value"):
        model.fit_rows(np.zeros([2, 3]), np.ones([2, 3], bool))
    with pytest.raises(ValueError, match="at least 1 factor"):
        FactorAnalysis(0)
    vae = VAE(2, networks.mlp((4,)), CholeskyGaussian(2), networks.mlp((4,)), MixedColumns())
    with pytest.raises(TypeError, match="got a VAE"):
        FactorAnalysisConditioner(vae)
