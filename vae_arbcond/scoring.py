"""What every method is asked and how its answers are scored, one function for each.

Tables are scored as the user sees them (of positive columns the values, not their
logarithms), in standard deviations; images in [0, 1].
"""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vae_arbcond import metrics
from vae_arbcond.baselines import Baseline
from vae_arbcond.conditioners.base import DensityConditioner, LatentConditioner
from vae_arbcond.conditioners.sampling import spread

ROWS_AT_ONCE = 256  # rows whose draws are held at once
MIN_DISTINCT = 50  # distinct values a column needs for its coverage to mean anything


class Answers(NamedTuple):
    """What a method answered.

    Attributes:
      draws: [S, N, ...].
      means: the decoder's means [S, N, ...] of methods with z on images, else None.
      completion: [N, ...].
      estimates: fields of an `Estimate`, each [N]; None without likelihood.
      seconds: that the draws took, on the clock.
    """

    draws: np.ndarray
    means: np.ndarray | None
    completion: np.ndarray
    estimates: list | None
    seconds: float


def answers(conditioner, x, observed, scored, num_samples, likelihood, seed) -> Answers:
    """What a method answers.

    Args:
      conditioner: a method, or a `Baseline`.
      x: [N, *F, *E].
      observed, scored: bool [N, *F].
      num_samples: S.
      likelihood: how log-likelihoods are estimated.
      seed: a number; every method gets the same.
    """
    draws, means, completions, estimates = [], [], [], []
    mask_seed, seconds = seed, 0.0
    for start in range(0, len(x), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = [tf.constant(x[rows]), tf.constant(observed[rows])]
        seed = [mask_seed, 4 * start + 1]
        began = time.perf_counter()
        if isinstance(conditioner, Baseline):
            drawn, completed = conditioner.impute_and_complete(*part, num_samples, seed)
            seconds += time.perf_counter() - began
            draws.append(drawn)
            completions.append(completed)
            continue
        draws.append(conditioner.impute(*part, num_samples, seed).numpy())
        seconds += time.perf_counter() - began
        completions.append(conditioner.complete(*part, num_samples, [mask_seed, 0]).numpy())
        if isinstance(conditioner, LatentConditioner) and conditioner.feature_ndims == 2:
            seed = [mask_seed, 4 * start + 2]
            means.append(conditioner.impute_means(*part, num_samples, seed).numpy())
        if isinstance(conditioner, DensityConditioner):
            target = tf.constant(scored[rows])
            seed = [mask_seed, 4 * start + 3]
            estimate = likelihood(conditioner, *part, target, num_samples, seed)
            estimates.append([field.numpy() for field in estimate])
    joined = [np.concatenate(f) for f in zip(*estimates, strict=True)] if estimates else None
    decoded = np.concatenate(means, axis=1) if means else None
    draws, completion = np.concatenate(draws, axis=1), np.concatenate(completions)
    return Answers(draws, decoded, completion, joined, seconds)


def of_tables(test, scored, draws, completion, guess):
    """Scores of the draws and the completion, and those of a guess: two dictionaries.

    Args:
      test: a `Dataset` whose rows were asked.
      scored: bool [N, D].
      draws: [S, N, D], in the model's units.
      completion, guess: [N, D], in the model's units.
    """
    real = np.asarray(test.spec.levels or (0,) * test.x.shape[1]) == 0
    scores, base = {}, {}
    # Errors are measured as the user sees them: not those of logarithms.
    truth, draws, completion, guess = (
        test.schema.linear(x) for x in (test.x, draws, completion, guess)
    )
    scale = scales(truth, test.present)
    usable = real & (scale > 0) & scored.any(0)
    if usable.any():
        pick = [truth[:, usable], scored[:, usable], scale[usable]]
        for out, answer in ((scores, completion), (base, guess)):
            out["nrmse_mean"] = metrics.nrmse_mean(
                pick[0], answer[:, usable], pick[1], pick[2]
            )
        # In standard deviations, whatever the unit.
        score = metrics.crps(pick[0] / pick[2], draws[:, :, usable] / pick[2], pick[1])
        scores["crps"] = score
        off = np.abs(pick[0] - guess[:, usable]) / pick[2]
        base["crps"] = float(np.mean(off[pick[1]]))
        many = [
            j
            for j in np.flatnonzero(usable)
            if len(np.unique(truth[test.present[:, j], j])) >= MIN_DISTINCT
        ]
        if many:
            scores["coverage_90"] = metrics.interval_coverage(
                truth[:, many], draws[:, :, many], scored[:, many], 0.9
            )
    categorical = ~real & scored.any(0)
    if categorical.any():
        for out, answer in ((scores, completion), (base, guess)):
            out["pfc"] = metrics.pfc(
                truth[:, categorical], answer[:, categorical], scored[:, categorical]
            )
    return scores, base


def of_images(test, scored, draws, means, completion, guess):
    """As `of_tables`; `means` [S, N, H, W, ...] are the decoder's, or None."""
    truth = test.x
    ten = draws[spread(len(draws), 10)]
    scores = {
        "rmse": metrics.rmse(truth, completion, scored),
        "psnr_mean10": metrics.psnr_mean10(truth, ten).db,
        "psnr_sample": metrics.psnr_sample(truth, ten).db,
        "psnr_best10": metrics.psnr_best10(truth, ten).db,
    }
    if means is not None:
        # Of the decoder's means, so that its pixel noise does not pass for diversity.
        scores["diversity"] = float(means.std(0)[scored].mean())
    base = {
        "rmse": metrics.rmse(truth, guess, scored),
        "psnr_mean10": metrics.psnr_sample(truth, guess[np.newaxis]).db,
    }
    return scores, base


def of_likelihoods(test, scored, estimates):
    """Scores of log p(x_scored | x_observed); `estimates` as `answers` gives them."""
    value, stderr, _, pareto_k, non_finite = estimates
    count = scored.sum()
    jacobian = test.schema.log_jacobian(test.x, scored).sum()
    known = pareto_k[~np.isnan(pareto_k)]  # Infinite: an estimate that is no number.
    return {
        "log_likelihood_per_feature": float(value.sum() / count),
        "log_likelihood_user_units": float((value.sum() + jacobian) / count),
        # Of all that is hidden in a row, in the user's units: what papers on tables print.
        "log_likelihood_per_row": float((value.sum() + jacobian) / len(value)),
        "log_likelihood_stderr": float(np.sqrt(np.sum(stderr**2)) / count),
        "pareto_k_above_0.7": float(np.mean(known > 0.7)) if len(known) else float("nan"),
        "non_finite_samples": float(non_finite.sum()),
    }


def scales(truth, present) -> np.ndarray:
    """Standard deviation of each column's present values, 0 for constant ones: [D]."""
    return np.array([_std(truth[present[:, j], j]) for j in range(truth.shape[1])])


def _std(values: np.ndarray) -> float:
    # Rounding gives equal numbers a tiny deviation, and dividing by that an absurd score.
    same = len(values) == 0 or (values == values[0]).all()
    return 0.0 if same else float(values.std())
