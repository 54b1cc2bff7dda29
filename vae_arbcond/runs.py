"""Run directories: what a training leaves behind and everything else starts from.

    model.keras            the best model so far, whole at any moment
    schema.json            the user's units <-> the model's
    config.gin             the configuration of the command line, to evaluate or resume with
    operative_config.gin   every parameter that training used, defaults included
    metrics.json           how training and evaluation went
    checkpoints/           to continue an interrupted training
    tensorboard/           logs

Files are written under a temporary name and renamed, so an interrupted write leaves the old
file. Nothing is pickled, and reading a run needs no configuration.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import shutil
import zipfile

import keras

# These register what .keras files name.
from vae_arbcond import conditioners, models, skip_networks  # noqa: F401
from vae_arbcond.files import write_atomically, write_text
from vae_arbcond.models.base import Trainable
from vae_arbcond.schema import load_schema

MODEL, SCHEMA, METRICS = "model.keras", "schema.json", "metrics.json"
CONFIG, OPERATIVE_CONFIG = "config.gin", "operative_config.gin"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
_OWN = (CHECKPOINTS, MODEL, SCHEMA, CONFIG, OPERATIVE_CONFIG, METRICS, TENSORBOARD)


class RunError(RuntimeError):
    """A run directory cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory that is being written."""

    path: pathlib.Path

    def save_model(self, model: Trainable) -> None:
        """Replaces model.keras in one step."""
        # Optimisers belong to checkpoints; model.keras is the model alone.
        parts = [m for m in model._flatten_layers() if isinstance(m, Trainable)]
        optimizers = [part.optimizer for part in parts]
        try:
            for part in parts:
                part.optimizer = None
            write_atomically(self.path / MODEL, model.save)
        finally:
            for part, optimizer in zip(parts, optimizers, strict=True):
                part.optimizer = optimizer

    def has_whole_model(self) -> bool:
        """Whether model.keras is there and undamaged."""
        try:
            _check_whole(self.path / MODEL)
        except (RunError, FileNotFoundError):
            return False
        return True

    def discard_if_empty(self) -> None:
        """Removes what `start` wrote when neither a model nor a checkpoint followed.

        For a directory that `start` found without any of a run's files.
        """
        saved = any(p.is_file() for p in (self.path / CHECKPOINTS).rglob("*"))
        if saved or (self.path / MODEL).exists():
            return
        for name in (SCHEMA, CONFIG):
            (self.path / name).unlink(missing_ok=True)
        for name in (CHECKPOINTS, TENSORBOARD):
            shutil.rmtree(self.path / name, ignore_errors=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def forget_evaluation(self) -> None:
        """Drops scores that belong to weights which are no longer there."""
        kept = {k: v for k, v in read_metrics(self.path).items() if k != "evaluation"}
        write_text(self.path / METRICS, json.dumps(kept, indent=2) + "\n")

    def save_config(self, text: str) -> None:
        """Writes config.gin."""
        write_text(self.path / CONFIG, text)

    def save_metrics(self, metrics: dict) -> None:
        """Merges `metrics` into metrics.json, section by section."""
        merged = {**read_metrics(self.path), **metrics}
        write_text(self.path / METRICS, json.dumps(merged, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run directory that was read.

    Attributes:
      path: the directory.
      conditioner: the trained method, weights and all.
      schema: TableSchema or ImageSchema.
      metrics: what training and evaluation recorded.
      config: the gin configuration as text; empty when trained from Python.
    """

    path: pathlib.Path
    conditioner: Trainable
    schema: object
    metrics: dict
    config: str


