"""Speed of query-adaptive inference, and what a start by Posterior Matching saves.

    export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
    python benchmarks/query_adaptive_speed.py --data ../shared/data --runs runs/query_adaptive

red_wine, 12 columns, standardised; 1,200 rows train, the others are asked with half of their
cells hidden. Posterior Matching around a VAE of latent size 10, 128-128 ReLU, is trained for
4,000 steps; all searches share its decoder: 100 draws a step, at most 300 steps. Seconds are
those of the CPU, of one thread, the least of some calls; the first call, which traces (and
with XLA compiles), stands apart. What is measured joins the JSON file, cell by cell; --parts
names some of search, batch, export and start. The table beside the file is written anew each
time; --parts none writes nothing but it.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile
import textwrap
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import tensorflow as tf

from vae_arbcond import networks, optimizers, serving
from vae_arbcond.conditioners import AmortisedStart, PosteriorMatching, QueryAdaptive
from vae_arbcond.distributions import CholeskyGaussian, MixedColumns
from vae_arbcond.models import VAE
from vae_arbcond.schema import TableSchema
from vae_arbcond.shapes import DataSpec
from vae_arbcond.variational import FirstOrder, GaussianFamily, MixtureFamily

RESULTS = pathlib.Path(__file__).parent / "results" / "query_adaptive_speed.json"
TRAIN_ROWS, TRAIN_STEPS, SAMPLES = 1200, 4000, 100
ALL_STEPS = FirstOrder(patience=None)
OWN_STOPPING = FirstOrder()
FEW = FirstOrder("rmsprop", num_steps=30, check_every=15, patience=None)
PRODUCT_FLOPS = 2.0 * 10_000 * 128 * 128


def table(folder):
    """Standardised rows, in a drawn order: float32 [1599, 12]."""
    frame = pd.read_csv(folder / "red_wine" / "winequality-red.csv", sep=";")
    x = np.random.default_rng(0).permutation(frame.to_numpy(np.float64))
    x = (x - x[:TRAIN_ROWS].mean(0)) / x[:TRAIN_ROWS].std(0)
    return x.astype(np.float32)


def questions(x, rows):
    """Rows that were not trained on, again and again where they are too few; half hidden."""
    x = np.resize(x[TRAIN_ROWS:], [rows, x.shape[1]])
    observed = np.random.default_rng(1).random(x.shape) < 0.5
    return tf.constant(np.where(observed, x, 0.0)), tf.constant(observed)


def matching():
    """The conditioner, untrained."""
    size = 10
    model = VAE(
        size,
        networks.mlp((128, 128)),
        CholeskyGaussian(size),
        networks.mlp((128, 128)),
        MixedColumns(min_scale=0.1, network_scale=True),
    )
    made = PosteriorMatching(
        model, networks.mlp((128, 128)), CholeskyGaussian(size), closed_form=True
    )
    return made.create_variables(DataSpec((12,)), 0)


def trained(x, runs):
    """The conditioner with its weights, and the CPU seconds that training took (or None)."""
    made, path = matching(), runs / "matching.weights.h5"
    if path.exists():
        made.load_weights(path)
        return made, None
    made.optimizer = optimizers.adam(learning_rate=1e-3)
    made.optimizer.build(made.variables_to_train())
    made.train_seed = (0, 0)
    rows = tf.constant(x[:TRAIN_ROWS])

    @tf.function
    def steps(first):
        for i in tf.range(first, first + 100):
            pair = tf.stack([i, 7])
            at = tf.random.stateless_uniform([64], pair, 0, TRAIN_ROWS, tf.int32)
            share = tf.random.stateless_uniform([64, 1], pair + 1)
            observed = tf.random.stateless_uniform([64, 12], pair + 2) < share
            batch = tf.gather(rows, at)
            made.train_step((batch, tf.ones_like(observed), observed))

    start = time.process_time()
    for first in range(0, TRAIN_STEPS, 100):
        steps(tf.constant(first))
    runs.mkdir(parents=True, exist_ok=True)
    made.save_weights(path)
    return made, time.process_time() - start


def adaptive(matched, family, minimizer, **options):
    """A QueryAdaptive on the trained model."""
    model = None if "start" in options else matched.model
    made = QueryAdaptive(
        model, family, minimizer, num_samples=SAMPLES, train_model=False, **options
    )
    return made.create_variables(matched.spec)


def timed(function, calls):
    """CPU seconds of the first call and the least of `calls` more, and the last result."""
    seconds = []
    for _ in range(calls + 1):
        start = time.process_time()
        result = function()
        tf.nest.map_structure(lambda part: part.numpy(), result)
        seconds.append(time.process_time() - start)
    return seconds[0], min(seconds[1:]), result


def product():
    """GFLOP/s of CPU time of a plain matrix product, the machine's yardstick."""
    a, b = tf.random.normal([10_000, 128]), tf.random.normal([128, 128])
    _, seconds, _ = timed(tf.function(lambda: tf.matmul(a, b)), 20)
    return PRODUCT_FLOPS / seconds / 1e9


