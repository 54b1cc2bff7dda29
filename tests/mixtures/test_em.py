"""EM on rows with gaps: the climb, what it finds, chunks, K-means, marginals."""

import numpy as np
import pytest
import tensorflow as tf

from vae_arbcond.mixtures import algebra, em, factors, fitting, marginals, noise, rows, search
from vae_arbcond.mixtures.rows import Columns, Rows
from vae_arbcond.shapes import DataSpec

MIXED = Columns.of(DataSpec((6,), levels=(0, 3, 0, 2, 0, 0), counts=(0, 0, 0, 0, 2.0, 0)))


def clusters(num_rows, share=0.3, seed=0):
    """Rows of a mixed table around two centres, with gaps: a `Table`."""
    rng = np.random.default_rng(seed)
    kind = rng.random(num_rows) < 0.4
    mix = rng.normal(size=[3, 3])
    g = rng.normal(size=[num_rows, 3]) @ mix + np.where(kind, 2.0, -1.0)[:, None]
    x = np.zeros([num_rows, 6])
    x[:, [0, 2, 5]] = g
    x[:, 1] = np.where(rng.random(num_rows) < 0.8, 2 * kind, rng.integers(3, size=num_rows))
    x[:, 3] = rng.random(num_rows) < np.where(kind, 0.9, 0.2)
    x[:, 4] = rng.poisson(np.where(kind, 6.0, 1.0))
    observed = rng.random(x.shape) >= share
    x = tf.constant(np.where(observed, x, 0.0), tf.float32)
    return fitting.Table.of(rows.read(x, tf.constant(observed), MIXED, lambda v: v), MIXED)


def nothing_pulls(table):
    empty = em.discrete_shrinkage(fitting.Settings(levels=0.0, rate=0.0, weight=0.0), table)
    return empty


def start(table, components, seed=0):
    rng = np.random.default_rng(seed)
    owner = rng.integers(components, size=len(table))
    mixture = fitting.start_discrete(table, np.eye(components)[owner].T)
    size = table.rows.g.shape[1]
    return mixture._replace(means=rng.normal(size=[components, size]))


def never_falls(objective):
    climb = np.diff(objective)
    # Sums of thousands of nats in float64.
    assert climb.min() > -1e-8 * abs(objective[0]), climb.min()
    assert objective[-1] > objective[0]


def test_without_shrinkage_the_likelihood_never_falls():
    table = clusters(300)
    parts = em.chunks(table.rows, 3)
    pull = nothing_pulls(table)
    _, objective = em.climb(start(table, 3), parts, pull, MIXED, 60, tolerance=-1.0)
    assert len(objective) == 60
    never_falls(objective)


def test_the_objective_without_shrinkage_is_the_log_likelihood():
    table = clusters(200)
    mixture = start(table, 2)
    pull = nothing_pulls(table)
    _, objective = em.climb(mixture, em.chunks(table.rows, 2), pull, MIXED, 1)
    assert objective[0] == pytest.approx(em.log_density(mixture, table.rows).sum(), rel=1e-12)


def test_with_shrinkage_the_stated_objective_never_falls():
    table = clusters(200)
    size = table.rows.g.shape[1]
    pull = em.discrete_shrinkage(fitting.Settings(levels=3.0, rate=2.0), table)._replace(
        covariance=7.0, target=0.5 * np.eye(size), mean=2.0, center=np.full(size, 0.3)
    )
    parts = em.chunks(table.rows, 3)
    found, objective = em.climb(start(table, 3), parts, pull, MIXED, 60, tolerance=-1.0)
    never_falls(objective)
    # At the top: moving any parameter a little is worse.
    top = objective_of(found, table, pull)
    for name in ("means", "log_rates"):
        for change in (1e-3, -1e-3):
            moved = found._replace(**{name: getattr(found, name) + change})
            assert objective_of(moved, table, pull) < top
    for factor in (1.001, 0.999):
        moved = found._replace(covariances=found.covariances * factor)
        assert objective_of(moved, table, pull) < top


