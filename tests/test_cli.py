"""The commands as a user types them: what they write, and what they say when it is wrong."""

import importlib.machinery
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from vae_arbcond import config, training
from vae_arbcond.cli import common
from vae_arbcond.data.sources import bundled_table

IRIS = ["--gin_file=experiments/pm_iris.gin"]
TABLE = ["--gin_file=experiments/pm_table.gin"]


def command(name, *arguments, cwd):
    """Runs `arbcond-NAME` as its own process, with the checkout on the path."""
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", f"vae_arbcond.cli.{name}", *map(str, arguments)],
        cwd=cwd,
        env=environment | {"PYTHONPATH": checkout},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "iris"
    config.load(["experiments/pm_iris.gin"], ["NUM_STEPS = 20", "train.verbose = 0"])
    training.train(run_dir=str(path), config_text=config.full_config())
    return path


@pytest.fixture
def holes(tmp_path):
    frame = bundled_table("iris").raw.iloc[:12].copy()
    frame.insert(0, "id", range(12))
    frame.iloc[2, 1] = np.nan
    frame.iloc[5, 3] = np.nan
    frame.iloc[7, 5] = np.nan
    texts = frame.astype({frame.columns[1]: object})
    texts.iloc[0, 1] = "5.10e0"  # Not as pandas would write it.
    texts.to_csv(tmp_path / "holes.csv", index=False)
    return frame