def circumstances():
    """What else a time depends on: caches and memory are shared with what else is running."""
    return {"matrix product, GFLOP/s": product(), "load average": os.getloadavg()[0]}


def search(matched, x, minimizer, family, jit, rows=100, calls=2):
    """How long `rows` queries take together."""
    method = adaptive(matched, family, minimizer, jit_compile=jit)
    x, observed = questions(x, rows)
    ask = tf.function(method.optimise, jit_compile=jit or None)
    first, seconds, found = timed(lambda: ask(x, observed), calls)
    return {
        "CPU s": seconds,
        "first call, CPU s": first,
        "ms a query": 1e3 * seconds / rows,
        "mean steps": float(np.mean(found.steps)),
        "mean bound": float(np.mean(found.bound)),
        **circumstances(),
    }


def exported(matched, x, **options):
    """What the exported `impute` signature takes for one query and 100 draws."""
    columns = pd.DataFrame(x[:TRAIN_ROWS].astype(np.float64) + 0.01).add_prefix("column ")
    method = adaptive(matched, GaussianFamily(), **options)
    schema = TableSchema.infer(columns, overrides={c: "numeric" for c in columns})
    with tempfile.TemporaryDirectory() as folder:
        path = serving.export(method, folder, schema=schema)
        impute = tf.saved_model.load(str(path)).signatures["impute"]
        x, observed = questions(x, 10)
        times, clock = [], []
        for row in range(10):
            one = slice(row, row + 1)
            ask = {
                "x": x[one],
                "observed": observed[one],
                "num_samples": tf.constant([100]),
                "seed": tf.constant([[1, 2]]),
            }
            _, seconds, _ = timed(lambda ask=ask: impute(**ask), 10)
            times.append(seconds)
            calls = []
            for _ in range(10):
                start = time.perf_counter()
                impute(**ask)
                calls.append(time.perf_counter() - start)
            clock.append(min(calls))
    return {
        "ms, median of 10 queries": 1e3 * float(np.median(times)),
        "ms, largest": 1e3 * max(times),
        "ms on the clock, median of 10 queries": 1e3 * float(np.median(clock)),
        **circumstances(),
    }


def started(matched, x, family, few):
    """Bounds, on 1,000 fresh draws, of 300 steps from the prior and of few from the start."""
    x, observed = questions(x, 100)
    plain = adaptive(matched, family, ALL_STEPS)
    quick = adaptive(matched, family, few, start=AmortisedStart(matched))
    seed, bounds = tf.constant([5, 6]), {}
    for name, method in (("300 steps from the prior", plain), ("from the start", quick)):
        found = tf.function(method.optimise)(x, observed)
        method.num_samples = 1000
        bounds[name] = method.bound(found.parameters, (x, observed), seed)[0].numpy()
    zero = quick.family.start(matched.infer(x, observed, None).posterior, tf.constant([0, 0]))
    bounds["the start itself"] = quick.bound(zero, (x, observed), seed)[0]
    apart = bounds["from the start"] - bounds["300 steps from the prior"]
    return {f"mean bound, {name}": float(np.mean(b)) for name, b in bounds.items()} | {
        "steps from the start": few.num_steps,
        "mean difference": float(apart.mean()),
        "its standard error": float(apart.std() / np.sqrt(len(apart))),
        "share of queries within 0.05 nats or above": float((apart >= -0.05).mean()),
    }


def cells(matched, x):
    """Part -> name of a cell -> what measures it."""
    families = {"Gaussian": GaussianFamily(), "mixture of 10": MixtureFamily(10)}
    full = GaussianFamily(full_covariance=True)
    minimizers = {"all 300 steps": ALL_STEPS, "own stopping": OWN_STOPPING}
    return {
        "search": {
            f"100 queries, {name}, {how}{', XLA' if jit else ''}": (
                lambda m=m, f=f, jit=jit: search(matched, x, m, f, jit)
            )
            for jit in (False, True)
            for name, f in families.items()
            for how, m in minimizers.items()
        },
        "batch": {
            f"{rows} queries, Gaussian, {how}": (
                lambda m=m, rows=rows: search(
                    matched, x, m, families["Gaussian"], False, rows, 5 if rows < 100 else 1
                )
            )
            for how, m in minimizers.items()
            for rows in (1, 10, 100, 1000)
            if rows < 1000 or how == "own stopping"
        },
        "export": {
            f"one query, {how}{', XLA' if jit else ''}": (
                lambda options=options, jit=jit: exported(
                    matched, x, jit_compile=jit, **options
                )
            )
            for jit in (False, True)
            for how, options in {
                "all 300 steps": {"minimizer": ALL_STEPS},
                "own stopping": {"minimizer": OWN_STOPPING},
                "30 steps from the start": {
                    "minimizer": FEW,
                    "start": AmortisedStart(matched),
                },
            }.items()
        },
        "start": {
            f"{name}, {steps} steps": (
                lambda f=f, steps=steps: started(
                    matched,
                    x,
                    f,
                    FirstOrder("rmsprop", num_steps=steps, check_every=15, patience=None),
                )
            )
            for name, f in (("diagonal Gaussian", families["Gaussian"]), ("Cholesky", full))
            for steps in (15, 30)
        },
    }


