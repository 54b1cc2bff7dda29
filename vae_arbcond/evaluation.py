"""Evaluation that can be trusted: one loop for all methods, with a baseline beside it.

The questions are drawn once from seeds, so every method is asked the same ones. What is
scored is `present & ~observed`, in the model's units (standardised columns, pixels in [0, 1];
of positive columns the values, not their logarithms).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import pandas as pd
import tensorflow as tf

from vae_arbcond import scoring
from vae_arbcond.baselines import Baseline
from vae_arbcond.conditioners.base import ArbitraryConditioner
from vae_arbcond.conditioners.likelihoods import DefaultLikelihood, check_density
from vae_arbcond.data.pipeline import Dataset, Splits
from vae_arbcond.registry import PACKAGE
from vae_arbcond.schema import ImageSchema, Positive, TableSchema
from vae_arbcond.shapes import means_and_modes

CLOSED_FORM = "closed form"  # the name of `floor.fit_floor` in a report
GOOD_GAIN = 0.10  # share by which a model should beat the baseline


@dataclasses.dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
      scores: metric -> mean over mask seeds, for the model.
      spread: metric -> standard deviation over mask seeds.
      baseline: metric -> the same for mean/mode imputation, where it has one.
      beside: name -> metric -> the same for each method fitted to the training rows besides.
      sentences: what a reader should know, in words.
      conditions: how the numbers were made.
    """

    scores: dict[str, float]
    spread: dict[str, float]
    baseline: dict[str, float]
    beside: dict[str, dict[str, float]]
    sentences: list[str]
    conditions: dict

    def to_dict(self) -> dict:
        """For metrics.json."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        width = max(len(name) for name in self.scores)
        others = {"mean/mode": self.baseline, **self.beside}
        heads = "".join(f"  {name:>11}" for name in others)
        lines = [f"{'':{width}}  {'model':>19}{heads}  better"]
        for name, value in self.scores.items():
            beside = "".join(
                f"  {other[name]:11.4f}" if name in other else f"  {'-':>11}"
                for other in others.values()
            )
            spread = f"+- {self.spread[name]:.4f}"
            lines.append(f"{name:{width}}  {value:9.4f} {spread}{beside}  {_BETTER[name]}")
        made = ", ".join(f"{k} {v}" for k, v in self.conditions.items())
        return "\n".join([*lines, f"({made})", *self.sentences])


_BETTER = {
    "nrmse_mean": "lower",
    "pfc": "lower",
    "rmse": "lower",
    "crps": "lower",
    "coverage_90": "0.90",
    "log_likelihood_per_feature": "higher",
    "log_likelihood_user_units": "higher",
    "log_likelihood_per_row": "higher",
    "log_likelihood_stderr": "lower",
    "pareto_k_above_0.7": "0",
    "non_finite_samples": "0",
    "psnr_mean10": "higher",
    "psnr_sample": "higher",
    "psnr_best10": "higher",
    "diversity": "> 0",
}


@gin.configurable(module=PACKAGE)
def evaluate(
    conditioner: ArbitraryConditioner,
    data: Splits,
    mask: Callable,
    num_samples: int = 100,
    seeds: Sequence[int] = (0, 1, 2),
    schema: TableSchema | ImageSchema | None = None,
    likelihood: Callable | None = None,
    beside: Mapping[str, Callable[[Dataset], ArbitraryConditioner | Baseline]] | None = None,
) -> Report:
    """Scores a method on the test rows.

    Args:
      conditioner: a trained method.
      data: the splits it was trained with; statistics of the baseline come from the training
        rows.
      mask: draws which entries of the test rows are observed.
      num_samples: draws for intervals, CRPS, completions and likelihoods; 100 or more.
      seeds: one set of masks each; scores are averaged over them.
      likelihood: how log-likelihoods are estimated, `RatioLikelihood()` for example; None
        takes the method's own, if it has any. The report names it.
      schema: of the run; data whose schema differs are refused. None does not check.
      beside: what else to fit to the training rows, by the name it is printed under:
        `floor.fit_floor`, or what `baselines.named` gives. It is asked the same questions,
        with its own likelihood.

    Raises:
      ValueError: there are no test rows, the masks leave nothing to score, or the data are
        not those of the run.
      TypeError: a likelihood was asked of a method that has none.
    """
    if schema is not None:
        check_data(data, schema)
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 20:
        raise ValueError(
            f"evaluate.num_samples must be a whole number, 20 or more for 90 % intervals; got "
            f"{num_samples!r}."
        )
    test = data.test
    if not len(test):
        raise ValueError("There are no test rows: make_splits.test_fraction must be above 0.")
    if likelihood is not None:
        check_density(conditioner)
    # First, since it may be refused.
    fitted = {name: fit(data.train) for name, fit in (beside or {}).items()}
    baseline = baseline_completion(data.train)
    likelihood = likelihood or DefaultLikelihood()
    options = mask, num_samples, likelihood
    rounds = [_one_round(conditioner, test, baseline, *options, seed) for seed in seeds]
    scores, bases = zip(*rounds, strict=True)
    mean, base = _mean(scores), _mean(bases)
    spread = {k: float(np.std([score[k] for score in scores])) for k in scores[0]}
    options = mask, num_samples, DefaultLikelihood()
    others = {}
    for name, other in fitted.items():
        rounds = [_one_round(other, test, baseline, *options, seed) for seed in seeds]
        others[name] = _mean([scores for scores, _ in rounds])
    conditions = {
        "test rows": len(test),
        "samples": num_samples,
        "mask seeds": list(seeds),
        "mask": str(mask),
    }
    if "log_likelihood_per_feature" in mean:
        own = isinstance(likelihood, DefaultLikelihood)
        name = conditioner.estimator if own else str(likelihood)
        conditions["likelihood"] = f"{name}, nats"
    sentences = _sentences(mean, base, num_samples)
    if not conditioner.draws_are_calibrated:
        sentences.append(
            "Its draws differ far less than what is hidden may: they tell nothing of how far "
            "to trust its completions."
        )
    elif conditioner.feature_ndims == 1 and "coverage_90" not in mean:
        sentences.append(
            f"Whether its intervals cover what they should was not measured: that takes a "
            f"column of numbers with {scoring.MIN_DISTINCT} different values in the test rows."
        )
    for name, its_scores in others.items():
        sentences += _better_sentences(mean, name, its_scores)
    return Report(mean, spread, base, others, sentences, conditions)


def _mean(rounds) -> dict[str, float]:
    return {k: float(np.mean([scores[k] for scores in rounds])) for k in rounds[0]}


def check_data(data: Splits, schema: TableSchema | ImageSchema) -> None:
    """Refuses data that a run was not trained on.

    Raises:
      ValueError: their schema differs from the run's.
    """
    if data.train.schema != schema:
        raise ValueError(
            "The data differ from those the model was trained on (their schema does), so test "
            "rows may be rows it has seen, in other units. Evaluate on the data of the run."
        )


def baseline_completion(train: Dataset) -> np.ndarray:
    """Mean of each number, most frequent level of each categorical feature: [*F, *E].

    Over the present training entries; 0 for a feature without any. Of a positive column, the
    mean of its values, not of their logarithms.
    """
    completion = means_and_modes(train.x, train.present, train.spec.levels)
    for j, column in enumerate(getattr(train.schema, "columns", ())):
        if isinstance(column, Positive) and train.present[:, j].any():
            mean = column.linear(train.x[train.present[:, j], j]).mean()
            completion[j] = column.to_model(pd.Series([mean]))[0][0]
    return completion.astype(np.float32)


def _one_round(conditioner, test, baseline, mask, num_samples, likelihood, seed):
    """Scores and baseline scores for one set of masks."""
    x, present = tf.constant(test.x), tf.constant(test.present)
    observed = (mask(x, present, tf.constant([seed, 0], tf.int32)) & present).numpy()
    scored = test.present & ~observed
    if not scored.any():
        raise ValueError(
            f"The mask {mask} with seed {seed} hides nothing that is present, so there is "
            f"nothing to score. Use a mask that hides something."
        )
    draws, means, completion, estimates, _ = scoring.answers(
        conditioner, test.x, observed, scored, num_samples, likelihood, seed
    )
    observed_x = observed.reshape(*observed.shape, *(1,) * (test.x.ndim - observed.ndim))
    guess = np.where(observed_x, test.x, baseline)
    if conditioner.feature_ndims == 2:
        scores, base = scoring.of_images(test, scored, draws, means, completion, guess)
    else:
        scores, base = scoring.of_tables(test, scored, draws, completion, guess)
    if estimates is not None:
        scores |= scoring.of_likelihoods(test, scored, estimates)
    return scores, base


def _better_sentences(scores, name, others) -> list[str]:
    """Says where another method is better than the model."""
    words = {"nrmse_mean": "NRMSE", "pfc": "PFC", "crps": "CRPS"}
    worse = [
        f"{word} {scores[metric]:.3f} against {others[metric]:.3f}"
        for metric, word in words.items()
        if metric in others and scores.get(metric, others[metric]) > others[metric]
    ]
    if not worse:
        return []
    if name == CLOSED_FORM:
        return [
            f"A closed form, fitted to the same rows without a network, is better: "
            f"{', '.join(worse)}. arbcond-train "
            f"--gin_file=experiments/closed_form_table.gin trains one."
        ]
    return [f"{name}, fitted to the same rows, is better: {', '.join(worse)}."]


def _sentences(scores, base, num_samples) -> list[str]:
    sentences = []
    words = {"nrmse_mean": "NRMSE", "pfc": "PFC", "rmse": "RMSE"}
    for name, word in words.items():
        if name not in base or not base[name]:
            continue
        gain = 1.0 - scores[name] / base[name]
        if gain < GOOD_GAIN:
            sentences.append(
                f"The model does NOT beat mean/mode imputation by 10 %: its {word} is "
                f"{scores[name]:.3f} against {base[name]:.3f}. Do not rely on its completions."
            )
        else:
            sentences.append(
                f"The model's {word} is {100 * gain:.0f} % below that of mean/mode imputation."
            )
    coverage = scores.get("coverage_90")
    if coverage is not None and not 0.85 <= coverage <= 0.95:
        sense = "too narrow: it is over-confident" if coverage < 0.85 else "wider than needed"
        sentences.append(
            f"Its 90 % intervals cover {100 * coverage:.0f} % of the hidden values: {sense}."
        )
    share = scores.get("pareto_k_above_0.7", 0.0)
    if share > 0.05:
        sentences.append(
            f"For {100 * share:.0f} % of the rows the log-likelihood may be far off and its "
            f"error bar is not to be trusted (Pareto k above 0.7): what is drawn for z seldom "
            f"explains the row. More samples than {num_samples} may help "
            f"(evaluate.num_samples)."
        )
    lost = scores.get("non_finite_samples", 0.0)
    if lost:
        sentences.append(
            f"{lost:g} samples a set of masks had a log-density that was infinite or not a "
            f"number. A sample that gives the data no probability counts as that; anything "
            f"else makes the log-likelihood of its row NaN."
        )
    return sentences
