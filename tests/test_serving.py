import json
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf
from toy_conditioners import HotDeck

from vae_arbcond import distributions, networks, serving
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.models import VAE
from vae_arbcond.schema import (
    Boolean,
    Categorical,
    Count,
    Datetime,
    ImageSchema,
    Integer,
    Numeric,
    Ordinal,
    Positive,
    TableSchema,
)
from vae_arbcond.serving import columns, dates
from vae_arbcond.serving.images import Images
from vae_arbcond.shapes import DataSpec

CHECK = pathlib.Path(__file__).resolve().parents[1] / "export" / "check_saved_model.py"


def posterior_matching(spec, head):
    def network():
        return networks.residual_mlp(16, 1)

    gaussian = distributions.CholeskyGaussian
    vae = VAE(3, network(), gaussian(3), network(), head)
    method = PosteriorMatching(vae, network(), gaussian(3), closed_form=True)
    return method.create_variables(spec)


def mixed_frame(rows: int, seed: int = 0) -> pd.DataFrame:
    """Every kind of column; names that differ in case, that are no ASCII, that inputs have."""
    rng = np.random.default_rng(seed)
    seconds = pd.to_timedelta(rng.integers(0, 10**8, rows), unit="s")
    return pd.DataFrame(
        {
            "größe in cm": rng.normal(170.0, 10.0, rows),
            "A": rng.integers(0, 1000, rows),
            "a": rng.random(rows) < 0.5,
            "target": rng.choice(["A", "B", "AB", "null Ø"], rows),
            "seed": pd.Timestamp("2020-02-28 23:59:59.5") + seconds,
            "visits": rng.poisson(4.0, rows),
            "income": rng.lognormal(3.0, 0.5, rows),
            "stars": rng.integers(1, 6, rows),
        }
    )


KINDS = {"visits": "count", "income": "positive", "stars": "ordinal"}


