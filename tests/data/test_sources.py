"""Sources: bundled data, and files that are read back as they were written."""

import gin
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vae_arbcond.data.sources import (
    bundled_table,
    check_output,
    digits_images,
    read_table,
    read_texts,
    table_file,
    write_table,
)
from vae_arbcond.schema import Categorical, Datetime, Numeric, TableSchema


def written(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(call, *args, error=ValueError, **kwargs) -> str:
    with pytest.raises(error) as info:
        call(*args, **kwargs)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize(
    ("name", "shape", "levels"),
    [
        ("breast_cancer", (569, 31), {"malignant", "benign"}),
        ("wine", (178, 14), {"class_0", "class_1", "class_2"}),
        ("iris", (150, 5), {"setosa", "versicolor", "virginica"}),
    ],
)
def test_bundled_class_names_are_a_categorical_column(name, shape, levels):
    source = bundled_table(name)
    assert source.raw.shape == shape and not source.is_image
    schema = TableSchema.infer(source.raw, source.overrides)
    assert set(schema.columns[-1].levels) == levels
    assert all(isinstance(c, Numeric) for c in schema.columns[:-1])
    assert "target" not in bundled_table(name, target=False).raw.columns


def test_bundled_iris_classes_belong_to_their_rows():
    frame = bundled_table("iris").raw
    means = frame.groupby("target", observed=True)["petal length (cm)"].mean()
    # Fisher's table: setosa has by far the shortest petals.
    assert means["setosa"] < 2 < 4 < means["versicolor"] < means["virginica"]


def test_bundled_diabetes_is_in_its_own_units():
    frame = bundled_table("diabetes").raw
    assert frame["age"].between(18, 80).all()
    assert frame["target"].dtype.kind == "f" and frame["target"].between(25, 346).all()


def test_unknown_bundled_table_lists_the_known():
    message = refused(bundled_table, "boston")
    assert "'boston'" in message and "wine" in message


def test_digits_are_small_grey_images():
    source = digits_images()
    assert source.is_image and source.raw.shape == (1797, 8, 8)
    assert source.raw.dtype == np.uint8 and (source.raw.min(), source.raw.max()) == (0, 16)


def test_sources_can_be_injected_by_gin():
    try:
        gin.parse_config("vae_arbcond.bundled_table.name = 'wine'")
        made = gin.get_configurable("vae_arbcond.bundled_table")()
        assert made.name == "wine"
        with pytest.raises(ValueError, match="doesn't have a parameter named 'nam'"):
            gin.parse_config("bundled_table.nam = 'wine'")
    finally:
        gin.clear_config()


def random_frame(rng, num_rows=30) -> pd.DataFrame:
    def gaps(cells):
        return pd.Series(cells).mask(rng.random(num_rows) < 0.3)

    big = rng.integers(-(2**63), 2**63 - 1, num_rows)
    days = pd.Series(rng.integers(0, 10**15, num_rows).view("datetime64[us]"))
    return pd.DataFrame(
        {
            "float": rng.normal(size=num_rows) * 10.0 ** rng.integers(-300, 300, num_rows),
            "float gaps": gaps(rng.normal(size=num_rows)),
            "integer": big,
            "integer gaps": gaps(pd.Series(big, dtype="Int64")),
            "unsigned": rng.integers(2**63, 2**64, num_rows, np.uint64),
            "unsigned gaps": gaps(
                pd.Series(rng.integers(2**63, 2**64, num_rows, np.uint64)).astype("UInt64")
            ),
            "bool": rng.random(num_rows) < 0.5,
            "bool gaps": gaps(pd.Series(rng.random(num_rows) < 0.5, dtype="boolean")),
            "text, quoted": rng.choice(
                ['a,"b"', "line\nbreak", "ü", " x", "None", "007"], num_rows
            ),
            "text gaps": gaps(rng.choice(["red", "blue"], num_rows)),
            "zeros": rng.choice(["007", "12"], num_rows, p=[0.9, 0.1]),
            "too long": pd.Series([f"9{v:020d}" for v in rng.integers(0, 10**9, num_rows)]),
            "date": days,
            "zoned": gaps(days.dt.tz_localize("UTC")),
        }
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "T.CSV", "t.parquet"])
def test_random_frame_is_read_back_as_it_was_written(name, seed, tmp_path):
    frame = random_frame(np.random.default_rng(seed))
    write_table(frame, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), frame, check_exact=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_parquet_keeps_index_and_categories(tmp_path):
    index = pd.MultiIndex.from_tuples([("p", 1), ("q", 5)], names=["letter", None])
    kinds = pd.Categorical(["lo", None], ["hi", "mid", "lo"], ordered=True)
    frame = pd.DataFrame({"c": kinds, "n": pd.array([1, None], "Int8")}, index=index)
    write_table(frame, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), frame)


