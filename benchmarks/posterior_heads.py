"""How well the partial posterior heads match: held-out log q(z | x_o), in nats.

    python benchmarks/posterior_heads.py [--data white_wine ...] [--heads ...] [--json FILE]

For each table and seed one VAE is trained; then every head is matched to that same VAE, with
the same rows, masks and number of steps, and scored on test rows by the mean of log q(z | x_o)
over z ~ q(z | x) and Bernoulli(0.5) masks. Weights are those of the best validation score. The
data are expected in ../shared/data.
"""

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from vae_arbcond import distributions, networks, optimizers
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.models import VAE
from vae_arbcond.shapes import DataSpec

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
LATENT = {"white_wine": 8, "miniboone_prefix": 16, "digits": 16}
SEEDS = (0, 1, 2)
BATCH, HIDDEN, MODEL_STEPS, HEAD_STEPS, EVERY = 128, 128, 4000, 4000, 200
MASKS = 20  # masks and draws of z a test row
HEADS = {
    "CholeskyGaussian": lambda size: distributions.CholeskyGaussian(size),
    "MadeMixture": lambda size: distributions.MadeMixture(size, hidden=256, blocks=2),
    "AutoregressiveMixture": lambda size: distributions.AutoregressiveMixture(
        size, hidden=128, blocks=2
    ),
    "MaskedAutoregressiveFlow": lambda size: distributions.MaskedAutoregressiveFlow(size),
    "GaussianMixture": lambda size: distributions.GaussianMixture(size),
}


def table(name):
    """Rows [N, D] of a shared table."""
    if name == "miniboone_prefix":
        return np.load(SHARED / name / "miniboone_prefix1523.npy")
    if name == "white_wine":
        path = SHARED / name / "winequality-white.csv"
        return np.genfromtxt(path, delimiter=";", skip_header=1)
    return np.genfromtxt(SHARED / name / "optdigits.tes", delimiter=",")[:, :-1]


def splits(name, seed):
    """Training, validation and test rows, standardised by the training rows."""
    x = table(name)
    x = x[np.random.default_rng(seed).permutation(len(x))]
    test, valid, train = np.split(x, [len(x) // 5, 3 * len(x) // 10])
    mean, scale = train.mean(0), train.std(0)
    if name == "digits":  # Some pixels are always blank: one scale for all of them.
        scale = train.std()
    return [tf.constant((part - mean) / scale, tf.float32) for part in (train, valid, test)]


def fit(part, train, valid_loss, steps, learning_rate, seed):
    """Trains with early weights kept by `valid_loss`; returns the seconds it took."""
    part.optimizer = optimizers.adam_cosine(steps, learning_rate, clip_norm=10.0)
    variables = part.variables_to_train()
    part.optimizer.build(variables)
    part.train_seed = (seed, 7)
    mask, present = BernoulliMask(0.5), tf.ones([BATCH, train.shape[1]], tf.bool)

    @tf.function
    def run(first):
        for step in tf.range(first, first + EVERY):
            seeds = tf.stack([seed + 100, step])
            rows = tf.random.stateless_uniform([BATCH], seeds, 0, len(train), tf.int32)
            x = tf.gather(train, rows)
            x += 0.01 * tf.random.stateless_normal(tf.shape(x), seeds + 1)
            part.train_step((x, present, mask(x, present, seeds + 2)))

    best, kept, started = np.inf, None, time.time()
    for first in range(0, steps, EVERY):
        run(tf.constant(first))
        loss = float(valid_loss())
        if loss < best:
            best, kept = loss, [v.numpy() for v in variables]
    if kept is None:
        sys.exit(f"The validation loss of {type(part).__name__} was never a number.")
    for variable, value in zip(variables, kept, strict=True):
        variable.assign(value)
    return time.time() - started


def matching_loss(method, x, seed):
    """[rows * MASKS]: -log q(z | x_o) for several masks and draws of z a row."""
    x = tf.repeat(x, MASKS, axis=0)
    present = tf.ones(tf.shape(x), tf.bool)
    observed = BernoulliMask(0.5)(x, present, [seed, 900])

    @tf.function
    def of(x, present, observed):
        posterior = method.model.posterior(x, present)
        return method.matching_loss(posterior, x, observed, [seed, 901])

    parts = [
        of(x[i : i + 4096], present[i : i + 4096], observed[i : i + 4096])
        for i in range(0, len(x), 4096)
    ]
    return tf.concat(parts, 0)


def one(name, seed, heads):
    """Test scores of every head: head -> (nats, seconds of matching)."""
    train, valid, test = splits(name, seed)
    latent = LATENT[name]
    model = VAE(
        latent,
        networks.residual_mlp(HIDDEN, 2),
        distributions.CholeskyGaussian(latent),
        networks.residual_mlp(HIDDEN, 2),
        distributions.FeatureScaleNormal(min_scale=0.05),
    ).create_variables(DataSpec((train.shape[1],)), seed)
    present = tf.ones(tf.shape(valid), tf.bool)
    elbo = tf.function(lambda: -tf.reduce_mean(model.elbo(valid, present, [seed, 5])))
    fit(model, train, elbo, MODEL_STEPS, 1e-3, seed)
    scores = {}
    for head in heads:
        family, _, precision = head.partition(", ")
        keras.config.set_dtype_policy(f"mixed_{precision}" if precision else "float32")
        method = PosteriorMatching(
            model, networks.residual_mlp(HIDDEN, 2), HEADS[family](latent), train_model=False
        ).create_variables(DataSpec((train.shape[1],)), seed)
        keras.config.set_dtype_policy("float32")

        def loss(method=method):
            return tf.reduce_mean(matching_loss(method, valid[:400], seed + 50))

        taken = fit(method, train, loss, HEAD_STEPS, 1e-3, seed)
        scores[head] = (-float(tf.reduce_mean(matching_loss(method, test, seed))), taken)
        print(name, seed, head, scores[head], flush=True)
    return scores


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", default=list(LATENT))
    parser.add_argument(
        "--heads", nargs="*", default=list(HEADS), help="'NAME, bfloat16' for half precision"
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--json", help="file to write the numbers to")
    arguments = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"This benchmark needs the tables in {SHARED}.")
    rows = []
    if arguments.json and os.path.exists(arguments.json):  # Other tables' rows stay.
        rows = json.loads(pathlib.Path(arguments.json).read_text())
        rows = [row for row in rows if row["table"] not in arguments.data]
    for name in arguments.data:
        rounds = [one(name, seed, arguments.heads) for seed in arguments.seeds]
        rows += [row(name, head, [scores[head] for scores in rounds]) for head in rounds[0]]
        if arguments.json:
            pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    for made in rows:
        print(made)


def row(name, head, scores):
    """What is kept of a head on a table: scores is [(nats, seconds)] of every seed."""
    nats, taken = np.array(scores).T
    return {
        "table": name,
        "head": head,
        "log q(z | x_o), nats": float(nats.mean()),
        "std over seeds": float(nats.std(ddof=1)) if len(nats) > 1 else float("nan"),
        "each seed": [round(float(v), 3) for v in nats],
        "seconds": float(taken.mean()),
    }


if __name__ == "__main__":
    main()
