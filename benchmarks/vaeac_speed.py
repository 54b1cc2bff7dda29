"""Speed of VAEAC on tables: a training step, imputation, importance-sampled likelihood.

    python benchmarks/vaeac_speed.py --threads 1 [--rounds 9] [--json FILE]
    python benchmarks/vaeac_speed.py --threads 0 [--rounds 9] [--json FILE]

12 real columns, 64 rows, the paper's published network: width 256, depth 10, latent 64. CPU
milliseconds of the process, all threads together (0 threads: as many as TensorFlow likes),
measured in turn, round by round, beside the machine's plain matrix product. FLOPs are those of
the matrix products, counted from the weights' sizes. What is measured joins what the JSON file
has; rows of one number of threads were made in one run.
"""

import argparse
import json
import os
import pathlib
import platform
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from vae_arbcond import optimizers
from vae_arbcond.conditioners import VAEAC
from vae_arbcond.distributions import MixedColumns
from vae_arbcond.shapes import DataSpec
from vae_arbcond.skip_networks import SkipMlpDecoder, SkipMlpEncoder

COLUMNS, ROWS, HIDDEN, DEPTH, LATENT, LOOP = 12, 64, 256, 10, 64, 64
PRODUCT = (8192, 256, 256)
WANTED = {"training step": 12.0, "imputation, 10 samples": 8.0, "IWAE-25": 30.0}
REFERENCE = {"training step": 26.5, "imputation, 10 samples": 29.3, "IWAE-25": 82.7}


def network():
    """VAEAC of the published code."""
    size = (HIDDEN, DEPTH)
    method = VAEAC(
        LATENT,
        SkipMlpEncoder(*size),
        SkipMlpEncoder(*size),
        SkipMlpDecoder(*size),
        MixedColumns(fixed_scale=1.0),
    )
    method.create_variables(DataSpec((COLUMNS,)), 0)
    method.optimizer = optimizers.adam(learning_rate=3e-4)
    method.optimizer.build(method.variables_to_train())
    method.train_seed = (0, 0)
    return method


def timed(method):
    """Name -> (function, how many of what is named it does)."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[ROWS, COLUMNS]), tf.float32)
    observed = tf.constant(rng.random([ROWS, COLUMNS]) < 0.8)
    present = tf.ones_like(observed)
    a, b = tf.random.normal(PRODUCT[:2]), tf.random.normal(PRODUCT[1:])

    @tf.function
    def steps():
        loss = 0.0
        for _ in tf.range(LOOP):
            loss = method.train_step((x, present, observed))["loss"]
        return loss

    return {
        "matrix product": (tf.function(lambda: tf.matmul(a, b)[0, 0]), 1),
        "training step": (steps, LOOP),
        "imputation, 10 samples": (lambda: method.impute(x, observed, 10, [0, 1]), 1),
        "IWAE-25": (lambda: method.log_likelihood(x, observed, ~observed, 25, [0, 1]), 1),
    }


def flops(method):
    """Floating point operations of the matrix products: name -> number."""

    def of(*parts):
        kernels = [w for part in parts for w in part.weights if len(w.shape) == 2]
        return 2.0 * ROWS * sum(float(np.prod(w.shape)) for w in kernels)

    decoder = method.generative_network
    once = of(method.prior_network, method.prior_head, *decoder.of_state)
    each = of(decoder.first, *decoder.of_h, method.likelihood_head)
    proposal = of(method.proposal_network, method.proposal_head)
    # No gradient with respect to the data is taken.
    data = of(method.prior_network.first, method.proposal_network.first)
    return {
        "matrix product": 2.0 * np.prod(PRODUCT),
        "training step": 3.0 * (once + each + proposal) - data,
        "imputation, 10 samples": once + 10 * each,
        "IWAE-25": once + proposal + 25 * each,
    }


def milliseconds(function, repeats, at_least=0.3):
    """CPU and wall milliseconds of one of `repeats`, from calls that fill `at_least` s."""
    calls, cpu, wall = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - wall < at_least:
        function()
        calls += 1
    spent = time.process_time() - cpu, time.perf_counter() - wall
    return [1e3 * part / calls / repeats for part in spent]


def main():
    """Measures, prints and adds to the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    method = network()
    functions, operations = timed(method), flops(method)
    for function, _ in functions.values():
        function()  # Traces and compiles.
    rounds = [
        {name: milliseconds(*function) for name, function in functions.items()}
        for _ in range(arguments.rounds)
    ]
    rows = []
    for name in functions:
        cpu, wall = np.transpose([r[name] for r in rounds])
        product = np.array([r["matrix product"][0] for r in rounds])
        share = operations[name] / operations["matrix product"] * product / cpu
        rows.append(
            {
                "threads": arguments.threads or "as TensorFlow likes",
                "what": name,
                "CPU ms, least": float(cpu.min()),
                "CPU ms, median": float(np.median(cpu)),
                "wall ms, median": float(np.median(wall)),
                "GFLOP": operations[name] / 1e9,
                "GFLOP/s of CPU time": operations[name] / 1e6 / float(np.median(cpu)),
                "share of the matrix product": float(np.median(share)),
                "wanted": WANTED.get(name, ""),
                "PyTorch reference, another machine": REFERENCE.get(name, ""),
            }
        )
    print(markdown(rows))
    if arguments.json:
        told = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        kept = [r for r in told.get("rows", []) if r["threads"] != rows[0]["threads"]]
        facts = {
            "command": "python benchmarks/vaeac_speed.py --threads 1; the same with 0",
            "hardware": f"{os.cpu_count()} shared cores, {_processor()}, no GPU",
            "tensorflow": tf.__version__,
            "weights": int(method.count_params()),
            "matrix product": f"{list(PRODUCT[:2])} x {list(PRODUCT[1:])}, float32",
        }
        text = json.dumps({"facts": facts, "rows": kept + rows}, indent=1) + "\n"
        arguments.json.write_text(text)


def _processor():
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown(rows) -> str:
    """A table of the rows."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