class Exported:
    """A method, its schema, and the SavedModel of the two."""

    def __init__(self, method, schema, path):
        self.method, self.schema = method, schema
        self.path = serving.export(method, path, schema=schema)
        self.signatures = tf.saved_model.load(str(self.path)).signatures

    def ask(self, name, num_samples=None, **inputs):
        rows = len(next(iter(inputs.values())))
        if num_samples is not None:
            inputs["num_samples"] = tf.fill([rows], num_samples)
        return self.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    schema = TableSchema.infer(mixed_frame(60), KINDS)
    method = posterior_matching(DataSpec.of(schema), distributions.MixedColumns())
    method.infer_draws = False  # Answered in groups of rows, with the last one filled up.
    return Exported(method, schema, tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    schema = ImageSchema(4, 3, None, 0.0, 255.0, "uint8")
    method = posterior_matching(DataSpec((4, 3)), distributions.Normal())
    return Exported(method, schema, tmp_path_factory.mktemp("images"))


@pytest.fixture(params=["table", "images"])
def exported(request):
    return request.getfixturevalue(request.param)


def seeds(rows, first=0):
    return np.stack([np.full(rows, 5), first + np.arange(rows)], -1).astype(np.int32)


def rows_of(exported, rows):
    """x, observed and target of some rows, in the model's units; hidden entries are NaN."""
    spec = exported.method.spec
    rng = np.random.default_rng(1)
    x = rng.normal(size=[rows, *spec.x_shape]).astype(np.float32)
    for d, size in enumerate(spec.levels or ()):
        if size:
            x[:, d] = rng.integers(size, size=rows)
    for d, typical in enumerate(spec.counts or ()):
        if typical:
            x[:, d] = rng.poisson(typical, rows)
    observed = rng.random([rows, *spec.feature_shape]) < 0.5
    observed[0] = False
    target = ~observed & (rng.random(observed.shape) < 0.7)
    known = (observed | target).reshape(*observed.shape, *[1] * (x.ndim - observed.ndim))
    return np.where(known, x, np.float32(np.nan)), observed, target


@pytest.mark.parametrize(("rows", "num_samples"), [(1, 4), (6, 4), (11, 70)])
def test_signatures_in_the_model_s_units_repeat_the_python_answers(
    exported, rows, num_samples
):
    x, observed, target = rows_of(exported, rows)
    method, seed = exported.method, seeds(rows)
    question = {"x": x, "observed": observed, "seed": seed}

    got = exported.ask("impute", num_samples, **question)
    draws, completion = method.impute_and_complete(x, observed, num_samples, seed)
    np.testing.assert_array_equal(got["draws"], np.swapaxes(draws, 0, 1))
    np.testing.assert_array_equal(got["completion"], completion)
    alone = method.impute(x, observed, num_samples, seed)
    np.testing.assert_array_equal(got["draws"], np.swapaxes(alone, 0, 1))

    got = exported.ask("log_likelihood", num_samples, target=target, **question)
    estimate = method.log_likelihood(x, observed, target, num_samples, seed)
    for field, value in estimate._asdict().items():
        np.testing.assert_array_equal(got[field], value)

    got = exported.ask("sample", num_samples, seed=seed)["draws"]
    nothing = np.zeros_like(observed)
    want = method.impute(np.zeros_like(x), nothing, num_samples, seed)
    np.testing.assert_array_equal(got, np.swapaxes(want, 0, 1))

    got = exported.ask("encode", **question)
    want = serving.encode(method, tf.constant(x), tf.constant(observed), tf.constant(seed))
    assert set(got) == set(want) == {"sample", "mean", "stddev"}
    for key, value in want.items():
        assert value.shape == (rows, 3)
        np.testing.assert_array_equal(got[key], value)


def test_encode_gives_the_moments_of_the_posterior_and_a_draw_of_each_row_s_own(table):
    x, observed, _ = rows_of(table, 9)
    got = table.ask("encode", x=x, observed=observed, seed=seeds(9))
    q = table.method.infer(tf.where(observed, x, 0.0), tf.constant(observed), None).posterior
    np.testing.assert_allclose(got["mean"], q.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["stddev"], q.stddev(), rtol=1e-5, atol=1e-6)
    same = np.zeros(9, int)
    again = table.ask("encode", x=x[same], observed=observed[same], seed=seeds(9))
    assert len(np.unique(again["sample"][:, 0])) == 9


def user_inputs(schema, frame, present):
    """What a client sends for a table with gaps: one tensor a column."""
    inputs = {}
    for d, column in enumerate(schema.columns):
        cells, name = frame[column.name], schema.tensor_names[column.name]
        if columns.in_graph(column).dtype == tf.float64:
            inputs[name] = np.where(present[:, d], cells.to_numpy(np.float64), np.nan)
            continue
        if isinstance(column, Datetime):
            text = [cell.isoformat() for cell in cells]
        else:
            text = [str(c).lower() if isinstance(c, bool) else str(c) for c in cells]
        inputs[name] = np.where(present[:, d], np.array(text, object), "")
    return inputs


def as_frame(schema, tensors):
    """Output tensors by column [N] as a table with the schema's dtypes."""
    columns_ = {}
    for column in schema.columns:
        cells = tensors[schema.tensor_names[column.name]].numpy()
        if cells.dtype == object:
            cells = [cell.decode() for cell in cells]
        if isinstance(column, Boolean):
            cells = [cell == "true" for cell in cells]
        columns_[column.name] = cells
    return pd.DataFrame(columns_).astype({c.name: c.dtype for c in schema.columns})


def assert_same_table(got, want):
    # Two libraries' exp may differ in the last bit.
    np.testing.assert_allclose(got["income"], want["income"], rtol=1e-14)
    got, want = got.drop(columns="income"), want.drop(columns="income")
    pd.testing.assert_frame_equal(got, want, check_exact=True)


@pytest.mark.parametrize(("rows", "num_samples"), [(1, 1), (10, 3)])
def test_a_table_is_completed_in_the_user_s_units_as_in_python(table, rows, num_samples):
    frame, schema = mixed_frame(rows, seed=2), table.schema
    present = np.random.default_rng(3).random([rows, 8]) < 0.5
    present[0] = False
    inputs = user_inputs(schema, frame, present)
    got = table.ask("serving_default", num_samples, seed=seeds(rows), **inputs)

    x, _ = schema.to_model(frame)
    draws, completion = table.method.impute_and_complete(x, present, num_samples, seeds(rows))
    want = schema.to_user(completion.numpy(), frame, present)
    assert_same_table(as_frame(schema, got), want)
    for s, draw in enumerate(draws.numpy()):
        tensors = {name: got[f"{name}_draws"][:, s] for name in inputs}
        want = schema.to_user(draw, frame, present)
        assert_same_table(as_frame(schema, tensors), want)
    for d, column in enumerate(schema.columns):
        name = schema.tensor_names[column.name]
        if column.num_levels:
            shares = np.eye(column.num_levels)[draws.numpy()[..., d].astype(int)].mean(0)
            np.testing.assert_allclose(got[f"{name}_probability"], shares, rtol=1e-6)
        else:
            spread = column.stddev(draws.numpy()[..., d])
            assert (got[f"{name}_stddev"].numpy()[present[:, d]] == 0).all()
            np.testing.assert_allclose(got[f"{name}_stddev"], spread, rtol=1e-9, atol=1e-9)


def test_the_tensors_are_named_after_the_columns(table):
    names = set(table.signatures["serving_default"].structured_input_signature[1])
    assert names == {*table.schema.tensor_names.values(), "num_samples", "seed"}
    assert "gro_e_in_cm" in names or "grosse_in_cm" in names


def test_given_cells_come_back_to_the_last_bit(table):
    given = {
        "A": np.array([3.5, 2.0**60]),  # A fraction and a number beyond 2**53.
        "a_2": np.array(["TRUE", " false "], object),
        "target": np.array(["null Ø", "AB"], object),
        "column_seed": np.array(["2021-03-04 05:06", "0001-02-03T04:05:06.000000789"], object),
    }
    given |= {
        "visits": np.array([0.0, 2.0**24]),
        "income": np.array([1e-90, 0.1 + 0.2]),
        "stars": np.array(["1", "5"], object),
    }
    (name,) = set(table.schema.tensor_names.values()) - set(given)
    given[name] = np.array([0.1 + 0.2, -1e-300])
    got = table.ask("serving_default", 2, seed=seeds(2), **given)
    for key, value in given.items():
        cells = got[key].numpy()
        drawn = got[f"{key}_draws"].numpy()
        if cells.dtype == object:
            cells = np.array([c.decode() for c in cells], object)
            drawn = np.array([[c.decode() for c in row] for row in drawn], object)
        np.testing.assert_array_equal(cells, value)
        np.testing.assert_array_equal(drawn, np.stack([value] * 2, 1))


def test_images_are_completed_in_the_user_s_units_as_in_python(images):
    rng, schema = np.random.default_rng(4), images.schema
    raw = rng.integers(0, 256, [3, 4, 3]).astype(np.uint8)
    observed = rng.random([3, 4, 3]) < 0.5
    got = images.ask("serving_default", 3, image=raw, observed=observed, seed=seeds(3))
    x, _ = schema.to_model(raw)
    draws, completion = images.method.impute_and_complete(x, observed, 3, seeds(3))
    assert got["image"].dtype == tf.uint8
    np.testing.assert_array_equal(
        got["image"], schema.to_user(completion.numpy(), raw, observed)
    )
    for s, draw in enumerate(draws.numpy()):
        np.testing.assert_array_equal(
            got["image_draws"][:, s], schema.to_user(draw, raw, observed)
        )
    spread = draws.numpy().astype(np.float64).std(0) * 255
    np.testing.assert_allclose(got["image_stddev"], spread, rtol=1e-9, atol=1e-9)
    assert (got["image_stddev"].numpy()[observed] == 0).all()
    assert (got["image_stddev"].numpy()[~observed] > 0).all()


def assert_same(got, want):
    """Equal up to the last bits of floats: rows stand elsewhere in a group of rows."""
    if got.dtype.is_floating:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, want)