def test_a_step_takes_the_best_levels_and_weights_of_those_on_their_simplex():
    table = clusters(200)
    settings = fitting.Settings(levels=3.0, rate=2.0, weight=4.0)
    pull = em.discrete_shrinkage(settings, table)
    mixture, parts = start(table, 3), em.chunks(table.rows, 3)
    best, _ = em.climb(mixture, parts, pull, MIXED, 1)
    sums = em.expectations(mixture, parts)

    def expected(at):
        """What the step maximises, as far as it depends on levels and weights."""
        value = tf.reduce_sum(sums.levels * at.log_levels) + em.log_prior(at, pull)
        return float(value + tf.reduce_sum(sums.weight * at.log_weights))

    groups = em.level_groups(MIXED)
    for change in (1.01, 0.99):
        for k, level in np.ndindex(*best.log_levels.shape):
            shares = np.exp(best.log_levels)
            shares[k, level] *= change
            moved = best._replace(log_levels=np.log(shares / (shares @ groups)))
            assert expected(moved) < expected(best)
        for k in range(3):
            shares = np.exp(best.log_weights)
            shares[k] *= change
            moved = best._replace(log_weights=np.log(shares / shares.sum()))
            assert expected(moved) < expected(best)


def objective_of(mixture, table, pull):
    return em.log_density(mixture, table.rows).sum() + em.log_prior(mixture, pull)


def test_the_objective_of_factor_analysers_never_falls():
    table = clusters(300)
    first, _ = fitting.fit_gaussian(table, fitting.Settings())
    for components, settings in (
        (1, fitting.Settings()),
        (3, fitting.Settings(steps=20)),
        (3, fitting.Settings(steps=20, loadings=0.0, mean=0.0, variances=0.0)),
    ):
        *_, objective = factors.fit_factors(table, components, 2, first, settings, seed=1)
        never_falls(objective)


def test_factor_analysers_and_their_dense_mixture_have_the_same_density():
    table = clusters(100)
    settings = fitting.Settings(steps=3)
    first, _ = fitting.fit_gaussian(table, settings)
    found, rest, _ = factors.fit_factors(table, 2, 2, first, settings, seed=1)
    dense = rest._replace(
        log_weights=found.log_weights,
        means=found.means,
        covariances=factors.covariances(found),
    )
    read = em.constants(table.rows)
    solved = factors.latent(found, read.g, read.observed)
    joint = found.log_weights[:, None] + solved.log_density
    joint += em.discrete_log_density(rest, read)
    want = em.log_density(dense, table.rows)
    np.testing.assert_allclose(tf.reduce_logsumexp(joint, 0), want, rtol=1e-9, atol=1e-9)


def test_one_factor_analyser_takes_the_steps_it_is_given():
    table = clusters(100)
    first, _ = fitting.fit_gaussian(table, fitting.Settings())
    for steps in (1, 4):
        settings = fitting.Settings(steps=steps)
        *_, objective = factors.fit_factors(table, 1, 2, first, settings, seed=1)
        assert len(objective) == 2 * steps


@pytest.mark.parametrize("levels", [0.0, 20.0])
def test_levels_of_one_factor_analyser_are_shrunk_by_as_many_rows_as_asked(levels):
    table = clusters(100)
    settings = fitting.Settings(levels=levels, steps=1)
    first, _ = fitting.fit_gaussian(table, settings)
    _, rest, _ = factors.fit_factors(table, 1, 2, first, settings, seed=1)
    counts = table.rows.levels.sum(0) + levels * table.frequencies
    want = counts / (counts @ em.level_groups(MIXED))
    np.testing.assert_allclose(np.exp(rest.log_levels[0]), want, rtol=1e-9)


def real_table(x, observed):
    nothing = np.zeros([len(x), 0])
    columns = Columns.of(DataSpec((x.shape[1],)))
    g = np.where(observed, x, 0.0)
    return fitting.Table.of(Rows(g, observed, nothing, nothing, nothing), columns)


