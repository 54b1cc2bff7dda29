"""Metrics of imputations, each named by its definition, in NumPy.

Papers use one name for different numbers: an "NRMSE" of the mean of the samples and one of
the best of 10,000 samples, a "PSNR" of the mean of ten inpaintings and the mean of their
PSNRs. Here the name says which; never put two of them in one column of a table.

Shapes: `truth` [N, *F, *E], `imputed` [N, *F, *E] (one completion), `draws` [S, N, *F, *E]
(S completions), `scored` bool [N, *F]. True = score this cell, usually `present & ~observed`;
what stands elsewhere may be anything, NaN included. Everything is computed in float64.

A NaN or an infinity where a cell is scored is an error that says where: a method that fails
on some rows must not gain from their being left out.
"""

from typing import NamedTuple

import numpy as np

# What 2 / (1 - level) may be off by in float64: 2 / (1 - 0.9) is 20.000000000000004.
_ROUNDING = 1e-9


class PSNR(NamedTuple):
    """Peak signal-to-noise ratio averaged over images, and what the average leaves out."""

    db: float
    """Mean over the images with an error, in dB; infinite if there is none."""
    num_perfect: int
    """How many terms of the mean were infinite (a perfect reconstruction) and left out."""


def rmse(truth, imputed, scored) -> float:
    """sqrt(mean over all scored cells of (imputed - truth)**2), in the unit of `truth`.

    Cells of all features are pooled, so a feature with a large unit dominates: for images,
    or for standardised tables.

    Args:
      truth: float [N, *F, *E].
      imputed: float [N, *F, *E]; a mean of draws, say.
      scored: bool [N, *F].

    Raises:
      TypeError: `scored` is not bool.
      ValueError: shapes do not fit, no cell is scored, or a scored cell is not finite.
    """
    truth, imputed, scored = _check(truth, imputed, scored, draws=False)
    return float(np.sqrt(np.mean((imputed[scored] - truth[scored]) ** 2)))


def nrmse_mean(truth, imputed, scored, scale) -> float:
    """Mean over features of (RMSE over the feature's scored cells / the feature's scale).

    Features without a scored cell are left out of the mean. With `imputed` the mean of the
    draws and `scale` the standard deviation (ddof 0) of the test set's columns this is the
    NRMSE of Posterior Matching and ACE; with that of the complete column and the mean of ten
    draws it is VAEAC's. Imputing a column's mean scores about 1.

    Args:
      truth: float [N, *F, *E].
      imputed: float [N, *F, *E].
      scored: bool [N, *F].
      scale: float [*F] or one number, > 0: each feature's standard deviation, in the unit
        of `truth`.

    Raises:
      TypeError: `scored` is not bool.
      ValueError: as `rmse`, or the scale of a scored feature is not a number > 0.
    """
    truth, imputed, scored = _check(truth, imputed, scored, draws=False)
    scale = _check_scale(scale, scored)
    error = _over_event(np.where(_like(scored, truth), imputed - truth, 0.0) ** 2, scored)
    has_cells = scored.any(0)
    mean_square = error.sum(0)[has_cells] / scored.sum(0)[has_cells]
    return float(np.mean(np.sqrt(mean_square) / scale[has_cells]))


def nrmse_min(truth, draws, scored, scale) -> float:
    """Mean over rows of the least NRMSE that any of the row's draws has: an oracle's choice.

    The NRMSE of a draw of a row is sqrt(mean over its scored cells of
    ((draw - truth) / scale)**2). "A Decoder Suffices for Query-Adaptive Variational
    Inference" (Agarwal et al., 2023, Table 1) reports it with S = 10,000 on standardised
    data. It falls as S grows, and no method can choose the draw without the truth: not
    comparable to `nrmse_mean`. Rows without a scored cell are left out of the mean.

    Args:
      truth: float [N, *F, *E].
      draws: float [S, N, *F, *E].
      scored: bool [N, *F].
      scale: float [*F] or one number, > 0: each feature's standard deviation; 1 for
        standardised data.

    Raises:
      TypeError: `scored` is not bool.
      ValueError: as `nrmse_mean`.
    """
    truth, draws, scored = _check(truth, draws, scored, draws=True)
    scale = _check_scale(scale, scored)
    rows = np.flatnonzero(scored.reshape(len(scored), -1).any(1))
    least = []
    for row in rows:  # Row by row: with 10,000 draws, all errors at once would not fit.
        cells = scored[row]
        unit = scale[cells].reshape(-1, *[1] * (truth.ndim - scored.ndim))
        error = (draws[:, row][:, cells] - truth[row][cells]) / unit
        least.append(np.sqrt(np.mean(error.reshape(len(draws), -1) ** 2, axis=1)).min())
    return float(np.mean(least))