def start(run_dir, schema, resume: bool) -> Run:
    """Creates a run directory, or opens it again when `resume` is True.

    Raises:
      RunError: it holds a run and `resume` is False; it holds none and `resume` is True; or
        the data's schema is not the one the run was started with.
    """
    path = pathlib.Path(run_dir)
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, but a run needs a directory. Choose another name.")
    checkpoints = path / CHECKPOINTS
    if resume:
        if not checkpoints.is_dir():
            raise RunError(
                f"{path} holds no checkpoints, so there is nothing to resume. Start the run "
                f"without --resume, or check the path."
            )
        if load_schema(path / SCHEMA) != schema:
            raise RunError(
                f"The data's schema differs from {path / SCHEMA}: the run was started on "
                f"other data. Resume with the data it was started on, or start a new run."
            )
    elif there := [name for name in _OWN if (path / name).exists()]:
        what = "already holds a run" if CHECKPOINTS in there else f"holds {', '.join(there)}"
        raise RunError(
            f"{path} {what}, which a new run would overwrite. Choose another --run_dir, or "
            f"continue the run that is there with --resume."
        )
    else:
        checkpoints.mkdir(parents=True, exist_ok=True)
        schema.save(path / SCHEMA)
    return Run(path)


def load(run_dir) -> LoadedRun:
    """Reads a run directory.

    Args:
      run_dir: a directory that `train` wrote, or a zoo entry.

    Raises:
      RunError: no such directory, no model in it, or a file that is cut off.
    """
    path = pathlib.Path(run_dir)
    if not path.is_dir():
        raise RunError(f"There is no directory {path}. Pass the --run_dir of a training.")
    for name in (MODEL, SCHEMA):
        if not (path / name).is_file():
            trained = (path / CHECKPOINTS).is_dir()
            hint = (
                f" Its training left checkpoints: arbcond-train --run_dir={path} --resume "
                f"continues it and writes the file."
                if trained
                else " Pass the --run_dir of a training."
            )
            raise RunError(f"{path} holds no {name}.{hint}")
    _check_whole(path / MODEL)
    try:
        conditioner = keras.saving.load_model(path / MODEL)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RunError(
            f"{path / MODEL} could not be read ({first_line}). It may be damaged, or written "
            f"by another version: {read_metrics(path).get('training', {}).get('versions')}."
        ) from error
    config = path / CONFIG
    schema, metrics = load_schema(path / SCHEMA), read_metrics(path)
    trained_with = metrics.get("training", {}).get("schema")
    if trained_with not in (None, fingerprint(path)):
        raise RunError(
            f"{path / SCHEMA} is not the schema that {MODEL} was trained with, so units would "
            f"be wrong. Put the run's own schema back."
        )
    return LoadedRun(
        path,
        conditioner,
        schema,
        metrics,
        config.read_text() if config.is_file() else "",
    )


def load_conditioner(run_dir) -> LoadedRun:
    """`load`, for what needs a method that imputes.

    Raises:
      RunError: as `load`, or the run holds a model without a conditioner around it.
    """
    run = load(run_dir)
    if not isinstance(run.conditioner, conditioners.ArbitraryConditioner):
        raise RunError(
            f"{run.path} holds a {type(run.conditioner).__name__} alone, which cannot impute. "
            f"Train a conditioner around it, such as PosteriorMatching."
        )
    return run


def _check_whole(file: pathlib.Path) -> None:
    """Refuses a .keras file that was cut off or changed: Keras does not check the sums."""
    remedy = (
        f"Copy it again, or, where its checkpoints are, arbcond-train --run_dir={file.parent} "
        f"--resume writes it anew, with the latest weights instead of the best."
    )
    if not zipfile.is_zipfile(file):
        raise RunError(
            f"{file} is cut off or not a Keras file ({file.stat().st_size} bytes). {remedy}"
        )
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged:
        raise RunError(f"{file} is damaged: {damaged} in it has a wrong checksum. {remedy}")


def read_metrics(path: pathlib.Path) -> dict:
    """metrics.json of a run directory; empty when there is none.

    Raises:
      RunError: it is not JSON.
    """
    file = pathlib.Path(path) / METRICS
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise RunError(
            f"{file} is not valid JSON ({error}). Delete it; evaluation writes it anew."
        ) from error


def fingerprint(path: pathlib.Path) -> str:
    """A short text that differs where the schema.json of two run directories differ."""
    return hashlib.sha256((pathlib.Path(path) / SCHEMA).read_bytes()).hexdigest()[:16]


def versions() -> dict:
    """Versions of what decides a result, for metrics.json."""
    packages = ("tensorflow", "keras", "tensorflow-probability", "numpy")
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }
