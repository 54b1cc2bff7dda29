"""evaluate(): its numbers are those of the metrics; baseline and sentences are right."""

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from toy_conditioners import ClosedFormGaussian

from vae_arbcond import evaluation, metrics, scoring
from vae_arbcond.conditioners import ArbitraryConditioner
from vae_arbcond.data.pipeline import make_splits
from vae_arbcond.data.sources import Source, digits_images
from vae_arbcond.floor import candidates, fit_floor
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.shapes import DataSpec

COVARIANCE = np.array([[1.0, 0.9, 0.8], [0.9, 1.0, 0.7], [0.8, 0.7, 1.0]])


def gaussian_splits(num_rows=900):
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal(np.zeros(3), COVARIANCE, num_rows)
    return make_splits(Source("gauss", pd.DataFrame(rows, columns=list("abc"))), seed=1)


def exact_method(splits):
    train = splits.train.x
    return ClosedFormGaussian(train.mean(0), np.cov(train.T))


class Constant(ArbitraryConditioner):
    """Fills every hole with the same number: as good as mean imputation, and no better."""

    def _impute(self, x, observed, num_samples, seed):
        return tf.zeros([num_samples, *x.shape])

    def loss_terms(self, x, present, observed, seed, step, training):
        return {}


def test_the_true_conditional_scores_as_theory_says():
    splits = gaussian_splits()
    report = evaluation.evaluate(exact_method(splits), splits, BernoulliMask(0.5))
    # 225 rows x 1.5 cells x 3 masks: standard error of the coverage about 0.012; four of them.
    assert abs(report.scores["coverage_90"] - 0.9) < 0.05
    assert report.scores["nrmse_mean"] < 0.75 * report.baseline["nrmse_mean"]
    assert report.scores["crps"] < report.baseline["crps"]
    assert report.scores["log_likelihood_stderr"] == 0.0
    assert "below that of mean/mode imputation" in str(report)


def test_scores_are_those_of_the_metrics_on_the_same_question():
    splits = gaussian_splits()
    method = exact_method(splits)
    report = evaluation.evaluate(method, splits, BernoulliMask(0.5), 100, seeds=(5,))
    x = splits.test.x
    observed = BernoulliMask(0.5)(x, splits.test.present, tf.constant([5, 0])).numpy()
    done = method.complete(x, observed, 100, [0, 2]).numpy()
    want = metrics.nrmse_mean(x, done, ~observed, x.std(0))
    assert report.scores["nrmse_mean"] == pytest.approx(want, rel=1e-6)
    guess = np.where(observed, x, splits.train.x.mean(0))
    want = metrics.nrmse_mean(x, guess, ~observed, x.std(0))
    assert report.baseline["nrmse_mean"] == pytest.approx(want, rel=1e-6)


def test_likelihoods_in_the_users_units_differ_by_the_jacobian():
    splits = gaussian_splits()
    report = evaluation.evaluate(exact_method(splits), splits, BernoulliMask(0.5))
    # Columns have standard deviation about 1, so the two differ little but do differ.
    gap = (
        report.scores["log_likelihood_user_units"]
        - report.scores["log_likelihood_per_feature"]
    )
    scales = [column.scale for column in splits.train.schema.columns]
    assert gap == pytest.approx(-np.mean(np.log(scales)), abs=0.02)
    assert gap != 0.0
    # Half of the columns of a row are hidden.
    x = splits.test.x
    hidden = [
        (~BernoulliMask(0.5)(x, splits.test.present, tf.constant([seed, 0])).numpy()).sum()
        for seed in (0, 1, 2)
    ]
    rounds = [
        evaluation.evaluate(exact_method(splits), splits, BernoulliMask(0.5), seeds=(seed,))
        for seed in (0, 1, 2)
    ]
    want = [
        r.scores["log_likelihood_user_units"] * n / len(x)
        for r, n in zip(rounds, hidden, strict=True)
    ]
    assert report.scores["log_likelihood_per_row"] == pytest.approx(np.mean(want), rel=1e-5)


def test_a_column_that_is_constant_in_the_test_rows_alone_is_not_scored():
    # As the corner pixels of digits: in float32 the deviation of equal numbers is not 0.
    values = np.full(333, 0.123, np.float32)
    assert values.std() > 0.0
    assert scoring._std(values) == scoring._std(values[:0]) == 0.0
    assert scoring._std(np.array([1.0, 3.0])) == 1.0


def test_a_useless_model_is_called_useless():
    splits = gaussian_splits(200)
    report = evaluation.evaluate(Constant(), splits, BernoulliMask(0.5))
    assert any("does NOT beat mean/mode imputation" in s for s in report.sentences)
    assert any("over-confident" in s for s in report.sentences)
    assert "log_likelihood_per_feature" not in report.scores


def test_draws_that_say_nothing_and_a_coverage_that_was_not_measured_are_told():
    splits = gaussian_splits()

    class Sure(Constant):
        draws_are_calibrated = False

    method = Sure()
    method.build_for(splits.train.spec)
    report = evaluation.evaluate(method, splits, BernoulliMask(0.5), 100)
    assert "tell nothing of how far to trust" in str(report)
    few = gaussian_splits(40)  # Ten test rows: no column has 50 different values.
    report = evaluation.evaluate(exact_method(few), few, BernoulliMask(0.5), 100)
    assert "what they should was not measured" in str(report)
    assert "tell nothing" not in str(report)