def pfc(truth, imputed, scored) -> float:
    """Proportion falsely classified: the mean over features of their share of wrong cells.

    Features without a scored cell are left out of the mean. VAEAC's tables use the majority
    vote of ten draws as `imputed`.

    Args:
      truth: [N, *F]; levels or their indices, numbers or text.
      imputed: [N, *F]; compared with `truth` for equality, so round or vote before.
      scored: bool [N, *F].

    Raises:
      TypeError: `scored` is not bool.
      ValueError: shapes do not fit, no cell is scored, or a scored cell is NaN or None.
    """
    truth, imputed, scored = _check(truth, imputed, scored, draws=False, numeric=False)
    if truth.shape != scored.shape:
        raise ValueError(
            f"pfc compares categories, one value a cell; got truth of shape {truth.shape} for "
            f"cells of shape {scored.shape}."
        )
    wrong = (truth != imputed) & scored
    has_cells = scored.any(0)
    return float(np.mean(wrong.sum(0)[has_cells] / scored.sum(0)[has_cells]))


def psnr_mean10(truth, draws, peak=1.0) -> PSNR:
    """PSNR of the MEAN of ten draws of each image, averaged over images (Posterior Matching).

    The PSNR of an image is -10 log10(mean of (error / peak)**2) over all its pixels and
    channels, observed ones included. Averaging the draws first gives more dB than
    `psnr_sample`.

    Args:
      truth: float [N, H, W, *E].
      draws: float [10, N, H, W, *E].
      peak: largest value minus smallest value a pixel can have.

    Raises:
      ValueError: shapes do not fit, the number of draws is not 10, a value is not finite, or
        `peak` is not > 0.
    """
    truth, draws = _check_images(truth, draws, peak, "psnr_mean10", num_draws=10)
    return _mean_of_finite(_psnr(draws.mean(0, dtype=np.float64), truth, peak))


def psnr_sample(truth, draws, peak=1.0) -> PSNR:
    """PSNR of EACH draw, averaged over draws and images (ACFlow; VAEAC with one draw).

    Args and errors are those of `psnr_mean10`, with any number of draws [S, N, H, W, *E].
    `num_perfect` counts pairs of a draw and an image.
    """
    truth, draws = _check_images(truth, draws, peak, "psnr_sample")
    return _mean_of_finite(np.stack([_psnr(draw, truth, peak) for draw in draws]))


def psnr_best10(truth, draws, peak=1.0) -> PSNR:
    """PSNR of the best of ten draws of each image, averaged over images (VAEAC's oracle).

    Args and errors are those of `psnr_mean10`. An image one of whose draws is perfect counts
    in `num_perfect`.
    """
    truth, draws = _check_images(truth, draws, peak, "psnr_best10", num_draws=10)
    return _mean_of_finite(np.stack([_psnr(draw, truth, peak) for draw in draws]).max(0))


def interval(draws, level) -> tuple[np.ndarray, np.ndarray]:
    """Central interval between the (1 - level)/2 and (1 + level)/2 quantiles of the draws.

    The quantiles are Weibull's: the k-th smallest of S draws is the k / (S + 1) quantile.
    With draws from the true distribution the interval then holds the truth with probability
    `level` whatever that distribution is, exactly where (1 - level)/2 * (S + 1) is a whole
    number; NumPy's default would hold it too seldom.

    Args:
      draws: float [S, ...].
      level: probability, in (0, 1).

    Returns:
      (lower, upper), each [...].

    Raises:
      ValueError: `level` is not in (0, 1), or there are fewer than 2 / (1 - level) - 1 draws
        (19 for 0.9): the quantiles would lie beyond the smallest and the largest draw.
    """
    draws = np.asarray(draws, np.float64)
    if not 0.0 < level < 1.0:
        raise ValueError(
            f"level is the probability that the interval holds the truth and lies between 0 "
            f"and 1; got {level}."
        )
    needed = int(np.ceil(2.0 / (1.0 - level) - 1.0 - _ROUNDING))
    if draws.ndim < 1 or len(draws) < needed:
        raise ValueError(
            f"An interval of level {level} needs at least {needed} draws (the first axis); "
            f"got draws of shape {draws.shape}. Draw more, or lower the level."
        )
    ends = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
    lower, upper = np.quantile(draws, ends, axis=0, method="weibull")
    return lower, upper


def interval_coverage(truth, draws, scored, level) -> float:
    """Share of the scored cells whose truth lies in the `interval` of its draws.

    The ends count as inside. For continuous features: where draws tie with the truth, this
    comes out too high, and `randomized_pit` is the fair check.

    Args:
      truth: float [N, *F, *E].
      draws: float [S, N, *F, *E].
      scored: bool [N, *F].
      level: the share that calibrated draws would reach, in (0, 1).

    Raises:
      TypeError: `scored` is not bool.
      ValueError: as `rmse`, or as `interval`.
    """
    truth, draws, scored = _check(truth, draws, scored, draws=True)
    cells = truth[scored]
    lower, upper = interval(draws[:, scored], level)
    return float(np.mean((lower <= cells) & (cells <= upper)))


