"""Schemas: what goes into the model comes back as it was."""

import ast
import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from vae_arbcond import schema as schema_package
from vae_arbcond.schema import (
    Boolean,
    Categorical,
    Datetime,
    ImageSchema,
    Integer,
    Numeric,
    TableSchema,
    load_schema,
)

N = 40
BERLIN = "datetime64[us, Europe/Berlin]"


def random_cells(dtype: str, rng) -> pd.Series:
    """N random cells of a dtype, gap-free."""
    dtype = dtype.replace(",", ", ")  # pandas wants the space.
    days = rng.integers(0, 20_000, N) * 86_400
    if dtype.startswith(("datetime64", "timestamp", "date32")):
        zone = "Europe/Berlin" if "Berlin" in dtype else "UTC" if "UTC" in dtype else None
        dates = pd.Series(days.view("datetime64[s]"))
        return (dates.dt.tz_localize(zone) if zone else dates).astype(dtype)
    if dtype in ("str", "string[python]", "string[pyarrow]", "large_string[pyarrow]"):
        return pd.Series(rng.choice(["red", "grün", " ", "NA", ""], N)).astype(dtype)
    if dtype == "object:text":
        return pd.Series(rng.choice(["red", "blue"], N).astype(object), dtype=object)
    if dtype == "object:integers":
        return pd.Series([2**70 + int(v) for v in rng.integers(0, 99, N)], dtype=object)
    if dtype == "object:bools":
        return pd.Series([bool(v) for v in rng.integers(0, 2, N)], dtype=object)
    if dtype == "category":
        return pd.Series(pd.Categorical(rng.choice(["b", "a"], N), ["b", "unused", "a"]))
    if dtype == "category:ordered_integers":
        return pd.Series(pd.Categorical(rng.choice([3, 1], N), [3, 2, 1], ordered=True))
    if "bool" in dtype:
        return pd.Series(rng.integers(0, 2, N).astype(bool)).astype(dtype)
    if "int" in dtype.lower():
        if "64" in dtype:
            return pd.Series(rng.integers(2**62, 2**63 - 1, N)).astype(dtype)
        return pd.Series(rng.integers(0, 100, N)).astype(dtype)
    return pd.Series(rng.normal(3e5, 1e-3, N)).astype(dtype)


ALL_DTYPES = """
float64 float32 Float64 Float32 double[pyarrow] float[pyarrow]
int64 int8 uint64 uint8 Int64 UInt8 int64[pyarrow] uint8[pyarrow]
bool boolean bool[pyarrow] object:bools object:integers object:text
str string[python] string[pyarrow] large_string[pyarrow]
category category:ordered_integers
datetime64[s] datetime64[ns] datetime64[us,Europe/Berlin] datetime64[ms,UTC]
date32[day][pyarrow] timestamp[us][pyarrow] timestamp[ns,tz=UTC][pyarrow]
"""
DTYPES = ALL_DTYPES.split()
HOLDS_GAPS = [d for d in DTYPES if d not in ("int64", "int8", "uint64", "uint8", "bool")]


@pytest.mark.parametrize("dtype", DTYPES)
def test_complete_column_comes_back_bit_for_bit(dtype):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"c": random_cells(dtype, rng)}, index=rng.permutation(N))
    frame["c"] = random_cells(dtype, rng).array
    schema = TableSchema.infer(frame)
    x, present = schema.to_model(frame)
    assert x.dtype == np.float32 and present.all()
    pd.testing.assert_frame_equal(
        schema.to_user(np.full_like(x, np.nan), frame), frame, check_exact=True
    )


