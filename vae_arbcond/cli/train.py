"""Trains a model and writes a run directory.

On a bundled table, about a minute:

  arbcond-train --gin_file=experiments/pm_breast_cancer.gin --run_dir=runs/breast_cancer

On your own table (.csv, .tsv or .parquet, gaps allowed):

  arbcond-train --gin_file=experiments/pm_table.gin --run_dir=runs/mine \
    --gin_param='table_file.path = "mine.csv"'

An interrupted training continues with: arbcond-train --run_dir=runs/mine --resume
"""

import os

from absl import flags

from vae_arbcond.cli import common

_GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "A gin file: of this library (experiments/NAME.gin) or your own."
)
_GIN_PARAM = flags.DEFINE_multi_string(
    "gin_param", [], "A binding such as 'train.num_steps = 500', read after the files."
)
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory to write.", required=True)
_RESUME = flags.DEFINE_bool("resume", False, "Continue the run in --run_dir.")
_STRATEGY = flags.DEFINE_enum(
    "strategy", "default", ["default", "mirrored"], "mirrored: all devices of this machine."
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "mixed_bfloat16"],
    "mixed_bfloat16: matrix products of the networks in half precision, where the hardware "
    "has it; weights and densities stay float32. Give it again with --resume.",
)


def main(argv: list[str]) -> None:
    """Loads the configuration and trains."""
    del argv
    import keras
    import tensorflow as tf

    from vae_arbcond import config, runs, training

    files = list(_GIN_FILE.value)
    saved = os.path.join(_RUN_DIR.value, runs.CONFIG)
    if not files and _RESUME.value:
        if not os.path.isfile(saved):
            raise runs.RunError(
                f"There is no {saved}, so there is no run to resume. Check --run_dir."
            )
        files = [os.path.abspath(saved)]
    if not files:
        raise ValueError(
            "no --gin_file was given, so there is nothing to train. Try "
            "--gin_file=experiments/pm_breast_cancer.gin."
        )
    keras.config.set_dtype_policy(_PRECISION.value)
    config.load(files, _GIN_PARAM.value)
    strategy = tf.distribute.get_strategy()
    if _STRATEGY.value == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices()
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    with strategy.scope():
        training.train(
            run_dir=_RUN_DIR.value,
            resume=_RESUME.value,
            config_text=config.full_config(),
        )
    config.save_operative_config(os.path.join(_RUN_DIR.value, runs.OPERATIVE_CONFIG))
    print(
        f"The model is in {_RUN_DIR.value}. Next:\n"
        f"  arbcond-evaluate --model={_RUN_DIR.value}\n"
        f"  tensorboard --logdir={_RUN_DIR.value}/tensorboard"
    )


def run() -> None:
    """Console script arbcond-train."""
    common.start(main, "arbcond-train")


if __name__ == "__main__":
    run()
