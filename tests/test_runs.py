"""Run directories that are missing, half-written or damaged."""

import json

import numpy as np
import pandas as pd
import pytest

from vae_arbcond import runs
from vae_arbcond.conditioners import PosteriorMatching
from vae_arbcond.distributions import DiagonalGaussian, MixedColumns
from vae_arbcond.models import VAE
from vae_arbcond.networks import mlp
from vae_arbcond.schema import TableSchema
from vae_arbcond.shapes import DataSpec


@pytest.fixture(scope="module")
def schema():
    return TableSchema.infer(pd.DataFrame({"a": [1.0, 2.5, 3.0], "b": ["x", "y", "x"]}))


@pytest.fixture(scope="module")
def model(schema):
    def part():
        return mlp((8,))

    vae = VAE(2, part(), DiagonalGaussian(2), part(), MixedColumns())
    method = PosteriorMatching(vae, part(), DiagonalGaussian(2))
    return method.create_variables(DataSpec((2,), (), schema.levels))


@pytest.fixture
def run(tmp_path, schema, model):
    run = runs.start(tmp_path / "run", schema, resume=False)
    run.save_model(model)
    return run


def test_what_was_saved_is_loaded(run, model, schema):
    loaded = runs.load(run.path)
    x, observed = np.ones((2, 2), np.float32), np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(
        loaded.conditioner.impute(x, observed, 4, [1, 2]), model.impute(x, observed, 4, [1, 2])
    )
    assert loaded.schema == schema
    assert loaded.metrics == {}
    assert loaded.config == ""


def test_saving_leaves_no_temporary_files(run):
    names = {path.name for path in run.path.iterdir()}
    assert names == {"checkpoints", "model.keras", "schema.json"}


def test_an_interrupted_write_leaves_the_old_model(run, model, monkeypatch):
    before = (run.path / "model.keras").read_bytes()

    def cut_off(self, path, *args, **kwargs):
        path.write_bytes(b"half a mod")
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run.save_model(model)
    assert (run.path / "model.keras").read_bytes() == before
    assert not [p for p in run.path.iterdir() if p.name.startswith(".")]


def test_there_is_no_such_directory(tmp_path):
    with pytest.raises(runs.RunError, match="There is no directory"):
        runs.load(tmp_path / "nowhere")


def test_a_directory_without_a_model_says_what_is_missing(tmp_path, run):
    with pytest.raises(runs.RunError, match=r"holds no model\.keras\. Pass the --run_dir"):
        runs.load(tmp_path)
    (run.path / "model.keras").unlink()
    with pytest.raises(runs.RunError, match=r"left checkpoints: .* --resume"):
        runs.load(run.path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_model_is_named(run, share):
    content = (run.path / "model.keras").read_bytes()
    (run.path / "model.keras").write_bytes(content[: int(share * len(content))])
    with pytest.raises(runs.RunError, match=r"model\.keras is cut off"):
        runs.load(run.path)


def test_a_model_damaged_inside_is_named(run):
    content = bytearray((run.path / "model.keras").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(
        255 - byte for byte in content[middle : middle + 200]
    )
    (run.path / "model.keras").write_bytes(content)
    with pytest.raises(runs.RunError, match="wrong checksum"):
        runs.load(run.path)


def test_damaged_metrics_are_named(run):
    (run.path / "metrics.json").write_text("{half")
    with pytest.raises(runs.RunError, match="not valid JSON"):
        runs.load(run.path)


def test_metrics_are_merged_by_section(run):
    run.save_metrics({"training": {"seconds": 1}})
    run.save_metrics({"evaluation": {"rmse": 2}})
    saved = json.loads((run.path / "metrics.json").read_text())
    assert saved == {"training": {"seconds": 1}, "evaluation": {"rmse": 2}}


def test_resuming_on_other_data_is_refused(run):
    other = TableSchema.infer(pd.DataFrame({"a": [1.0, 9.5, 3.0], "b": ["x", "y", "x"]}))
    with pytest.raises(runs.RunError, match="started on other data"):
        runs.start(run.path, other, resume=True)


@pytest.mark.parametrize("name", ["config.gin", "schema.json", "tensorboard"])
def test_a_directory_with_files_that_a_run_would_overwrite_is_refused(name, tmp_path, schema):
    mine = tmp_path / name
    mine.mkdir() if name == "tensorboard" else mine.write_text("precious")
    with pytest.raises(runs.RunError, match=f"holds {name}, which a new run would overwrite"):
        runs.start(tmp_path, schema, resume=False)
    assert mine.exists()


def test_the_schema_of_another_run_is_refused(run, model, schema):
    run.save_model(model)
    run.save_metrics({"training": {"schema": runs.fingerprint(run.path)}})
    runs.load(run.path)
    run.save_metrics({"training": {"schema": "0" * 16}})
    with pytest.raises(runs.RunError, match=r"is not the schema that model\.keras"):
        runs.load(run.path)
