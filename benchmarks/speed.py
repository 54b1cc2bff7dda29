"""Training steps a second, and what share of the machine's matrix product they reach.

    python benchmarks/speed.py [--rounds 5] [--json FILE]

The model of Posterior Matching's GAS experiment (8 features, batch 512, latent 16, networks of
256 hidden units and 2 residual blocks) with different partial posteriors, each under different
ways to run a step. All are measured in turn, round by round, in one process; printed are
medians over rounds, so that a busy moment of the machine does not favour one of them. FLOPs
are those of the matrix products in the graph of a step, gradients included. A new model joins
with a line in MODELS.
"""

import argparse
import json
import os
import pathlib
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from vae_arbcond import distributions, networks, optimizers
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.models import VAE
from vae_arbcond.shapes import DataSpec

FEATURES, BATCH, LATENT, HIDDEN, BLOCKS = 8, 512, 16, 256, 2
PRODUCT = (
    BATCH * LATENT,
    HIDDEN,
    HIDDEN,
)  # The shape that most of the AR step's time goes to.
LOOP = 64


def matching(head):
    """Posterior Matching of the GAS experiment around a partial posterior head."""

    def network():
        return networks.residual_mlp(HIDDEN, BLOCKS, final_activation=True)

    model = VAE(
        LATENT,
        network(),
        distributions.CholeskyGaussian(LATENT),
        network(),
        distributions.SharedScaleNormal(),
    )
    method = PosteriorMatching(model, network(), head)
    method.create_variables(DataSpec((FEATURES,)), seed=0)
    method.optimizer = optimizers.adam(learning_rate=1e-3, weight_decay=1e-5)
    method.optimizer.build(method.variables_to_train())
    method.train_seed = (0, 0)
    return method


MODELS = {
    "AutoregressiveMixture": lambda: distributions.AutoregressiveMixture(LATENT),
    "MadeMixture": lambda: distributions.MadeMixture(LATENT),
    "MaskedAutoregressiveFlow": lambda: distributions.MaskedAutoregressiveFlow(LATENT),
    "GaussianMixture": lambda: distributions.GaussianMixture(LATENT),
    "CholeskyGaussian": lambda: distributions.CholeskyGaussian(LATENT),
}


def step_of(method):
    """A training step on one fixed batch, as a Python function without arguments."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[BATCH, FEATURES]), tf.float32)
    present = tf.ones([BATCH, FEATURES], tf.bool)
    observed = tf.constant(rng.random([BATCH, FEATURES]) < 0.5)
    return lambda: method.train_step((x, present, observed))["loss"]


def ways(method):
    """Name -> (function that runs steps, how many it runs)."""
    step = step_of(method)

    @tf.function
    def loop():
        loss = step()
        for _ in tf.range(1, LOOP):
            loss = step()
        return loss

    return {
        "eager": (step, 1),
        "tf.function": (tf.function(step), 1),
        f"{LOOP} steps in one graph": (loop, LOOP),
        "XLA": (tf.function(step, jit_compile=True), 1),
    }


def matmul_flops(method) -> float:
    """Floating point operations of the matrix products of one step."""
    graph = tf.function(step_of(method)).get_concrete_function().graph
    total = 0.0
    for op in graph.get_operations():
        if op.type not in ("MatMul", "BatchMatMul", "BatchMatMulV2"):
            continue
        a, out = op.inputs[0].shape, op.outputs[0].shape
        transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
        inner = a[-2] if transposed else a[-1]
        if None in (*out, inner):
            raise ValueError(f"{op.name} has no static shape, so its FLOPs are unknown.")
        total += 2.0 * np.prod(out.as_list()) * inner
    return float(total)


def seconds(function, at_least: float = 0.4) -> float:
    """Seconds a call, from as many calls as fill `at_least`."""
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < at_least or not calls:
        function()
        calls += 1
    return (time.perf_counter() - started) / calls


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()

    a, b = (tf.random.stateless_normal(s, [0, 1]) for s in (PRODUCT[:2], PRODUCT[1:]))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, b)[0]))
    timed, flops = {("matrix product", ""): (product, 1)}, {}
    for name in arguments.models:
        for precision in ("float32", "mixed_bfloat16"):
            keras.config.set_dtype_policy(precision)
            method = matching(MODELS[name]())
            keras.config.set_dtype_policy("float32")
            label = name if precision == "float32" else f"{name}, bfloat16"
            flops[label] = matmul_flops(method)
            for way, (function, steps) in ways(method).items():
                if precision == "float32" or way == "tf.function":
                    timed[label, way] = function, steps
    for function, _ in timed.values():
        function()  # Traces and compiles.
    rounds = [
        {key: seconds(function) / steps for key, (function, steps) in timed.items()}
        for _ in range(arguments.rounds)
    ]
    median = {key: float(np.median([r[key] for r in rounds])) for key in timed}
    peak = 2.0 * np.prod(PRODUCT) / median["matrix product", ""]

    facts = {
        "command": "python benchmarks/speed.py",
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "tensorflow": tf.__version__,
        "matrix product": f"{list(PRODUCT[:2])} x {list(PRODUCT[1:])}, float32",
        "its GFLOP/s": round(peak / 1e9, 1),
        "rounds": arguments.rounds,
    }
    rows = []
    slow = [1 / t for (name, _), t in median.items() if name == "AutoregressiveMixture"]
    best_ar = max(slow, default=float("nan"))
    for (name, way), taken in median.items():
        if way:
            row = {
                "partial posterior": name,
                "way": way,
                "steps/s": 1 / taken,
                "GFLOP a step": flops[name] / 1e9,
                "share of the matrix product": flops[name] / taken / peak,
                "times the AR mixture's best": 1 / taken / best_ar,
            }
            rows.append(row)
    for key, value in facts.items():
        print(f"{key}: {value}")
    print(markdown(rows))
    if arguments.json:
        text = json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n"
        pathlib.Path(arguments.json).write_text(text)


def markdown(rows) -> str:
    """A table of the rows."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.3g}" for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
