"""The closed-form mixture: contract, exactness, bad tables, answers beyond the interface."""

import unittest.mock

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from contract import SEED, DensityConditionerContract, GaussianOracleContract, row_seeds
from oracles import LinearGaussian, gaussian_conditional

from vae_arbcond import serving
from vae_arbcond.conditioners import GaussianMixtureConditioner
from vae_arbcond.mixtures import marginals, search
from vae_arbcond.mixtures.em import Mixture
from vae_arbcond.schema import TableSchema
from vae_arbcond.shapes import DataSpec

EXACT = {"rtol": 1e-6, "atol": 1e-6}


def identity_marginals(size):
    """g = x."""
    knots = np.repeat(np.linspace(-8.0, 8.0, marginals.KNOTS)[np.newaxis], size, 0)
    step = np.full(size, 16.0 / (marginals.KNOTS - 1))
    far = np.full(size, 1e6)  # No clipping.
    return marginals.Marginals(np.full(size, -8.0), step, knots, np.ones(size), -far, far)


def mixture(components, size, seed=0):
    """Random parameters of a mixture of real columns."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=[components, size, size])
    return Mixture(
        np.log(rng.dirichlet([3.0] * components)),
        rng.normal(size=[components, size]),
        0.3 * factors @ np.swapaxes(factors, 1, 2) + 0.2 * np.eye(size),
        np.zeros([components, 0]),
        np.zeros([components, 0]),
    )


def conditioner_of(parameters, maps=None, strength=0.0):
    size = parameters.means.shape[1]
    made = GaussianMixtureConditioner(strength=strength).create_variables(DataSpec((size,)))
    made.store(parameters, identity_marginals(size) if maps is None else maps)
    return made


def mixed_table(rows, seed=0):
    """Two kinds of rows: two real columns, three levels, an ordinal one, counts."""
    rng = np.random.default_rng(seed)
    kind = rng.random(rows) < 0.4
    real = rng.normal(size=[rows, 2]) + np.where(kind, 2.0, -1.0)[:, np.newaxis]
    level = np.where(rng.random(rows) < 0.8, kind * 2, rng.integers(3, size=rows))
    order = np.clip(np.rint(real[:, 0] + 1.5), 0, 3)
    count = rng.poisson(np.where(kind, 9.0, 1.0))
    return np.column_stack([real[:, 0], level, real[:, 1], order, count]).astype(np.float32)


MIXED = DataSpec(
    (5,),
    levels=(0, 3, 0, 4, 0),
    ordered=(False, False, False, True, False),
    counts=(0.0, 0.0, 0.0, 0.0, 4.0),
)


def gaps(shape, share=0.3, seed=1):
    return np.random.default_rng(seed).random(shape) >= share


class GaussianTest(DensityConditionerContract, GaussianOracleContract, tf.test.TestCase):
    """One component with the oracle's own parameters."""

    max_gap = 1e-4  # float32 output of a float64 computation

    @classmethod
    def oracle(cls):
        return LinearGaussian.random(num_features=4, rank=2, seed=0)

    @classmethod
    def make(cls):
        exact = cls.oracle().exact
        nothing = np.zeros([1, 0])
        covariance = exact["covariance"][np.newaxis]
        one = Mixture(np.zeros(1), exact["mean"][np.newaxis], covariance, nothing, nothing)
        return conditioner_of(one)

    def test_its_error_bar_is_0(self):
        x, observed = self.inputs()
        estimate = self.log_likelihood(x, observed, ~observed)
        self.assertAllEqual(estimate.stderr, np.zeros(len(x)))

    def test_moments_agree_with_numpy(self):
        x, observed = self.questions(50)
        means, covariances = self.oracle().exact_moments(x, observed)
        moments = self.conditioner().conditional_moments(x, observed)
        self.assertAllClose(moments.mean, means, **EXACT)
        self.assertAllClose(
            moments.variance, np.diagonal(covariances, axis1=1, axis2=2), **EXACT
        )


