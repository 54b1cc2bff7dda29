"""The figures of the foundation, on the data that scikit-learn bundles.

    python benchmarks/foundation.py              all, about 10 minutes on 2 cores
    python benchmarks/foundation.py tables       one part: tables, calibration or digits

Every part trains from scratch with the gin experiments of the library, three seeds of splits,
and prints the figure beside scikit-learn's on the same rows, cells and masks. Results go to
benchmarks/results/foundation.json and .md.
"""

import json
import os
import pathlib
import platform
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

from vae_arbcond import config, evaluation, files, metrics, runs, training
from vae_arbcond.masks import BernoulliMask

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SEEDS = (0, 1, 2)


def fit(experiment, seed, *params):
    """Trains an experiment on the split of `seed`; the result and the seconds it took."""
    config.load(
        [f"experiments/{experiment}.gin"],
        [f"make_splits.seed = {seed}", f"train.seed = {seed}", *params],
    )
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        result = training.train(run_dir=f"{folder}/run", verbose=0)
    return result, time.time() - started


def question(splits, seed):
    """The test rows, and which of their cells are seen: each with probability 0.5."""
    test = splits.test
    observed = BernoulliMask(0.5)(test.x, test.present, tf.constant([seed, 0])).numpy()
    return test.x, observed & test.present, test.present & ~observed


def nrmse(splits, answer, scored):
    """nrmse_mean over the real columns, scaled by their deviation on the test rows."""
    real = np.array(splits.test.schema.levels) == 0
    scale = splits.test.x[:, real].std(0)
    return metrics.nrmse_mean(splits.test.x[:, real], answer[:, real], scored[:, real], scale)


def iterative_imputer(splits, x, observed):
    """scikit-learn's IterativeImputer, default settings, on the same gappy rows."""
    train, valid = splits.train, splits.valid
    seen = [np.where(part.present, part.x, np.nan) for part in (train, valid)]
    imputer = IterativeImputer(random_state=0).fit(np.concatenate(seen))
    return imputer.transform(np.where(observed, x, np.nan))


def tables():
    """breast_cancer, half of the cells removed in training and test: NRMSE."""
    rows = []
    for seed in SEEDS:
        for removed in (0.5, 0.0):
            result, seconds = fit(
                "pm_breast_cancer", seed, f"make_splits.removed_fraction = {removed}"
            )
            x, observed, scored = question(result.splits, seed)
            done = result.conditioner.complete(x, observed, 200, [0, 2]).numpy()
            guess = np.where(observed, x, evaluation.baseline_completion(result.splits.train))
            rows.append(
                {
                    "table": "breast_cancer",
                    "seed": seed,
                    "cells removed in training": removed,
                    "Posterior Matching": nrmse(result.splits, done, scored),
                    "IterativeImputer": nrmse(
                        result.splits, iterative_imputer(result.splits, x, observed), scored
                    ),
                    "mean": nrmse(result.splits, guess, scored),
                    "training seconds": seconds,
                }
            )
            print(rows[-1], flush=True)
    return rows


def calibration():
    """diabetes and wine: share of hidden cells inside the 90 % interval of 100 draws."""
    rows, inside, total = [], 0.0, 0
    for experiment in ("pm_diabetes", "pm_wine"):
        for seed in SEEDS:
            result, _ = fit(experiment, seed)
            x, observed, scored = question(result.splits, seed)
            draws = result.conditioner.impute(x, observed, 100, [seed, 3]).numpy()
            whole = np.concatenate([part.x for part in result.splits])
            many = [
                j
                for j, levels in enumerate(result.splits.test.schema.levels)
                if not levels and len(np.unique(whole[:, j])) >= evaluation.MIN_DISTINCT
            ]
            covered = metrics.interval_coverage(
                x[:, many], draws[:, :, many], scored[:, many], 0.9
            )
            count = int(scored[:, many].sum())
            inside, total = inside + covered * count, total + count
            rows.append(
                {"table": experiment[3:], "seed": seed, "coverage": covered, "cells": count}
            )
            print(rows[-1], flush=True)
    rows.append({"table": "pooled", "coverage": inside / total, "cells": total})
    print(rows[-1], flush=True)
    return rows


def digits():
    """digits, every pixel hidden with probability 0.5: RMSE over hidden pixels, diversity."""
    rows = []
    for seed in SEEDS:
        result, seconds = fit("pm_digits", seed)
        x, observed, scored = question(result.splits, seed)
        done = result.conditioner.complete(x, observed, 200, [0, 2]).numpy()
        draws = result.conditioner.impute(x, observed, 20, [seed, 3]).numpy()
        means = result.conditioner.impute_means(x, observed, 20, [seed, 3]).numpy()
        guess = np.where(observed, x, evaluation.baseline_completion(result.splits.train))
        ours, mean = metrics.rmse(x, done, scored), metrics.rmse(x, guess, scored)
        rows.append(
            {
                "images": "digits",
                "seed": seed,
                "Posterior Matching": ours,
                "mean": mean,
                "below mean": 1.0 - ours / mean,
                "std of draws a pixel": float(draws.std(0)[scored].mean()),
                "std of decoder means a pixel": float(means.std(0)[scored].mean()),
                "training seconds": seconds,
            }
        )
        print(rows[-1], flush=True)
    return rows


PARTS = {"tables": tables, "calibration": calibration, "digits": digits}


def hardware():
    """What the figures were measured on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{len(os.sched_getaffinity(0))} cores of {model}, no GPU"


def markdown(results):
    """The results as tables."""
    lines = ["# Figures of the foundation", ""]
    lines += [f"`{results['command']}` on {results['hardware']}; {results['versions']}.", ""]
    for name, rows in results["parts"].items():
        lines += [f"## {name}", "", PARTS[name].__doc__, ""]
        keys = list(rows[0])
        lines += [f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
        for row in rows:
            cells = [
                f"{row[k]:.3f}" if isinstance(row.get(k), float) else str(row.get(k, ""))
                for k in keys
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main():
    """Runs the parts named on the command line, or all."""
    chosen = sys.argv[1:] or list(PARTS)
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        raise SystemExit(f"No part {unknown}; there are {list(PARTS)}.")
    path = RESULTS / "foundation.json"
    RESULTS.mkdir(exist_ok=True)
    old = json.loads(path.read_text())["parts"] if path.is_file() else {}
    parts = old | {name: PARTS[name]() for name in chosen}
    results = {
        "command": "python benchmarks/foundation.py",
        "hardware": hardware(),
        "versions": runs.versions(),
        "parts": {name: parts[name] for name in PARTS if name in parts},
    }
    files.write_text(path, json.dumps(results, indent=1) + "\n")
    files.write_text(RESULTS / "foundation.md", markdown(results))


if __name__ == "__main__":
    main()
