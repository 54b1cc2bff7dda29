"""Columns whose kind says what their numbers mean: positive, counts and ordinals."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vae_arbcond.schema import (
    Categorical,
    Count,
    Integer,
    Numeric,
    Ordinal,
    Positive,
    TableSchema,
)


def raised(call, *args, **options):
    with pytest.raises(ValueError) as error:
        call(*args, **options)
    return str(error.value)


def infer(cells, kind):
    return TableSchema.infer(pd.DataFrame({"c": cells}), {"c": kind})


def test_a_positive_column_is_seen_on_a_logarithmic_scale():
    values = np.array([1.0, 10.0, 100.0, np.nan])
    schema = infer(values, "positive")
    column = schema.columns[0]
    assert isinstance(column, Positive) and schema.levels == (0,)
    logs = np.log(values[:3])
    np.testing.assert_allclose([column.mean, column.scale], [logs.mean(), logs.std()])
    x, present = schema.to_model(pd.DataFrame({"c": values}))
    np.testing.assert_allclose(x[:3, 0], (logs - logs.mean()) / logs.std(), rtol=1e-6)
    assert present[:, 0].tolist() == [True, True, True, False]
    back = schema.to_user(x)["c"]
    np.testing.assert_allclose(back[:3], values[:3], rtol=1e-6)


def test_a_positive_column_is_never_completed_with_0_or_infinity():
    completed = infer([1.0, 2.0, 3.0], "positive").to_user(np.array([[-1e30], [1e30], [0.0]]))
    assert (completed["c"] > 0).all() and np.isfinite(completed["c"]).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_small_positive_value_is_not_0_in_a_narrow_dtype_either(dtype):
    schema = TableSchema((Positive("c", -60.0, 15.0, dtype=dtype),))
    completed = schema.to_user(np.array([[-3.0], [60.0]]))
    assert (completed["c"] > 0).all() and np.isfinite(completed["c"]).all()
    schema.to_model(completed)


def test_the_density_of_a_positive_column_is_log_normal():
    schema = infer([1.0, 10.0, 100.0, 5.0], "positive")
    column = schema.columns[0]
    values = np.array([0.5, 3.0, 70.0])
    x, present = schema.to_model(pd.DataFrame({"c": values}))
    in_units = stats.norm.logpdf(x[:, 0]) + schema.log_jacobian(x, present)
    expected = stats.lognorm.logpdf(values, column.scale, scale=np.exp(column.mean))
    np.testing.assert_allclose(in_units, expected, rtol=1e-5)


def test_the_standard_deviation_of_a_positive_column_is_of_its_values():
    column = infer([1.0, 10.0, 100.0], "positive").columns[0]
    draws = np.array([[-1.0], [0.5], [2.0]], np.float32)
    values = np.exp(draws * column.scale + column.mean)
    np.testing.assert_allclose(column.stddev(draws), values.std(0), rtol=1e-6)
    np.testing.assert_allclose(column.linear(draws), values, rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, -3.0])
def test_what_is_not_above_0_is_no_positive_number(bad):
    message = raised(infer, [1.0, bad, 2.0], "positive")
    assert "'c' is positive, but row 1 holds" in message and "'numeric'" in message
    schema = infer([1.0, 2.0], "positive")
    assert "row 0 holds" in raised(schema.to_model, pd.DataFrame({"c": [bad]}))


def test_whole_numbers_above_0_come_back_as_floats_like_any_number_override():
    assert infer([1, 2, 5], "positive").columns[0].dtype == "float64"


def test_a_count_stays_the_number_it_is():
    schema = infer(pd.array([0, 3, None, 9], "Int64"), "count")
    assert schema.columns == (Count("c", 4.0, dtype="Int64"),)
    assert schema.levels == (0,) and schema.counts == (4.0,) and schema.ordered is None
    x, present = schema.to_model(pd.DataFrame({"c": pd.array([7, None], "Int64")}))
    assert x[:, 0].tolist() == [7.0, 0.0] and present[:, 0].tolist() == [True, False]
    completed = schema.to_user(np.array([[2.4], [-1.0]]))["c"]
    assert completed.tolist() == [2, 0] and completed.dtype == "Int64"
    everything = np.ones([2, 1], bool)
    np.testing.assert_array_equal(schema.log_jacobian(x, everything), [0.0, 0.0])


@pytest.mark.parametrize("bad", [-1.0, 2.5, 2.0**24 + 2])
def test_what_is_no_count_is_refused(bad):
    assert "row 0 holds" in raised(infer([0, 1], "count").to_model, pd.DataFrame({"c": [bad]}))
    assert "Column 'c'" in raised(infer, [1.0, bad], "count")


def test_a_column_of_one_count_is_completed_with_it():
    schema = infer([0, 0, 0], "count")
    assert schema.counts == (0.1,)  # A scale above 0 all the same.
    assert schema.to_user(np.array([[5.0]]))["c"].tolist() == [0]


def test_numbers_are_ordered_by_size():
    schema = infer([5, 1, 10, 1], "ordinal")
    column = schema.columns[0]
    assert isinstance(column, Ordinal) and column.levels == (1, 5, 10)
    assert schema.ordered == (True,) and schema.levels == (3,) and schema.counts is None


def test_text_is_ordered_by_the_user_alone():
    cells = ["M", "S", None, "L"]
    message = raised(infer, cells, "ordinal")
    assert "'c' is text" in message and "lowest first" in message
    schema = infer(cells, ("S", "M", "L", "XL"))
    assert schema.columns[0].levels == ("S", "M", "L", "XL")
    x, _ = schema.to_model(pd.DataFrame({"c": cells}))
    assert x[:, 0].tolist() == [1.0, 0.0, 0.0, 2.0]
    assert "row 0 holds 'XXL'" in raised(infer, ["XXL"], ("S", "M"))
    assert "no level twice" in raised(infer, ["S"], ("S", "S"))


def test_an_ordered_pandas_categorical_is_ordinal():
    levels = ["low", "high"]
    cells = pd.Series(pd.Categorical(["high", "low"], levels, ordered=True))
    schema = TableSchema.infer(pd.DataFrame({"c": cells}))
    assert isinstance(schema.columns[0], Ordinal) and schema.columns[0].ordered
    back = schema.to_user(np.array([[1.0], [0.0]]))["c"]
    pd.testing.assert_series_equal(back, cells, check_names=False)
    assert "exactly the categories" in raised(infer, cells, ("low", "high", "top"))
    plain = TableSchema.infer(pd.DataFrame({"c": cells}), {"c": "categorical"})
    assert type(plain.columns[0]) is Categorical


def test_these_kinds_survive_json(tmp_path):
    columns = (
        Positive("a", 0.1, 1 / 3, unit="mg"),
        Count("b", 2.5, dtype="Int64"),
        Ordinal("c", ("low", "high")),
        Integer("d", 0.0, 1.0),
    )
    schema = TableSchema(columns)
    schema.save(tmp_path / "schema.json")
    assert TableSchema.load(tmp_path / "schema.json") == schema


def test_an_override_that_is_none_is_refused():
    assert "levels" in raised(infer, [1, 2], 3)
    assert "'kount'" in raised(infer, [1, 2], "kount")


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_positive_values_whose_squares_do_not_exist_are_refused(value):
    assert "from 1e-100 to 1e+100" in raised(infer, [1.0, value], "positive")


def test_true_and_false_are_no_counts():
    assert "of true and false" in raised(infer, [True, False], "count")


def test_a_number_astronomically_far_out_is_refused():
    schema = TableSchema((Numeric("c", 0.0, 1.0),))
    message = raised(schema.to_model, pd.DataFrame({"c": [1e30]}))
    assert "row 0 holds 1e+30" in message and "standard deviations" in message
