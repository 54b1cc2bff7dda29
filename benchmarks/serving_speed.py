"""How fast an exported table model loads and answers, on one core.

    python benchmarks/serving_speed.py [--model RUN_DIR] [--json FILE]

Without --model, an untrained model of the size of a small table's is exported: 31 columns, one
of them boolean; latent 8; residual networks of width 128. Times are medians; the questions
hide half of the cells. The measuring process imports only TensorFlow and keeps to one core, so
that its CPU time is the time it would take if nobody else used that core.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
TARGETS = {"load": 2.0, "1 row x 100": 0.010, "1,000 rows x 10": 0.5}  # seconds
WORKLOADS = {"1 row x 100": (1, 100, 30), "1,000 rows x 10": (1000, 10, 5)}


def export_untrained(directory: str) -> str:
    """Exports a model with random weights; returns the version's directory."""
    import pandas as pd

    from vae_arbcond import distributions, networks, serving
    from vae_arbcond.conditioners import PosteriorMatching
    from vae_arbcond.models import VAE
    from vae_arbcond.schema import TableSchema
    from vae_arbcond.shapes import DataSpec

    rng = np.random.default_rng(0)
    columns = {f"column {i}": rng.normal(i, 1.0 + i, 200) for i in range(30)}
    frame = pd.DataFrame({**columns, "flag": rng.random(200) < 0.5})
    schema = TableSchema.infer(frame)
    model = PosteriorMatching(
        VAE(
            8,
            networks.residual_mlp(128, 2, "silu"),
            distributions.CholeskyGaussian(8),
            networks.residual_mlp(128, 1, "silu"),
            distributions.MixedColumns(),
        ),
        networks.residual_mlp(128, 2, "silu"),
        distributions.CholeskyGaussian(8),
        closed_form=True,
    ).create_variables(DataSpec((31,), (), schema.levels))
    return str(serving.export(model, directory, schema=schema))


def export_run(run_dir: str, directory: str) -> str:
    """Exports a trained run; returns the version's directory."""
    from vae_arbcond import runs, serving

    return str(serving.export(runs.load(run_dir), directory))


def timed(function) -> tuple[float, float]:
    """Seconds that a call takes: on the clock, and of the CPU."""
    start, cpu_start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu_start


def measure(path: str) -> dict[str, tuple[float, float]]:
    """Seconds (clock, CPU) by what was done, with nothing but TensorFlow."""
    import tensorflow as tf

    times = {"load": timed(lambda: tf.saved_model.load(path).signatures)}
    signatures = tf.saved_model.load(path).signatures
    for name in ("impute", "serving_default"):
        for workload, (rows, samples, repeats) in WORKLOADS.items():
            question = _question(signatures, name, rows, samples)
            ask = functools.partial(signatures[name], **question)
            ask()  # The first call plans the graph.
            seconds = np.median([timed(ask) for _ in range(repeats)], axis=0)
            times[f"{name}, {workload}"] = tuple(seconds.tolist())
    loaded = [m for m in ("vae_arbcond", "tensorflow_probability") if m in sys.modules]
    if loaded:
        raise RuntimeError(f"The measuring process imported {loaded}.")
    return times


def _question(signatures, name, rows, samples):
    import tensorflow as tf

    seed = tf.stack([tf.zeros([rows], tf.int32), tf.range(rows)], -1)
    common = {"num_samples": tf.fill([rows], samples), "seed": seed}
    draw = signatures["sample"](num_samples=tf.ones([rows], tf.int32), seed=seed)["draws"]
    hidden = np.random.default_rng(0).random(draw[:, 0].shape) < 0.5
    if name == "impute":
        return common | {"x": draw[:, 0], "observed": tf.constant(~hidden)}
    # The columns in the user's units: asked of the model, then half of them hidden again.
    specs = signatures[name].structured_input_signature[1]
    empty = {
        key: tf.fill([rows], "" if spec.dtype == tf.string else np.nan)
        for key, spec in specs.items()
        if key not in common
    }
    empty = {key: tf.cast(v, specs[key].dtype) for key, v in empty.items()}
    full = signatures[name](**empty, num_samples=tf.ones([rows], tf.int32), seed=seed)
    gaps = {
        key: tf.where(hidden[:, i], value, full[key])
        for i, (key, value) in enumerate(empty.items())
    }
    return common | gaps


def main() -> None:
    """Exports, measures in a process of its own, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a run directory of a table model")
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measure(arguments.measure)))
        return
    sys.path.insert(0, str(CHECKOUT))
    with tempfile.TemporaryDirectory() as directory:
        start, cpu_start = time.perf_counter(), time.process_time()
        if arguments.model:
            path = export_run(arguments.model, directory)
        else:
            path = export_untrained(directory)
        times = {"export": (time.perf_counter() - start, time.process_time() - cpu_start)}
        size = sum(p.stat().st_size for p in pathlib.Path(path).rglob("*") if p.is_file())
        command = [sys.executable, __file__, "--measure", path]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        times |= json.loads(answer.splitlines()[-1])
    report(times, size, arguments.json)


def report(times: dict[str, tuple[float, float]], size: int, path: str | None) -> None:
    """Prints a table; writes it as JSON where a path is given."""
    import importlib.metadata

    facts = {
        "command": " ".join(["python", *sys.argv]),
        "hardware": f"one core of {_processor()}",
        "tensorflow": importlib.metadata.version("tensorflow"),
        "load average at the end": os.getloadavg()[0],
        "export size, MB": size / 1e6,
    }
    for key, value in facts.items():
        print(f"{key}: {value if isinstance(value, str) else round(value, 1)}")
    print(f"\n{'seconds':34}{'clock':>9}{'CPU':>9}{'target':>9}")
    for name, (clock, cpu) in times.items():
        target = TARGETS.get(name.split(", ", 1)[-1])
        shown = "" if target is None else f"{target:9.3f}"
        print(f"{name:34}{clock:9.4f}{cpu:9.4f}{shown}")
    if path:
        text = json.dumps({"facts": facts, "seconds": times}, indent=1) + "\n"
        pathlib.Path(path).write_text(text)


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


if __name__ == "__main__":
    main()