WANTED = {
    "100 queries, Gaussian": "3 s",
    "100 queries, mixture of 10": "6 s",
    "one query, all 300 steps": "60 ms",
    "one query, own stopping": "60 ms",
    "one query, 30 steps from the start": "15 ms",
}


def markdown(told):
    """The page beside the JSON file."""
    facts = told["facts"]
    lines = [
        "# How fast query-adaptive inference is",
        "",
        f"`{facts['command'].split(',')[0]}` with TF_NUM_INTRAOP_THREADS=1 and",
        f"TF_NUM_INTEROP_THREADS=1: {facts['hardware']}, TensorFlow",
        f"{facts['tensorflow']}. Seconds are CPU time, the least of some calls. Other work",
        "shared the two cores, their caches and their memory, which lengthens CPU time, too:",
        "the load average and the rate of a plain matrix product at that time stand beside",
        "each (110 to 120 GFLOP/s where nothing else runs). red_wine, 12 columns, half of the",
        "cells hidden, latent 10, 128-128, 100 draws a step; what is wanted is without XLA.",
        "",
        "| What | Measured | Wanted | First call, CPU s | Steps | Product, GFLOP/s | Load |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in ("search", "batch", "export"):
        for name, cell in told.get(part, {}).items():
            goal = next((w for n, w in WANTED.items() if name.startswith(n)), "")
            goal = "" if name.endswith("XLA") else goal
            if part == "export":
                name = f"exported `impute`, {name}"
                time = f"{cell['ms, median of 10 queries']:.1f} ms"
                time += f" (largest {cell['ms, largest']:.0f})"
                if (clock := cell.get("ms on the clock, median of 10 queries")) is not None:
                    time += f"; {clock:.1f} ms on the clock"
                rest = ["", ""]
            else:
                time = f"{cell['CPU s']:.2f} s"
                time += f", {cell['ms a query']:.1f} ms a query" if part == "batch" else ""
                rest = [f"{cell['first call, CPU s']:.1f}", f"{cell['mean steps']:.0f}"]
            rest += [f"{cell['matrix product, GFLOP/s']:.0f}", f"{cell['load average']:.1f}"]
            lines.append(f"| {' | '.join([name, time, goal, *rest])} |")
    turns = told.get("in turns with the code before")
    if turns:
        lines += ["", *textwrap.wrap(turns["how"], 91), ""]
        lines += ["| What | Before | After | Ratio | Load |", "|---|---|---|---|---|"]
        for name, cell in turns["cells"].items():
            ratio = cell["before, ms"] / cell["after, ms"]
            times = f"{cell['before, ms']:.1f} ms | {cell['after, ms']:.1f} ms"
            lines.append(f"| {name} | {times} | {ratio:.2f} | {cell['load average']:.1f} |")
    lines += [
        "",
        "All 300 steps of 100 queries are 249 GFLOP of matrix products in the decoder and",
        "back: 2.3 s at 110 GFLOP/s before anything else is computed. Gradients are those of",
        "z alone, not of the decoder's weights.",
        "",
        "Where a search starts matters: mean bound of 100 queries on 1,000 fresh draws, nats,",
        "beside 300 steps (Adam) from the prior. From Posterior Matching's answer by RMSProp,",
        "rate 0.1:",
        "",
        "| Family and steps | The start itself | From the start | 300 steps from the prior | "
        "Difference (standard error) |",
        "|---|---|---|---|---|",
    ]
    for name, cell in told.get("start", {}).items():
        keys = ("the start itself", "from the start", "300 steps from the prior")
        bounds = [f"{cell[f'mean bound, {key}']:.3f}" for key in keys]
        apart = f"{cell['mean difference']:+.3f} ({cell['its standard error']:.3f})"
        lines.append(f"| {' | '.join([name, *bounds, apart])} |")
    lines += [
        "",
        "The rule and the rate of the started search were chosen on 60 of these questions by",
        "this bound; no hidden value was looked at.",
    ]
    return "\n".join(lines) + "\n"


def main():
    """Measures what the JSON file lacks, cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default="../shared/data")
    parser.add_argument("--runs", type=pathlib.Path, default="runs/query_adaptive")
    parser.add_argument("--parts", nargs="+", default=["search", "batch", "export", "start"])
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    told = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    x = table(arguments.data)
    matched, seconds = trained(x, arguments.runs)
    if seconds is not None:
        told["training, CPU s"] = seconds
    told["facts"] = {
        "command": "python benchmarks/query_adaptive_speed.py, one thread",
        "hardware": f"{os.cpu_count()} shared cores, {platform.machine()}, no GPU",
        "tensorflow": tf.__version__,
        "seeds": "rows 0, questions 1, noise 0",
    }
    for part in arguments.parts:
        for name, measure in cells(matched, x).get(part, {}).items():
            done = told.setdefault(part, {})
            if name not in done:
                done[name] = measure()
                print(name, done[name], flush=True)
                arguments.json.write_text(json.dumps(told, indent=1) + "\n")
    arguments.json.with_suffix(".md").write_text(markdown(told))


if __name__ == "__main__":
    main()