def test_categories_are_scored_by_the_most_frequent_level():
    frame = pd.DataFrame({"kind": ["a", "b", "b", "b"] * 50, "v": np.arange(200.0)})
    splits = make_splits(Source("kinds", frame), seed=0)

    class Modes(Constant):
        def _complete(self, x, observed, num_samples, seed):
            return tf.zeros_like(x)  # level 0 = "a"

    method = Modes()
    method.spec = splits.train.spec
    report = evaluation.evaluate(method, splits, BernoulliMask(0.0), seeds=(0,))
    share = np.mean(splits.test.raw["kind"] == "b")
    assert report.scores["pfc"] == pytest.approx(share)
    assert report.baseline["pfc"] == pytest.approx(1 - share)


def test_positive_columns_are_scored_by_their_values():
    values = np.random.default_rng(0).lognormal(2.0, 1.0, 400)
    source = Source("incomes", pd.DataFrame({"v": values}), {"v": "positive"})
    splits = make_splits(source, seed=0)
    report = evaluation.evaluate(Constant(), splits, BernoulliMask(0.0), seeds=(0,))
    truth, mean = splits.test.raw["v"], splits.train.raw["v"].mean()
    column = splits.train.schema.columns[0]
    median = np.exp(column.mean)  # What x = 0 stands for.
    for score, guess in (
        (report.scores["nrmse_mean"], median),
        (report.baseline["nrmse_mean"], mean),
    ):
        want = np.sqrt(np.mean((truth - guess) ** 2)) / truth.std(ddof=0)
        assert score == pytest.approx(want, rel=1e-5)
    assert report.baseline["crps"] == pytest.approx(
        np.abs(truth - mean).mean() / truth.std(ddof=0), rel=1e-5
    )


def test_images_are_scored_in_pixels():
    splits = make_splits(digits_images(), test_fraction=0.03, seed=0)

    class Grey(Constant):
        feature_ndims = 2

    report = evaluation.evaluate(Grey(), splits, BernoulliMask(0.5), seeds=(0,))
    assert {"rmse", "psnr_mean10", "psnr_sample", "psnr_best10"} <= set(report.scores)
    assert "diversity" not in report.scores  # It has no decoder whose means could differ.
    assert report.baseline["rmse"] < report.scores["rmse"]


@pytest.mark.parametrize("number", [2.5, 1, True, "100"])
def test_too_few_samples_are_refused_by_their_setting_s_name(number):
    with pytest.raises(ValueError, match=r"evaluate\.num_samples must be a whole number"):
        evaluation.evaluate(Constant(), gaussian_splits(60), BernoulliMask(0.5), number)


def test_nothing_to_score_is_an_error():
    splits = gaussian_splits(100)
    with pytest.raises(ValueError, match="hides nothing"):
        evaluation.evaluate(Constant(), splits, BernoulliMask(1.0))
    empty = make_splits(
        Source("gauss", pd.DataFrame({"a": np.arange(50.0)})), test_fraction=0.0
    )
    with pytest.raises(ValueError, match="no test rows"):
        evaluation.evaluate(Constant(), empty, BernoulliMask(0.5))


def test_a_report_is_json_and_text():
    splits = gaussian_splits(200)
    report = evaluation.evaluate(Constant(), splits, BernoulliMask(0.5))
    again = json.loads(json.dumps(report.to_dict()))
    assert again["scores"] == report.scores
    assert "mean/mode" in str(report)
    assert "mask seeds [0, 1, 2]" in str(report)


def test_a_closed_form_is_printed_beside_the_model():
    splits = gaussian_splits(240)
    report = evaluation.evaluate(
        Constant(),
        splits,
        BernoulliMask(0.5),
        20,
        seeds=(0,),
        beside={evaluation.CLOSED_FORM: fit_floor},
    )
    assert "closed form" in str(report).splitlines()[0]
    assert "is better: NRMSE" in str(report)
    assert report.to_dict()["beside"] == report.beside
    # Where nothing is better, nothing is said.
    exact = evaluation.evaluate(
        exact_method(splits), splits, BernoulliMask(0.5), 20, seeds=(0,)
    )
    assert exact.beside == {} and "closed form" not in str(exact)
    # Fitted to 144 rows: measured 0.01 from the truth.
    assert abs(report.beside["closed form"]["nrmse_mean"] - exact.scores["nrmse_mean"]) < 0.05


def test_wide_tables_are_tried_with_factor_analysers_too():
    assert list(candidates(DataSpec((5,)))) == ["full"]
    assert list(candidates(DataSpec((30,)))) == ["full", "factors"]
    assert list(candidates(DataSpec((30,), levels=(2,) * 30))) == ["full"]
    # The quick floor fits no full covariances of very many columns.
    assert list(candidates(DataSpec((30,)), quick=True)) == ["full", "factors"]
    assert list(candidates(DataSpec((64,)), quick=True)) == ["factors"]
    assert list(candidates(DataSpec((64,), levels=(2,) * 64), quick=True)) == ["full"]
