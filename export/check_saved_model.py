"""Asks an exported model its recorded questions again; imports only TensorFlow.

    python export/check_saved_model.py exported/breast_cancer/1

Loads the SavedModel, calls every signature with the inputs in assets.extra, compares the
outputs with those that were recorded when it was written, and prints a table. Numbers must
agree to 1e-4, relative to the largest of their tensor; text and whole numbers must be equal,
dates agree to 1e-4 of their range. Exits with 1 and a sentence where something differs.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import numpy as np
import tensorflow as tf

RECORD = pathlib.Path("assets.extra", "recorded_draws.json")
TOLERANCE = 1e-4
REPEATS = 5


class CheckError(Exception):
    """The export is not what it should be; the message says what is wrong."""


def version_directory(path: pathlib.Path) -> pathlib.Path:
    """`path`, or the newest version below it."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [p for p in path.glob("*") if p.name.isdigit() and p.is_dir()]
    if not versions:
        raise CheckError(
            f"{path} holds no saved_model.pb and no versions; pass a directory that "
            f"arbcond-export wrote."
        )
    return max(versions, key=lambda p: int(p.name))


def read_record(directory: pathlib.Path) -> dict:
    """The recorded inputs and outputs of every signature."""
    try:
        return json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckError(
            f"{directory / RECORD} is missing, so there is nothing to compare with; copy the "
            f"whole directory that arbcond-export wrote."
        ) from None
    except json.JSONDecodeError as error:
        raise CheckError(f"{directory / RECORD} is damaged ({error}); export again.") from None


def to_array(record: dict):
    """A recorded tensor as a NumPy array; text as Python strings."""
    if record["dtype"] == "string":
        return np.array(record["values"], object).reshape(record["shape"])
    values = [float(v) if isinstance(v, str) else v for v in record["values"]]
    return np.array(values, record["dtype"]).reshape(record["shape"])


def difference(got, want) -> float:
    """How far `got` is from `want`, relative to the largest entry or the range of dates."""
    if got.shape != want.shape:
        return float("inf")
    if want.dtype == object:
        got, want = _seconds(got), _seconds(want)
        if want is None or got is None:
            return float("nan")  # Text that is no dates: compared for equality.
        largest = float(np.ptp(want)) if want.size else 0.0
        return float(np.max(np.abs(got - want), initial=0.0)) / max(largest, 1.0)
    if want.dtype.kind in "fiu":
        got, want = got.astype(np.float64), want.astype(np.float64)
        if not np.array_equal(np.isfinite(got), np.isfinite(want)):
            return float("inf")
        finite = np.isfinite(want)
        gap = np.max(np.abs(got - want)[finite], initial=0.0)
        return float(gap / max(np.max(np.abs(want[finite]), initial=0.0), 1.0))
    return 0.0 if np.array_equal(got, want) else float("inf")


def _seconds(texts):
    try:
        dates = [datetime.datetime.fromisoformat(text[:26]) for text in texts.ravel()]
    except ValueError:
        return None
    return np.array([date.replace(tzinfo=datetime.UTC).timestamp() for date in dates])


def check(directory: pathlib.Path) -> None:
    """Loads, asks, compares, prints.

    Raises:
      CheckError: a signature is missing or its answer differs from the recorded one.
    """
    records = read_record(directory)
    start = time.perf_counter()
    signatures = tf.saved_model.load(str(directory)).signatures
    print(f"{directory}: loaded in {time.perf_counter() - start:.2f} s\n")
    print(f"{'signature':18}{'output':28}{'shape':>16}{'difference':>13}{'ms':>9}")
    failed = []
    for name, record in sorted(records.items()):
        if name not in signatures:
            raise CheckError(
                f"{directory} has no signature {name!r}, but answers of it were recorded; "
                f"export again."
            )
        inputs = {key: tf.constant(to_array(r)) for key, r in record["inputs"].items()}
        outputs, milliseconds = ask(signatures[name], inputs)
        for key, recorded in sorted(record["outputs"].items()):
            want = to_array(recorded)
            if key not in outputs:
                raise CheckError(f"Signature {name!r} returns no {key!r}; export again.")
            got = outputs[key].numpy()
            if want.dtype == object:
                got = np.array([t.decode() for t in got.ravel()], object).reshape(got.shape)
            gap = difference(got, want)
            equal = np.array_equal(got, want) if np.isnan(gap) else gap <= TOLERANCE
            shown = ("equal" if equal else "DIFFERS") if np.isnan(gap) else f"{gap:.1e}"
            shape = "x".join(map(str, want.shape))
            print(f"{name:18}{key:28}{shape:>16}{shown:>13}{milliseconds:9.1f}")
            if not equal:
                failed.append(f"{name}/{key}")
    intruders = sorted({"vae_arbcond", "tensorflow_probability"} & set(sys.modules))
    if intruders:
        raise CheckError(f"The check must run on TensorFlow alone, but imported {intruders}.")
    if failed:
        raise CheckError(
            f"{', '.join(failed)}: the answers differ from the recorded ones by more than "
            f"{TOLERANCE:g}; the files were damaged or this TensorFlow ({tf.__version__}) "
            f"computes something else. Export again, or serve with the TensorFlow that did."
        )
    print(f"\nAll {len(records)} signatures repeat their recorded answers.")


def ask(signature, inputs):
    """The outputs, and the median time of a call in milliseconds after a first one."""
    outputs = signature(**inputs)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        signature(**inputs)
        seconds.append(time.perf_counter() - start)
    return outputs, 1000 * sorted(seconds)[REPEATS // 2]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=pathlib.Path, help="a version, or all versions")
    try:
        check(version_directory(parser.parse_args().directory))
    except CheckError as error:
        sys.exit(f"check_saved_model: {error}")


if __name__ == "__main__":
    main()
