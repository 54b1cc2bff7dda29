"""The whole way in a few minutes: train, look, export, ask the exported model.

    make demo        (python -m vae_arbcond.demo --output demo)

(a) Handwritten digits with hidden pixels; (b) a medical table with half of its cells removed;
(c) both exported and asked by a process that has TensorFlow only; (d) where everything is.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import time

import matplotlib

from vae_arbcond.cli import common

matplotlib.use("Agg")  # A picture file needs no screen.
common.import_tensorflow()

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from vae_arbcond import (
    config,
    evaluation,
    imputer,
    masks,
    metrics,
    pictures,
    runs,
    serving,
    training,
)
from vae_arbcond.data.sources import write_table

COMPLETIONS = 5
TABLE_COLUMNS = ("mean radius", "mean texture", "worst smoothness", "symmetry error")


def main() -> None:
    """Runs the four parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="demo", help="directory to write")
    parser.add_argument("--steps", type=int, help="fewer training steps, for a quick look")
    arguments = parser.parse_args()
    output = pathlib.Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    started = time.time()
    digits = train("pm_digits", output / "runs" / "digits", arguments.steps)
    draw_inpaintings(digits, output / "inpaintings.png")
    table = train("pm_breast_cancer", output / "runs" / "breast_cancer", arguments.steps)
    scores = impute_table(table, output)
    for name in ("digits", "breast_cancer"):
        export_and_check(output, name)
    print(closing_text(output, scores, time.time() - started))


def train(experiment: str, run_dir: pathlib.Path, steps) -> training.TrainingResult:
    """Trains a gin experiment afresh and saves its evaluation beside it."""
    print(f"\n== {experiment}: training ({run_dir})")
    shutil.rmtree(run_dir, ignore_errors=True)  # The demo's own directory, made anew.
    params = [f"NUM_STEPS = {steps}"] if steps else []
    config.load([f"experiments/{experiment}.gin"], params)
    result = training.train(run_dir=str(run_dir), config_text=config.full_config())
    report = evaluation.evaluate(conditioner=result.conditioner, seeds=(0,))
    config.save_operative_config(run_dir / runs.OPERATIVE_CONFIG)
    runs.Run(run_dir).save_metrics({"evaluation": report.to_dict()})
    print(report)
    return result


def draw_inpaintings(result: training.TrainingResult, path: pathlib.Path) -> None:
    """Original, what was seen, five completions and their mean, for two kinds of masks."""
    test = result.splits.test
    x, present = tf.constant(test.x[:8]), tf.constant(test.present[:8])
    half = masks.HalfMask()(x, present, tf.constant([0, 1]))
    scattered = masks.BernoulliMask(0.3)(x, present, tf.constant([0, 2]))
    figure, axes = plt.subplots(1, 2, figsize=(11, 6.4))
    titles = ("half of the image hidden", "70 % of the pixels hidden")
    for axis, observed, title in zip(axes, (half, scattered), titles, strict=True):
        completions = result.conditioner.impute_means(x, observed, COMPLETIONS, [0, 3])
        grid = pictures.inpainting_grid(x, observed, completions)
        axis.imshow(grid, interpolation="nearest")
        width = grid.shape[1] / (COMPLETIONS + 3)
        names = ["truth", "seen", *[f"{i + 1}" for i in range(COMPLETIONS)], "mean"]
        axis.set_xticks([width * (i + 0.5) for i in range(len(names))], names)
        axis.set_yticks([])
        axis.tick_params(length=0)
        axis.xaxis.tick_top()
        axis.set_title(f"Digits, {title}", pad=12)
        axis.set_xlabel("1 to 5: completions drawn by the model; orange: hidden")
        axis.spines[:].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def impute_table(result: training.TrainingResult, output: pathlib.Path) -> dict:
    """Removes half of the test cells, fills them again, draws and scores what came out."""
    test = result.splits.test
    schema = test.schema
    observed = masks.BernoulliMask(0.5)(
        tf.constant(test.x), tf.constant(test.present), tf.constant([0, 0])
    ).numpy()
    holes = test.raw.copy()
    for j, name in enumerate(schema.names):
        holes[name] = holes[name].mask(~observed[:, j])
    done = imputer.complete_table(result.conditioner, schema, holes, num_samples=5)
    write_table(holes, output / "breast_cancer_holes.csv")
    write_table(done.table, output / "breast_cancer_completed.csv")
    draw_imputation(test.raw, done.cells, output / "imputation.png")
    completed, _ = schema.to_model(done.table)
    real = np.array(schema.levels) == 0
    scale = test.x.std(0)
    guess = np.where(observed, test.x, evaluation.baseline_completion(result.splits.train))
    scored = ~observed[:, real]
    return {
        name: metrics.nrmse_mean(test.x[:, real], answer[:, real], scored, scale[real])
        for name, answer in (("model", completed), ("mean imputation", guess))
    }


