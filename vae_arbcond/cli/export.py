"""Exports a trained model for TensorFlow Serving.

Example:

  arbcond-export --model=runs/breast_cancer --output=exported/breast_cancer

Writes exported/breast_cancer/1, and 2, 3, ... when it is called again: a SavedModel that needs
nothing but TensorFlow. Look at it and ask it:

  saved_model_cli show --dir exported/breast_cancer/1 --all
  python export/check_saved_model.py exported/breast_cancer/1
"""

from absl import flags

from vae_arbcond.cli import common

_MODEL = flags.DEFINE_string("model", None, "A run directory.", required=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The model's directory; versions go below it.", required=True
)
_VERSION = flags.DEFINE_integer(
    "version", None, "A number that does not exist there yet; default: the next one.", 1
)


def main(argv: list[str]) -> None:
    """Loads the run and writes the next version."""
    del argv
    from vae_arbcond import runs, serving

    path = serving.export(runs.load_conditioner(_MODEL.value), _OUTPUT.value, _VERSION.value)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{path}: {size / 1e6:.1f} MB")


def run() -> None:
    """Console script arbcond-export."""
    common.start(main, "arbcond-export")


if __name__ == "__main__":
    run()
