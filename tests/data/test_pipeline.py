"""Splits leak nothing; batches depend on the step alone."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from vae_arbcond.data.pipeline import (
    batch_indices,
    epoch_permutation,
    given_splits,
    make_splits,
)
from vae_arbcond.data.sources import Source, bundled_table, digits_images
from vae_arbcond.schema import Categorical, Integer, Numeric


def mixed_source(num_rows=200, **kwargs) -> Source:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "real": rng.normal(size=num_rows),
            "whole float": np.arange(float(num_rows)),
            "integer": rng.integers(2**60, 2**61, num_rows),
            "small": rng.integers(0, 200, num_rows).astype("uint8"),
            "flag": rng.random(num_rows) < 0.5,
            "text": rng.choice(["x", "y"], num_rows),
            "object": pd.Series(rng.choice([True, False], num_rows)).astype(object),
            "kind": pd.Categorical(rng.choice(["p", "q"], num_rows), ["q", "p", "r"]),
            "date": pd.Series(rng.integers(0, 10**9, num_rows).view("datetime64[s]")),
        }
    )
    frame.index = pd.Index(np.arange(num_rows) + 1000, name="id")
    return Source("mixed", frame, **kwargs)


def test_parts_are_disjoint_and_together_the_whole():
    source = mixed_source()
    splits = make_splits(source, test_fraction=0.25, valid_fraction=0.15, seed=3)
    assert [len(part) for part in splits] == [120, 30, 50]
    together = pd.concat([part.raw for part in splits]).sort_index()
    pd.testing.assert_frame_equal(together, source.raw)
    for part in splits:
        assert part.x.shape == part.present.shape == (len(part), 9)
        assert part.x.dtype == np.float32 and part.present.all()
        assert part.schema is splits.train.schema
        np.testing.assert_array_equal(part.x, part.schema.to_model(part.raw)[0])


def test_given_splits_are_left_as_they_are():
    frame = mixed_source(60).raw
    parts = frame[:40], frame[40:55], frame[55:]
    splits = given_splits(*parts)
    for got, want in zip(splits, parts, strict=True):
        pd.testing.assert_frame_equal(got.raw, want)
        assert got.schema == splits.train.schema
    numeric = next(c for c in splits.train.schema.columns if isinstance(c, Numeric))
    assert numeric.mean == pytest.approx(parts[0][numeric.name].mean())
    assert len(given_splits(parts[0], parts[1], frame[:0]).test) == 0
    with pytest.raises(ValueError, match="test rows have columns"):
        given_splits(*parts[:2], parts[2].iloc[:, 1:])
    with pytest.raises(ValueError, match="no training rows"):
        given_splits(frame[:0], *parts[1:])


def test_same_seed_same_splits_and_another_seed_others():
    def indices(seed):
        parts = make_splits(mixed_source(), removed_fraction=0.3, seed=seed)
        return [p.raw.index.tolist() for p in parts], [p.present.tolist() for p in parts]

    assert indices(1) == indices(1)
    assert indices(1)[0] != indices(2)[0] and indices(1)[1] != indices(2)[1]


def test_every_row_is_equally_likely_to_be_tested():
    source = Source("s", pd.DataFrame({"a": np.arange(20.0) / 2}))
    counts = np.zeros(20)
    for seed in range(400):
        counts[make_splits(source, seed=seed).test.raw.index] += 1
    # Each count is Binomial(400, 5/20); the 20 are dependent only through their sum. The sum
    # of squares over their variance, times 19/20, is about chi-square with 19 degrees of
    # freedom: P(> 52) = 7e-5. The seeds are fixed, so the test cannot flake.
    statistic = np.sum((counts - 100) ** 2) / (400 * 0.25 * 0.75) * 19 / 20
    assert statistic < 52


def test_training_rows_alone_give_the_statistics():
    source = bundled_table("wine")
    splits = make_splits(source)
    train = splits.train.raw["alcohol"]
    column = splits.train.schema.columns[0]
    np.testing.assert_allclose([column.mean, column.scale], [train.mean(), train.std(ddof=0)])
    assert column.mean != source.raw["alcohol"].mean()


def test_removed_cells_are_seen_by_nobody():
    source = mixed_source()
    poisoned = source.raw.copy()
    splits = make_splits(source, removed_fraction=0.4, seed=5)
    # Whatever stood in the removed cells, everything comes out the same.
    for part in splits[:2]:
        for i, name in enumerate(("real", "whole float")):
            rows = part.raw.index[~part.present[:, i]]
            poisoned.loc[rows, name] = 12345.5 if name == "real" else 12345.0
    again = make_splits(Source("mixed", poisoned), removed_fraction=0.4, seed=5)
    assert again.train.schema == splits.train.schema
    for part, other in zip(splits, again, strict=True):
        np.testing.assert_array_equal(part.x, other.x)
        pd.testing.assert_frame_equal(part.raw, other.raw)


def test_removal_rate_is_the_one_asked_for_and_spares_the_test_rows():
    splits = make_splits(mixed_source(1000), removed_fraction=0.4)
    hidden = ~np.concatenate([splits.train.present, splits.valid.present])
    # 750 * 9 cells: standard error 0.006; five of them, two-sided: 6e-7. Fixed seed.
    assert abs(hidden.mean() - 0.4) < 0.03
    assert splits.test.present.all()


def test_removal_leaves_kinds_dtypes_and_big_integers_alone():
    source = mixed_source()
    splits = make_splits(source, removed_fraction=0.4)
    schema = splits.train.schema
    assert isinstance(schema.columns[1], Numeric)  # 0.0, 1.0, ... is float64 by choice.
    x, present = splits.train.x, splits.train.present
    completed = schema.to_user(np.where(present, np.nan, x), splits.train.raw)
    pd.testing.assert_series_equal(completed.dtypes, source.raw.dtypes)
    truth = source.raw.loc[completed.index]
    for i, name in enumerate(schema.names):
        here = present[:, i]
        pd.testing.assert_series_equal(completed[name][here], truth[name][here])


def test_level_that_only_a_test_row_has_does_not_stop_the_evaluation():
    frame = pd.DataFrame({"a": np.arange(40.0), "c": ["common"] * 39 + ["rare"]})
    seed = next(
        s for s in range(100) if 39 in make_splits(Source("s", frame), seed=s).test.raw.index
    )
    splits = make_splits(Source("s", frame), seed=seed)
    assert splits.train.schema.columns[1].levels == ("common", "rare")
    assert splits.test.present.all() and 1 in splits.test.x[:, 1]


def test_overrides_reach_the_schema():
    own = Categorical("text", ("y", "x", "z"), "str")
    source = mixed_source(
        overrides={"text": own, "small": "numeric", "whole float": "integer"}
    )
    schema = make_splits(source, removed_fraction=0.2).train.schema
    assert schema.columns[5] == own
    assert isinstance(schema.columns[3], Numeric) and isinstance(schema.columns[1], Integer)


def test_source_with_its_own_gaps_keeps_them():
    frame = mixed_source().raw
    frame.loc[frame.index[:50], "real"] = np.nan
    splits = make_splits(Source("gaps", frame))
    assert sum((~part.present[:, 0]).sum() for part in splits) == 50


def test_images_split_and_lose_whole_pixels():
    splits = make_splits(digits_images(), removed_fraction=0.3)
    train, test = splits.train, splits.test
    assert [len(part) for part in splits] == [1078, 270, 449]
    assert train.x.shape == (1078, 8, 8) and test.raw.dtype == np.uint8
    assert test.present.all() and test.x.max() == 1.0
    # 1078 * 64 pixels: standard error 0.0017; five of them, two-sided: 6e-7. Fixed seed.
    assert abs((~train.present).mean() - 0.3) < 0.009
    assert np.isnan(train.raw[~train.present]).all() and (train.x[~train.present] == 0).all()
    completed = train.schema.to_user(train.x, train.raw)
    np.testing.assert_array_equal(completed[train.present], train.raw[train.present])


def test_colour_images_lose_all_channels_of_a_pixel():
    images = np.random.default_rng(0).integers(0, 256, [20, 4, 4, 3]).astype(np.uint8)
    train = make_splits(Source("colour", images), removed_fraction=0.5).train
    assert train.present.shape == (12, 4, 4) and train.x.shape == (12, 4, 4, 3)
    np.testing.assert_array_equal(np.isnan(train.raw).all(-1), ~train.present)


@pytest.mark.parametrize(
    "source", [mixed_source(8), Source("i", np.zeros([8, 2, 2], "uint8"))]
)
def test_fraction_of_zero_gives_an_empty_part(source):
    splits = make_splits(source, test_fraction=0.0, valid_fraction=0.0)
    assert [len(part) for part in splits] == [8, 0, 0]
    assert splits.test.x.shape == (0, *splits.train.x.shape[1:])
    assert splits.test.present.shape == (0, *splits.train.present.shape[1:])


@pytest.mark.parametrize(
    ("num_rows", "kwargs", "words"),
    [
        (2, {}, ("mixed", "2 rows", "0 validation")),
        (10, {"test_fraction": 0.5, "valid_fraction": 0.5}, ("0 training",)),
        (10, {"test_fraction": 1.0}, ("test_fraction", "[0, 1)")),
        (10, {"valid_fraction": -0.1}, ("valid_fraction",)),
        (10, {"removed_fraction": float("nan")}, ("removed_fraction",)),
    ],
)
def test_impossible_splits_are_explained(num_rows, kwargs, words):
    with pytest.raises(ValueError) as info:
        make_splits(mixed_source(num_rows), **kwargs)
    assert all(word in str(info.value) for word in words)


def test_column_that_loses_every_training_cell_is_named():
    frame = pd.DataFrame({"a": np.arange(40.0)})
    with pytest.raises(ValueError, match=r"'a'.*training rows"):
        make_splits(Source("s", frame), removed_fraction=0.9999, seed=1)


def drawn(num_rows, batch_size, steps, seed=(0, 1)):
    step_batch = tf.function(lambda step: batch_indices(step, num_rows, batch_size, seed))
    return np.stack([step_batch(tf.constant(step, tf.int64)) for step in range(steps)])


@pytest.mark.parametrize(
    ("num_rows", "batch_size"), [(12, 4), (10, 4), (7, 5), (3, 8), (1, 2)]
)
def test_every_epoch_visits_each_row_once(num_rows, batch_size):
    batches = drawn(num_rows, batch_size, steps=num_rows)  # batch_size whole epochs
    assert batches.shape == (num_rows, batch_size)
    for epoch, rows in enumerate(batches.reshape(batch_size, num_rows)):
        assert sorted(rows) == list(range(num_rows))
        np.testing.assert_array_equal(rows, epoch_permutation(num_rows, epoch, [0, 1]))


def test_batches_are_a_pure_function_of_step_and_seed():
    straight = drawn(50, 8, steps=20)
    # A resumed run, eager, in another order.
    for step in (19, 3, 7):
        np.testing.assert_array_equal(batch_indices(step, 50, 8, [0, 1]), straight[step])
    assert not np.array_equal(drawn(50, 8, steps=20, seed=(0, 2)), straight)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(12, 4), (50, 8), (3, 8), (1, 2)])
def test_many_batches_at_once_are_the_batches_one_by_one(num_rows, batch_size):
    straight = drawn(num_rows, batch_size, steps=15)
    for first in (0, 4):
        many = batch_indices(first, num_rows, batch_size, [0, 1], num_batches=11)
        np.testing.assert_array_equal(many, straight[first : first + 11].reshape(-1))


def test_epochs_have_different_orders():
    orders = {tuple(epoch_permutation(20, e, [5, 6]).numpy()) for e in range(50)}
    assert len(orders) == 50


def test_every_place_in_the_order_is_equally_likely():
    orders = np.stack([epoch_permutation(6, epoch, [1, 2]) for epoch in range(600)])
    first = np.bincount(orders[:, 0], minlength=6)
    # 5 degrees of freedom: P(chi-square > 25.7) = 1e-4; fixed seed.
    assert np.sum((first - 100.0) ** 2 / 100) < 25.7


def test_steps_beyond_int32_follow_the_same_rule():
    step = 2**33 + 1
    expected = [
        epoch_permutation(10, position // 10, [0, 1]).numpy()[position % 10]
        for position in range(4 * step, 4 * step + 4)
    ]
    assert (
        batch_indices(tf.constant(step, tf.int64), 10, 4, [0, 1]).numpy().tolist() == expected
    )


def test_batches_are_the_same_inside_a_loop():
    @tf.function
    def looped(steps):
        result = tf.TensorArray(tf.int32, steps)
        for step in tf.range(steps):
            result = result.write(step, batch_indices(step, 10, 4, [0, 1]))
        return result.stack()

    np.testing.assert_array_equal(looped(tf.constant(5)), drawn(10, 4, steps=5))


@pytest.mark.parametrize(("num_rows", "batch_size"), [(0, 4), (4, 0)])
def test_batch_of_nothing_is_refused(num_rows, batch_size):
    with pytest.raises(ValueError, match="at least one row"):
        batch_indices(0, num_rows, batch_size, [0, 1])