def draw_imputation(truth: pd.DataFrame, cells: pd.DataFrame, path: pathlib.Path) -> None:
    """True against imputed with 90 % intervals, for a few columns."""
    figure, axes = plt.subplots(1, len(TABLE_COLUMNS), figsize=(14, 3.9))
    for axis, name in zip(axes, TABLE_COLUMNS, strict=True):
        mine = cells[cells["column"] == name]
        true = truth.loc[mine["row"].astype(int), name].to_numpy(float)
        value, lower, upper = (mine[k].to_numpy(float) for k in ("value", "lower", "upper"))
        inside = np.mean((true >= lower) & (true <= upper))
        axis.vlines(true, lower, upper, color="tab:blue", alpha=0.25, linewidth=1.5)
        axis.plot(true, value, "o", color="tab:blue", markersize=3)
        ends = [min(true.min(), lower.min()), max(true.max(), upper.max())]
        axis.plot(ends, ends, color="black", linewidth=0.8)
        axis.set_title(
            f"{name}\n{inside:.0%} of {len(true)} within their interval", fontsize=10
        )
        axis.set_xlabel("true value")
    axes[0].set_ylabel("imputed value and its 90 % interval")
    figure.suptitle("breast_cancer, half of the test cells removed and filled again", y=0.99)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def export_and_check(output: pathlib.Path, name: str) -> None:
    """Exports a run, then asks it from a process that imports only TensorFlow."""
    target = output / "exported" / name
    shutil.rmtree(target, ignore_errors=True)
    path = serving.export(runs.load(output / "runs" / name), target)
    script = pathlib.Path(__file__).resolve().parent.parent / "export" / "check_saved_model.py"
    print(f"\n== {name}: asking the exported model in {path}", flush=True)
    subprocess.run([sys.executable, str(script), str(path)], check=True)


def closing_text(output, scores, seconds) -> str:
    """What was made, where it is, what to try next."""
    return f"""
Done in {seconds:.0f} s. In {output}/ you find

  inpaintings.png              digits: truth, seen, five completions, their mean
  imputation.png               breast_cancer: true against imputed, with intervals
  breast_cancer_holes.csv      test rows with half of their cells removed
  breast_cancer_completed.csv  the same rows, filled; NRMSE {scores["model"]:.2f}, mean \
imputation {scores["mean imputation"]:.2f}
  runs/                        both trained models, with logs for TensorBoard
  exported/                    both as SavedModels, just checked

Try next:

  .venv/bin/arbcond-impute --model={output}/runs/breast_cancer \\
    --input={output}/breast_cancer_holes.csv --output=filled.csv --num_samples=5
  .venv/bin/arbcond-evaluate --model={output}/runs/breast_cancer
  .venv/bin/arbcond-train --gin_file=experiments/pm_table.gin --run_dir=runs/mine \\
    --gin_param='table_file.path = "YOUR.csv"'
"""


if __name__ == "__main__":
    main()