@pytest.mark.parametrize("dtype", HOLDS_GAPS)
def test_observed_cells_survive_beside_imputed_ones(dtype):
    rng = np.random.default_rng(1)
    cells = random_cells(dtype, rng)
    gaps = rng.random(N) < 0.4
    frame = pd.DataFrame({"c": cells.mask(gaps)})
    schema = TableSchema.infer(frame)
    x, present = schema.to_model(frame)
    np.testing.assert_array_equal(present[:, 0], ~gaps)
    np.testing.assert_array_equal(x[gaps], 0.0)
    completed = schema.to_user(x, frame)["c"]
    assert not completed.isna().any()
    assert completed.dtype == frame["c"].dtype
    pd.testing.assert_series_equal(
        completed[~gaps], frame["c"][~gaps], check_exact=True, check_freq=False
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_restored_without_the_raw_table(dtype):
    frame = pd.DataFrame({"c": random_cells(dtype, np.random.default_rng(2))})
    schema = TableSchema.infer(frame)
    back = schema.to_user(schema.to_model(frame)[0])
    assert back["c"].dtype == frame["c"].dtype
    if schema.levels[0]:
        pd.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize("seed", range(5))
def test_random_frame_survives_json_gaps_and_the_way_back(seed):
    rng = np.random.default_rng(seed)
    dtypes = rng.choice(HOLDS_GAPS, 8, replace=False)
    columns = {f"{d} {i}": random_cells(d, rng) for i, d in enumerate(dtypes)}
    frame = pd.DataFrame({k: v.mask(rng.random(N) < 0.3) for k, v in columns.items()})
    frame.index = pd.Index(rng.choice(["p", "q"], N), name="label")  # Labels repeat.
    schema = TableSchema.from_json(TableSchema.infer(frame).to_json())
    x, present = schema.to_model(frame)
    completed = schema.to_user(np.where(present, np.nan, x), frame)
    pd.testing.assert_frame_equal(completed.where(present), frame.where(present))
    pd.testing.assert_index_equal(completed.index, frame.index)
    np.testing.assert_array_equal(schema.to_model(completed)[0][present], x[present])


def test_numbers_are_standardised_in_double_precision():
    # In float32, 1e8 + 1 and 1e8 are the same number.
    frame = pd.DataFrame({"c": [1e8, 1e8 + 1, 1e8 + 2]})
    x, _ = TableSchema.infer(frame).to_model(frame)
    np.testing.assert_allclose(x[:, 0], [-np.sqrt(1.5), 0, np.sqrt(1.5)], rtol=1e-6)


def test_present_cells_alone_give_mean_and_scale():
    frame = pd.DataFrame({"c": [1.5, None, 4.5], "d": pd.array([2, None, 4], "Int64")})
    c, d = TableSchema.infer(frame).columns
    assert c == Numeric("c", 3.0, 1.5)
    assert d == Integer("d", 3.0, 1.0, "Int64")


def test_rows_limit_the_statistics_but_not_the_levels():
    frame = pd.DataFrame({"c": [1.5, 2.5, 99.5], "d": ["x", "x", "y"]})
    schema = TableSchema.infer(frame, rows=np.array([True, True, False]))
    assert schema.columns[0] == Numeric("c", 2.0, 0.5)
    assert schema.columns[1].levels == ("x", "y")


def test_tiny_and_huge_numbers_have_a_scale():
    frame = pd.DataFrame({"tiny": [1e-200, 3e-200], "huge": [1e300, 3e300]})
    tiny, huge = TableSchema.infer(frame).columns
    np.testing.assert_allclose([tiny.scale / 1e-200, huge.scale / 1e300], 1.0)


def test_categories_keep_their_type_and_their_order():
    frame = pd.DataFrame({"i": [3, 1, 3], "f": [0.5, 0.25, 0.5], "t": ["b", "a", "b"]})
    schema = TableSchema.infer(frame, {"i": "categorical", "f": "categorical"})
    assert [c.levels for c in schema.columns] == [(1, 3), (0.25, 0.5), ("a", "b")]
    assert [type(c.levels[0]) for c in schema.columns] == [int, float, str]
    x, _ = schema.to_model(frame)
    np.testing.assert_array_equal(x, [[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    pd.testing.assert_frame_equal(schema.to_user(x), frame)


def test_true_one_and_text_one_are_different_levels():
    cells = pd.Series([True, 1, "1", 1], dtype=object)
    schema = TableSchema.infer(pd.DataFrame({"c": cells}), {"c": "categorical"})
    assert schema.levels == (3,)
    back = schema.to_user(schema.to_model(pd.DataFrame({"c": cells}))[0])["c"]
    assert [(type(v), v) for v in back] == [(type(v), v) for v in cells]


def test_integer_categories_are_found_again_in_floats_with_gaps():
    schema = TableSchema((Categorical("c", (1, 2), "int64"),))
    frame = pd.DataFrame({"c": [2.0, np.nan]})
    x, present = schema.to_model(frame)
    assert x[0, 0] == 1 and present.tolist() == [[True], [False]]
    assert schema.to_user(x, frame)["c"].tolist() == [2, 1]


def test_imputed_integers_are_rounded_and_stay_in_range():
    schema = TableSchema((Integer("a", 100.0, 10.0, "uint8"), Integer("b", 0.0, 1.0, "int64")))
    back = schema.to_user(np.array([[0.06, 1e30], [99.0, -1e30], [-99.0, 0.4]]))
    assert back["a"].tolist() == [101, 255, 0]
    assert back["b"][1] == -(2**63) and back["b"][0] > 9e18 and back["b"][2] == 0


def test_float_column_of_integers_with_gaps_comes_back_as_plain_integers():
    frame = pd.DataFrame({"gaps": [1.0, np.nan, 3.0], "whole": [1.0, 2.0, 3.0]})
    schema = TableSchema.infer(frame)
    assert [type(c) for c in schema.columns] == [Integer, Numeric]
    back = schema.to_user(np.zeros([3, 2]), frame)
    assert back["gaps"].tolist() == [1, 2, 3]
    assert back.dtypes.tolist() == [np.int64, np.float64]


@pytest.mark.parametrize("value", [2.0**53, 1e300, 0.5])
def test_float_column_with_gaps_that_may_be_no_integers_stays_float(value):
    schema = TableSchema.infer(pd.DataFrame({"c": [1.0, np.nan, value]}))
    assert isinstance(schema.columns[0], Numeric)


@pytest.mark.parametrize("arrives_as", ["float64", "Int64", "object", "int64[pyarrow]"])
def test_integers_that_arrive_with_gaps_take_the_fitted_dtype(arrives_as):
    schema = TableSchema.infer(pd.DataFrame({"c": [1, 2, 6]}))
    raw = pd.DataFrame({"c": pd.Series([5, None, 7], dtype="Int64").astype(arrives_as)})
    back = schema.to_user(schema.to_model(raw)[0], raw)["c"]
    # The mean, 3, for the gap: x is 0 there.
    assert back.tolist() == [5, 3, 7] and back.dtype == np.int64


@pytest.mark.parametrize(
    ("fitted", "given"),
    [
        (Integer("c", 0.0, 1.0), pd.Series([3.5, np.nan])),
        (Numeric("c", 0.0, 1.0, "float32"), pd.Series([0.1, np.nan])),
        (Numeric("c", 0.0, 1.0), pd.Series([2**53 + 1, None], dtype="Int64")),
        (Integer("c", 0.0, 1e6), pd.Series([2**64 - 1, None], dtype="UInt64")),
        (Datetime("c", 0.0, 1.0, "datetime64[s]"), pd.Series([123, None], dtype="M8[ms]")),
    ],
)
def test_cells_that_the_fitted_dtype_cannot_hold_keep_their_own(fitted, given):
    raw = pd.DataFrame({"c": given})
    back = TableSchema((fitted,)).to_user(np.array([[np.nan], [0.0]]), raw)["c"]
    assert back.dtype == given.dtype
    assert back[0] == given[0] and not pd.isna(back[1])


def test_constant_columns_come_back_exactly():
    big = 2**62 + 1
    when = pd.Timestamp("2024-02-29 12:00:00.000001", tz="Europe/Berlin")
    frame = pd.DataFrame({"f": [0.1, 0.1], "i": [big, big], "d": [when, when]})
    frame["t"] = "same"
    schema = TableSchema.from_json(TableSchema.infer(frame).to_json())
    assert schema.columns[0] == Numeric("f", 0.1, 1.0, constant=0.1)
    # Any x: what a network says about a constant column is noise.
    x = np.array([[5.0, -3.0, 7.0, 0.0], [0.1, 0.2, 0.3, 0.0]])
    pd.testing.assert_frame_equal(schema.to_user(x), frame)


def test_constant_date_is_the_same_instant_in_a_finer_unit():
    schema = TableSchema.infer(pd.DataFrame({"d": pd.Series([7, 7], dtype="M8[s]")}))
    raw = pd.DataFrame({"d": pd.Series([7123, None], dtype="M8[ms]")})
    back = schema.to_user(np.zeros([2, 1]), raw)["d"]
    assert back.tolist() == [pd.Timestamp(7123, unit="ms"), pd.Timestamp(7, unit="s")]


def test_extra_columns_and_their_places_are_kept():
    raw = pd.DataFrame({"key": ["p", None], "b": [1.5, None], "note": [1, 2], "a": [2, 4]})
    raw.index = [7, 3]
    schema = TableSchema((Numeric("a", 3.0, 1.0), Numeric("b", 0.0, 1.0)))
    x, _ = schema.to_model(raw, extra="ignore")
    back = schema.to_user(x, raw)
    expected = raw.assign(b=[1.5, 0.0], a=[2.0, 4.0])
    pd.testing.assert_frame_equal(back, expected)


def test_cells_outside_observed_are_replaced():
    raw = pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]})
    schema = TableSchema((Numeric("a", 0.0, 1.0), Categorical("b", ("u", "v"), "str")))
    observed = np.array([[True, False], [False, True]])
    back = schema.to_user(np.array([[9.0, 1.0], [9.0, 0.0]]), raw, observed)
    pd.testing.assert_frame_equal(back, pd.DataFrame({"a": [1.0, 9.0], "b": ["v", "v"]}))


def test_imputed_dates_stay_printable():
    dtypes = ["datetime64[s]", "datetime64[ns]", BERLIN, "date32[day][pyarrow]"]
    schema = TableSchema(tuple(Datetime(d, 0.0, 1e9, d) for d in dtypes))
    back = schema.to_user(np.array([[1e9] * 4, [-1e9] * 4, [0.0] * 4]))
    assert [str(v) for v in back.iloc[2]] == [
        "1970-01-01 00:00:00",
        "1970-01-01 00:00:00",
        "1970-01-01 01:00:00+01:00",
        "1970-01-01",
    ]
    assert [str(v)[:4] for v in back.iloc[0]] == ["9999", "2262", "9999", "9999"]


def test_dates_of_another_resolution_or_zone_are_the_same_instants():
    frame = pd.DataFrame({"c": pd.Series([0, 10, 20], dtype="M8[s]").dt.tz_localize("UTC")})
    schema = TableSchema.infer(frame)
    other = frame.assign(c=frame["c"].dt.tz_convert("Asia/Tokyo").dt.as_unit("ns"))
    np.testing.assert_array_equal(schema.to_model(other)[0], schema.to_model(frame)[0])
    text = frame.assign(c=["1970-01-01T01:00:00+01:00", "1970-01-01 00:00:10Z", None])
    x, present = schema.to_model(text)
    np.testing.assert_array_equal(x[:2], schema.to_model(frame)[0][:2])
    assert present[:, 0].tolist() == [True, True, False]


def test_log_jacobian_turns_model_densities_into_the_users_units():
    def log_normal(value, mean, scale):
        return -0.5 * ((value - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)

    schema = TableSchema((Numeric("a", 5.0, 4.0), Boolean("b"), Integer("c", -1.0, 0.5)))
    raw = pd.DataFrame({"a": [7.0, 3.0], "b": [True, False], "c": [2, 0]})
    x, _ = schema.to_model(raw)
    features = np.array([[True, True, False], [True, False, True]])
    in_model = np.where(features, log_normal(x, 0.0, 1.0) * [1, 0, 1], 0.0).sum(-1)
    expected = [
        log_normal(7.0, 5.0, 4.0),
        log_normal(3.0, 5.0, 4.0) + log_normal(0, -1.0, 0.5),
    ]
    in_units = in_model + schema.log_jacobian(x, features)
    np.testing.assert_allclose(in_units, expected, rtol=1e-6)
    assert schema.log_jacobian(x[0], np.zeros([4, 5, 3], bool)).shape == (4, 5)


def test_names_levels_and_size_describe_the_columns():
    schema = TableSchema((Numeric("a", 0.0, 1.0), Boolean("b"), Categorical("c", ("x",))))
    assert (schema.names, schema.levels) == (("a", "b", "c"), (0, 2, 1))
    assert schema.num_features == 3


def test_tensor_names_are_plain_and_differ_in_any_case():
    names = ["mean radius", "größe", "A", "a", "mean_radius", "2nd", "a_2", "Seed", "%", "é"]
    schema = TableSchema(tuple(Boolean(name) for name in names))
    got = schema.tensor_names
    assert list(got) == names
    assert got == {
        "mean radius": "mean_radius_2",
        "größe": "gro_e",
        "A": "A",
        "a": "a_3",  # A has the letter, and the column a_2 its own name.
        "mean_radius": "mean_radius",
        "2nd": "column_2nd",
        "a_2": "a_2",
        "Seed": "column_Seed",
        "%": "column__",
        "é": "e",
    }


@pytest.mark.parametrize("seed", range(3))
def test_tensor_names_of_random_columns_are_valid_and_distinct(seed):
    rng = np.random.default_rng(seed)
    names = {"".join(rng.choice(list("aAäß_2 .日"), 3)) for _ in range(200)}
    got = TableSchema(tuple(Boolean(name) for name in sorted(names))).tensor_names.values()
    assert all(n[0].isascii() and n[0].isalpha() for n in got)
    assert all(n.isascii() and n.isidentifier() for n in got)
    assert len({n.lower() for n in got}) == len(names)


def test_json_restores_every_bit_of_every_float(tmp_path):
    rng = np.random.default_rng(0)
    columns = [Numeric(f"c{i}", *rng.lognormal(0, 50, 2)) for i in range(50)]
    levels = Categorical("l", (0.1, 2, "2", True, -(2**70), "ü"), "object")
    schema = TableSchema((*columns, levels, Datetime("d", 1e9 / 3, 1 / 3, BERLIN)))
    schema.save(tmp_path / "schema.json")
    loaded = load_schema(tmp_path / "schema.json")
    assert loaded == schema == TableSchema.load(tmp_path / "schema.json")
    assert [type(v) for v in loaded.columns[-2].levels] == [type(v) for v in levels.levels]
    assert json.loads(schema.to_json())["version"] == 1


def test_failed_save_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "schema.json"
    TableSchema((Boolean("old"),)).save(path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        TableSchema((Boolean("new"),)).save(path)
    assert TableSchema.load(path).names == ("old",)
    assert [p.name for p in tmp_path.iterdir()] == ["schema.json"]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_images_come_back_bit_for_bit(channels, dtype):
    shape = (5, 4, 3) if channels is None else (5, 4, 3, channels)
    images = np.random.default_rng(0).integers(0, 17, shape).astype(dtype)
    if dtype.startswith("float"):
        images = images / np.asarray(3, dtype)
    schema = ImageSchema.infer(images, (0, 16))
    x, present = schema.to_model(images)
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
    assert present.shape == (5, 4, 3) and present.all()
    for back in (schema.to_user(x), schema.to_user(np.full_like(x, np.nan), images)):
        assert back.dtype == images.dtype
    np.testing.assert_array_equal(back, images)
    np.testing.assert_allclose(schema.to_user(x), images, rtol=1e-6, atol=1e-6)


def test_imputed_pixels_are_rounded_and_clipped_and_the_rest_is_copied():
    schema = ImageSchema(1, 3, None, 0, 16)
    images = np.array([[[3.0, np.nan, 5.0]]])
    x, present = schema.to_model(images)
    assert present.tolist() == [[[True, False, True]]] and x[0, 0, 1] == 0
    back = schema.to_user(
        np.array([[[0.9, 0.34, 7.0]]]), images, present & [True, True, False]
    )
    assert back.tolist() == [[[3, 5, 16]]] and back.dtype == np.uint8


def test_pixel_with_one_missing_channel_is_missing():
    images = np.ones([1, 1, 2, 3], np.float32)
    images[0, 0, 1, 2] = np.nan
    x, present = ImageSchema(1, 2, 3, 0.0, 1.0, "float32").to_model(images)
    assert present.tolist() == [[[True, False]]]
    np.testing.assert_array_equal(x[0, 0], [[1, 1, 1], [0, 0, 0]])


def test_image_schema_survives_json(tmp_path):
    schema = ImageSchema(8, 9, None, -0.1, 1 / 3, "float32")
    schema.save(tmp_path / "s.json")
    assert load_schema(tmp_path / "s.json") == schema == ImageSchema.load(tmp_path / "s.json")
    assert schema.levels is None and schema.shape == (8, 9)


def test_image_log_jacobian_counts_every_channel():
    schema = ImageSchema(2, 2, 3, 0.0, 255.0)
    features = np.array([[[True, False], [True, False]]])
    np.testing.assert_allclose(schema.log_jacobian(None, features), [-6 * np.log(255.0)])


def test_no_schema_file_imports_tensorflow():
    folder = pathlib.Path(schema_package.__file__).parent
    imported = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    assert "numpy" in imported
    assert not imported & {"tensorflow", "keras", "tensorflow_probability"}