def test_days_of_a_parquet_file_are_dates(tmp_path):
    days = pa.table({"day": pa.array([19_000, None], pa.date32())})
    pq.write_table(days, tmp_path / "t.parquet")
    column = read_table(tmp_path / "t.parquet")["day"]
    assert column.dtype.kind == "M" and column.isna().tolist() == [False, True]
    assert column[0] == pd.Timestamp("2022-01-08")


def test_csv_writes_an_index_as_columns_so_that_nothing_is_lost(tmp_path):
    frame = pd.DataFrame({"a": [1, 2]}, index=[7, 9])
    write_table(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "index,a\n7,1\n9,2\n"
    write_table(frame.rename_axis("id"), tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv")["id"].tolist() == [7, 9]
    message = refused(write_table, frame.rename_axis("a"), tmp_path / "t.csv")
    assert "['a']" in message


def test_sixty_four_bit_keys_survive_a_csv_with_gaps_and_the_imputation(tmp_path):
    path = written(tmp_path, "id,v\n9007199254740993,1.5\n,2.5\n-9223372036854775808,\n")
    frame = read_table(path)
    assert frame["id"].dtype == "Int64"
    schema = TableSchema.infer(frame)
    write_table(schema.to_user(schema.to_model(frame)[0], frame), path)
    again = read_table(path)["id"]
    assert (again[0], again[2]) == (2**53 + 1, -(2**63)) and again.dtype == np.int64


def test_words_for_missing_cells_are_missing_and_none_is_text(tmp_path):
    cells = ["", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL", " NA "]
    path = written(tmp_path, "a,b\n" + "".join(f"{c},1\n" for c in [*cells, "None", "na"]))
    column = read_table(path)["a"]
    assert column.isna().tolist() == [True] * len(cells) + [False, False]
    assert column.dropna().tolist() == ["None", "na"]


def test_na_can_be_a_category(tmp_path):
    frame = pd.DataFrame({"country": ["NA", "DE", None]})
    message = refused(write_table, frame, tmp_path / "t.csv")
    assert "'country'" in message and "'NA'" in message and "parquet" in message
    assert not list(tmp_path.iterdir())
    write_table(frame, tmp_path / "t.csv", missing=("",))
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv", missing=("",)), frame)
    categorical = frame.astype("category")
    assert "'NA'" in refused(write_table, categorical, tmp_path / "u.csv")
    write_table(categorical[1:].reset_index(drop=True), tmp_path / "u.csv")  # An unused level.


def test_text_that_would_be_lost_is_found_among_object_cells(tmp_path):
    frame = pd.DataFrame({"a": pd.Series(["", 1], dtype=object)})
    assert "''" in refused(write_table, frame, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["1", "+2", " 3 "], "int64", [1, 2, 3]),
        (["1", "2.5"], "float64", [1.0, 2.5]),
        (["1e3", "-.5"], "float64", [1000.0, -0.5]),
        (["inf", "1"], "float64", [np.inf, 1.0]),
        (["True", "false", "TRUE"], "bool", [True, False, True]),
        (["True", "1"], "str", ["True", "1"]),
        (["0", "007"], "str", ["0", "007"]),
        (["007.5", "1.5"], "str", ["007.5", "1.5"]),
        (["1,5", "2"], "str", ["1,5", "2"]),
        (["2024-01-01", "2024-01-01 10:00"], "datetime64[us]", None),
        (["2024-01-01 00:00+02:00", "2024-06-01 00:00+01:00"], "datetime64[us, UTC]", None),
        (["2024-01-01", "n.d."], "str", ["2024-01-01", "n.d."]),
        (["01/02/2024", "x"], "str", ["01/02/2024", "x"]),
        (["1_000", "2"], "str", ["1_000", "2"]),
    ],
)
def test_type_of_a_csv_column_is_the_narrowest_that_loses_nothing(
    cells, dtype, values, tmp_path
):
    path = written(tmp_path, "c,d\n" + "".join(f'"{cell}",1\n' for cell in cells))
    column = read_table(path)["c"]
    assert str(column.dtype) == dtype
    assert values is None or column.tolist() == values


def test_column_without_any_cell_is_all_missing(tmp_path):
    frame = read_table(written(tmp_path, "a,b\n,1\n,2\n"))
    assert frame["a"].isna().all() and frame["b"].tolist() == [1, 2]
    columns = (Numeric("a", 0.0, 1.0), Numeric("b", 0.0, 1.0))
    assert TableSchema(columns).to_model(frame)[1].tolist() == [[False, True]] * 2
    assert not TableSchema((Datetime("a", 0.0, 1.0),)).to_model(frame[["a"]])[1].any()


def test_schema_keeps_text_levels_text(tmp_path):
    path = written(tmp_path, "zip,flag\n1,True\n2,\n")
    schema = TableSchema(
        (Categorical("zip", ("1", "2"), "str"), Categorical("flag", ("False", "True"), "str"))
    )
    assert read_table(path)["zip"].dtype == np.int64
    frame = read_table(path, schema)
    assert frame["zip"].tolist() == ["1", "2"]
    assert schema.to_model(frame)[0].tolist() == [[0, 1], [1, 0]]


def test_blank_lines_are_no_rows(tmp_path):
    path = written(tmp_path, "\ufeffa,b\r\n\r\n1,2\r\n3,4\r\n\r\n")
    assert read_table(path)["a"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty", "0 bytes")),
        ("\n\n", ("blank lines",)),
        ("a,b\n", ("header but no rows",)),
        ("a,b,a\n1,2,3\n", ("['a']", "rename")),
        (",a\n0,1\n", ("column 1 has no name", "index=False")),
        ("a,b\n1,2\n\n1,2,3\n", ("line 4", "3 cells", "2 columns")),
        ("a,b\n1\n", ("line 2", "1 cells")),
        ('a,b\n1,"2\n3,4\n', ("quotes",)),
        ('a,b\n1,"2"x\n', ("line 2", "quotes")),
        ("a;b\n1;2\n", ("';'", "separator")),
        (b"a\n\xff\n", ("UTF-8",)),
    ],
)
def test_damaged_csv_is_explained_in_one_sentence(text, words, tmp_path):
    path = written(tmp_path, text)
    message = refused(read_table, path)
    assert str(path) in message and all(word in message for word in words)