def crps(truth, draws, scored) -> float:
    """Mean over scored cells of the continuous ranked probability score; smaller is better.

    The fair estimator, mean_s |x_s - y| - sum_{s < t} |x_s - x_t| / (S (S - 1)), whose
    expectation is the score of the distribution the draws come from, for any S >= 2
    (Ferro, 2014, https://doi.org/10.1002/qj.2270). In the unit of `truth`; for one certain
    value it would be the absolute error. O(S log S) for each cell. A single estimate may be
    below 0.

    Args:
      truth: float [N, *F, *E].
      draws: float [S, N, *F, *E].
      scored: bool [N, *F].

    Raises:
      TypeError: `scored` is not bool.
      ValueError: as `rmse`, or fewer than two draws.
    """
    truth, draws, scored = _check(truth, draws, scored, draws=True)
    num_draws = len(draws)
    if num_draws < 2:
        raise ValueError(
            f"crps measures the spread of the draws and needs at least 2; got {num_draws}."
        )
    # One sort instead of all pairs: sum_{s < t} |x_s - x_t| = sum_k (2k - S - 1) x_(k).
    ordered = np.sort(draws[:, scored], axis=0)
    ranks = 2.0 * np.arange(1, num_draws + 1) - num_draws - 1.0
    spread = np.tensordot(ranks, ordered, axes=1) / (num_draws * (num_draws - 1.0))
    return float(np.mean(np.abs(ordered - truth[scored]).mean(0) - spread))


def randomized_pit(truth, draws, scored, seed) -> np.ndarray:
    """Probability integral transform of each scored cell: its place among its draws.

    (below + u * (equal + 1)) / (S + 1) with u ~ U[0, 1), where `below` and `equal` count the
    draws smaller than and equal to the truth. Where truth and draws come from one
    distribution it is exactly uniform on [0, 1], for discrete features and any S too. A
    histogram with a hump means intervals too wide; a U, too narrow; a slope, a bias.

    Args:
      truth: float [N, *F, *E].
      draws: float [S, N, *F, *E].
      scored: bool [N, *F].
      seed: of NumPy's generator, a whole number >= 0.

    Returns:
      float64 [number of scored values], in the order of `truth[scored]`, *E flattened.

    Raises:
      TypeError: `scored` is not bool.
      ValueError: as `rmse`.
    """
    truth, draws, scored = _check(truth, draws, scored, draws=True)
    cells, draws = truth[scored], draws[:, scored]
    below, equal = np.sum(draws < cells, axis=0), np.sum(draws == cells, axis=0)
    u = np.random.default_rng(seed).random(cells.shape)
    return np.ravel((below + u * (equal + 1)) / (len(draws) + 1))


def calibration_error(pit) -> float:
    """Integral over [0, 1] of |share of `pit` values below u - u| du.

    The mean gap between the probability a quantile claims and the share of truths below it:
    0 for calibrated draws, 0.5 where every truth lies beyond the same end. With n independent
    values of a calibrated model it is about 0.31 / sqrt(n), not 0.

    Args:
      pit: float [n], in [0, 1], as from `randomized_pit`.

    Raises:
      ValueError: `pit` is empty, or has a value outside [0, 1].
    """
    pit = np.sort(np.ravel(np.asarray(pit, np.float64)))
    if pit.size == 0 or not np.all((pit >= 0.0) & (pit <= 1.0)):
        raise ValueError(
            f"calibration_error needs one or more values in [0, 1], as randomized_pit gives; "
            f"got {pit.size} values, {np.sum(~((pit >= 0.0) & (pit <= 1.0)))} of them outside."
        )
    # Equal to the area between the quantile functions: pit_(k) against q, which runs over
    # [(k - 1) / n, k / n]. The integral of |a - q| is that of (q - a) |q - a| / 2.
    ends = np.arange(pit.size + 1) / pit.size
    right, left = ends[1:] - pit, ends[:-1] - pit
    return float(np.sum(right * np.abs(right) - left * np.abs(left)) / 2.0)


def _psnr(imputed, truth, peak):
    """dB of each image, [N]; infinite where there is no error."""
    error = ((imputed - truth) / peak).reshape(len(truth), -1)
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(np.mean(error**2, axis=1))


def _mean_of_finite(db):
    perfect = np.isinf(db)
    num_perfect = int(perfect.sum())
    return PSNR(float(np.inf if perfect.all() else db[~perfect].mean()), num_perfect)