class FittedMixtureTest(DensityConditionerContract, tf.test.TestCase):
    """Fitted to a mixed table with gaps: search, bag, every kind of column."""

    @classmethod
    def make(cls, seed=3):
        x = mixed_table(150)
        made = GaussianMixtureConditioner(components=(1, 2), folds=2)
        made.create_variables(MIXED)
        made.fit_rows(x, gaps(x.shape), seed=seed)
        return made

    def inputs(self):
        x, observed = super().inputs()
        x = mixed_table(len(x), seed=5)
        return x, observed

    def test_two_kinds_of_rows_get_two_components(self):
        self.assertEqual(self.conditioner().fitted, 6)  # Two in each of two folds and all.

    def test_probabilities_of_levels_sum_to_1_and_agree_with_likelihoods(self):
        x, observed = self.inputs()
        observed[:, 1] = False
        table = self.conditioner().class_probabilities(x, observed).numpy()
        self.assertAllClose(table[:, 1].sum(-1), np.ones(len(x)))
        target = np.zeros_like(observed)
        target[:, 1] = True
        for level in range(3):
            asked = x.copy()
            asked[:, 1] = level
            value = self.log_likelihood(asked, observed, target).value
            self.assertAllClose(np.log(table[:, 1, level]), value, rtol=1e-4, atol=1e-5)
        mode = self.conditioner().complete(x, observed, 1, SEED).numpy()[:, 1]
        self.assertAllEqual(mode, table[:, 1].argmax(-1))

    def test_probabilities_of_counts_sum_to_1(self):
        x, observed = self.inputs()
        observed[:, 4], target = False, np.zeros_like(observed)
        target[:, 4] = True
        total, mean = 0.0, 0.0
        for count in range(60):
            asked = x.copy()
            asked[:, 4] = count
            share = np.exp(self.log_likelihood(asked, observed, target).value.numpy())
            total, mean = total + share, mean + count * share
        self.assertAllClose(total, np.ones(len(x)), atol=1e-4)
        moments = self.conditioner().conditional_moments(x, observed)
        self.assertAllClose(moments.mean[:, 4], mean, rtol=1e-3)

    def test_a_density_of_a_real_column_integrates_to_1_in_the_units_of_x(self):
        x, observed = (part[:3] for part in self.inputs())
        observed[:, 0] = False
        target = np.zeros_like(observed)
        target[:, 0] = True
        grid = np.linspace(-12, 14, 6001)
        conditioner = self.conditioner()
        moments = conditioner.conditional_moments(x, observed)
        quantiles = conditioner.quantiles(x, observed, [0.1, 0.5, 0.9]).numpy()
        for row in range(len(x)):
            asked = np.repeat(x[row : row + 1], len(grid), 0)
            asked[:, 0] = grid
            same = [
                np.repeat(part[row : row + 1], len(grid), 0) for part in (observed, target)
            ]
            density = np.exp(self.log_likelihood(asked, *same).value.numpy().astype(float))
            width = grid[1] - grid[0]
            # The density jumps at 256 knots, half a cell of the grid each: 1e-3.
            self.assertAllClose(density.sum() * width, 1.0, atol=2e-3)
            mean = (grid * density).sum() * width
            # The moments are exact, but stay in the training range; the density goes beyond.
            self.assertAllClose(moments.mean[row, 0], mean, atol=0.02)
            below = np.cumsum(density) * width
            at = np.interp(quantiles[:, row, 0], grid, below)
            self.assertAllClose(at, [0.1, 0.5, 0.9], atol=5e-3)

    def test_quantiles_of_counts_are_those_of_the_mixture_of_poissons(self):
        x, observed = self.inputs()
        observed[:, 4] = False
        weights = np.exp(self.conditioner().posterior(x, observed).log_weights)
        rates = np.exp(self.conditioner().mixture.log_rates[:, 0])
        log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 80)))])
        number = np.arange(80)[:, np.newaxis]
        poisson = np.exp(number * np.log(rates) - rates - log_factorials[:, np.newaxis])
        below = np.cumsum(poisson @ weights.T, 0)  # [80, B]
        for probability in (0.05, 0.5, 0.999):
            got = self.conditioner().quantiles(x, observed, [probability]).numpy()[0, :, 4]
            self.assertAllEqual(got, np.sum(below < probability, 0))

    def test_draws_have_the_moments(self):
        x, observed = self.inputs()
        moments = self.conditioner().conditional_moments(x, observed)
        draws = self.impute(x, observed, 4000).astype(np.float64)
        error = np.abs(draws.mean(0) - moments.mean)
        # Five standard errors: 6e-7 false alarms a cell; observed cells vary by rounding.
        bound = 5 * np.sqrt(moments.variance / 4000) + 1e-6
        self.assertAllLessEqual(error - bound, 0.0)
        ratio = (draws.var(0) + 1e-3) / (moments.variance + 1e-3)
        self.assertAllInRange(ratio, 0.85, 1.15)

    def test_the_same_seed_fits_the_same_and_another_does_not(self):
        again = self.make()
        for one, two in zip(again.weights, self.conditioner().weights, strict=True):
            self.assertAllClose(one, two, rtol=1e-12, atol=1e-12)
        other = self.make(seed=4)
        self.assertNotAllClose(other.mixture.means, again.mixture.means, atol=1e-3)

    def test_a_fit_is_refused_twice_with_another_size(self):
        with self.assertRaisesRegex(ValueError, "holds a fit with 6 components"):
            self.conditioner().store(mixture(2, 2), None)

    def test_a_second_fit_is_refused_before_the_search(self):
        x = mixed_table(150)
        with (
            unittest.mock.patch.object(search, "search") as searched,
            self.assertRaisesRegex(ValueError, "holds a fit with 6 components"),
        ):
            self.conditioner().fit_rows(x, gaps(x.shape), seed=3)
        searched.assert_not_called()