def test_merging_two_requests_changes_no_answer(exported):
    x, observed, target = rows_of(exported, 9)
    inputs = {"x": x, "observed": observed, "seed": seeds(9)}
    for name, more in (("impute", {}), ("log_likelihood", {"target": target})):
        together = exported.ask(name, 5, **inputs, **more)
        for part in (slice(0, 4), slice(4, 9)):
            request = {key: value[part] for key, value in {**inputs, **more}.items()}
            for key, value in exported.ask(name, 5, **request).items():
                assert_same(value, together[key][part])


def test_merging_two_requests_for_tables_changes_no_answer(table):
    present = np.random.default_rng(5).random([7, 8]) < 0.5
    inputs = user_inputs(table.schema, mixed_frame(7, seed=6), present) | {"seed": seeds(7)}
    together = table.ask("serving_default", 3, **inputs)
    for part in (slice(0, 1), slice(1, 7)):
        request = {key: value[part] for key, value in inputs.items()}
        for key, value in table.ask("serving_default", 3, **request).items():
            assert_same(value, together[key][part])


def test_every_output_has_a_row_for_each_row_of_the_request(exported):
    # The row format of TensorFlow Serving refuses anything else.
    for function in exported.signatures.values():
        for spec in function.structured_input_signature[1].values():
            assert spec.shape[0] is None
        for spec in function.structured_outputs.values():
            assert spec.shape[0] is None


