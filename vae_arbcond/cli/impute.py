"""Completes a table in its own units.

Example:

  arbcond-impute --model=runs/breast_cancer --input=holes.csv --output=filled.csv

Writes filled.csv (the table without gaps; every other cell as it was written),
filled_cells.csv (a row for each filled cell: its standard deviation, interval and class
probabilities) and, with --num_samples=N, filled_completions.csv (N drawn tables one below the
other; the columns "completion" and "row" say which table and which row). Rows count from 0.
Columns the model does not know pass through unchanged. The ending decides: .csv, .tsv,
.parquet or, of the input, .npy.
"""

import os
import pathlib

from absl import flags

from vae_arbcond.cli import common

_MODEL = flags.DEFINE_string("model", None, "A run directory.", required=True)
_INPUT = flags.DEFINE_string("input", None, "The table with gaps.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The completed table.", required=True)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 0, "Completions to draw and write.", lower_bound=0
)
_INTERVALS = flags.DEFINE_float("intervals", 0.9, "Probability an interval should cover.")
_SEED = flags.DEFINE_integer("seed", 0, "Same seed, same completions.")
_MISSING = flags.DEFINE_multi_string(
    "missing",
    None,
    "What a missing cell of the input looks like, besides an empty one; give it several "
    "times. Default: NA, NaN, null and the like.",
)
_SEPARATOR = flags.DEFINE_string(
    "separator", None, "Between the cells of the input, ';' say. Default: by its ending."
)
_HEADER = flags.DEFINE_boolean(
    "header", True, "Whether the first line of the input names the columns (else c0, c1, ...)."
)
_UNKNOWN = flags.DEFINE_enum(
    "unknown",
    "error",
    ["error", "missing"],
    "A category that training did not know; missing: it is replaced by a completion.",
)


def main(argv: list[str]) -> None:
    """Reads, completes, writes."""
    del argv
    import numpy as np
    import pandas as pd

    from vae_arbcond import imputer, runs
    from vae_arbcond.data.sources import (
        MISSING_CELLS,
        check_output,
        read_table,
        read_texts,
        write_table,
    )
    from vae_arbcond.schema import TableSchema

    output = pathlib.Path(_OUTPUT.value)
    outputs = [output, _beside(output, "cells")]
    if _NUM_SAMPLES.value:
        outputs.append(_beside(output, "completions"))
    for path in outputs:
        check_output(path)  # Now, rather than when the work is done.
        if path.exists() and os.path.exists(_INPUT.value) and path.samefile(_INPUT.value):
            raise ValueError(
                f"--output={output} would write {path}, which is the input file; its gaps "
                f"would be lost. Choose another name."
            )
    stale = _beside(output, "completions")
    if stale not in outputs and stale.exists():
        raise ValueError(
            f"{stale} is there already, of another call: without --num_samples it would stay "
            f"beside the new {output}, as if it belonged to it. Remove it, choose another "
            f"--output, or give --num_samples."
        )
    run = runs.load_conditioner(_MODEL.value)
    if not isinstance(run.schema, TableSchema):
        raise runs.RunError(
            f"{run.path} was trained on images, but arbcond-impute completes tables. From "
            f"Python: vae_arbcond.load({str(run.path)!r}).conditioner.impute(...)."
        )
    missing = MISSING_CELLS if _MISSING.value is None else ("", *_MISSING.value)
    way = {"separator": _SEPARATOR.value, "header": _HEADER.value}
    frame = read_table(_INPUT.value, run.schema, missing, **way)
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
    texts = read_texts(_INPUT.value, **way)
    if texts is not None:
        for name, filled in zip(run.schema.names, done.filled.T, strict=True):
            texts.loc[filled, name] = None
    tables = [(done.table, texts, missing), (done.cells.astype(str), None, ("",))]
    if _NUM_SAMPLES.value:
        labels = ["completion", *("row" if n is None else n for n in frame.index.names)]
        completions = done.completions.reset_index(names=_free(labels, frame.columns))
        if texts is not None:
            texts = pd.concat([texts] * _NUM_SAMPLES.value, ignore_index=True)
        tables.append((completions, texts, missing))
    for path, (table, kept, gaps) in zip(outputs, tables, strict=True):
        write_table(table, path, gaps, kept)
        print(f"{path}: {len(table)} rows")
    print(f"Filled {len(done.cells)} cells.")
    if not run.conditioner.draws_are_calibrated:
        print(
            f"Draws of {type(run.conditioner).__name__} differ far less than what is hidden "
            f"may, so {outputs[1]} has no intervals and no probabilities. Use another method "
            f"where these matter."
        )
    known = frame[list(run.schema.names)]
    for row, j in zip(*np.nonzero(done.filled & known.notna().to_numpy(bool)), strict=True):
        print(
            f"Replaced {known.iloc[row, j]!r}, which the model does not know: row "
            f"{frame.index[row]}, column {run.schema.names[j]!r}."
        )


def _beside(path: pathlib.Path, what: str) -> pathlib.Path:
    return path.with_name(f"{path.stem}_{what}{path.suffix}")


def _free(names, taken) -> list[str]:
    """`names`, each with underscores until it is not one of `taken`."""
    free = []
    for name in names:
        while name in taken:
            name += "_"
        free.append(name)
    return free


def run() -> None:
    """Console script arbcond-impute."""
    common.start(main, "arbcond-impute")


if __name__ == "__main__":
    run()
