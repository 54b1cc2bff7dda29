"""VAEAC's synthetic mixture: Table 8 and Figures 6, 7 and 13 of the paper.

    python benchmarks/vaeac_synthetic.py [--folder DIR] [--steps 16000] [--write]

x in R^2, eight equal components with means from N(0, I) and variance 0.01, 100,000 points,
each coordinate hidden with probability 0.5 (VAEAC, C.2). VAEAC with different weights alpha of
the variational bound (Eq. 16), and a Universal Marginalizer with Gaussian marginals (D.5), all
with layers of 400, 200, 100 and 50 units. Every trained cell is kept in the folder as soon as
it is there, so an interrupted run goes on where it stopped. --write makes the files in
benchmarks/results/ from the cells that are there.
"""

import argparse
import json
import os
import pathlib
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib.figure
import numpy as np
import tensorflow as tf
from scipy import special

from vae_arbcond import networks, optimizers
from vae_arbcond.conditioners import VAEAC, MonteCarloLikelihood, UniversalMarginalizer
from vae_arbcond.distributions import Normal
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.shapes import DataSpec
from vae_arbcond.skip_networks import LayeredDecoder, LayeredEncoder

RESULTS = pathlib.Path(__file__).parent / "results"
UNITS, LATENT, SCALE, COMPONENTS, POINTS = (400, 200, 100, 50), 25, 0.1, 8, 100_000
MEANS_SEED, BATCH, TEST, MIN_SCALE, LOOP = 3, 256, 10_000, 0.01, 64
FEW = 1_000  # of the test rows: those with a thousand samples each
ALPHAS = {"VAEAC, alpha = 1": 1.0, "alpha = 0.99": 0.99, "alpha = 0.9": 0.9, "GSNN": 0.0}
MARGINALIZER = "UM, Gaussian marginals"
PAPER = {
    "VAEAC, alpha = 1": (0.22, 85),
    "alpha = 0.99": (0.35, 11),
    "alpha = 0.9": (0.62, 1.7),
}
_fold_in = tf.random.experimental.stateless_fold_in


class Mixture:
    """Eight equal Gaussians in the plane: draws and exact conditional densities."""

    def __init__(self):
        self.means = np.random.default_rng(MEANS_SEED).normal(size=[COMPONENTS, 2])
        self.limits = self.means.min() - 0.5, self.means.max() + 0.5  # of pictures

    def sample(self, count, seed):
        """[count, 2], float32."""
        rng = np.random.default_rng(seed)
        which = rng.integers(COMPONENTS, size=count)
        return (self.means[which] + SCALE * rng.normal(size=[count, 2])).astype(np.float32)

    def log_prob(self, x, features):
        """log p of a subset of the coordinates, bool [N, 2]: [N]."""
        deviation = (x[:, None, :].astype(np.float64) - self.means) / SCALE
        each = -0.5 * deviation**2 - np.log(SCALE * np.sqrt(2 * np.pi))
        total = np.where(features[:, None, :], each, 0.0).sum(-1)
        return special.logsumexp(total, axis=-1) - np.log(COMPONENTS)

    def conditional(self, x, observed):
        """log p(x_u | x_o): [N]."""
        return self.log_prob(x, np.ones_like(observed)) - self.log_prob(x, observed)


def vaeac(alpha):
    """The paper's networks; the generator mirrors the prior network and reuses its layers."""
    return VAEAC(
        LATENT,
        LayeredEncoder(UNITS),
        LayeredEncoder(UNITS),
        LayeredDecoder(UNITS[::-1]),
        Normal(MIN_SCALE),
        alpha=alpha,
    )


def method_of(name):
    """An untrained method."""
    if name == MARGINALIZER:
        return UniversalMarginalizer(networks.mlp(UNITS), Normal(MIN_SCALE))
    return vaeac(ALPHAS[name])


