"""What training rows and masks must hold before anything can be learnt from them."""

import dataclasses

import numpy as np
import tensorflow as tf

from vae_arbcond.data.pipeline import Dataset
from vae_arbcond.models.base import Trainable

ROWS = 256  # training rows on which a mask is tried
TRIES = 8  # of that many rows, before a mask is said to hide nothing


def rows_with_values(train: Dataset) -> Dataset:
    """The training rows that hold some value; the others teach nothing.

    Raises:
      ValueError: there is none.
    """
    some = train.present.any(axis=tuple(range(1, train.present.ndim)))
    if not some.any():
        raise ValueError(
            f"None of the {len(train)} training rows holds a single value, so there is "
            f"nothing to learn from. Is what stands for a missing cell right?"
        )
    if some.all():
        return train
    return dataclasses.replace(
        train, x=train.x[some], present=train.present[some], raw=train.raw[some]
    )


def check_columns(train: Dataset) -> None:
    """Refuses tables with columns that are missing in every training row.

    Raises:
      ValueError: names them.
    """
    empty = np.flatnonzero(~train.present.any(0)) if train.present.ndim == 2 else []
    if len(empty):
        names = [train.schema.columns[d].name for d in empty]
        raise ValueError(
            f"No training row has a value in {', '.join(map(repr, names[:5]))}"
            f"{' and others' * (len(names) > 5)}, so nothing can be learnt of it. Drop such "
            f"columns, or move rows that have values there to the training rows."
        )


def check_mask(trainable: Trainable, train: Dataset, mask, seed: int) -> None:
    """Has a method look at masks of some training rows, as in training.

    Raises:
      ValueError: the method can learn nothing from them.
    """
    size = min(len(train), ROWS)
    masks = []
    for i in range(TRIES):  # Not all at once: rows may be large images.
        rows = np.arange(i * size, (i + 1) * size) % len(train)
        x, present = tf.constant(train.x[rows]), tf.constant(train.present[rows])
        observed = mask(x, present, tf.constant([seed, i], tf.int32)) & present
        masks.append((train.present[rows], observed.numpy()))
    present, observed = (np.concatenate(part) for part in zip(*masks, strict=True))
    trainable.check_training_mask(present, observed, str(mask))
