"""From a source to what training and evaluation read: splits and seeded batches.

Who may see what: rows are split first; then `removed_fraction` of the cells of the training
and validation rows is removed, and nobody sees them again (the truth stays in `source.raw`).
Means, scales and constants come from what is left of the training rows. A column's kind and
dtype are facts of the whole table. Its levels are those that any visible cell has, test rows
included: which categories exist is not a statistic, and a level that occurs in a test row only
must not stop the evaluation (a model simply gives it little probability).
"""

import dataclasses
import typing
from collections.abc import Sequence

import gin
import numpy as np
import pandas as pd
import tensorflow as tf

from vae_arbcond.data.sources import Source
from vae_arbcond.schema import Column, ImageSchema, TableSchema
from vae_arbcond.shapes import DataSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Rows in the model's units beside the same rows in the user's.

    Args:
      x: float32 [N, *F, *E]; 0.0 where missing.
      present: bool [N, *F]; True = the value exists in the data.
      raw: DataFrame [N rows] with the source's index, or images [N, H, W] or [N, H, W, C].
      schema: the map between the two.
    """

    x: np.ndarray
    present: np.ndarray
    raw: pd.DataFrame | np.ndarray
    schema: TableSchema | ImageSchema

    def __len__(self) -> int:
        return len(self.x)

    @property
    def spec(self) -> DataSpec:
        """What a model must know to create its weights."""
        return DataSpec.of(self.schema)


class Splits(typing.NamedTuple):
    """Three disjoint parts of a source that share one schema."""

    train: Dataset
    valid: Dataset
    test: Dataset


@gin.register(module="vae_arbcond")
def make_splits(
    source: Source,
    test_fraction: float = 0.25,
    valid_fraction: float = 0.15,
    removed_fraction: float = 0.0,
    seed: int = 0,
) -> Splits:
    """Splits a source at random and fits its schema on the training rows.

    Args:
      source: the data.
      test_fraction: of all rows; 0 gives an empty part.
      valid_fraction: of all rows; 0 gives an empty part.
      removed_fraction: probability with which each cell of the training and validation rows
        is removed, independently. An image's pixel is removed in all its channels.
      seed: of the split and of the removal; independent of each other.

    Raises:
      ValueError: a fraction out of range, too few rows, or what TableSchema.infer refuses.
    """
    fractions = {
        "test_fraction": test_fraction,
        "valid_fraction": valid_fraction,
        "removed_fraction": removed_fraction,
    }
    for name, value in fractions.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must lie in [0, 1), got {value}.")
    num_rows = len(source.raw)
    num_test, num_valid = round(num_rows * test_fraction), round(num_rows * valid_fraction)
    num_train = num_rows - num_test - num_valid
    wanted = [(num_train, 1.0), (num_test, test_fraction), (num_valid, valid_fraction)]
    if any(count < 1 for count, fraction in wanted if fraction > 0):
        raise ValueError(
            f"{source.name}: {num_rows} rows with test_fraction={test_fraction} and "
            f"valid_fraction={valid_fraction} make {num_train} training, {num_valid} "
            f"validation and {num_test} test rows; each needs one or more. Give more "
            f"rows or other fractions."
        )
    split_seed, removal_seed = np.random.SeedSequence(seed).spawn(2)
    order = np.random.default_rng(split_seed).permutation(num_rows)
    ends = [num_test, num_test + num_valid]
    # In the source's order inside each part, so that a part reads like the file it came from.
    test, valid, train = (np.sort(part) for part in np.split(order, ends))
    thinned = np.zeros(num_rows, bool)  # Rows that may lose cells.
    thinned[train] = thinned[valid] = True
    rng = np.random.default_rng(removal_seed)
    if source.is_image:
        visible, schema = _visible_images(source, thinned, removed_fraction, rng)
    else:
        training_rows = np.zeros(num_rows, bool)
        training_rows[train] = True
        visible, schema = _visible_table(source, thinned, training_rows, removed_fraction, rng)
    parts = {}
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        # The test rows are complete, whatever dtype the removal forced upon the others.
        raw = source.raw if name == "test" else visible
        raw = raw.iloc[rows] if isinstance(raw, pd.DataFrame) else raw[rows]
        parts[name] = _dataset(raw, schema)
    return Splits(**parts)


def given_splits(
    train: pd.DataFrame,
    valid: pd.DataFrame,
    test: pd.DataFrame,
    schema: TableSchema | None = None,
) -> Splits:
    """Splits that the data came with, for tables that everybody splits alike.

    Args:
      train, valid, test: frames with the same columns; `valid` and `test` may have no rows.
      schema: None infers it as `make_splits` does: statistics from the training rows, kinds
        and levels from all.

    Raises:
      ValueError: no training rows, columns that differ, or what TableSchema.infer refuses.
    """
    parts = {"train": train, "valid": valid, "test": test}
    if not len(train):
        raise ValueError("There are no training rows; give a `train` of at least one.")
    for name, part in parts.items():
        if list(part.columns) != list(train.columns):
            raise ValueError(
                f"The {name} rows have columns {list(part.columns)}, but the training rows "
                f"{list(train.columns)}; give all parts the same columns in one order."
            )
    if schema is None:
        whole = pd.concat(list(parts.values()), ignore_index=True)
        schema = TableSchema.infer(whole, rows=np.arange(len(whole)) < len(train))
    return Splits(**{name: _dataset(part, schema) for name, part in parts.items()})


def _visible_images(source, thinned, removed_fraction, rng):
    schema = ImageSchema.infer(source.raw, source.value_range)
    if removed_fraction == 0.0:
        return source.raw, schema
    removed = rng.random(source.raw.shape[:3]) < removed_fraction
    visible = source.raw.astype(np.float64)  # Integers have no NaN.
    visible[removed & thinned[:, None, None]] = np.nan
    return visible, schema


def _visible_table(source, thinned, training_rows, removed_fraction, rng):
    # Kinds and dtypes before the removal: gaps of our own making must not turn a float64
    # column into an integer one, nor an int64 column into Int64.
    whole = TableSchema.infer(source.raw, source.overrides, source.max_levels)
    removed = (rng.random(source.raw.shape) < removed_fraction) & thinned[:, None]
    visible = pd.DataFrame(
        {name: _without(source.raw[name], removed[:, i]) for i, name in enumerate(whole.names)}
    )
    overrides = {column.name: _kind(column, source) for column in whole.columns}
    fitted = TableSchema.infer(visible, overrides, source.max_levels, rows=training_rows)
    columns = [
        dataclasses.replace(new, dtype=old.dtype)
        for new, old in zip(fitted.columns, whole.columns, strict=True)
    ]
    for i, column in enumerate(columns):
        if isinstance(source.overrides.get(column.name), Column):
            columns[i] = whole.columns[i]
    return visible, TableSchema(tuple(columns))


def _kind(column: Column, source: Source) -> str | Sequence:
    given = source.overrides.get(column.name)
    if isinstance(given, list | tuple):
        return given  # The user's own order of levels.
    return type(column).__name__.lower()


def _without(cells: pd.Series, removed: np.ndarray) -> pd.Series:
    """The column with `removed` cells missing; integers and bools in their nullable dtype."""
    if not removed.any():
        return cells
    dtype = cells.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "iub":
        nullable = {"b": "boolean", "i": f"Int{8 * dtype.itemsize}"}
        cells = cells.astype(nullable.get(dtype.kind, f"UInt{8 * dtype.itemsize}"))
    return cells.mask(removed)


def _dataset(raw, schema) -> Dataset:
    if len(raw) == 0:
        shape = schema.shape if isinstance(schema, ImageSchema) else (schema.num_features,)
        features = shape[:2] if isinstance(schema, ImageSchema) else shape
        x, present = np.zeros((0, *shape), np.float32), np.zeros((0, *features), bool)
        return Dataset(x, present, raw, schema)
    return Dataset(*schema.to_model(raw), raw, schema)


def epoch_permutation(num_rows: int, epoch, seed) -> tf.Tensor:
    """The order in which epoch `epoch` visits the rows: int32 [num_rows].

    Args:
      num_rows: N.
      epoch: scalar integer, a tensor or a number.
      seed: int32 [2].
    """
    epoch_seed = tf.random.fold_in(tf.cast(seed, tf.int32), tf.cast(epoch, tf.int64))
    return tf.random.experimental.stateless_shuffle(tf.range(num_rows), epoch_seed)


def batch_indices(
    step, num_rows: int, batch_size: int, seed, num_batches: int = 1
) -> tf.Tensor:
    """Row numbers of the batches from a global step on: int32 [num_batches * batch_size].

    The epochs' permutations are laid end to end and cut into batches, so each epoch visits
    every row once and a batch at the seam takes its rest from the next epoch. A pure function
    of its arguments: a resumed run sees the batches that an uninterrupted one would have.
    Works inside `tf.function`; XLA has no shuffle, so a step compiled with `jit_compile`
    takes the rows, or their numbers, as an argument.

    Args:
      step: scalar integer, a tensor or a number: 0, 1, 2, ... over the whole run.
      num_rows: N, a Python integer; may be smaller than the batch.
      batch_size: a Python integer.
      seed: int32 [2].
      num_batches: how many batches, one after the other. A whole epoch is put in order for
        the first of its rows, so with many rows ask for many batches at once.

    Raises:
      ValueError: `num_rows` or `batch_size` is below 1.
    """
    if num_rows < 1 or batch_size < 1:
        raise ValueError(
            f"A batch needs at least one row, got num_rows={num_rows} and "
            f"batch_size={batch_size}."
        )
    # int64: a long run of large batches passes 2**31 rows.
    start = tf.cast(step, tf.int64) * batch_size
    wanted = num_batches * batch_size
    positions = start + tf.range(wanted, dtype=tf.int64)
    first = start // num_rows
    # How many epochs these can touch: one where no batch crosses a seam.
    alone = num_batches == 1 and num_rows % batch_size == 0
    touched = 1 if alone else (wanted + num_rows - 2) // num_rows + 1
    if touched <= 3:
        orders = [epoch_permutation(num_rows, first + i, seed) for i in range(touched)]
        orders = tf.concat(orders, axis=0)
    else:  # In a loop: a graph of hundreds of shuffles is slow to build.
        orders = tf.map_fn(
            lambda epoch: epoch_permutation(num_rows, epoch, seed),
            first + tf.range(touched, dtype=tf.int64),
            fn_output_signature=tf.TensorSpec([num_rows], tf.int32),
        )
        orders = tf.reshape(orders, [-1])
    return tf.gather(orders, positions - first * num_rows)