def train(method, rows, steps):
    """Trains in place; returns the CPU seconds it took."""
    method.create_variables(DataSpec((2,)), seed=0)
    method.optimizer = optimizers.adam_cosine(steps, 1e-3, clip_norm=100.0)
    method.optimizer.build(method.variables_to_train())
    method.train_seed = (0, 1)
    rows, mask = tf.constant(rows), BernoulliMask(0.5)
    present = tf.ones([BATCH, 2], tf.bool)

    @tf.function
    def loop(first):
        for i in tf.range(first, first + LOOP):
            seed = _fold_in(tf.constant([1, 2]), i)
            chosen = tf.random.stateless_uniform([BATCH], seed, 0, len(rows), tf.int32)
            x = tf.gather(rows, chosen)
            method.train_step((x, present, mask(x, present, _fold_in(seed, 0))))

    started = time.process_time()
    for first in range(0, steps, LOOP):
        loop(tf.constant(first))
    return time.process_time() - started


def evaluate(method, mixture):
    """Negative log-likelihoods, nats a row: paper's masks, and everything hidden."""
    x = mixture.sample(TEST, seed=1)
    observed = np.random.default_rng(2).random([TEST, 2]) < 0.5
    told = {}
    for label, seen in (("masks", observed), ("joint", np.zeros_like(observed))):
        target = ~seen
        exact = mixture.conditional(x, seen)
        told[label] = {"truth": summary(exact), "truth, 1,000 rows": summary(exact[:FEW])}
        if isinstance(method, UniversalMarginalizer):
            estimate = method.log_likelihood(x, seen, target, 20, [0, 1])
            told[label]["20 random orders"] = summary(estimate.value)
            continue
        estimate = MonteCarloLikelihood()(method, x, seen, target, 10, [0, 1])
        told[label]["MC-10"] = summary(estimate.value)
        if method.alpha:
            estimate = method.log_likelihood(x, seen, target, 10, [0, 1])
            told[label]["IS-10"] = summary(estimate.value)
            few = (part[:FEW] for part in (x, seen, target))
            many = method.log_likelihood(*few, 1000, [0, 1])
            told[label]["IS-1000, 1,000 rows"] = summary(many.value)
    return told


def summary(log_likelihood):
    """Mean and standard error of the negative, nats."""
    values = -np.asarray(log_likelihood, np.float64)
    return [float(values.mean()), float(values.std() / np.sqrt(len(values)))]


def draws(method, mixture, count=3000):
    """Draws of both, of x1 given x2 and of x2 given x1: [3, count, 2]."""
    x = mixture.sample(count, seed=5)
    hidden = ((True, True), (True, False), (False, True))
    masks = [np.tile(~np.array([h]), [count, 1]) for h in hidden]
    return np.stack([method.impute(x, seen, 1, [0, 3])[0].numpy() for seen in masks])


def picture(mixture, cells, path):
    """Density, data and the draws of every method, a row each."""
    rows = [name for name in (*ALPHAS, MARGINALIZER) if name in cells]
    figure = matplotlib.figure.Figure(
        figsize=(9.6, 2.9 * (len(rows) + 1)), layout="constrained"
    )
    axes = figure.subplots(len(rows) + 1, 3)
    grid = np.stack(np.meshgrid(*[np.linspace(*mixture.limits, 201)] * 2), -1)
    density = mixture.log_prob(grid.reshape(-1, 2), np.ones([201 * 201, 2], bool))
    shown = axes[0, 0].imshow(
        np.exp(density).reshape(201, 201),
        origin="lower",
        extent=(*mixture.limits, *mixture.limits),
    )
    axes[0, 0].set_title("density (Figure 6)", fontsize=9)
    figure.colorbar(shown, ax=axes[0, 0], shrink=0.8)
    _scatter(axes[0, 1], mixture.sample(3000, seed=5), mixture.limits)
    axes[0, 1].set_title("3,000 points of the data", fontsize=9)
    axes[0, 2].axis("off")
    axes[0, 2].text(
        0.0,
        0.35,
        "Below: draws of\n"
        "left: $p(x_1, x_2)$\n"
        "middle: $p(x_1 | x_2)$, $x_2$ from the data\n"
        "right: $p(x_2 | x_1)$, $x_1$ from the data",
        fontsize=10,
    )
    for row, name in zip(axes[1:], rows, strict=True):
        for axis, points in zip(row, cells[name]["draws"], strict=True):
            _scatter(axis, points, mixture.limits)
        for axis, what in zip(row, ("x_1, x_2", "x_1 | x_2", "x_2 | x_1"), strict=True):
            axis.set_title(f"{name}: $p({what})$", fontsize=9)
    figure.savefig(path, dpi=80)


