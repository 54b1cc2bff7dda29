"""complete_table(): a user's table comes back whole, exact where it was observed."""

import numpy as np
import pandas as pd
import pytest

from vae_arbcond.conditioners import GAIN, PosteriorMatching
from vae_arbcond.distributions import CholeskyGaussian, MixedColumns
from vae_arbcond.imputer import complete_table
from vae_arbcond.models import VAE
from vae_arbcond.networks import mlp
from vae_arbcond.schema import TableSchema
from vae_arbcond.shapes import DataSpec


def raw_table(num_rows=60):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "mass": rng.normal(70, 10, num_rows),
            "count": rng.integers(2**53, 2**53 + 100, num_rows),
            "smoker": rng.random(num_rows) < 0.5,
            "blood": rng.choice(["A", "B", "0"], num_rows),
            "seen": pd.to_datetime("2024-01-01")
            + pd.to_timedelta(rng.integers(0, 9999, num_rows), "h"),
            "visits": rng.poisson(3.0, num_rows),
            "income": rng.lognormal(3.0, 1.0, num_rows),
            "grade": rng.choice(["low", "mid", "top"], num_rows),
        },
        index=[f"patient {i}" for i in range(num_rows)],
    )


@pytest.fixture(scope="module")
def method_and_schema():
    kinds = {"visits": "count", "income": "positive", "grade": ("low", "mid", "top")}
    schema = TableSchema.infer(raw_table(), kinds)

    def part():
        return mlp((8,))

    model = VAE(2, part(), CholeskyGaussian(2), part(), MixedColumns())
    method = PosteriorMatching(model, part(), CholeskyGaussian(2))
    return method.create_variables(DataSpec.of(schema)), schema


def with_holes():
    table = raw_table()
    holes = np.random.default_rng(1).random(table.shape) < 0.4
    gappy = table.astype({"count": "Int64", "visits": "Int64", "smoker": "boolean"})
    return gappy.mask(holes), holes


def test_every_hole_is_filled_and_every_observed_cell_is_exact(method_and_schema):
    gappy, holes = with_holes()
    done = complete_table(*method_and_schema, gappy, num_samples=3)
    truth = raw_table()
    for frame in (done.table, *(done.completions.loc[k] for k in range(3))):
        assert not frame.isna().any().any()
        assert list(frame.columns) == list(truth.columns)
        assert list(frame.index) == list(truth.index)
        for j, name in enumerate(truth.columns):
            same = frame[name].to_numpy(object) == truth[name].to_numpy(object)
            assert same[~holes[:, j]].all(), name


def test_each_missing_cell_has_its_error_bar(method_and_schema):
    gappy, holes = with_holes()
    cells = complete_table(*method_and_schema, gappy).cells
    assert len(cells) == holes.sum()
    assert cells.groupby("column").size().to_dict() == dict(
        zip(gappy.columns, holes.sum(0), strict=True)
    )
    mass = cells[cells["column"] == "mass"]
    assert (mass["stddev"] > 0).all()
    assert (mass["lower"] < mass["upper"]).all()
    dates = cells[cells["column"] == "seen"]
    assert isinstance(dates["lower"].iloc[0], pd.Timestamp)
    blood = cells[cells["column"] == "blood"]
    shares = blood["probabilities"].str.findall(r"(\S+)=([\d.]+)")
    for row in shares:
        assert {level for level, _ in row} <= {"A", "B", "0"}
        assert sum(float(p) for _, p in row) == pytest.approx(1.0, abs=0.01)


def test_draws_that_say_nothing_of_the_uncertainty_give_no_error_bars(method_and_schema):
    schema = method_and_schema[1]
    method = GAIN(mlp((8,)), mlp((8,))).create_variables(DataSpec.of(schema))
    gappy, holes = with_holes()
    done = complete_table(method, schema, gappy, num_samples=2)
    assert len(done.cells) == holes.sum() and done.cells["value"].notna().all()
    told = done.cells[["stddev", "lower", "upper", "probabilities"]]
    assert told.isna().all(axis=None)


def test_a_wider_interval_holds_a_narrower_one(method_and_schema):
    gappy, _ = with_holes()
    wide = complete_table(*method_and_schema, gappy, intervals=0.95).cells
    narrow = complete_table(*method_and_schema, gappy, intervals=0.5).cells
    real = wide["column"] == "mass"
    assert (wide["lower"][real] <= narrow["lower"][real]).all()
    assert (wide["upper"][real] >= narrow["upper"][real]).all()


def test_same_seed_same_answer(method_and_schema):
    gappy, _ = with_holes()
    one = complete_table(*method_and_schema, gappy, num_samples=2, seed=3)
    two = complete_table(*method_and_schema, gappy, num_samples=2, seed=3)
    other = complete_table(*method_and_schema, gappy, num_samples=2, seed=4)
    pd.testing.assert_frame_equal(one.completions, two.completions)
    assert not one.completions.equals(other.completions)


def test_columns_the_model_does_not_know_pass_through(method_and_schema):
    gappy, _ = with_holes()
    gappy.insert(1, "note", "keep me")
    done = complete_table(*method_and_schema, gappy)
    assert list(done.table.columns)[1] == "note"
    assert (done.table["note"] == "keep me").all()


def test_a_complete_table_comes_back_as_it_is(method_and_schema):
    done = complete_table(*method_and_schema, raw_table())
    pd.testing.assert_frame_equal(done.table, raw_table())
    assert len(done.cells) == 0
    assert "probabilities" in done.cells


def test_an_all_missing_row_is_drawn_from_the_joint(method_and_schema):
    gappy = with_holes()[0]
    gappy.iloc[0] = pd.NA
    done = complete_table(*method_and_schema, gappy)
    assert not done.table.iloc[0].isna().any()


def test_mistakes_are_named(method_and_schema):
    gappy, _ = with_holes()
    with pytest.raises(ValueError, match="mass"):
        complete_table(*method_and_schema, gappy.drop(columns="mass"))
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        complete_table(*method_and_schema, gappy, num_samples=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        complete_table(*method_and_schema, gappy, intervals=90)
    strange = gappy.copy()
    strange.iloc[0, 3] = "Z"
    with pytest.raises(ValueError, match="'Z'"):
        complete_table(*method_and_schema, strange)
    done = complete_table(*method_and_schema, strange, unknown="missing")
    assert done.table.iloc[0]["blood"] in {"A", "B", "0"}
