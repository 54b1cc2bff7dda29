"""Completes a table in its own units.

Example:

  arbcond-impute --model=runs/breast_cancer --input=holes.csv --output=filled.csv

Writes filled.csv (the table without gaps), filled_cells.csv (a row for each filled cell: its
standard deviation, interval and class probabilities) and, with --num_samples=N,
filled_completions.csv (N drawn tables, numbered by the column "completion"). Columns the model
does not know pass through unchanged. The ending decides: .csv, .tsv or .parquet.
"""

import os
import pathlib

from absl import flags

from vae_arbcond.cli import common

_MODEL = flags.DEFINE_string("model", None, "A run directory.", required=True)
_INPUT = flags.DEFINE_string("input", None, "The table with gaps.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The completed table.", required=True)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 0, "Completions to draw and write.")
_INTERVALS = flags.DEFINE_float("intervals", 0.9, "Probability an interval should cover.")
_SEED = flags.DEFINE_integer("seed", 0, "Same seed, same completions.")
_MISSING = flags.DEFINE_multi_string(
    "missing", None, "What a missing cell of the input looks like; give it several times."
)
_UNKNOWN = flags.DEFINE_enum(
    "unknown", "error", ["error", "missing"], "Categories that training did not know."
)


def main(argv: list[str]) -> None:
    """Reads, completes, writes."""
    del argv
    from vae_arbcond import imputer, runs
    from vae_arbcond.data.sources import MISSING_CELLS, read_table, write_table

    if os.path.exists(_OUTPUT.value) and os.path.samefile(_OUTPUT.value, _INPUT.value):
        raise ValueError(
            f"--output is the input file {_INPUT.value}; its gaps would be lost. Choose "
            f"another name."
        )
    run = runs.load_conditioner(_MODEL.value)
    missing = MISSING_CELLS if _MISSING.value is None else _MISSING.value
    frame = read_table(_INPUT.value, run.schema, missing)
    extra = [name for name in frame.columns if name not in run.schema.names]
    if extra:
        print(f"Passed through unchanged, because the model does not know them: {extra}")
    done = imputer.complete_table(
        run.conditioner,
        run.schema,
        frame,
        num_samples=max(_NUM_SAMPLES.value, 1),
        intervals=_INTERVALS.value,
        seed=_SEED.value,
        unknown=_UNKNOWN.value,
    )
    output = pathlib.Path(_OUTPUT.value)
    written = {output: done.table, _beside(output, "cells"): done.cells.astype(str)}
    if _NUM_SAMPLES.value:
        written[_beside(output, "completions")] = done.completions.reset_index("completion")
    for path, table in written.items():
        write_table(table, path)
        print(f"{path}: {len(table)} rows")
    print(f"Filled {len(done.cells)} cells.")


def _beside(path: pathlib.Path, what: str) -> pathlib.Path:
    return path.with_name(f"{path.stem}_{what}{path.suffix}")


def run() -> None:
    """Console script arbcond-impute."""
    common.start(main, "arbcond-impute")


if __name__ == "__main__":
    run()
