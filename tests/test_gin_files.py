"""Every gin file of the library parses, and every experiment can take a few steps."""

import pytest

from vae_arbcond import config, evaluation, runs, training

FOLDER = config.resource_dir("gin")
EXPERIMENTS = sorted(p.relative_to(FOLDER) for p in FOLDER.glob("experiments/*.gin"))
SHORT = ["NUM_STEPS = 2", "train.verbose = 0", "evaluate.seeds = (0,)"]


def test_there_are_experiments():
    assert len(EXPERIMENTS) >= 6


def test_no_python_package_lies_in_the_folder():
    assert not list(FOLDER.rglob("*.py"))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=str)
def test_an_experiment_trains_evaluates_and_states_its_command(experiment, tmp_path):
    text = (FOLDER / experiment).read_text()
    assert f"--gin_file={experiment}" in text
    params = list(SHORT)
    if "table_file" in text:
        table = tmp_path / "mine.csv"
        rows = "".join(f"{i % 7},{'' if i % 5 else i},{'uv'[i % 2]}\n" for i in range(80))
        table.write_text(f"a,b,c\n{rows}")
        params.append(f'table_file.path = "{table}"')
    config.load([str(experiment)], params)
    result = training.train(run_dir=str(tmp_path / "run"), config_text=config.full_config())
    report = evaluation.evaluate(conditioner=result.conditioner)
    assert report.scores
    # What was saved loads again, and is the same configuration.
    saved = config.full_config()
    config.load([str(tmp_path / "run" / runs.CONFIG)])
    assert config.full_config() == saved