def test_em_recovers_a_gaussian_within_three_standard_errors():
    rng = np.random.default_rng(0)
    root = rng.normal(size=[4, 4])
    mean, covariance = rng.normal(size=4), root @ root.T + 0.3 * np.eye(4)
    count, share = 4000, 0.3
    x = rng.multivariate_normal(mean, covariance, count)
    table = real_table(x, rng.random(x.shape) >= share)
    pull = nothing_pulls(table)
    parts = em.chunks(table.rows, 1)
    found, _ = em.climb(start(table, 1), parts, pull, table.columns, 100, tolerance=1e-9)
    # Standard errors of available-case moments; those of the likelihood are smaller.
    spread = np.sqrt(np.diag(covariance) / (count * (1 - share)))
    assert (np.abs(found.means[0] - mean) < 3 * spread).all()
    both = count * (1 - share) ** 2
    spread = np.sqrt(
        (covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / both
    )
    assert (np.abs(found.covariances[0] - covariance) < 3 * spread).all()


def test_em_on_complete_rows_is_the_sample_mean_and_covariance():
    rng = np.random.default_rng(1)
    x = rng.normal(size=[200, 3]) @ rng.normal(size=[3, 3])
    table = real_table(x, np.ones(x.shape, bool))
    parts = em.chunks(table.rows, 1)
    assert len(parts) == 1 and parts[0].packed.index.shape[0] == 1  # One solve for all rows.
    found, _ = em.climb(start(table, 1), parts, nothing_pulls(table), table.columns, 3)
    np.testing.assert_allclose(found.means[0], x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.covariances[0], np.cov(x.T, bias=True), rtol=1e-8)


def test_a_mixture_is_recovered_within_three_standard_errors():
    rng = np.random.default_rng(2)
    count, share = 3000, 0.3
    kind = rng.random(count) < 0.35
    means = np.array([[-2.0, 0.0, 1.0], [2.5, 1.0, -1.0]])
    x = rng.normal(size=[count, 3]) + means[kind.astype(int)]
    table = real_table(x, rng.random(x.shape) >= share)
    settings = fitting.Settings()
    first, _ = fitting.fit_gaussian(table, settings)
    found, _ = fitting.fit_mixture(table, 2, first, settings, seed=0)
    order = np.argsort(found.means[:, 0])
    weights = np.exp(found.log_weights)[order]
    assert abs(weights[1] - 0.35) < 3 * np.sqrt(0.35 * 0.65 / count)
    rows_seen = count * np.array([0.65, 0.35]) * (1 - share)
    error = np.abs(found.means.numpy()[order] - means)
    assert (error < 3 / np.sqrt(rows_seen)[:, None]).all()


def test_chunks_change_nothing(monkeypatch):
    table = clusters(150)
    mixture = start(table, 2)
    want = em.expectations(mixture, em.chunks(table.rows, 2))
    monkeypatch.setattr(em, "CHUNK_NUMBERS", 100)
    many = em.chunks(table.rows, 2)
    assert len(many) > 10
    assert sorted(np.concatenate([c.numbers for c in many])) == list(range(len(table)))
    for one, two in zip(em.expectations(mixture, many), want, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def test_rows_that_share_a_pattern_are_solved_as_if_alone(monkeypatch):
    table = clusters(200)
    table.rows.observed[:100] = table.rows.observed[0]
    table.rows.g[:100] *= table.rows.observed[0]
    mixture = start(table, 2)
    want = em.expectations(mixture, em.chunks(table.rows, 2))
    monkeypatch.setattr(em, "SHARED", 10_000)
    for one, two in zip(em.expectations(mixture, em.chunks(table.rows, 2)), want, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_conditional_moments_agree_with_numpy_whichever_features_are_fewer(share):
    rng = np.random.default_rng(0)
    root = rng.normal(size=[2, 7, 7])
    s = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(7)
    observed = rng.random([9, 7]) < share
    observed[0] &= share != 0.2  # Nothing,
    observed[1] |= share == 0.8  # and all.
    x, means = tf.constant(rng.normal(size=[9, 7])), tf.constant(rng.normal(size=[2, 7]))
    found = algebra.condition(algebra.gaussians(means, s), x, observed)
    solved = algebra.solve(means, s, x, observed, algebra.pack(observed))
    np.testing.assert_allclose(found.log_density, solved.log_density, rtol=1e-9)
    alone = algebra.log_density(means, s, x, observed)
    np.testing.assert_allclose(alone, solved.log_density, rtol=1e-9)
    want = np.where(observed, 0.0, algebra.conditional_means(means, s, solved))
    got = algebra.unpack(found.means, found.hidden)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    got = algebra.unpack(found.variances, found.hidden)
    for k, row in np.ndindex(2, 9):
        o = observed[row]
        c = s[k] - s[k][:, o] @ np.linalg.inv(s[k][np.ix_(o, o)]) @ s[k][o]
        np.testing.assert_allclose(got[k, row], np.diag(c), rtol=1e-8, atol=1e-8)


def test_the_search_prefers_two_components_where_there_are_two_and_one_where_one():
    settings = fitting.Settings()
    for x, want in (
        (np.random.default_rng(0).normal(size=[300, 3]), 1),
        (
            np.random.default_rng(0).normal(size=[300, 3]) + 4 * (np.arange(300) % 2)[:, None],
            2,
        ),
    ):
        table = real_table(x, np.random.default_rng(1).random(x.shape) >= 0.2)
        found = search.search(table, (1, 2, 4), 3, True, settings, 0)
        assert found.components == want
        assert len(found.mixture.log_weights) == 4 * want  # Three folds and all rows.
        assert np.exp(found.mixture.log_weights).sum() == pytest.approx(1.0)


def test_repeats_have_folds_and_starts_of_their_own_and_all_join_the_bag():
    x = np.random.default_rng(0).normal(size=[60, 2]) + 4 * (np.arange(60) % 2)[:, None]
    table = real_table(x, np.ones(x.shape, bool))
    asked = (table, (2,), 3, True, fitting.Settings(), 0)
    once, twice = search.search(*asked), search.search(*asked, repeats=2)
    assert (len(once.mixture.means), len(twice.mixture.means)) == (8, 16)
    # Folds of the first repeat, then those of the second, then fits of all rows.
    first, second = twice.mixture.means[:6], twice.mixture.means[6:12]
    np.testing.assert_array_equal(first, once.mixture.means[:6])
    assert not np.isclose(second, first).any()
    assert once.scores[2] != twice.scores[2]


def test_a_fold_hides_half_of_the_cells_of_every_kind_and_counts_them():
    table = clusters(600)
    seen, number = search.hide(table.rows, table, np.random.default_rng(0))
    hidden = 0
    for before, after in (
        (table.rows.observed, seen.observed),
        (table.rows.levels, seen.levels),
        (table.rows.counted, seen.counted),
    ):
        before, after = before.astype(float), after.astype(float)
        assert (after <= before).all()
        hidden = hidden + (before - after).sum(1)
        # Five standard errors of a share of at least 400 cells: 6e-7 false alarms each.
        bound = 5 * 0.5 / np.sqrt(before.sum())
        assert abs(after.sum() / before.sum() - (1 - search.HIDDEN)) < bound
    np.testing.assert_array_equal(number, hidden)
    assert not seen.g[~seen.observed].any() and not seen.counts[seen.counted == 0].any()


def test_a_score_that_is_not_a_number_is_refused():
    table = real_table(np.random.default_rng(0).normal(size=[40, 2]), np.ones([40, 2], bool))

    def astray(table, components, first, settings, seed):
        return first._replace(means=np.full([1, 2], np.nan)), []

    with pytest.raises(ValueError, match="score of 1 components is not a number"):
        search.search(table, (1, 2), 2, True, fitting.Settings(), 0, astray)


def test_k_means_finds_clusters_and_repeats_itself():
    rng = np.random.default_rng(0)
    points = rng.normal(size=[200, 2]) + 20 * (np.arange(200) % 4)[:, None]
    owner = fitting.k_means(points, 4, seed=1)
    assert all(len(set(owner[i::4])) == 1 for i in range(4)) and len(set(owner)) == 4
    np.testing.assert_array_equal(fitting.k_means(points, 4, seed=1), owner)
    assert len(fitting.k_means(np.zeros([5, 2]), 3, seed=0)) == 5  # All points the same.


class TestMarginals:
    def column(self, kind, count=400):
        rng = np.random.default_rng(0)
        return {
            "normal": rng.normal(size=count),
            "skewed": np.exp(rng.normal(size=count)),
            "tied": np.maximum(rng.normal(size=count), 0.0),
            "two values": (rng.random(count) < 0.3).astype(float),
            "three values": rng.integers(3, size=count).astype(float),
            "huge": 1e12 * rng.normal(size=count),
            "tiny": 1e-12 * rng.normal(size=count),
        }[kind]

    def fit(self, kind, strength=0.5):
        x = self.column(kind)[:, np.newaxis]
        return x, marginals.fit_marginals(x, np.ones(x.shape, bool), strength)

    KINDS = ("normal", "skewed", "tied", "two values", "three values", "huge", "tiny")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("strength", [0.0, 0.5, 0.9])
    def test_the_inverse_undoes_the_map_inside_and_outside_of_the_range(self, kind, strength):
        x, maps = self.fit(kind, strength)
        scale = x.std()
        at = np.concatenate(
            [
                x[:50],
                x.min() - scale * np.arange(1, 4)[:, None],
                5 * x.max()[None, None] + scale,
            ]
        )
        g = marginals.to_g(maps, at).numpy()
        np.testing.assert_allclose(marginals.to_x(maps, g), at, rtol=1e-9, atol=1e-9 * scale)
        order = np.argsort(at[:, 0], kind="stable")
        assert (np.diff(g[order, 0])[np.diff(at[order, 0]) > 0] > 0).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_g_is_standardised_and_the_slope_is_the_derivative(self, kind):
        x, maps = self.fit(kind)
        g = marginals.to_g(maps, x).numpy()
        assert abs(g.mean()) < 0.05 and abs(g.std() - 1) < 0.05
        # Between two knots, each: at a knot the two sides differ.
        at = 0.5 * (maps.knots[:, 1:] + maps.knots[:, :-1]).T
        step = 1e-7 * x.std()
        rise = (marginals.to_g(maps, at + step) - marginals.to_g(maps, at - step)).numpy()
        slope = np.exp(marginals.log_slope(maps, at).numpy())
        # A difference of 1e-7 of numbers of about 1 in float64: 1e-8 of it is rounding.
        np.testing.assert_allclose(rise / (2 * step), slope, rtol=1e-5)

    def test_ranks_bring_a_skewed_column_nearer_to_a_gaussian(self):
        x, half = self.fit("skewed")
        _, whole = self.fit("skewed", 0.9)

        def skew(v):
            return np.mean(((v - v.mean()) / v.std()) ** 3)

        g, h = (marginals.to_g(m, x).numpy() for m in (half, whole))
        assert skew(x) > 2 * skew(g) > 4 * skew(h) > -1

    def test_equal_values_have_their_mid_rank(self):
        values = np.sort([0.0] * 6 + [1.0, 2.0, 3.0, 4.0])
        score = marginals.normal_scores(np.array([0.0]), values)[0]
        assert score == pytest.approx(float(tf.math.ndtri(tf.constant(0.3, tf.float64))))

    def test_a_clipped_inverse_stays_in_the_range_of_the_values(self):
        x, maps = self.fit("skewed")
        got = marginals.to_x(maps, np.array([[-50.0], [50.0]]), clip=True).numpy()
        spare = marginals.HALF_WIDTH * x.std() * 1.01
        assert x.min() - spare <= got.min() and got.max() <= x.max() + spare

    @pytest.mark.parametrize("kind", KINDS)
    def test_moments_through_the_inverse_agree_with_numerical_integration(self, kind):
        x, maps = self.fit(kind)
        means = np.linspace(-4.0, 4.0, 9)[:, np.newaxis]
        scales = np.array([1e-3, 0.05, 0.7, 3.0])[:, np.newaxis, np.newaxis]
        got = marginals.expected_x(maps, means, tf.constant(scales) + 0.0 * means)
        z = np.linspace(-9.0, 9.0, 100_001)[:, np.newaxis]
        weight = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
        for i, scale in enumerate(scales[:, 0, 0]):
            for j, mean in enumerate(means[:, 0]):
                at = marginals.to_x(maps, mean + scale * z, clip=True).numpy()
                for power, value in enumerate(got, 1):
                    want = np.sum(weight * at**power)
                    # The trapezoidal rule is off by 1e-8 at kinks 2e-4 apart.
                    unit = np.abs(x).max() ** power
                    np.testing.assert_allclose(value[i, j, 0], want, rtol=0, atol=1e-6 * unit)

    def test_moments_of_a_gaussian_without_spread_are_those_of_its_value(self):
        _, maps = self.fit("skewed")
        means = np.linspace(-3.0, 3.0, 7)[:, np.newaxis]
        at = marginals.to_x(maps, means, clip=True)
        got = marginals.expected_x(maps, means, tf.zeros([7, 1], tf.float64))
        np.testing.assert_allclose(got[0], at, rtol=1e-12)
        np.testing.assert_allclose(got[1], at**2, rtol=1e-12)

    @pytest.mark.parametrize("kind", KINDS)
    def test_tabulated_means_are_near_the_exact_ones(self, kind):
        x, maps = self.fit(kind)
        rng = np.random.default_rng(1)
        means, scales = rng.normal(size=[500, 1]), rng.uniform(0.05, 1.3, size=[500, 1])
        want, _ = marginals.expected_x(maps, tf.constant(means), tf.constant(scales))
        column = np.zeros([500, 1], np.int32)
        got = marginals.look_up(maps, marginals.tabulate(maps), column, means, scales)
        error = np.abs(got - want) / x.std()
        # Linear between points of a grid: largest where the inverse bends. Measured .0024.
        assert error.max() < 5e-3 and error.mean() < 5e-4

    def test_columns_without_spread_keep_their_scale(self):
        x = np.column_stack([np.full(5, 3.0), np.arange(5.0), np.arange(5.0)])
        present = np.ones(x.shape, bool)
        present[:, 2] = False
        maps = marginals.fit_marginals(x, present)
        g = marginals.to_g(maps, np.array([[4.0, 2.0, 0.5]])).numpy()[0]
        # The constant 3 is at 0, its scale is its size; the empty column is left as it is.
        np.testing.assert_allclose(g[[0, 2]], [1 / 3, 0.5], atol=1e-9)

    def test_a_strength_out_of_range_is_refused(self):
        for strength in (-0.1, 1.0):
            with pytest.raises(ValueError, match=r"in \[0, 1\)"):
                marginals.fit_marginals(np.zeros([2, 1]), np.ones([2, 1], bool), strength)


def test_poisson_quantiles_draw_a_poisson():
    at = (np.arange(20_000) + 0.5) / 20_000
    for rate in (0.1, 3.0, 250.0):
        drawn = noise.poisson_quantile(
            tf.constant(at), tf.fill([20_000], tf.constant(rate, tf.float64))
        )
        assert np.mean(drawn) == pytest.approx(rate, rel=5e-3)
        assert np.var(drawn) == pytest.approx(rate, rel=2e-2)