def test_train_writes_a_run_and_resumes_it(tmp_path):
    arguments = [
        *IRIS,
        "--run_dir=run",
        "--gin_param=NUM_STEPS = 4",
        "--gin_param=train.validate_every = 2",
    ]
    options = ["--strategy=mirrored", "--precision=mixed_bfloat16"]
    done = command("train", *arguments, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "arbcond-evaluate --model=run" in done.stdout
    assert "Epoch 2/2" in done.stdout
    operative = (tmp_path / "run" / "operative_config.gin").read_text()
    assert "train.num_steps = %NUM_STEPS" in operative
    again = command("train", "--run_dir=run", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "continuing at step 4 of 4" in again.stdout


def test_impute_fills_a_table_in_its_own_units(run_dir, holes, tmp_path):
    done = command(
        "impute",
        f"--model={run_dir}",
        "--input=holes.csv",
        "--output=filled.csv",
        "--num_samples=3",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    filled = pd.read_csv(tmp_path / "filled.csv")
    assert list(filled.columns) == list(holes.columns)
    assert not filled.isna().any().any()
    assert filled.loc[7, "target"] in {"setosa", "versicolor", "virginica"}
    kept = filled.drop(index=[2, 5, 7]).astype({"target": str})
    want = holes.drop(index=[2, 5, 7]).astype({"target": str})
    pd.testing.assert_frame_equal(kept, want, check_dtype=False)
    cells = pd.read_csv(tmp_path / "filled_cells.csv")
    assert list(cells["row"]) == [2, 5, 7]
    assert (cells["lower"][:2].astype(float) < cells["upper"][:2].astype(float)).all()
    completions = pd.read_csv(tmp_path / "filled_completions.csv")
    assert list(completions.columns) == ["completion", "row", *holes.columns]
    assert list(completions["completion"].unique()) == [0, 1, 2]
    assert list(completions["row"]) == [*range(12)] * 3
    # Every cell that had a text has it still.
    for before, after in zip(
        (tmp_path / "holes.csv").read_text().splitlines(),
        (tmp_path / "filled.csv").read_text().splitlines(),
        strict=True,
    ):
        cells = zip(before.split(","), after.split(","), strict=True)
        assert all(old in ("", new) for old, new in cells)


def test_impute_reads_text_with_another_separator_and_without_a_header(
    run_dir, holes, tmp_path
):
    text = (tmp_path / "holes.csv").read_text().replace(",", ";")
    (tmp_path / "other.csv").write_text(text)
    asked = ["impute", f"--model={run_dir}", "--input=other.csv", "--output=filled.csv"]
    done = command(*asked, "--separator=;", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    filled = pd.read_csv(tmp_path / "filled.csv")
    assert list(filled.columns) == list(holes.columns) and not filled.isna().any().any()
    refused = command(*asked, "--separator=;", "--noheader", cwd=tmp_path)
    assert refused.returncode != 0 and "lacks column(s)" in refused.stderr  # c0, c1, ...


def test_evaluate_prints_the_baseline_beside_the_model(run_dir, tmp_path):
    done = command("evaluate", f"--model={run_dir}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mean/mode" in done.stdout
    assert "nrmse_mean" in done.stdout
    assert '"evaluation"' in (run_dir / "metrics.json").read_text()


def test_evaluate_compares_methods_on_questions_that_it_keeps(run_dir, tmp_path):
    asked = [f"--model={run_dir}", "--output=out", "--num_queries=9", "--methods=marginals"]
    done = command("evaluate", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()[2:4]]
    assert names == ["model", "marginals"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "queries.npz",
        "comparison.json",
        "comparison.png",
    }
    with np.load(tmp_path / "out" / "queries.npz") as queries:
        assert queries["observed"].shape == (9, 5)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("impute", ["--model={run}", "--input=no.csv", "--output=o.csv"], "does not exist"),
        ("impute", ["--model={run}", "--input=bad.csv", "--output=o.csv"], "'petal length"),
        ("impute", ["--model=.", "--input=bad.csv", "--output=o.csv"], "holds no model.keras"),
        ("train", [*IRIS, "--run_dir={run}"], "already holds"),
        ("impute", ["--model={run}", "--input=bad.csv", "--output=o.xlsx"], "'.xlsx'"),
        (
            "impute",
            ["--model={run}", "--input=o_cells.csv", "--output=o.csv"],
            "would write o_cells.csv, which is the input",
        ),
        ("impute", ["--model={run}", "--input=typo.csv", "--output=o.csv"], "count from 0"),
        ("train", [*TABLE, "--run_dir=n"], "table_file.path is not set"),
        (
            "train",
            [*IRIS, "--run_dir=n", "--gin_param=PosteriorMatching.partial_posterior_head = 3"],
            "Error: ",
        ),
        ("train", ["--run_dir=new"], "no --gin_file"),
        (
            "train",
            [*IRIS, "--run_dir=n", "--gin_param=VAE.latent_sise=3"],
            "latent_size",
        ),
        ("train", ["--gin_file=experiments/pm_irs.gin", "--run_dir=n"], "pm_iris.gin"),
        ("evaluate", ["--model=nowhere"], "There is no directory nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_traceback(name, arguments, says, run_dir, tmp_path):
    (tmp_path / "bad.csv").write_text("sepal length (cm)\n1.0\n")
    shutil.copy(tmp_path / "bad.csv", tmp_path / "o_cells.csv")
    typo = bundled_table("iris").raw[:2].astype("str")
    typo.iloc[1, 0] = "o.1"
    typo.to_csv(tmp_path / "typo.csv", index=False)
    filled = [argument.format(run=run_dir) for argument in arguments]
    done = command(name, *filled, cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert f"arbcond-{name}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "In call to configurable" not in done.stderr
    assert not (tmp_path / "o.csv").exists() and not (tmp_path / "n").exists()
    assert "TensorFlow" not in done.stderr and "000" not in done.stderr  # Its start-up notes.


def test_completions_of_another_call_are_not_left_beside_the_new_table(
    run_dir, holes, tmp_path
):
    (tmp_path / "filled_completions.csv").write_text("completion,row\n0,0\n")
    asked = ["impute", f"--model={run_dir}", "--input=holes.csv", "--output=filled.csv"]
    done = command(*asked, cwd=tmp_path)
    assert done.returncode == 1
    assert "filled_completions.csv is there already" in done.stderr
    assert not (tmp_path / "filled.csv").exists()


def test_a_module_run_by_its_path_speaks_as_the_command_does():
    code = "class RunError(RuntimeError): pass\nraise RunError('Ours.')"
    space = {"__name__": "__main__"}
    spec = importlib.machinery.ModuleSpec("vae_arbcond.cli.impute", None)
    for known, told in ((spec, "Ours."), (None, "RunError: Ours. (ARBCOND_TRACEBACK")):
        with pytest.raises(RuntimeError) as info:
            exec(code, space | {"__spec__": known})
        assert common._sentence(info.value).startswith(told)


def test_the_input_is_never_overwritten(run_dir, holes, tmp_path):
    before = (tmp_path / "holes.csv").read_bytes()
    done = command(
        "impute",
        f"--model={run_dir}",
        "--input=holes.csv",
        "--output=holes.csv",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Choose another name" in done.stderr
    assert (tmp_path / "holes.csv").read_bytes() == before