@pytest.mark.parametrize(
    ("name", "cell", "wanted"),
    [
        (
            "target",
            "C",
            "`target` holds `C`, which is none of its levels `A`, `AB`, `B`, `null Ø`;",
        ),
        ("target", "C", "write one of them, or the empty text for a missing cell"),
        ("a_2", "yes", "`a` holds `yes`, which is none of its levels `false`, `true`"),
        ("visits", 2.5, "`visits` holds 2.5, but it is a count; give a whole number"),
        ("income", 0.0, "`income` holds 0, but it is positive; give a number above 0"),
        ("A", np.inf, "`A` holds inf, which is not a finite number"),
        ("A", 1e300, r"`A` holds 1e\+300, which is further than 1e\+16 standard deviations"),
        ("column_seed", "2021-02-30", "`seed` holds dates, but `2021-02-30` is none"),
        ("column_seed", "2021-02-03T04:05Z", "without an offset from UTC"),
    ],
)
def test_a_bad_cell_is_refused_with_its_column_and_what_to_do(table, name, cell, wanted):
    inputs = user_inputs(table.schema, mixed_frame(2), np.zeros([2, 8], bool))
    inputs[name][1] = cell
    with pytest.raises(tf.errors.InvalidArgumentError, match=wanted):
        table.ask("serving_default", 2, seed=seeds(2), **inputs)


def test_rows_that_ask_for_different_numbers_of_samples_are_refused(table):
    for numbers in ([3, 4], [0, 0], [-1, -1]):
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match=f"same whole number above 0 .* got {numbers[0]}, {numbers[1]}",
        ):
            table.signatures["sample"](
                num_samples=tf.constant(numbers), seed=tf.constant(seeds(2))
            )


def test_a_seed_is_needed_for_each_row(table):
    x, observed, _ = rows_of(table, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="got 2 of them for 3 rows"):
        table.ask("impute", 2, x=x, observed=observed, seed=seeds(2))


