"""Classical imputers: draws that keep what is observed, and what they refuse."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
from contract import example_inputs

from vae_arbcond import baselines, evaluation
from vae_arbcond.data.pipeline import make_splits
from vae_arbcond.data.sources import Source
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.shapes import DataSpec

LEVELS = DataSpec((4,), levels=(3, 0, 2, 0))
needs_miceforest = pytest.mark.skipif(
    importlib.util.find_spec("miceforest") is None, reason="the extra benchmarks is not here"
)


def rows(number, seed):
    """Columns that nearly equal each other, half of their cells hidden."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, 1)) + 0.2 * rng.normal(size=(number, 3))
    return x.astype(np.float32), rng.random(x.shape) < 0.5


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    """Time, not quality, is what the tests are short of."""
    monkeypatch.setattr(baselines, "TREES", 20)
    monkeypatch.setattr(baselines, "FOREST_ROUNDS", 2)


@pytest.mark.parametrize("name", baselines.NAMES)
def test_draws_keep_what_is_observed_and_the_seed_decides_them(name):
    train, x = rows(60, 0), rows(9, 1)
    ask = [name, *train, np.where(x[1], x[0], np.nan), x[1], DataSpec((3,)), 4]
    draws = baselines.impute(*ask, seed=0)
    assert draws.shape == (4, 9, 3) and draws.dtype == np.float32
    assert np.isfinite(draws).all()
    for draw in draws:
        np.testing.assert_array_equal(draw[x[1]], x[0][x[1]])
    np.testing.assert_array_equal(baselines.impute(*ask, seed=0), draws)
    if name != "missforest":  # It has one answer.
        assert not np.array_equal(baselines.impute(*ask, seed=1), draws)
        assert not np.array_equal(draws[0], draws[1])


def test_regressions_use_what_is_observed_and_marginals_do_not():
    train, (x, observed) = rows(200, 0), rows(200, 1)
    errors = {}
    for name in baselines.NAMES:
        draws = baselines.impute(name, *train, x, observed, DataSpec((3,)), 10, 0)
        off = baselines.completion(draws, DataSpec((3,))) - x
        errors[name] = np.sqrt(np.mean(off[~observed] ** 2))
    # With one or two of three near-copies seen, most of the standard deviation of 1 goes.
    assert errors["mice"] < 0.75 and errors["missforest"] < 0.75 < 0.9 < errors["marginals"]


def test_the_most_frequent_level_and_the_mean_make_a_completion():
    draws = np.array([[[0.0, 1.0]], [[2.0, 3.0]], [[2.0, 5.0]]])
    done = baselines.completion(draws, DataSpec((2,), levels=(3, 0)))
    np.testing.assert_array_equal(done, [[2.0, 3.0]])


def test_naive_bayes_is_a_product_of_shares():
    train = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    present = np.array([[True, True], [True, True], [True, False]])
    got = baselines.naive_bayes_log_likelihood(
        train, present, np.array([[1.0, 1.0]] * 2), np.array([[True, True], [True, False]])
    )
    # 2 of 3 and 1 of 2 are 1, with one more of each: 3/5 and 2/4.
    np.testing.assert_allclose(got, np.log([0.6 * 0.5, 0.6]))


@needs_miceforest
@pytest.mark.parametrize("name", ["mice", "missforest"])
def test_levels_are_drawn_as_levels(name):
    x, present = example_inputs(LEVELS, rows=60)
    present[:, 2] = True  # A column without gaps in training may have gaps later.
    asked, observed = example_inputs(LEVELS, rows=9, seed=1)
    draws = baselines.impute(name, x, present, asked, observed, LEVELS, 3, 0)
    again = baselines.impute(name, x, present, asked, observed, LEVELS, 3, 0)
    np.testing.assert_array_equal(draws, again)
    assert set(np.unique(draws[..., 0])) <= {0.0, 1.0, 2.0}
    assert np.isfinite(draws).all()


def test_what_cannot_be_imputed_is_refused_in_a_sentence(monkeypatch):
    x, observed = rows(9, 0)
    plain = x, observed, x, observed
    with pytest.raises(ValueError, match="no baseline 'knn'"):
        baselines.impute("knn", *plain, DataSpec((3,)), 2, 0)
    with pytest.raises(ValueError, match="There are mice"):
        baselines.named(["mice", "MICE"])
    with pytest.raises(ValueError, match="completes tables"):
        baselines.impute("mice", *plain, DataSpec((3, 1)), 2, 0)
    with pytest.raises(ValueError, match="No training row has a value"):
        baselines.impute("mice", x, observed & False, x, observed, DataSpec((3,)), 2, 0)
    monkeypatch.setitem(sys.modules, "miceforest", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    x, observed = example_inputs(LEVELS)
    with pytest.raises(ImportError, match=r"pip install '.\[benchmarks\]'"):
        baselines.impute("mice", x, observed, x, observed, LEVELS, 2, 0)
    with pytest.raises(ValueError, match=r"pip install '.\[benchmarks\]'"):
        baselines.check_available(["marginals", "mice"], LEVELS)
    baselines.check_available(["marginals"], LEVELS)
    baselines.check_available(["mice"], DataSpec((3,)))


def test_a_baseline_is_printed_beside_the_model_and_asked_the_same():
    x, _ = rows(160, 0)
    splits = make_splits(Source("toy", pd.DataFrame(x, columns=list("abc"))), seed=0)
    fitted = baselines.Baseline("marginals", splits.train)
    report = evaluation.evaluate(
        fitted,
        splits,
        BernoulliMask(0.5),
        20,
        seeds=(0,),
        beside=baselines.named(["marginals", "mice"]),
    )
    assert report.beside["marginals"] == report.scores
    assert report.beside["mice"]["nrmse_mean"] < report.scores["nrmse_mean"]
    assert "mice, fitted to the same rows, is better: NRMSE" in str(report)
    with pytest.raises(TypeError, match="Baseline has no likelihood to estimate"):
        evaluation.evaluate(
            fitted, splits, BernoulliMask(0.5), 20, likelihood=lambda *question: None
        )