def test_files_that_are_not_there_or_of_another_kind_are_explained(tmp_path):
    missing = tmp_path / "none.csv"
    assert "does not exist" in refused(read_table, missing, error=FileNotFoundError)
    (tmp_path / "folder.csv").mkdir()
    folder = tmp_path / "folder.csv"
    assert "folder" in refused(read_table, folder, error=FileNotFoundError)
    for call in (lambda p: read_table(p), lambda p: write_table(pd.DataFrame({"a": [1]}), p)):
        message = refused(call, tmp_path / "t.xlsx")
        assert "'.xlsx'" in message and ".parquet" in message
    nowhere = tmp_path / "no" / "t.csv"
    frame = pd.DataFrame({"a": [1]})
    assert "folder" in refused(write_table, frame, nowhere, error=FileNotFoundError)


def test_damaged_parquet_is_explained(tmp_path):
    whole = tmp_path / "t.parquet"
    write_table(pd.DataFrame({"a": range(100)}), whole)
    cut = written(tmp_path, whole.read_bytes()[:200], "cut.parquet")
    assert "truncated" in refused(read_table, cut)
    twice = pa.table([[1], [2]], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    assert "['a']" in refused(read_table, tmp_path / "twice.parquet")
    write_table(pd.DataFrame({"a": [1]})[:0], whole)
    assert "no rows" in refused(read_table, whole)


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(pd.DataFrame({"a": [1]}), path)
    mixed = pd.DataFrame({"a": pd.Series([1, "x", b"y"], dtype=object)})
    assert "one type" in refused(write_table, mixed, path)
    assert read_table(path)["a"].tolist() == [1]
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert "['a']" in refused(write_table, twice, path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_table_file_names_drops_and_overrides_columns(tmp_path):
    path = written(tmp_path, "key,a\nk1,1\nk2,2\n", "people.csv")
    source = table_file(str(path), drop=["key"], overrides={"a": "categorical"})
    assert source.name == "people" and list(source.raw.columns) == ["a"]
    assert source.overrides == {"a": "categorical"}
    message = refused(table_file, str(path), drop=["kee"])
    assert "['kee']" in message and "'key'" in message


def test_another_separator_and_no_header_are_said(tmp_path):
    path = written(tmp_path, '"a b";c\n1;2.5\n3;\n', "wine.data")
    assert "table_file.separator" in refused(read_table, path)
    frame = table_file(str(path), separator=";").raw
    want = pd.DataFrame({"a b": [1, 3], "c": [2.5, np.nan]})
    pd.testing.assert_frame_equal(frame, want)
    bare = written(tmp_path, "1;x\n2;y\n", "bare.txt")
    frame = table_file(str(bare), separator=";", header=False, drop=["c1"]).raw
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"c0": [1, 2]}))
    one = written(tmp_path, "1\n\n2\n", "one.csv")
    assert read_table(one, header=False)["c0"].isna().tolist() == [False, True, False]
    uneven = written(tmp_path, "1,2\n3\n", "uneven.csv")
    assert "line 2: 1 cells, but the first line has 2" in refused(
        read_table, uneven, header=False
    )
    assert "one character" in refused(read_table, path, separator="::")
    semicolons = written(tmp_path, "a;b\n1;2\n")
    assert "separator=';'" in refused(read_table, semicolons)