def _like(scored, values):
    """`scored` [N, *F] with axes of size 1 for *E, to broadcast against `values`."""
    return scored.reshape(*scored.shape, *[1] * (values.ndim - scored.ndim))


def _over_event(values, scored):
    """Mean over *E: [N, *F, *E] -> [N, *F]."""
    return values.mean(axis=tuple(range(scored.ndim, values.ndim)))


def _check(truth, values, scored, draws, numeric=True):
    """Checks `truth`, `values` (imputed or draws) and `scored`; returns them as arrays."""
    name = "draws" if draws else "imputed"
    truth, values, scored = np.asarray(truth), np.asarray(values), np.asarray(scored)
    if numeric:  # Arithmetic with truth is then float64; a copy of all draws might not fit.
        truth = truth.astype(np.float64)
        values = values if values.dtype.kind in "fiu" else values.astype(np.float64)
    if scored.dtype != bool:
        raise TypeError(
            f"scored must be bool (True = score this cell), got {scored.dtype}. For a 0/1 "
            f"array where 1 means that, pass array.astype(bool)."
        )
    _check_shapes(truth, values, name, draws)
    if scored.ndim < 2 or scored.shape != truth.shape[: scored.ndim]:
        raise ValueError(
            f"scored must be [N, *F], one entry for each cell of truth; got shape "
            f"{scored.shape} for truth of shape {truth.shape}."
        )
    if not scored.any():
        raise ValueError(
            "No cell is scored, so there is nothing to average. Hide some present cells."
        )
    cells = np.moveaxis(values[:, scored], 1, 0) if draws else values[scored]
    _check_finite(truth[scored], scored, "truth", "cells; score present cells only")
    _check_finite(cells, scored, name, "cells; a metric leaves none out")
    return truth, values, scored


def _check_finite(values, scored, name, remedy):
    """Checks `values` [M, ...]; the m-th of them lies where `scored` is True the m-th time."""
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
    elif values.dtype == object:  # Text with gaps: None, or NaN, which differs from itself.
        bad = np.equal(values, None) | (values != values)
    else:
        return
    bad = bad.reshape(len(values), -1).any(1)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(scored)[np.argmax(bad)])
        raise ValueError(
            f"{name} is missing, NaN or infinite in {bad.sum()} of {len(bad)} scored "
            f"{remedy}. The first is at {first}."
        )


def _check_shapes(truth, values, name, draws):
    got = values.shape[1:] if draws else values.shape
    if got != truth.shape or (draws and (values.ndim < 1 or len(values) == 0)):
        axes = "[S, N, *F, *E] with S >= 1" if draws else "[N, *F, *E]"
        raise ValueError(
            f"{name} must be {axes}, where truth is [N, *F, *E]; got {name} of shape "
            f"{values.shape} for truth of shape {truth.shape}."
        )


def _check_scale(scale, scored):
    scale = np.asarray(scale, np.float64)
    if scale.ndim == 0:
        scale = np.full(scored.shape[1:], scale)
    if scale.shape != scored.shape[1:]:
        raise ValueError(
            f"scale needs one standard deviation a feature, shape {scored.shape[1:]}; got "
            f"shape {scale.shape}."
        )
    bad = np.argwhere(scored.any(0) & ~(np.isfinite(scale) & (scale > 0.0)))
    if len(bad):
        first = tuple(int(i) for i in bad[0])
        raise ValueError(
            f"scale must be a number > 0 for every scored feature; feature {first} has "
            f"{scale[first]}. A constant feature has no NRMSE: set scored to False there."
        )
    return scale


def _check_images(truth, draws, peak, metric, num_draws=None):
    truth, draws = np.asarray(truth, np.float64), np.asarray(draws)
    _check_shapes(truth, draws, "draws", draws=True)
    if truth.ndim < 3 or len(truth) == 0:
        raise ValueError(
            f"{metric} is for images: truth must be [N, H, W] or [N, H, W, C] with N >= 1; "
            f"got shape {truth.shape}."
        )
    if num_draws is not None and len(draws) != num_draws:
        raise ValueError(
            f"{metric} is defined by {num_draws} draws; got {len(draws)}. Pass "
            f"draws[:{num_draws}], or use psnr_sample, which takes any number."
        )
    if not peak > 0.0:
        raise ValueError(
            f"peak is the largest value a pixel can have minus the smallest (1 for pixels in "
            f"[0, 1]) and must be > 0; got {peak}."
        )
    everywhere = np.ones(len(truth), bool)
    _check_finite(truth, everywhere, "truth", "images; every pixel counts in a PSNR")
    _check_finite(np.moveaxis(draws, 1, 0), everywhere, "draws", "images; none is left out")
    return truth, draws
