"""Awkward tables and damaged files: each has its policy, and each error names the culprit."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pytest

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

DAYS = pd.to_datetime(pd.Series(["2024-01-01", "2024-01-03"]))


def raised(error, call, *args, **kwargs) -> str:
    """The message, checked for the line breaks and tracebacks that it must not have."""
    with pytest.raises(error) as info:
        call(*args, **kwargs)
    message = str(info.value)
    assert "\n" not in message and message.endswith((".", "]."))
    return message


def objects(*values) -> pd.Series:
    return pd.Series(values, dtype=object)


def fitted(*columns) -> TableSchema:
    return TableSchema(columns)


A = Numeric("a", 0.0, 1.0)
COLOUR = Categorical("colour", ("blue", "red"))


def test_unknown_category_is_named_with_row_and_levels():
    frame = pd.DataFrame({"colour": ["red", "mauve", "teal"]}, index=["p", "q", "r"])
    message = raised(ValueError, fitted(COLOUR).to_model, frame)
    assert "'colour'" in message and "row 'q' holds 'mauve'" in message
    assert "['blue', 'red']" in message and "unknown='missing'" in message


def test_unknown_category_can_count_as_missing():
    frame = pd.DataFrame({"colour": ["red", "mauve", None]})
    schema = fitted(COLOUR)
    x, present = schema.to_model(frame, unknown="missing")
    assert x.tolist() == [[1], [0], [0]] and present.tolist() == [[True], [False], [False]]
    back = schema.to_user(np.array([[0.0], [0.0], [1.0]]), frame, unknown="missing")
    assert back["colour"].tolist() == ["red", "blue", "red"]
    # Without that permission the user's cell is not overwritten in silence.
    assert "mauve" in raised(ValueError, schema.to_user, x, frame)


def test_missing_column_is_named():
    message = raised(ValueError, fitted(A, COLOUR).to_model, pd.DataFrame({"a": [1.0]}))
    assert "lacks column(s) ['colour']" in message and "empty cells" in message


def test_extra_column_is_an_error_or_ignored():
    frame = pd.DataFrame({"key": ["p"], "a": [2.0]})
    message = raised(ValueError, fitted(A).to_model, frame)
    assert "['key']" in message and "extra='ignore'" in message
    assert fitted(A).to_model(frame, extra="ignore")[0].tolist() == [[2.0]]


@pytest.mark.parametrize("bad", ["n/a", "1,5", "1_000", "0x10", "nan", "1 2", ""])
@pytest.mark.parametrize("column", [A, Integer("a", 0.0, 1.0)])
def test_text_in_a_numeric_column_is_named(column, bad):
    frame = pd.DataFrame({"a": objects("3.5", None, bad)}).set_axis([10, 20, 30])
    message = raised(ValueError, fitted(column).to_model, frame)
    assert "'a'" in message and f"row 30 holds {bad!r}" in message


@pytest.mark.parametrize("dtype", [object, "str", "string", "category"])
def test_numbers_written_as_text_are_read_by_a_numeric_column(dtype):
    cells = pd.Series(["3.5", None, " -1e2 ", ".5"], dtype=dtype)
    x, present = fitted(A).to_model(pd.DataFrame({"a": cells}))
    assert x[:, 0].tolist() == [3.5, 0, -100, 0.5]
    assert present[:, 0].tolist() == [True, False, True, True]


def test_long_integers_written_as_text_keep_every_digit():
    schema = fitted(Integer("a", 0.0, 1.0))
    raw = pd.DataFrame({"a": objects("9007199254740993", None)})
    back = schema.to_user(np.array([[np.nan], [4.4]]), raw)["a"]
    assert back.tolist() == [2**53 + 1, 4] and back.dtype == np.int64


def test_text_column_of_numbers_is_ambiguous_at_fit():
    frame = pd.DataFrame({"a": ["3.5", "4", None]})
    message = raised(ValueError, TableSchema.infer, frame)
    assert "'a'" in message and "row 0 holds '3.5'" in message
    assert "'numeric'" in message and "'categorical'" in message
    assert TableSchema.infer(frame, {"a": "numeric"}).columns[0] == Numeric("a", 3.75, 0.25)
    assert TableSchema.infer(frame, {"a": "categorical"}).columns[0].levels == ("3.5", "4")


def test_all_missing_row_is_allowed():
    frame = pd.DataFrame({"a": [1.0, None, 3.0], "b": ["x", None, "y"]})
    _, present = TableSchema.infer(frame).to_model(frame)
    assert present.tolist() == [[True, True], [False, False], [True, True]]


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([np.nan, np.nan]),
        objects(None, None),
        pd.Series([pd.NA, pd.NA], dtype="Int64"),
        pd.Series([pd.NaT, pd.NaT]),
        pd.Series(pd.Categorical([None, None], ["x"])),
    ],
)
def test_all_missing_column_is_refused_at_fit_and_allowed_in_use(cells):
    frame = pd.DataFrame({"ok": [1.5, 2.5], "void": cells})
    assert "'void'" in raised(ValueError, TableSchema.infer, frame)
    assert "drop" in raised(ValueError, TableSchema.infer, frame, {"void": "categorical"})
    numbers = [A, Integer("a", 0.0, 1.0), Datetime("a", 0.0, 1.0)]
    for column in [*numbers, Boolean("a"), Categorical("a", ("x",))]:
        assert not fitted(column).to_model(pd.DataFrame({"a": cells}))[1].any()


def test_all_columns_without_a_value_are_named_at_once():
    frame = pd.DataFrame({"ok": [1.5, 2.5], "void": np.nan, "hole": None})
    message = raised(ValueError, TableSchema.infer, frame)
    assert "Columns ['void', 'hole'] have no value" in message
    assert "table_file.drop = ['void', 'hole']" in message
    message = raised(ValueError, TableSchema.infer, frame[["void", "hole"]])
    assert "No column has any value" in message and "table_file.missing" in message


def test_column_without_a_value_in_the_training_rows_is_refused():
    frame = pd.DataFrame({"a": [np.nan, 1.0]})
    message = raised(ValueError, TableSchema.infer, frame, rows=np.array([True, False]))
    assert "in the training rows" in message


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "Float64", "double[pyarrow]", object])
def test_infinite_value_is_named_at_fit_and_in_use(value, dtype):
    frame = pd.DataFrame({"a": pd.Series([1.5, None, value], dtype=dtype)})
    for call in (TableSchema.infer, fitted(A).to_model):
        message = raised(ValueError, call, frame)
        assert "'a'" in message and f"row 2 holds {value}" in message


def test_value_beyond_float32_is_named():
    message = raised(ValueError, fitted(A).to_model, pd.DataFrame({"a": [0.0, 1e39]}))
    assert "row 1 holds 1e+39" in message


def test_numbers_too_large_for_a_variance_are_refused():
    frame = pd.DataFrame({"a": [1.7e308, 1.7e308, -1.7e308]})
    assert "too large" in raised(ValueError, TableSchema.infer, frame)


def test_duplicate_column_name_is_refused():
    frame = pd.DataFrame([[1.0, 2.0]], columns=["a", "a"])
    for call in (TableSchema.infer, fitted(A).to_model):
        assert "['a'] more than once" in raised(ValueError, call, frame)
    assert "['a'] more than once" in raised(ValueError, fitted, A, A)


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame(index=[1, 2])]
)
def test_empty_table_is_refused(frame):
    assert "empty" in raised(ValueError, TableSchema.infer, frame)


def test_table_without_rows_is_refused_in_use():
    assert "0 rows" in raised(ValueError, fitted(A).to_model, pd.DataFrame({"a": [1.0]})[:0])


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (objects(1, None, "x"), ("integer and text", "row 2 holds 'x'")),
        (objects("x", 1.5), ("text and number", "row 1 holds 1.5")),
        (objects(True, 0), ("boolean and integer", "row 1 holds 0")),
    ],
)
def test_object_column_that_mixes_types_is_refused(cells, words):
    frame = pd.DataFrame({"mix": cells})
    message = raised(ValueError, TableSchema.infer, frame)
    assert all(word in message for word in ("'mix'", "'categorical'", *words))
    back = TableSchema.infer(frame, {"mix": "categorical"})
    x, present = back.to_model(frame)
    assert present.tolist() == [[not pd.isna(v)] for v in cells]
    filled = back.to_user(x)["mix"]
    kept = [(type(v), v) for v in filled[present[:, 0]]]
    assert kept == [(type(v), v) for v in cells[present[:, 0]]]


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        (objects(datetime.date(2024, 1, 1)), "to_datetime"),
        (objects(decimal.Decimal("1.5")), "float64"),
        (objects([1, 2]), "list"),
        (pd.Series(pd.to_timedelta([1, 2], unit="s")), "timedelta64"),
        (pd.Series(pd.period_range("2024", periods=2, freq="D")), "period"),
        (pd.Series([1 + 2j, 0]), "complex"),
    ],
)
def test_cells_that_no_kind_holds_are_refused(cells, word):
    message = raised(ValueError, TableSchema.infer, pd.DataFrame({"odd": cells}))
    assert "'odd'" in message and word in message


def test_too_many_levels_say_how_to_drop_or_override():
    frame = pd.DataFrame({"id": [f"k{i}" for i in range(9)]})
    message = raised(ValueError, TableSchema.infer, frame, max_levels=8)
    for word in ("'id'", "9 distinct", "frame.drop(columns=['id'])", "override", "max_levels"):
        assert word in message
    assert TableSchema.infer(frame, max_levels=9).levels == (9,)


def test_fraction_in_an_integer_override_is_named():
    frame = pd.DataFrame({"a": [1.0, 2.5]})
    message = raised(ValueError, TableSchema.infer, frame, {"a": "integer"})
    assert "row 1 holds 2.5" in message
    whole = pd.DataFrame({"a": [1.0, 3.0]})
    assert TableSchema.infer(whole, {"a": "integer"}).columns[0] == Integer("a", 2.0, 1.0)


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (pd.Series([1, 3]), "numeric", Numeric("c", 2.0, 1.0)),
        (pd.Series([0, 1]), "boolean", Boolean("c", "int64")),
        (pd.Series(["True", "false"]), "boolean", Boolean("c")),
        (pd.Series(["7", "9"]), "integer", Integer("c", 8.0, 1.0)),
        (pd.Series([True, False]), "categorical", Categorical("c", (False, True), "bool")),
        (DAYS.astype("str"), "datetime", Datetime("c", 1.7041536e9, 86400.0, daily=True)),
    ],
)
def test_override_decides_the_kind(cells, kind, expected):
    assert TableSchema.infer(pd.DataFrame({"c": cells}), {"c": kind}).columns == (expected,)


def test_override_by_a_column_object_is_taken_as_it_is():
    column = Numeric("c", 5.0, 2.0, unit="kg")
    assert TableSchema.infer(pd.DataFrame({"c": [1, 2]}), {"c": column}).columns == (column,)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"b": "numeric"}, ("'b'", "['a']")),
        ({"a": "real"}, ("'real'", "'categorical'")),
        ({"a": 3}, ("'a'", "got 3")),
        ({"a": Boolean("b")}, ("'a'", "'b'")),
        ({"a": "boolean"}, ("boolean", "row 1 holds 2")),
        ({"a": "datetime"}, ("to_datetime",)),
    ],
)
def test_wrong_override_is_explained(overrides, words):
    message = raised(ValueError, TableSchema.infer, pd.DataFrame({"a": [1, 2]}), overrides)
    assert all(word in message for word in words)


@pytest.mark.parametrize("bad", ["yesterday", "01.02.2024", "2024-13-01", 5])
def test_cell_that_is_no_date_is_named(bad):
    frame = pd.DataFrame({"d": objects("2024-01-01", None, bad)})
    message = raised(ValueError, fitted(Datetime("d", 0.0, 1.0)).to_model, frame)
    assert f"row 2 holds {bad!r}" in message


def test_dates_with_and_without_zone_do_not_mix():
    zoned = pd.DataFrame({"d": DAYS.dt.tz_localize("UTC")})
    naive = pd.DataFrame({"d": DAYS})
    assert "lacks a time zone" in raised(ValueError, TableSchema.infer(zoned).to_model, naive)
    assert "has a time zone" in raised(ValueError, TableSchema.infer(naive).to_model, zoned)
    mixed = pd.DataFrame({"d": objects("2024-01-01 00:00Z", "2024-01-01 00:00")})
    message = raised(ValueError, TableSchema.infer(naive).to_model, mixed)
    assert "row 1" in message and "offset" in message


@pytest.mark.parametrize("name", [0, "", ("a", "b"), None])
def test_column_names_must_be_text(name):
    frame = pd.DataFrame({name: [1.0]})
    assert "rename" in raised(ValueError, TableSchema.infer, frame)


def test_array_instead_of_a_frame_is_refused():
    assert "DataFrame" in raised(TypeError, TableSchema.infer, np.zeros([2, 2]))


@pytest.mark.parametrize(
    ("x", "word"),
    [
        ([[0.0, 0.4]], "0.4"),
        ([[0.0, 2.0]], "from 0 to 1"),
        ([[0.0, -1.0]], "from 0 to 1"),
        ([[np.nan, 0.0]], "nan"),
        ([[np.inf, 0.0]], "inf"),
        ([[0.0, np.nan]], "nan"),
        ([[[0.0, 0.0]]], "[1, 1, 2]"),
        ([[0.0]], "[N, 2]"),
    ],
)
def test_model_values_without_a_meaning_are_refused(x, word):
    assert word in raised(ValueError, fitted(A, COLOUR).to_user, np.array(x))


def test_masks_of_the_wrong_dtype_or_shape_are_refused():
    schema, raw, x = fitted(A), pd.DataFrame({"a": [1.0]}), np.zeros([1, 1])
    assert "float64" in raised(ValueError, schema.to_user, x, raw, np.ones([1, 1]))
    assert "[1]" in raised(ValueError, schema.to_user, x, raw, np.ones([1], bool))
    assert "raw" in raised(ValueError, schema.to_user, x, None, np.ones([1, 1], bool))
    assert "float64" in raised(ValueError, schema.log_jacobian, x, np.ones([1, 1]))
    assert "[1, 2]" in raised(ValueError, schema.log_jacobian, np.ones([1, 2]), x > 0)
    assert "2 rows" in raised(ValueError, schema.to_user, np.zeros([2, 1]), raw)
    assert "rows must be bool [1]" in raised(ValueError, TableSchema.infer, raw, rows=[1])
    assert "'skip'" in raised(ValueError, schema.to_model, raw, unknown="skip")


@pytest.mark.parametrize(
    "build",
    [
        lambda: Numeric("a", 0.0, 0.0),
        lambda: Numeric("a", np.nan, 1.0),
        lambda: Numeric("", 0.0, 1.0),
        lambda: Numeric("a", 0.0, 1.0, "str"),
        lambda: Integer("a", 0.0, 1.0, "float64"),
        lambda: Boolean("a", "datetime64[s]"),
        lambda: Datetime("a", 0.0, 1.0, "int64"),
        lambda: Categorical("a", ()),
        lambda: Categorical("a", ("x", "x")),
        lambda: Categorical("a", (1, 1.0)),
        lambda: Categorical("a", (None,)),
        lambda: Categorical("a", (np.nan,)),
        lambda: TableSchema(()),
        lambda: ImageSchema(0, 8, None, 0, 1),
        lambda: ImageSchema(8, 8, None, 1, 1),
        lambda: ImageSchema(8, 8, None, 0, 1, "bool"),
    ],
)
def test_columns_and_schemas_check_what_they_are_built_from(build):
    raised(ValueError, build)


def edited(edit) -> str:
    document = json.loads(fitted(A, COLOUR).to_json())
    edit(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (edited(lambda d: d.update(version=2)), "version 2"),
        (edited(lambda d: d.update(version=True)), "version True"),
        (edited(lambda d: d.pop("version")), "'version'"),
        (edited(lambda d: d.update(extra=1)), "['extra']"),
        (edited(lambda d: d.update(kind="image")), "'image'"),
        (edited(lambda d: d.update(columns={})), "list of columns"),
        (edited(lambda d: d["columns"][0].update(scalle=1)), "['scalle']"),
        (edited(lambda d: d["columns"][0].pop("mean")), "lacks key(s) ['mean']"),
        (edited(lambda d: d["columns"][0].update(mean="0")), "'mean' must be float"),
        (edited(lambda d: d["columns"][0].update(mean=True)), "'mean' must be float"),
        (edited(lambda d: d["columns"][0].update(mean=float("nan"))), "NaN"),
        (edited(lambda d: d["columns"][0].update(kind="real")), "'real'"),
        (edited(lambda d: d["columns"][1].update(levels=["x", None])), "'levels[1]'"),
        (edited(lambda d: d["columns"][1].update(levels="xy")), "a list"),
        (edited(lambda d: d["columns"].append(3)), "column 2"),
        ('{"version": 1, "version": 1}', "twice"),
        ("[1]", "no schema"),
        (edited(lambda d: None)[:40], "not valid JSON"),
    ],
)
def test_damaged_json_is_explained(text, word):
    assert word in raised(ValueError, TableSchema.from_json, text)


def test_damaged_image_json_is_explained(tmp_path):
    document = json.loads(ImageSchema(8, 8, None, 0, 16).to_json())
    for change, word in (({"height": 8.5}, "'height' must be int"), ({"c": 1}, "['c']")):
        message = raised(ValueError, ImageSchema.from_json, json.dumps(document | change))
        assert word in message
    assert "image schema" in raised(ValueError, ImageSchema.from_json, fitted(A).to_json())
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document | {"kind": "sound"}))
    assert "'sound'" in raised(ValueError, load_schema, path)


def test_schema_file_that_is_not_there_or_no_text_is_explained(tmp_path):
    assert "schema.json" in raised(FileNotFoundError, load_schema, tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in raised(ValueError, load_schema, tmp_path / "b.json")
    message = raised(FileNotFoundError, fitted(A).save, tmp_path / "no" / "s.json")
    assert "does not exist" in message


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (np.array([[[0.0, 17.0]]]), "Image 0 holds 17.0 at (0, 1)"),
        (np.array([[[0.0, -np.inf]]]), "Image 0 holds -inf at (0, 1)"),
        (np.zeros([1, 2]), "batch axis"),
        (np.zeros([1, 1, 2, 1]), "batch axis"),
        (np.array([[["a", "b"]]]), "numbers"),
    ],
)
def test_unusable_images_are_explained(images, word):
    assert word in raised(ValueError, ImageSchema(1, 2, None, 0, 16).to_model, images)


def test_image_range_needs_two_values():
    for images in (np.zeros([2, 3, 3]), np.full([2, 3, 3], np.nan), np.zeros([0, 3, 3])):
        raised(ValueError, ImageSchema.infer, images)
    assert ImageSchema.infer(np.zeros([2, 3, 3], np.uint8)).maximum == 255


def test_nan_pixel_of_the_model_needs_an_observed_one():
    schema = ImageSchema(1, 2, None, 0, 16)
    assert "(0, 0, 1)" in raised(ValueError, schema.to_user, np.array([[[0.0, np.nan]]]))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1.5", "2", "o.1"], "numbers: row 2 holds 'o.1'"),
        (["2024-01-01", "2o24-01-02", "2024-01-03"], "dates: row 1 holds '2o24-01-02'"),
        (["2024-01-01", "2024-13-45", "2024-01-03"], "dates: row 1 holds '2024-13-45'"),
        (["True", "yes", "FALSE"], "true or false: row 1 holds 'yes'"),
    ],
)
def test_a_slip_does_not_turn_numbers_or_dates_into_categories(cells, kind):
    frame = pd.DataFrame({"a": cells})
    message = raised(ValueError, TableSchema.infer, frame)
    assert f"2 of its 3 cells are {kind}" in message
    assert "table_file.overrides = {'a': 'categorical'}" in message
    assert TableSchema.infer(frame, {"a": "categorical"}).levels == (3,)
    # Where numbers are not the rule, they are names like any other.
    assert TableSchema.infer(pd.DataFrame({"a": ["1", "2", "x", "y"]})).levels == (4,)


def test_dates_without_a_time_of_day_are_imputed_as_days():
    days = TableSchema.infer(pd.DataFrame({"d": DAYS}))
    filled = days.to_user(np.array([[0.1], [-0.73], [0.9]], np.float32))["d"]
    assert (filled == filled.dt.normalize()).all()
    exact = days.columns[0].mean + 86400.0 * np.array([0.1, -0.73, 0.9], np.float32)
    distance = np.abs(filled.to_numpy().astype("datetime64[s]").astype(float) - exact)
    assert distance.max() <= 43200  # The nearest midnight.
    hours = TableSchema.infer(pd.DataFrame({"d": DAYS + pd.Timedelta(hours=1)}))
    assert not hours.columns[0].daily
    zoned = TableSchema.infer(pd.DataFrame({"d": DAYS.dt.tz_localize("UTC")}))
    assert not zoned.columns[0].daily
    assert "no time zone" in raised(
        ValueError, lambda: Datetime("d", 0.0, 1.0, "datetime64[s, UTC]", daily=True)
    )


def test_a_damaged_schema_file_is_named(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(TableSchema.infer(pd.DataFrame({"d": DAYS})).to_json()[:100])
    assert str(path) in raised(ValueError, load_schema, path)


def test_a_value_beside_which_all_others_are_one_number_is_named():
    cells = pd.Series([101.0, 120.0, 1e308, 133.0])
    message = raised(ValueError, TableSchema.infer, pd.DataFrame({"pay": cells}))
    assert "'pay'" in message and "row 2 holds 1e+308" in message and "101 to 133" in message
    # Far out, but the others can still be told apart.
    TableSchema.infer(pd.DataFrame({"pay": cells.replace(1e308, 1e6)}))
    # One value and a far one are two values.
    TableSchema.infer(pd.DataFrame({"pay": [1.0, 1.0, 1e30]}))