class ExactnessTest(tf.test.TestCase):
    """Mixtures against brute force and numerical integration."""

    def test_densities_and_moments_agree_with_brute_force(self):
        parameters = mixture(3, 5)
        conditioner = conditioner_of(parameters)
        rng = np.random.default_rng(1)
        x = rng.normal(size=[20, 5])
        observed = rng.random(x.shape) < 0.5
        observed[0], observed[1] = False, True
        target = ~observed & (rng.random(x.shape) < 0.7)
        logs = np.stack([self.log_joint(parameters, x, observed, k) for k in range(3)])
        shares = np.exp(logs - np.logaddexp.reduce(logs, 0))
        pairs = [
            gaussian_conditional(parameters.means[k], parameters.covariances[k], x, observed)
            for k in range(3)
        ]
        mean = sum(s[:, None] * m for s, (m, _) in zip(shares, pairs, strict=True))
        square = sum(
            s[:, None] * (np.diagonal(c, axis1=1, axis2=2) + m**2)
            for s, (m, c) in zip(shares, pairs, strict=True)
        )
        moments = conditioner.conditional_moments(x, observed)
        # x enters as float32: 1e-7 of its size.
        self.assertAllClose(moments.mean, mean, **EXACT)
        self.assertAllClose(moments.variance, square - mean**2, **EXACT)
        both = [self.log_joint(parameters, x, observed | target, k) for k in range(3)]
        want = np.logaddexp.reduce(both, 0) - np.logaddexp.reduce(logs, 0)
        got = conditioner.log_likelihood(x, observed, target, 1, SEED)
        self.assertAllClose(got.value, want, **EXACT)

    @staticmethod
    def log_joint(parameters, x, observed, k):
        values = np.zeros(len(x))
        for row, o in enumerate(observed):
            r = x[row, o] - parameters.means[k][o]
            s = parameters.covariances[k][np.ix_(o, o)]
            log_det = np.linalg.slogdet(2 * np.pi * s)[1] if o.any() else 0.0
            values[row] = -0.5 * (r @ np.linalg.solve(s, r) + log_det)
        return values + parameters.log_weights[k]

    def test_two_hidden_columns_agree_with_numerical_integration(self):
        conditioner = conditioner_of(mixture(3, 3, seed=2))
        x, observed = np.array([[0.4, 0.0, 0.0]]), np.array([[True, False, False]])
        axis = np.linspace(-9.0, 9.0, 361)
        a, b = np.meshgrid(axis, axis, indexing="ij")
        grid = np.column_stack([np.full(a.size, 0.4), a.ravel(), b.ravel()])
        same = np.repeat(observed, len(grid), 0)
        value = conditioner.log_likelihood(grid, same, ~same, 1, SEED).value.numpy()
        density = np.exp(value.astype(np.float64)) * (axis[1] - axis[0]) ** 2
        # The trapezium rule on smooth densities is exact to float32's rounding.
        self.assertAllClose(density.sum(), 1.0, atol=1e-5)
        moments = conditioner.conditional_moments(x, observed)
        mean = density @ grid
        self.assertAllClose(moments.mean[0], mean, atol=1e-5)
        self.assertAllClose(moments.variance[0], density @ (grid - mean) ** 2, atol=1e-4)

    def test_quantiles_invert_the_distribution_function(self):
        conditioner = conditioner_of(mixture(2, 2, seed=3))
        x, observed = np.zeros([1, 2]), np.array([[False, False]])
        probabilities = [0.01, 0.5, 0.975]
        at = conditioner.quantiles(x, observed, probabilities).numpy()[:, 0]
        draws = conditioner.impute(x, observed, 40_000, SEED).numpy()[:, 0]
        share = (draws[np.newaxis] <= at[:, np.newaxis]).mean(1)
        # Five standard errors of a share of 40,000 draws: at most 0.0125.
        self.assertAllClose(
            share, np.repeat(np.array(probabilities)[:, None], 2, 1), atol=0.0125
        )
        with self.assertRaisesRegex(ValueError, "between 0 and 1"):
            conditioner.quantiles(x, observed, [1.0])

    def test_draws_are_jointly_right(self):
        parameters = mixture(1, 4, seed=4)
        conditioner = conditioner_of(parameters)
        x, observed = np.array([[0.3, 0.0, -1.0, 0.0]]), np.array([[True, False, True, False]])
        covariance = gaussian_conditional(
            parameters.means[0], parameters.covariances[0], x, observed
        )[1][0]
        draws = conditioner.impute(x, observed, 20_000, SEED).numpy()[:, 0].astype(np.float64)
        spread = np.sqrt(
            (covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / 20_000
        )
        self.assertAllLessEqual(np.abs(np.cov(draws.T) - covariance) - 5 * spread, 1e-6)

    def test_a_draw_takes_real_columns_levels_and_counts_from_one_component(self):
        weights, means = np.array([0.4, 0.6]), np.array([[-3.0], [2.0]])
        levels, rates = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[1.0], [7.0]])
        spec = DataSpec((3,), levels=(0, 2, 0), counts=(0.0, 0.0, 2.0))
        made = GaussianMixtureConditioner(strength=0.0).create_variables(spec)
        parts = (np.log(weights), means, np.ones([2, 1, 1]), np.log(levels), np.log(rates))
        made.store(Mixture(*parts), identity_marginals(1))
        nothing = np.zeros([1, 3])
        draws = made.impute(nothing, nothing > 0, 4000, SEED).numpy()[:, 0].astype(np.float64)
        expected = np.column_stack([means, levels[:, 1:], rates])  # Of each component.
        for one, other in ((0, 1), (0, 2), (1, 2)):
            products = draws[:, one] * draws[:, other]
            want = weights @ (expected[:, one] * expected[:, other])
            # Five standard errors: 6e-7 false alarms a pair.
            self.assertLess(abs(products.mean() - want), 5 * products.std() / np.sqrt(4000))


