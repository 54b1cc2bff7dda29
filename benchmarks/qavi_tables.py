"""Table 1 of QAVI: log-likelihoods of missing cells by query-adaptive and other inference.

    python benchmarks/qavi_tables.py [--tables banknote ...] [--methods "Mix. QAVI" ...]

One VAE a table is trained on complete rows; every method answers the same test rows, half of
whose cells are gone, with that VAE's decoder. What is measured is added to the JSON file; what
it has is not run again without --again. The data are in ../shared/data.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import sys
import tempfile
import textwrap
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import tensorflow as tf

from vae_arbcond import estimators, metrics, networks, training
from vae_arbcond.conditioners import (
    FeatureQueryAdaptive,
    FillZeros,
    HamiltonianMonteCarlo,
    MetropolisWithinGibbs,
    PosteriorMatching,
    PseudoGibbs,
    QueryAdaptive,
    ReTunedEncoder,
)
from vae_arbcond.conditioners.query_adaptive import AmortisedStart, EncoderStart
from vae_arbcond.data.pipeline import make_splits
from vae_arbcond.data.sources import Source
from vae_arbcond.distributions import DiagonalGaussian, Normal, over_features
from vae_arbcond.masks import BernoulliMask
from vae_arbcond.models import VAE
from vae_arbcond.optimizers import adam_cosine
from vae_arbcond.variational import (
    FirstOrder,
    GaussianFamily,
    InverseAutoregressiveFamily,
    MixtureFamily,
)

RESULTS = pathlib.Path(__file__).parent / "results"
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
MOST_LATENTS, MIN_SCALE, STEPS = 10, 0.05, 3000
HIDDEN = (128, 128)
SAMPLES, ROWS = 10_000, 100
# The paper's log p(x_M) and oracle NRMSE, Table 1, in the order of TABLES.
TABLES = ("breast_wdbc", "red_wine", "white_wine", "banknote", "concrete", "yeast")
WITH_TARGET = ("red_wine", "white_wine", "concrete")  # a number, one more column
PAPER = {  # log-likelihoods, then NRMSE
    "Mix. QAVI": (
        (-9.16, -6.35, -7.03, -2.25, -2.70, 2.42),
        (0.39, 0.26, 0.35, 0.10, 0.17, 0.46),
    ),
    "Flow QAVI": (
        (-9.14, -6.47, -7.03, -2.24, -2.65, 2.55),
        (0.39, 0.26, 0.35, 0.10, 0.17, 0.46),
    ),
    "Gaus. QAVI": (
        (-9.21, -6.56, -6.94, -2.35, -2.82, 2.82),
        (0.39, 0.30, 0.30, 0.10, 0.17, 0.46),
    ),
    "Feat. QAVI": (
        (-16.32, -13.20, -8.80, -8.27, -15.14, -7.81),
        (0.37, 0.28, 0.38, 0.15, 0.23, 0.47),
    ),
    "Posterior Match": (
        (-15.14, -14.83, -9.19, -4.42, -15.05, -430.36),
        (0.33, 0.42, 0.39, 0.14, 0.40, 0.47),
    ),
    "Re-tuned Encoder": (
        (-12.82, -12.96, -9.59, -4.26, -11.48, -33.62),
        (0.40, 0.40, 0.39, 0.14, 0.35, 0.50),
    ),
    "Metropolis-in-Gibbs": (
        (-23.94, -74.22, -19.83, -49.51, -265.62, -1.86),
        (0.44, 0.68, 0.58, 0.68, 0.62, 0.54),
    ),
    "pseudo-Gibbs": (
        (-12.61, -33.53, -10.68, -44.16, -249.06, -5.11),
        (0.33, 0.36, 0.36, 0.40, 0.36, 0.48),
    ),
    "Fill Zeros": (
        (-32.56, -21.97, -10.09, -17.46, -23.33, -11.27),
        (0.40, 0.36, 0.37, 0.32, 0.32, 0.48),
    ),
}
QAVI = ("Mix. QAVI", "Flow QAVI", "Gaus. QAVI")
CHAINS = ("Metropolis-in-Gibbs", "pseudo-Gibbs", "HMC")
# Rows that the paper has not. QAVI of a beta above 1 is wider than the posterior.
OURS = ("Mix. QAVI, beta 4", "Full-covariance QAVI", "Semi-amortised, 30 steps", "HMC")


def splits_of(name):
    """65 : 15 : 20 of a table's rows, standardised by the training rows."""
    sys.path.insert(0, str(SHARED / "tools"))
    import tabular_protocol

    x, target = tabular_protocol.load(SHARED / "data", name)
    if name in WITH_TARGET:
        x = np.column_stack([x, target])
    frame = pd.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])])
    return make_splits(Source(name, frame), test_fraction=0.2, valid_fraction=0.15, seed=1234)