def test_an_observed_pixel_outside_the_range_is_refused():
    twin = Images(ImageSchema(2, 2, None, 0.0, 1.0, "float32"))
    image = np.array([[[0.5, 1.5], [np.nan, 0.25]]], np.float32)
    seen = np.array([[[True, False], [True, True]]])
    x, present = twin.to_model({"image": tf.constant(image), "observed": tf.constant(seen)})
    np.testing.assert_array_equal(present, [[[True, False], [False, True]]])
    np.testing.assert_array_equal(x, [[[0.5, 0.0], [0.0, 0.25]]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is 1\.5, outside 0\.0 to 1\.0"):
        twin.to_model({"image": tf.constant(image), "observed": tf.ones([1, 2, 2], tf.bool)})


def test_a_pixel_of_a_colour_image_is_there_with_all_its_channels_or_not_at_all():
    schema = ImageSchema(2, 2, 3, -1.0, 3.0, "float64")
    twin = Images(schema)
    rng = np.random.default_rng(9)
    image = rng.uniform(-1.0, 3.0, [2, 2, 2, 3])
    image[1, 0, 1, 2] = np.nan
    seen = np.ones([2, 2, 2], bool)
    seen[0, 1, 1] = False
    given = {"image": tf.constant(image), "observed": tf.constant(seen)}
    x, present = twin.to_model(given)
    want, want_present = schema.to_model(image)
    np.testing.assert_array_equal(present, want_present & seen)
    np.testing.assert_array_equal(x, want * present[..., tf.newaxis].numpy())
    draws = rng.normal(size=[2, 3, *schema.shape]).astype(np.float32)
    got = twin.to_user(given, present, tf.constant(draws[:, 0]), tf.constant(draws))
    for s in range(3):
        np.testing.assert_array_equal(
            got["image_draws"][:, s], schema.to_user(draws[:, s], image, seen)
        )
    np.testing.assert_array_equal(got["image"], schema.to_user(draws[:, 0], image, seen))


def test_dates_are_read_as_pandas_reads_them():
    rng = np.random.default_rng(7)
    ticks = rng.integers(-62135596800 * 10**6, 253402300799 * 10**6, 400)
    days = ["1900-02-28", "1900-03-01", "2000-02-29", "1972-12-31", "0001-01-01", "9999-12-31"]
    stamps = [*ticks.view("datetime64[us]"), *np.array(days, "datetime64[us]")]
    texts = np.datetime_as_string(np.array(stamps))
    seconds, valid = dates.parse(tf.constant(texts), with_offset=False)
    assert valid.numpy().all()
    want = np.array(stamps).astype("datetime64[us]").astype(np.int64) / 1e6
    np.testing.assert_array_equal(seconds, want)
    rendered = dates.render(tf.constant(np.array(stamps).astype(np.int64)), 10**6)
    assert [t.decode() for t in rendered.numpy()] == list(texts)


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-29",
        "2024-12-31T23:59",
        "2024-12-31 23:59:59",
        "2024-12-31T23:59:59.1",
        "2024-12-31T23:59:59.123456789",
    ],
)
@pytest.mark.parametrize("offset", ["", "Z", "+01:00", "-0330", "+14"])
def test_forms_of_dates_are_read_as_pandas_reads_them(text, offset):
    if offset and len(text) == 10:
        offset, text = "", text  # A day has no offset.
    seconds, valid = dates.parse(tf.constant([text + offset]), with_offset=bool(offset))
    stamp = pd.Timestamp(text + offset)
    want = stamp.tz_convert("UTC").tz_localize(None) if offset else stamp
    assert valid.numpy().all()
    # float64 holds seconds of this century to 2e-7.
    nanoseconds = (want - pd.Timestamp(0)).as_unit("ns").value
    np.testing.assert_allclose(seconds[0], nanoseconds / 1e9, atol=3e-7, rtol=0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "today", "24-01-01", "2024-1-1", "2024-01-01T", "2024-01-01T10"),
        *("2023-02-29", "1900-02-29", "2024-13-01", "2024-00-01", "2024-01-00", "0000-01-01"),
        *("2024-01-01T24:00", "2024-01-01T00:60", "2024-01-01T00:00:60"),
        *("2024-01-01T10:00+1", "2024-01-01T10:00+24:00"),
    ],
)
def test_what_is_no_date_is_not_read(text):
    for with_offset in (False, True):
        assert not dates.parse(tf.constant([text]), with_offset)[1].numpy().any()


def test_a_date_with_an_offset_is_not_one_without():
    assert not dates.parse(tf.constant(["2024-01-01T10:00Z"]), False)[1].numpy().any()
    assert not dates.parse(tf.constant(["2024-01-01T10:00"]), True)[1].numpy().any()