def awkward_tables():
    rng = np.random.default_rng(0)
    base = rng.normal(size=[40, 4])
    whole = np.ones_like(base, bool)
    constant, twice, collinear = base.copy(), base.copy(), base.copy()
    constant[:, 1] = 7.0
    twice[:, 2] = twice[:, 0]
    collinear[:, 3] = collinear[:, :3].sum(1)
    two = base.copy()
    two[:, 1] = two[:, 1] > 0
    empty_row, empty_column = whole.copy(), whole.copy()
    empty_row[5] = False
    empty_column[:, 2] = False
    wide = rng.normal(size=[5, 30])
    huge, tiny = base.copy(), base.copy()
    huge[:, 0] *= 1e12
    tiny[:, 0] *= 1e-12
    offset = base.copy()
    offset[:, 0] = 1e12
    outlier = base.copy()
    outlier[0, 0] = 1e12
    return {
        "fewer rows than columns": (wide, rng.random(wide.shape) < 0.7),
        "a constant column": (constant, whole),
        "a duplicate column": (twice, whole),
        "a collinear column": (collinear, whole),
        "two distinct values": (two, whole),
        "an empty row": (base, empty_row),
        "an empty column": (base, empty_column),
        "a single row": (base[:1], whole[:1]),
        "two rows": (base[:2], whole[:2]),
        "a single cell": (base, np.arange(160).reshape(40, 4) == 7),
        "values of 1e12": (huge, whole),
        "values of 1e-12": (tiny, whole),
        "a constant of 1e12": (offset, whole),
        "one value of 1e12": (outlier, whole),
        "a single column": (base[:, :1], whole[:, :1]),
    }


