"""Methods compared on the same stored questions."""

import json

import gin
import numpy as np
import pandas as pd
import pytest
from toy_conditioners import ClosedFormGaussian

from vae_arbcond import comparison, contestants, networks, runs
from vae_arbcond.conditioners import AmortisedStart, PosteriorMatching
from vae_arbcond.data.pipeline import make_splits
from vae_arbcond.data.sources import Source
from vae_arbcond.distributions import DiagonalGaussian, Normal
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.models import VAE

COVARIANCE = np.array([[1.0, 0.9, 0.8], [0.9, 1.0, 0.7], [0.8, 0.7, 1.0]])


@pytest.fixture(scope="module")
def splits():
    rows = np.random.default_rng(0).multivariate_normal(np.zeros(3), COVARIANCE, 400)
    return make_splits(Source("gauss", pd.DataFrame(rows, columns=list("abc"))), seed=1)


@pytest.fixture(scope="module")
def queries(splits):
    return comparison.draw_queries(splits.test, BernoulliMask(0.5), 60)


def gaussian(splits, scale=1.0):
    train = splits.train.x
    return ClosedFormGaussian(train.mean(0), scale * np.cov(train.T))


def run_of(splits):
    model = VAE(2, networks.mlp((4,)), DiagonalGaussian(2), networks.mlp((4,)), Normal(0.1))
    made = PosteriorMatching(model, networks.mlp((4,)), DiagonalGaussian(2))
    made.create_variables(splits.train.spec)
    return runs.LoadedRun("runs/pm", made, splits.train.schema, {}, "")


def test_the_better_method_has_the_better_scores(splits, queries):
    methods = {"true": gaussian(splits), "too wide": gaussian(splits, 9.0)}
    found = comparison.compare(methods, splits, queries)
    true, wide = found.scores["true"], found.scores["too wide"]
    assert true["log_likelihood_per_feature"] > wide["log_likelihood_per_feature"] + 0.3
    assert true["crps"] < wide["crps"] and true["diversity"] < wide["diversity"]
    assert abs(true["coverage_90"] - 0.9) < 0.1 < wide["coverage_90"] - 0.85
    # The best of 100 draws is better than the mean of all: an oracle's choice.
    assert true["nrmse_min"] < true["nrmse_mean"]
    assert true["seconds_a_query"] > 0.0
    assert set(true) <= set(comparison.COLUMNS) | {
        "log_likelihood_user_units",
        "log_likelihood_per_row",
        "non_finite_samples",
    }


def test_the_same_seed_gives_the_same_scores(splits, queries):
    once, again = (
        comparison.compare({"m": gaussian(splits)}, splits, queries).scores["m"]
        for _ in range(2)
    )
    timed = ("seconds_a_query", "seconds_to_compile")
    assert all(once[k] == again[k] for k in once if k not in timed)


def test_stored_questions_come_back_and_others_are_refused(splits, queries, tmp_path):
    path = tmp_path / "queries.npz"
    queries.save(path)
    again = comparison.Queries.load(path, splits.test)
    for one, two in zip(queries, again, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="of other data"):
        comparison.Queries.load(path, splits.train)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold queries: it has a instead"):
        comparison.Queries.load(tmp_path / "other.npz", splits.test)


def test_every_question_asks_something(splits):
    found = comparison.draw_queries(splits.test, BernoulliMask(0.95), 20)
    assert len(found.rows) <= 20 and found.scored.any(1).all()
    with pytest.raises(ValueError, match="nothing to ask"):
        comparison.draw_queries(splits.test, BernoulliMask(1.0), 20)


def test_methods_are_found_by_name(splits):
    made = contestants.named(
        ["FillZeros", "semi_amortised", "closed_form"], run_of(splits), splits.train
    )
    assert list(made) == ["FillZeros", "semi_amortised", "closed_form"]