COLUMNS = {
    "float64": Numeric("c", 5.5, 3.25),
    "float32": Numeric("c", 1e8, 1e7, dtype="float32"),
    "float16": Numeric("c", 10.0, 1e5, dtype="float16"),
    "Float64": Numeric("c", 0.0, 1e-200, dtype="Float64"),
    "constant": Numeric("c", 4.0, 1.0, constant=4.0),
    "object": Numeric("c", 4.0, 2.0, dtype="object"),
    "int64": Integer("c", 100.5, 33.0),
    "uint8": Integer("c", 100.5, 70.0, dtype="uint8"),
    "Int16": Integer("c", 0.0, 30000.0, dtype="Int16"),
    "object ints": Integer("c", 0.0, 30000.0, dtype="object"),
    "constant int": Integer("c", 7.0, 1.0, constant=7),
    "positive": Positive("c", 3.0, 0.5),
    "constant positive": Positive("c", 0.0, 1.0, constant=1.0),
    "count": Count("c", 3.0),
    "constant count": Count("c", 3.0, constant=3),
    "bool": Boolean("c"),
    "text": Categorical("c", ("b", "a", "größer", "NA")),
    "ordinal": Ordinal("c", (1, 2, 5), dtype="int64"),
    "ints": Categorical("c", (3, 1, 20), dtype="int64"),
    "floats": Categorical("c", (0.5, 2.0), dtype="float64"),
    "bools": Categorical("c", (True, False, "x")),
    "datetime64[s]": Datetime("c", 1.6e9, 1e8, dtype="datetime64[s]"),
    "datetime64[ms]": Datetime("c", 1.6e9, 1e9, dtype="datetime64[ms]"),
    "datetime64[us]": Datetime("c", -1e10, 1e10, dtype="datetime64[us]"),
    "datetime64[ns]": Datetime("c", 1.6e9, 1e9, dtype="datetime64[ns]"),
    "zone": Datetime("c", 1.6e9, 1e9, dtype="datetime64[us, Europe/Berlin]"),
    "date": Datetime("c", 1.6e9, 1e9, dtype=str(pd.ArrowDtype(pa.date32()))),
    "days": Datetime("c", 1.6e9, 1e7, daily=True),
    "constant date": Datetime("c", 1.0, 1.0, constant=1_000_000),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_the_twin_of_a_column_does_what_the_column_does(kind):
    column = COLUMNS[kind]
    twin = columns.in_graph(column)
    rng = np.random.default_rng(8)
    x = rng.standard_t(2, 500).astype(np.float32) * 3  # Far out now and then.
    if column.num_levels:
        x = rng.integers(column.num_levels, size=500).astype(np.float32)
    want = column.to_user(x)
    cells = twin.to_user(tf.constant(x)).numpy()
    if isinstance(column, Datetime):
        read = pd.Series(pd.to_datetime([c.decode() for c in cells], format="ISO8601"))
        zone = column.timezone
        read = read.dt.tz_convert(zone) if zone else read
        pd.testing.assert_series_equal(read.astype(want.dtype), want)
    elif column.num_levels:
        texts = [str(v).lower() if isinstance(v, bool) else str(v) for v in want]
        assert [c.decode() for c in cells] == texts
    elif kind == "positive":  # Two libraries' exp may differ in the last bit.
        np.testing.assert_allclose(cells, want.to_numpy(np.float64), rtol=1e-14)
    else:
        np.testing.assert_array_equal(cells, want.to_numpy(np.float64))

    # And back: what the graph reads from its own cells is what the schema reads.
    gap = np.zeros(500, bool)
    gap[::3] = True
    sent = np.where(gap, np.array(twin.missing, cells.dtype), cells)
    got, present = twin.to_model(tf.constant(sent))
    want, want_present = column.to_model(want.mask(gap))
    np.testing.assert_array_equal(present, want_present)
    np.testing.assert_array_equal(got, want)


def test_a_level_that_is_the_empty_text_leaves_another_text_for_missing_cells():
    twin = columns.in_graph(Categorical("c", ("", "NA", "x")))
    assert twin.missing == "<NA>"
    x, present = twin.to_model(tf.constant(["", "<NA>", "x"]))
    np.testing.assert_array_equal(x, [0, 0, 2])
    np.testing.assert_array_equal(present, [True, False, True])


def test_levels_that_are_the_same_as_text_are_refused():
    with pytest.raises(ValueError, match=r"'c' has levels that are the same as text.*rename"):
        columns.in_graph(Categorical("c", (1, "1")))


def test_a_column_that_takes_the_name_of_an_output_is_refused():
    schema = TableSchema((Numeric("a", 0.0, 1.0), Numeric("a_draws", 0.0, 1.0)))
    with pytest.raises(ValueError, match="'a_draws' has the name of an output"):
        columns.Table(schema)


@pytest.fixture
def sampler():
    schema = TableSchema((Numeric("a", 1.0, 2.0), Numeric("b", 1.0, 2.0)))
    method = HotDeck(num_rows=3).create_variables(DataSpec((2,)))
    return method.remember([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]), schema


def test_a_method_without_a_density_has_no_signature_for_one(sampler, tmp_path):
    method, schema = sampler
    served = Exported(method, schema, tmp_path)
    assert set(served.signatures) == {"impute", "sample", "serving_default"}
    got = served.ask(
        "serving_default", 2, a=np.array([5.0]), b=np.array([np.nan]), seed=seeds(1)
    )
    assert set(got) == {"a", "a_draws", "a_stddev", "b", "b_draws", "b_stddev"}
    assert set(got["b_draws"].numpy().ravel()) <= {3.0, 5.0, 7.0}


def test_versions_count_up_and_none_is_overwritten(sampler, tmp_path):
    method, schema = sampler
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("not a version")
    assert serving.export(method, tmp_path / "m", schema=schema) == tmp_path / "m" / "1"
    assert serving.export(method, tmp_path / "m", 7, schema).name == "7"
    with pytest.raises(FileExistsError, match=r"7 exists, and a version .* never overwritten"):
        serving.export(method, tmp_path / "m", 7, schema)
    with pytest.raises(ValueError, match="version must be a whole number above 0, got 0"):
        serving.export(method, tmp_path / "m", 0, schema)
    assert serving.export(method, tmp_path / "m", schema=schema).name == "8"
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"notes.txt", "1", "7", "8"}