@pytest.fixture
def eagerly():
    """Tracing a graph for every small table would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("name", awkward_tables())
def test_an_awkward_table_is_fitted_and_answered_with_finite_numbers(name, eagerly):
    x, present = awkward_tables()[name]
    x = x.astype(np.float32)
    tf.config.run_functions_eagerly(False)
    made = GaussianMixtureConditioner((1, 2, 4), folds=2, num_steps=4)
    made.create_variables(DataSpec((x.shape[1],)))
    made.fit_rows(np.where(present, x, np.nan), present)
    tf.config.run_functions_eagerly(True)
    rng = np.random.default_rng(1)
    observed = rng.random(x.shape) < 0.5
    moments = made.conditional_moments(x, observed)
    answers = [
        made.complete(x, observed, 1, SEED),
        made.impute(x, observed, 3, SEED),
        made.log_likelihood(x, observed, ~observed, 1, SEED).value,
        moments.mean,
        moments.variance,
        made.quantiles(x, observed, [0.05, 0.95]),
    ]
    for answer in answers:
        assert np.isfinite(answer).all()
    # What is far from all training values is answered, too.
    far = np.where(observed, np.float32(1e12), x)
    assert np.isfinite(made.complete(far, observed, 1, SEED)).all()
    assert np.isfinite(made.log_likelihood(far, observed, ~observed, 1, SEED).value).all()


@pytest.mark.parametrize(
    "name",
    ["fewer rows than columns", "an empty column", "a single row", "one value of 1e12"],
)
def test_factor_analysers_of_an_awkward_table_answer_with_finite_numbers(name, eagerly):
    x, present = awkward_tables()[name]
    x = x.astype(np.float32)
    tf.config.run_functions_eagerly(False)
    made = GaussianMixtureConditioner((1, 2), folds=2, num_steps=4, num_factors=2)
    made.create_variables(DataSpec((x.shape[1],)))
    made.fit_rows(np.where(present, x, np.nan), present)
    tf.config.run_functions_eagerly(True)
    observed = np.random.default_rng(1).random(x.shape) < 0.5
    assert np.isfinite(made.complete(x, observed, 1, SEED)).all()
    assert np.isfinite(made.log_likelihood(x, observed, ~observed, 1, SEED).value).all()


def test_a_constant_column_is_completed_by_its_value(eagerly):
    x, present = awkward_tables()["a constant column"]
    made = GaussianMixtureConditioner((1, 2), folds=2).create_variables(DataSpec((4,)))
    made.fit_rows(x, present)
    observed = np.ones_like(present)
    observed[:, 1] = False
    completed = made.complete(x, observed, 1, SEED).numpy()[:, 1]
    assert np.allclose(completed, 7.0, atol=1e-3)


def test_a_duplicate_column_is_completed_by_its_twin(eagerly):
    x, present = awkward_tables()["a duplicate column"]
    made = GaussianMixtureConditioner((1,), strength=0.0).create_variables(DataSpec((4,)))
    made.fit_rows(x, present)
    observed = np.ones_like(present)
    observed[:, 2] = False
    completed = made.complete(x, observed, 1, SEED).numpy()[:, 2]
    # Shrunk as if by three rows without correlation, of forty-three.
    assert np.abs(completed - x[:, 2]).max() < 0.2


def test_a_table_without_any_value_is_refused():
    made = GaussianMixtureConditioner().create_variables(DataSpec((2,)))
    with pytest.raises(ValueError, match="None of the 3 training rows has a value"):
        made.fit_rows(np.zeros([3, 2]), np.zeros([3, 2], bool))


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_a_seed_that_is_none_is_refused_kindly(seed):
    made = GaussianMixtureConditioner().create_variables(DataSpec((2,)))
    with pytest.raises(ValueError, match=f"a whole number, 0 or more; got {seed}"):
        made.fit_rows(np.zeros([3, 2]), np.ones([3, 2], bool), seed)


def test_what_was_not_fitted_says_so(eagerly):
    made = GaussianMixtureConditioner().create_variables(DataSpec((2,)))
    with pytest.raises(ValueError, match="has not been fitted"):
        made.complete(np.zeros([1, 2]), np.zeros([1, 2], bool), 1, SEED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": (2, 1)}, "each larger than the one before"),
        ({"components": (0,)}, "at least 1 component"),
        ({"folds": 1}, "2 folds"),
        ({"shrink_covariance": -5.0}, "shrink_covariance=-5.0"),
        ({"shrink_levels": -1.0}, "shrink_levels=-1.0"),
        ({"shrink_covariance": float("nan")}, "shrink_covariance=nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureConditioner(**arguments)


def test_images_are_refused():
    with pytest.raises(ValueError, match="Closed forms are for tables"):
        GaussianMixtureConditioner().create_variables(DataSpec((8, 8)))


def test_an_unfitted_conditioner_saves_and_loads(tmp_path):
    made = GaussianMixtureConditioner().create_variables(DataSpec((2,)))
    made.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").fitted is None


def test_rows_with_seeds_of_their_own_are_answered_in_groups_of_any_size(monkeypatch):
    made = conditioner_of(mixture(2, 3))
    x, observed = np.zeros([11, 3]), np.zeros([11, 3], bool)
    want = made.impute(x, observed, 3, row_seeds(11))
    monkeypatch.setattr("vae_arbcond.conditioners.gaussian_mixture.GROUP_NUMBERS", 1)
    other = conditioner_of(mixture(2, 3))
    assert np.allclose(other.impute(x, observed, 3, row_seeds(11)), want, atol=1e-6)


def test_rows_come_back_in_their_order_from_groups_of_any_size(monkeypatch):
    parameters = mixture(2, 3)
    rng = np.random.default_rng(0)
    x, observed = rng.normal(size=[40, 3]), rng.random([40, 3]) < 0.5
    want = conditioner_of(parameters).complete(x, observed, 1, SEED)
    value = conditioner_of(parameters).log_likelihood(x, observed, ~observed, 1, SEED).value
    monkeypatch.setattr("vae_arbcond.conditioners.gaussian_mixture.GROUP_NUMBERS", 1)
    other = conditioner_of(parameters)
    # The two kinds of solves differ by the rounding of float64, answers by that of float32.
    np.testing.assert_allclose(other.complete(x, observed, 1, SEED), want, **EXACT)
    got = other.log_likelihood(x, observed, ~observed, 1, SEED).value
    np.testing.assert_allclose(got, value, **EXACT)


def test_every_signature_is_exported_and_answers_as_in_python(tmp_path):
    rng = np.random.default_rng(0)
    real = rng.normal(size=60)
    frame = pd.DataFrame({"a": real, "b": np.exp(real), "c": np.where(real > 0, "u", "v")})
    schema = TableSchema.infer(frame)
    x, present = schema.to_model(frame)
    made = GaussianMixtureConditioner((2,), bag=False, num_steps=4)
    made.create_variables(DataSpec.of(schema))
    made.fit_rows(x, present)
    module, signatures = serving.build(made, schema)
    names = {"impute", "log_likelihood", "sample", "serving_default"}
    assert set(signatures) == names
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=signatures)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    observed = rng.random(x.shape) < 0.5
    seeds = row_seeds(len(x))
    asked = {
        "x": tf.constant(x),
        "observed": tf.constant(observed),
        "num_samples": tf.fill([len(x)], 3),
        "seed": tf.constant(seeds),
    }
    answer = loaded.signatures["impute"](**asked)
    draws, completion = made.impute_and_complete(x, observed, 3, seeds)
    np.testing.assert_allclose(answer["draws"], np.swapaxes(draws, 0, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer["completion"], completion, rtol=1e-5, atol=1e-5)
    scored = loaded.signatures["log_likelihood"](target=tf.constant(~observed), **asked)
    want = made.log_likelihood(x, observed, ~observed, 3, seeds)
    np.testing.assert_allclose(scored["value"], want.value, rtol=1e-5, atol=1e-5)
    assert not scored["stderr"].numpy().any()


def test_a_table_of_levels_alone_is_drawn_from():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.integers(3, size=(60, 1)), 2, 1).astype(np.float32)  # Two that agree.
    method = GaussianMixtureConditioner((3,), bag=False)
    method.create_variables(DataSpec((2,), levels=(3, 3))).fit_rows(x, np.ones(x.shape, bool))
    observed = np.tile([True, False], (60, 1))
    draws = method.impute(x, observed, 4, [0, 1]).numpy()
    # By chance a third would agree: 240 draws above a half are five standard deviations off.
    assert np.mean(draws[..., 1] == x[:, 0]) > 0.5


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("value", [7.0, 1e6, 0.0])
def test_a_constant_column_is_drawn_as_its_value(strength, value):
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=40), np.full(40, value)], 1).astype(np.float32)
    method = GaussianMixtureConditioner((1,), strength=strength, bag=False)
    method.create_variables(DataSpec((2,)))
    method.fit_rows(x, np.ones(x.shape, bool))
    seen = np.array([[True, False]] * 3)
    np.testing.assert_array_equal(method.impute(x[:3], seen, 5, [0, 1])[..., 1], value)
    np.testing.assert_array_equal(method.complete(x[:3], seen, 5, [0, 1])[..., 1], value)
    moments = method.conditional_moments(x[:3], seen)
    np.testing.assert_allclose(moments.mean[:, 1], value, rtol=1e-12)
    # E[x^2] - E[x]^2 of a constant: float64's rounding.
    np.testing.assert_allclose(moments.variance[:, 1], 0.0, atol=1e-12 * max(1.0, value**2))


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_completions_stay_within_the_range_of_the_training_values(strength):
    rng = np.random.default_rng(1)
    a = np.exp(rng.normal(size=200))
    x = np.stack([a, (a > 1.0).astype(float), a + rng.normal(size=200)], 1).astype(np.float32)
    method = GaussianMixtureConditioner((2,), strength=strength, bag=False)
    method.create_variables(DataSpec((3,)))
    method.fit_rows(x, np.ones(x.shape, bool))
    asked = np.linspace(-60.0, 60.0, 41, dtype=np.float32)
    rows = np.stack([np.zeros(41), np.zeros(41), asked], 1).astype(np.float32)
    seen = np.array([[False, False, True]] * 41)
    done = method.complete(rows, seen, 5, [0, 1]).numpy()[:, :2]
    assert (done >= x[:, :2].min(0)).all() and (done <= x[:, :2].max(0)).all()