def test_a_numpy_matrix_is_a_table_of_numbered_columns(tmp_path):
    path = tmp_path / "t.npy"
    rows = np.array([[1.5, 2.0], [3.0, np.nan]], np.float32)
    np.save(path, rows)
    pd.testing.assert_frame_equal(read_table(path), pd.DataFrame(rows, columns=["c0", "c1"]))
    for wrong in (rows[0], np.array([["a", "b"]]), rows[:0]):
        np.save(path, wrong)
        assert "[rows, columns]" in refused(read_table, path)
    np.save(path, np.array([{}]), allow_pickle=True)
    assert "holds objects" in refused(read_table, path)
    assert "'.npy'" in refused(write_table, pd.DataFrame({"a": [1]}), path)


def test_cells_are_written_as_they_were(tmp_path):
    text = "a,b,c,d\n68.30,1e3,true,2024-01-01\n,5,,2024-01-02\n7,,false,\n"
    path = written(tmp_path, text)
    frame, texts = read_table(path), read_texts(path)
    filled = frame.copy()
    filled.loc[1, "a"], filled.loc[2, "b"], filled.loc[1, "c"] = 68.3, 0.25, True
    filled.loc[2, "d"] = pd.Timestamp("2024-05-06")
    texts = texts.mask(texts == "")
    write_table(filled, tmp_path / "out.csv", texts=texts.where(texts.notna(), None))
    want = "a,b,c,d\n68.30,1e3,true,2024-01-01\n68.30,5,true,2024-01-02\n"
    want += "7,0.25,false,2024-05-06\n"
    assert (tmp_path / "out.csv").read_text() == want


def test_parquet_files_have_no_texts(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    assert read_texts(tmp_path / "t.parquet") is None


def test_a_blank_line_in_a_file_of_one_column_is_a_missing_cell(tmp_path):
    # All but those at the end; quoted nothing is a cell anywhere.
    frame = read_table(written(tmp_path, '\na\n1\n\n3\n""\n\n\n'))
    assert frame["a"].tolist() == [1, pd.NA, 3, pd.NA]
    write_table(frame, tmp_path / "out.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "out.csv"), frame)


def test_an_output_that_cannot_be_written_is_found_beforehand(tmp_path):
    check_output(tmp_path / "t.csv")
    assert ".xlsx" in refused(check_output, tmp_path / "t.xlsx")
    folder = tmp_path / "none" / "t.csv"
    assert "does not exist" in refused(check_output, folder, error=FileNotFoundError)