def test_methods_around_one_model_answer_the_same_questions(splits):
    queries = comparison.draw_queries(splits.test, BernoulliMask(0.5), 5)
    names = ["FillZeros", "semi_amortised"]
    made = contestants.named(names, run_of(splits), splits.train)
    found = comparison.compare(made, splits, queries, 20)
    assert all(found.scores[name]["log_likelihood_stderr"] >= 0.0 for name in names)
    # Thirty steps end before a search converges, and the reader is told.
    assert found.scores["semi_amortised"]["steps_a_query"] <= 30.0
    assert found.scores["semi_amortised"]["converged"] < 0.9
    assert "Searches of semi_amortised ran out of steps" in str(found)
    assert "No coverage: no column has 50" in str(found)
    # Of 20 draws no k can be told: a dash here, null in the file, which has no NaN.
    assert found.to_dict()["scores"]["FillZeros"]["pareto_k_above_0.7"] is None
    assert "take 25 or more" in str(found)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "Nothing",
            r"There is no method 'Nothing'\. There are closed_form, .*FillZeros.*, and",
        ),
        ("BernoulliMask", "There is no method 'BernoulliMask'"),
        ("queryadaptiv", "Did you mean QueryAdaptive"),
        ("runs/none", "It is no directory and so no run"),
        ("PosteriorMatching", "needs more than a model"),
        ("GAIN", "GAIN has no decoder to be given: it is trained whole"),
    ],
)
def test_an_unknown_method_is_named(splits, name, says):
    with pytest.raises(ValueError, match=says):
        contestants.named([name], run_of(splits), splits.train)


def test_a_method_that_would_answer_untrained_is_refused(splits):
    # As where the run's own configuration binds the networks of another PosteriorMatching.
    gin.bind_parameter("PosteriorMatching.partial_encoder", networks.mlp((4,)))
    gin.bind_parameter("PosteriorMatching.partial_posterior_head", DiagonalGaussian(2))
    with pytest.raises(ValueError, match="would answer untrained"):
        contestants.named(["PosteriorMatching"], run_of(splits), splits.train)


def test_a_part_of_another_kind_is_told_as_such(splits):
    gin.bind_parameter("QueryAdaptive.family", "gaussian")
    with pytest.raises(ValueError, match=r"^QueryAdaptive: QueryAdaptive.family is one of"):
        contestants.named(["QueryAdaptive"], run_of(splits), splits.train)


def test_settings_that_do_not_go_around_a_model_are_told_apart(splits):
    gin.bind_parameter("QueryAdaptive.start", AmortisedStart(run_of(splits).conditioner))
    with pytest.raises(ValueError, match=r"plain/QueryAdaptive.*semi_amortised starts at"):
        contestants.named(["QueryAdaptive"], run_of(splits), splits.train)


def test_methods_by_name_know_the_training_rows(splits):
    gin.bind_parameter("FillZeros.fill_mean", True)
    made = contestants.named(["FillZeros"], run_of(splits), splits.train)["FillZeros"]
    np.testing.assert_allclose(made.fill, splits.train.x.mean(0), atol=1e-5)


def test_a_run_without_a_model_of_its_own_is_refused(splits):
    run = runs.LoadedRun("runs/exact", gaussian(splits), splits.train.schema, {}, "")
    for name in ("FillZeros", "semi_amortised"):
        with pytest.raises(ValueError, match="ClosedFormGaussian has none"):
            contestants.named([name], run, splits.train)


def test_too_few_samples_are_refused(splits, queries):
    with pytest.raises(ValueError, match="20 or more for 90 % intervals; got 5"):
        comparison.compare({"m": gaussian(splits)}, splits, queries, 5)


def test_a_comparison_is_printed_drawn_and_kept_as_json(splits, queries, tmp_path):
    methods = {"true": gaussian(splits)} | contestants.named(
        ["marginals"], run_of(splits), splits.train
    )
    found = comparison.compare(methods, splits, queries)
    lines = str(found).splitlines()
    assert lines[0].split()[:2] == ["log", "p"] and lines[2].startswith("true ")
    # What a method has not is a dash: marginals have no likelihood here.
    assert lines[3].split()[:2] == ["marginals", "-"]
    found.picture(tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(json.dumps(found.to_dict()))["conditions"]["queries"] == 60