def _scatter(axis, points, limits):
    axis.plot(points[:, 0], points[:, 1], ".", markersize=1.2, alpha=0.5)
    axis.set(xlim=limits, ylim=limits, aspect="equal")


def write(folder, mixture, steps):
    """The files in benchmarks/results/ from the folder's cells."""
    cells = {}
    for name in (*ALPHAS, MARGINALIZER):
        if (folder / f"{name}.json").exists():
            cells[name] = json.loads((folder / f"{name}.json").read_text())
    for name, cell in cells.items():
        cell["draws"] = np.load(folder / f"{name}.npy")
    picture(mixture, cells, RESULTS / "vaeac_synthetic.png")
    facts = {
        "command": f"python benchmarks/vaeac_synthetic.py --steps {steps} --write",
        "hardware": f"one core of {os.cpu_count()}, {platform.machine()}, no GPU",
        "tensorflow": tf.__version__,
        "seeds": f"means {MEANS_SEED}; data, weights and masks 0; test rows 1, masks 2",
        "rows scored": TEST,
    }
    rows = {
        name: {key: value for key, value in cell.items() if key != "draws"}
        for name, cell in cells.items()
    }
    text = json.dumps({"facts": facts, "cells": rows}, indent=1)
    (RESULTS / "vaeac_synthetic.json").write_text(text + "\n")
    print(table(rows))


def table(cells) -> str:
    """Markdown: ours beside the paper's."""
    lines = [
        "| method | hidden | IS-10 | MC-10 | exact | IS-1000, 1,000 rows | exact, these rows "
        "| paper: IS-10 | MC-10 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def shown(scores, key):
        return "" if key not in scores else "{:.3g} ± {:.2g}".format(*scores[key])

    for name, cell in cells.items():
        for masks, scores in cell["scores"].items():
            keys = ("IS-10", "MC-10", "truth", "IS-1000, 1,000 rows", "truth, 1,000 rows")
            if name == MARGINALIZER:
                keys = ("20 random orders", *keys[1:])
            paper = PAPER.get(name, ("", ""))
            found = [name, masks, *[shown(scores, key) for key in keys], *map(str, paper)]
            lines.append("| " + " | ".join(found) + " |")
    return "\n".join(lines)


def main():
    """Trains what is not there yet, evaluates it, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/vaeac_synthetic", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--methods", nargs="*", default=[*ALPHAS, MARGINALIZER])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    folder, mixture = arguments.folder, Mixture()
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.methods:
        if (folder / f"{name}.json").exists():
            continue
        method = method_of(name)
        taken = train(method, mixture.sample(POINTS, seed=0), arguments.steps)
        cell = {"steps": arguments.steps, "training CPU seconds": round(taken, 1)}
        cell["scores"] = evaluate(method, mixture)
        np.save(folder / f"{name}.npy", draws(method, mixture).astype(np.float16))
        (folder / f"{name}.json").write_text(json.dumps(cell, indent=1) + "\n")
        print(name, json.dumps(cell), flush=True)
    if arguments.write:
        write(folder, mixture, arguments.steps)


if __name__ == "__main__":
    main()
