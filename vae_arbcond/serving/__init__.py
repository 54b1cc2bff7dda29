"""Exports a trained method as a SavedModel for TensorFlow Serving.

What clients see is in export/README.md: `serving_default` completes rows in the user's own
units, the other signatures answer in the model's. The export loads where only TensorFlow is
installed.
"""

import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import tempfile

import tensorflow as tf

from vae_arbcond.conditioners import ArbitraryConditioner
from vae_arbcond.runs import LoadedRun
from vae_arbcond.schema import ImageSchema, TableSchema
from vae_arbcond.serving.module import build, encode, in_user_units
from vae_arbcond.serving.recording import questions, record
from vae_arbcond.shapes import DataSpec

__all__ = ["encode", "export"]

SCHEMA, COLUMNS, RECORD = "schema.json", "columns.json", "recorded_draws.json"


def export(
    model: LoadedRun | ArbitraryConditioner,
    path: str | os.PathLike,
    version: int | None = None,
    schema: TableSchema | ImageSchema | None = None,
) -> pathlib.Path:
    """Writes a SavedModel to `<path>/<version>/`, the layout TensorFlow Serving watches.

    `assets/schema.json` holds the schema. `assets.extra/columns.json` tells clients of a table
    which tensor is which column, and `assets.extra/recorded_draws.json` holds a few questions
    with this process' answers, which export/check_saved_model.py asks again.

    Args:
      model: what `vae_arbcond.load` returned, or a trained method together with its `schema`.
      path: the model's directory, one subdirectory a version.
      version: a whole number above 0 that does not exist yet; default: the highest existing
        one plus 1.
      schema: of the data the method was trained on; a LoadedRun brings its own.

    Returns:
      The version's directory. It appears whole, under a name of its own, or not at all.

    Raises:
      FileExistsError: the version exists already.
      ValueError: the schema cannot be served, or is not that of the method.
    """
    if isinstance(model, LoadedRun):
        model, schema = model.conditioner, schema or model.schema
    _check_fit(model, schema)
    directory = pathlib.Path(path)
    target = _version_directory(directory, version)
    directory.mkdir(parents=True, exist_ok=True)
    # TensorFlow Serving looks at directories whose name is a number, and at no others.
    temporary = directory / f".{target.name}.{secrets.token_hex(4)}"
    try:
        _write(model, schema, temporary)
        _rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write(conditioner, schema, directory):
    module, signatures = build(conditioner, schema)
    with tempfile.TemporaryDirectory() as folder:
        schema.save(os.path.join(folder, SCHEMA))
        module.schema = tf.saved_model.Asset(os.path.join(folder, SCHEMA))
        tf.saved_model.save(module, str(directory), signatures)
    # Answers of what was written, not of what is in memory: it loads, and it runs.
    loaded = tf.saved_model.load(str(directory)).signatures
    inputs = questions(loaded, schema, conditioner.spec.feature_shape)
    extra = directory / "assets.extra"
    extra.mkdir()
    (extra / RECORD).write_text(record(loaded, inputs), encoding="utf-8")
    if isinstance(schema, TableSchema):
        columns = in_user_units(schema).describe()
        text = json.dumps(columns, ensure_ascii=False, indent=1) + "\n"
        (extra / COLUMNS).write_text(text, encoding="utf-8")


def _version_directory(directory, version):
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(
            f"{directory} is a file, but exports need a directory with one subdirectory a "
            f"version; choose another name."
        )
    existing = [
        int(p.name) for p in directory.glob("*") if p.name.isascii() and p.name.isdigit()
    ]
    if version is None:
        version = max(existing, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version must be a whole number above 0, got {version!r}.")
    if version in existing:
        raise _exists(directory / str(version))
    return directory / str(version)


def _exists(target):
    return FileExistsError(
        f"{target} exists, and a version that may be in use is never overwritten; leave the "
        f"version out for the next free one, or name another."
    )


def _rename(temporary, target):
    try:
        os.rename(temporary, target)
    except OSError as error:
        if not target.exists():
            raise
        raise _exists(target) from error  # Another export was quicker.


def _check_fit(conditioner, schema):
    if schema is None:
        raise ValueError(
            "A method alone does not know the user's units: pass the schema of the data it "
            "was trained on, or what vae_arbcond.load returned."
        )
    spec = conditioner.spec
    if spec is None:
        raise ValueError(
            f"This {type(conditioner).__name__} has no variables yet; train it, or call "
            f"create_variables first."
        )
    wanted = DataSpec.of(schema)
    if _comparable(spec) != _comparable(wanted):
        raise ValueError(
            f"The method was built for {spec}, but the schema describes {wanted}; pass the "
            f"schema of the data it was trained on."
        )


def _comparable(spec):
    levels = tuple(spec.levels) if any(spec.levels or ()) else None
    return dataclasses.replace(spec, levels=levels)