def questions(splits):
    """x [N, D] and observed: each row lacks half of its cells, rounded down."""
    x = splits.test.x[:ROWS]
    rng = np.random.default_rng(1234)
    place = np.argsort(rng.random(x.shape), axis=1)
    return x, place >= x.shape[1] // 2


def fit(make, splits, seed=0):
    """`make()` trained on complete rows, its masks hiding half of the cells."""
    with tempfile.TemporaryDirectory() as folder:
        return training.train(
            run_dir=f"{folder}/run",
            conditioner=make(),
            data=splits,
            mask=BernoulliMask(0.5),
            num_steps=STEPS,
            batch_size=64,
            validate_every=100,
            patience=10,
            optimizer=adam_cosine,
            seed=seed,
            verbose=0,
        ).conditioner


def trained(splits):
    """Posterior Matching and the VAE inside it; the re-tuned encoder of the same VAE."""
    latent = min(splits.train.x.shape[1] // 2, MOST_LATENTS)
    mlp = functools.partial(networks.mlp, HIDDEN)

    def head():
        return DiagonalGaussian(latent)

    def matching():
        vae = VAE(latent, mlp(), head(), mlp(), Normal(MIN_SCALE))
        return PosteriorMatching(vae, mlp(), head())

    match = fit(matching, splits)
    again = fit(lambda: ReTunedEncoder(match.model, mlp(), head(), train_model=False), splits)
    return match, again


def methods_of(match, again):
    """Name -> method around one model."""
    model, plain = match.model, {"train_model": False, "start": EncoderStart()}
    adaptive = {
        "Mix. QAVI": QueryAdaptive(model, MixtureFamily(10), **plain),
        "Flow QAVI": QueryAdaptive(
            model, InverseAutoregressiveFamily(), FirstOrder(learning_rate=0.03), **plain
        ),
        "Gaus. QAVI": QueryAdaptive(model, GaussianFamily(), **plain),
        "Mix. QAVI, beta 4": QueryAdaptive(model, MixtureFamily(10), beta=4.0, **plain),
        "Full-covariance QAVI": QueryAdaptive(
            model, GaussianFamily(full_covariance=True), **plain
        ),
        "Semi-amortised, 30 steps": QueryAdaptive(
            None,
            GaussianFamily(),
            FirstOrder("rmsprop", num_steps=30, check_every=10),
            start=AmortisedStart(match),
            train_model=False,
        ),
    }
    chain = {"num_burn_in": 300, "train_model": False}
    return adaptive | {
        "Feat. QAVI": FeatureQueryAdaptive(model, train_model=False),
        "Posterior Match": match,
        "Re-tuned Encoder": again,
        "Metropolis-in-Gibbs": MetropolisWithinGibbs(model, **chain),
        "pseudo-Gibbs": PseudoGibbs(model, **chain),
        "HMC": HamiltonianMonteCarlo(model, train_model=False),
        "Fill Zeros": FillZeros(model, train_model=False),
    }


def posterior(name, method, x, observed, seed):
    """q(z) that the paper's Eq. 12 draws from.

    Of chains and of Feat. QAVI it is, as in the paper's code, the encoder's at one completion.
    """
    if name in (*CHAINS, "Feat. QAVI"):
        filled = method.impute(x, observed, 1, seed)[0]
        return method.model.posterior(filled, tf.ones_like(observed))
    return method.infer(tf.where(observed, x, 0.0), observed, tf.constant(seed)).posterior


@tf.function(reduce_retracing=True, autograph=False)
def parts_of(model, q, x, missing, count, seed):
    """log p(x_M | z), log p(z), log q(z) [S, B] and the decoder's means [S, B, D]."""
    z = q.sample(count, seed=seed)
    likelihood = model.likelihood(z)
    return (
        over_features(likelihood, missing).log_prob(x),
        model.prior().log_prob(z),
        q.log_prob(z),
        likelihood.mean(),
    )


def score(name, method, x, observed):
    """Row's log p(x_M) of Eq. 12, oracle NRMSE, log p(x_M | x_o) and time of one method."""
    x, observed = tf.constant(x), tf.constant(observed)
    missing = ~observed
    started, used = time.time(), time.process_time()
    q = posterior(name, method, x, observed, [0, 1])
    seconds = {"wall": time.time() - started, "cpu": time.process_time() - used}
    parts, means = [], []
    chunk = 500
    for i in range(SAMPLES // chunk):
        *logs, mean = parts_of(
            method.model, q, x, missing, chunk, tf.constant([i, 7], tf.int32)
        )
        parts.append([part.numpy() for part in logs])
        means.append(mean.numpy())
    logs = [tf.constant(np.concatenate(part)) for part in zip(*parts, strict=True)]
    told = estimators.marginal_of_missing(*logs)
    given = method.log_likelihood(x, observed, missing, 1000, [0, 3])
    least = metrics.nrmse_min(x.numpy(), np.concatenate(means), missing.numpy(), 1.0)
    if name in CHAINS:  # `complete` answers rows one by one.
        done = method.impute(x, observed, 100, [0, 5]).numpy().mean(0)
    else:
        done = method.complete(x, observed, 100, [0, 5]).numpy()
    return {
        "log p(x_M)": float(np.mean(told.value)),
        "stderr": float(np.sqrt(np.sum(told.stderr.numpy() ** 2)) / len(x)),
        "k above 0.7": float(np.mean(told.pareto_k.numpy() > 0.7)),
        "oracle NRMSE": float(least),
        "NRMSE": float(metrics.nrmse_mean(x.numpy(), done, missing.numpy(), 1.0)),
        "log p(x_M | x_o)": float(np.mean(given.value)),
        "its stderr": float(np.sqrt(np.sum(given.stderr.numpy() ** 2)) / len(x)),
        "its k above 0.7": float(np.mean(given.pareto_k.numpy() > 0.7)),
        "seconds": seconds,
    }


def text(found) -> str:
    """The results as Markdown."""
    lines = [
        "# QAVI on tables",
        "",
        f"`python benchmarks/qavi_tables.py`, {found['hardware']}.",
        "",
        *textwrap.wrap(
            f"One VAE a table: 128-128 networks, half as many latents as columns and at most "
            f"{MOST_LATENTS} (the paper does not say how many), a scale of at least "
            f"{MIN_SCALE} standard deviations for all columns (its code: .001, which moves "
            f"all figures), Adam with a cosine over at most {STEPS} "
            f"steps, stopped early. 65 : 15 : 20 split, standardised by training rows (the "
            f"paper: by all rows). The first {ROWS} test rows, half of whose cells are gone. "
            f"The wines and concrete have their target as one more column. Query-adaptive "
            f"rows: 100 draws of z a step, at most 300 steps, started at the encoder on "
            f"zero-filled rows, beta = 1 but where a row says 4. One split, one model and one "
            f"mask a row (seeds 1234, 0, 1234): errors below are those of the draws alone.",
            95,
        ),
        "",
        "## log p(x_M), Eq. 12, nats a row: higher is better",
        "",
        *textwrap.wrap(
            f"Of the missing cells alone, {SAMPLES:,} draws of q(z), as in the paper's Table "
            f"1: it tells how tight a bound q makes, not how likely x_M is given x_o. Of "
            f"chains and Feat. QAVI q is the encoder's at one completion. In brackets the "
            f"paper's figure. A q that comes closer to p(z | x_o) is no better a proposal for "
            f"p(x_M): HMC, among the best by log p(x_M | x_o) below, is among the worst here, "
            f"and Posterior Matching, which is broad, above QAVI with beta = 1. So the "
            f"paper's order, QAVI above all, is NOT reached by Eq. 12 at beta = 1; its "
            f"Posterior Matching was far worse. `qavi_images.md` shows the same, with the "
            f"prior itself for comparison. beta = 4, which widens q, was found there, on its "
            f"questions, and taken over: nothing was chosen on these tables. With it the "
            f"mixture is above every other row.",
            95,
        ),
        "",
    ]
    tables = [name for name in TABLES if name in found["tables"]]
    if absent := [name for name in TABLES if name not in tables]:
        lines += [f"Not measured yet: {', '.join(absent)}.", ""]
    head = ["| method | " + " | ".join(tables) + " |", "|---" * (len(tables) + 1) + "|"]

    def rows(cell):
        out = []
        for method in (*PAPER, *OURS):
            cells = [cell(method, name) for name in tables]
            out.append(f"| {method} | " + " | ".join(cells) + " |")
        return [*head, *out, ""]

    def value(method, name, key, form, paper=None):
        row = found["tables"][name].get(method)
        if row is None:
            return "-"
        told = form.format(row[key])
        if key == "log p(x_M)":
            told += f" ± {row['stderr']:.2f}"
        if paper is not None and method in PAPER:
            told += f" [{PAPER[method][paper][TABLES.index(name)]}]"
        return told

    lines += rows(lambda m, n: value(m, n, "log p(x_M)", "{:.2f}", 0))
    lines += verdicts(found, tables, "log p(x_M)", "stderr")
    lines += [
        "Share of rows whose Pareto k is above .7 (the bound is then far from tight):",
        "",
    ]
    lines += rows(lambda m, n: value(m, n, "k above 0.7", "{:.2f}"))
    lines += [
        "## NRMSE of the best of the draws: an oracle's",
        "",
        f"The least of {SAMPLES:,} decoded means of each row; only the truth can choose it.",
        "",
    ]
    lines += rows(lambda m, n: value(m, n, "oracle NRMSE", "{:.2f}", 1))
    lines += [
        "## log p(x_M | x_o) and NRMSE of completions",
        "",
        "What a user gets: each method's own estimate with 1,000 draws, nats a row (its",
        "standard error; share of rows with k above .7), and NRMSE of `complete`, 100 draws.",
        "",
    ]
    given = "log p(x_M | x_o)"
    lines += rows(
        lambda m, n: " ".join(
            [
                value(m, n, given, "{:.2f}"),
                value(m, n, "its stderr", "(+- {:.2f};"),
                value(m, n, "its k above 0.7", "{:.2f})"),
            ]
        )
    )
    lines += verdicts(found, tables, given, "its stderr")
    lines += rows(lambda m, n: value(m, n, "NRMSE", "{:.3f}"))
    lines += ["Times: `query_adaptive_speed.md`. Here searches run eagerly, which is slow."]
    return "\n".join(lines) + "\n"


def verdicts(found, tables, key, error) -> list[str]:
    """The best QAVI row of a likelihood beside the best other one, a line a table."""
    lines = ["The best of QAVI beside the best of the rest:", ""]
    for name in tables:
        cells = found["tables"][name]
        ours = [m for m in cells if "QAVI" in m and m != "Feat. QAVI"]
        best, rival = (
            max(group, key=lambda m: cells[m][key])
            for group in (ours, [m for m in cells if m not in ours])
        )
        apart = cells[best][key] - cells[rival][key]
        both = np.hypot(cells[best][error], cells[rival][error])
        lines.append(f"- {name}: {best} less {rival}: {apart:+.2f} (error {both:.2f}).")
    return [*lines, ""]


def main():
    """Runs what is asked for and adds it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=TABLES)
    parser.add_argument("--methods", nargs="*", default=[*PAPER, *OURS])
    parser.add_argument("--again", action="store_true", help="run what is there already, too")
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS / "qavi_tables.json")
    options = parser.parse_args()
    if unknown := set(options.methods) - {*PAPER, *OURS}:
        parser.error(f"there is no method {sorted(unknown)}; there are {[*PAPER, *OURS]}")
    found = json.loads(options.json.read_text()) if options.json.is_file() else {}
    found["hardware"] = f"{platform.machine()}, {os.cpu_count()} CPU cores shared with others"
    for name in options.tables:
        cells = found.setdefault("tables", {}).setdefault(name, {})
        wanted = [m for m in options.methods if options.again or m not in cells]
        if not wanted:
            continue
        splits = splits_of(name)
        x, observed = questions(splits)
        used = time.process_time()
        made = methods_of(*trained(splits))
        found.setdefault("training, CPU s", {})[name] = round(time.process_time() - used, 1)
        for label in wanted:
            method = made[label]
            if method.spec is None:
                method.build_for(splits.train.spec)
            cells[label] = score(label, method, x, observed)
            print(name, label, json.dumps(cells[label]), flush=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n")
            options.json.with_suffix(".md").write_text(text(found))


if __name__ == "__main__":
    main()