def test_an_interrupted_export_leaves_nothing(sampler, tmp_path, monkeypatch):
    method, schema = sampler

    def interrupted(module, path, *rest):
        pathlib.Path(path).mkdir()
        (pathlib.Path(path) / "saved_model.pb").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        serving.export(method, tmp_path, schema=schema)
    assert list(tmp_path.iterdir()) == []


def test_an_export_needs_the_schema_of_its_data(sampler, tmp_path):
    method, schema = sampler
    with pytest.raises(ValueError, match="pass the schema of the data"):
        serving.export(method, tmp_path)
    three = TableSchema((*schema.columns, Boolean("c")))
    with pytest.raises(ValueError, match=r"built for DataSpec\(.*\(2,\).*describes .*\(3,\)"):
        serving.export(method, tmp_path, schema=three)
    with pytest.raises(ValueError, match="has no variables yet"):
        serving.export(HotDeck(num_rows=3), tmp_path, schema=schema)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file, but exports need a directory"):
        serving.export(method, tmp_path / "file", schema=schema)


def test_the_schema_travels_with_the_export(exported):
    path = exported.path / "assets" / "schema.json"
    assert type(exported.schema).load(path) == exported.schema


ONLY_TENSORFLOW = """
import runpy, sys

class Nothing:
    @staticmethod
    def find_spec(name, *_):
        if name.split(".")[0] in ("vae_arbcond", "tensorflow_probability", "tf_keras"):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Nothing)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_check(path):
    """Runs the check in a process that can import nothing of ours and no probabilities."""
    command = [sys.executable, "-c", ONLY_TENSORFLOW, str(CHECK), str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=path)


def test_a_process_with_only_tensorflow_repeats_the_recorded_answers(exported):
    done = run_check(exported.path.parent)  # Finds the newest version by itself.
    assert done.returncode == 0, done.stderr
    assert "All 5 signatures repeat their recorded answers." in done.stdout
    for name in exported.signatures:
        assert name in done.stdout


def test_the_check_finds_an_answer_that_differs(sampler, tmp_path):
    method, schema = sampler
    path = serving.export(method, tmp_path, schema=schema)
    record = path / "assets.extra" / "recorded_draws.json"
    records = json.loads(record.read_text())
    records["impute"]["outputs"]["draws"]["values"][0] += 0.01
    record.write_text(json.dumps(records))
    done = run_check(path)
    assert done.returncode == 1
    assert "check_saved_model: impute/draws: the answers differ" in done.stderr
    assert "Traceback" not in done.stderr
    record.unlink()
    done = run_check(path)
    assert done.returncode == 1
    assert "there is nothing to compare with" in done.stderr


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(table):
    cli = [str(pathlib.Path(sys.executable).with_name("saved_model_cli"))]
    done = subprocess.run(
        [*cli, "show", "--dir", str(table.path), "--all"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("impute", "sample", "log_likelihood", "encode", "serving_default"):
        assert f"signature_def['{name}']" in done.stdout
    names = [table.schema.tensor_names[c.name] for c in table.schema.columns]
    numbers = f"{names[0]}=[170.0, 160.5];A=[3.0, 4.0];num_samples=[3, 3];"
    numbers += "seed=[[0, 1], [0, 2]];"
    texts = "a_2=['', 'true'];target=['AB', ''];column_seed=['', '2021-03-04']"
    done = subprocess.run(
        [
            *[*cli, "run", "--dir", str(table.path), "--tag_set", "serve"],
            *["--signature_def", "serving_default", "--input_exprs", numbers + texts],
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Result for output key column_seed_draws:" in done.stdout
