"""Every gin file of the library parses, and every experiment can take a few steps."""

import copy
import pathlib
import re

import gin
import pytest

from vae_arbcond import config, evaluation, models, runs, training
from vae_arbcond.data.density_tables import TABLES, sha256_of

FOLDER = config.resource_dir("gin")
EXPERIMENTS = sorted(p.relative_to(FOLDER) for p in FOLDER.glob("experiments/*.gin"))
# Those of the paper's tables, whose files are got by hand: tests/data/test_density_tables.py
# runs one of them on synthetic rows.
BY_HAND = [p for p in EXPERIMENTS if "density_table.name" in (FOLDER / p).read_text()]
SHORT = ["NUM_STEPS = 2", "train.verbose = 0", "evaluate.seeds = (0,)"]
# What else makes the paper's networks small enough for a test.
SMALL = [
    *("HIDDEN = 16", "LATENT_SIZE = 4", "AutoregressiveMixture.hidden = 16"),
    *("AutoregressiveMixture.blocks = 1", "BLOCKS = 1", "evaluate.num_samples = 100"),
    *("make_splits.test_fraction = 0.02", "make_splits.valid_fraction = 0.02"),
    *("train.batch_size = 16", "train.validation_samples = 20"),
]
# Images are made as small, of data that take half a minute to build.
SMALL_IMAGES = [
    *("tfds_images.max_train_rows = 64", "tfds_images.max_valid_rows = 8"),
    *("tfds_images.max_test_rows = 2", "tfds_images.size = (8, 8)", "FILTERS = (4, 4)"),
]
# Methods around a VAE of another experiment, whose chains and graphs take half a minute each.
COMPARED = [
    pathlib.Path(f"experiments/{name}_iris.gin")
    for name in ("fill_zeros", "monte_carlo", "re_tuned")
]
# Experiments whose like, of the same method on another table, is trained every day.
LIKE_OTHERS = [
    pathlib.Path(f"experiments/{name}.gin")
    for name in (
        *("pm_breast_cancer", "pm_diabetes", "pm_digits", "pm_wine", "pm_uci_digits"),
        *("pm_uci_miniboone_prefix", "vaeac_breast_cancer", "closed_form_digits"),
        *("closed_form_breast_cancer", "query_adaptive_started_table"),
        "query_adaptive_features_wine",
    )
]
SLOW = [*COMPARED, *LIKE_OTHERS]
SMALL_DECODER = "DECODER_FILTERS = (4, 4)"
IMAGES = [p for p in EXPERIMENTS if "tfds_images.files_dir" in (FOLDER / p).read_text()]
# Table 3 of the paper and its text: batch, latent, blocks, layer norm, steps, period, delay.
TABLE_3 = {
    "power": (512, 16, 2, False, 200_000, 50_000, 1_000),
    "gas": (512, 16, 2, False, 200_000, 50_000, 1_000),
    "hepmass": (512, 16, 2, False, 200_000, 50_000, 1_000),
    "miniboone": (1024, 32, 5, True, 22_000, 5_000, 2_000),
    "bsds300": (1024, 64, 5, True, 200_000, None, 30_000),
}


def test_there_are_experiments():
    assert len(EXPERIMENTS) >= 6


def test_no_python_package_lies_in_the_folder():
    assert not list(FOLDER.rglob("*.py"))


@pytest.mark.parametrize(
    ("name", "file"), [("svhn_cropped", "train_32x32.mat"), ("celeb_a", "img_align_celeba")]
)
def test_images_that_are_not_here_are_asked_for_by_their_files_names(name, file, tmp_path):
    config.load([f"data/{name}.gin"], [f'tfds_images.data_dir = "{tmp_path}"'])
    with pytest.raises(FileNotFoundError, match=f"{name} is not built yet.*{file}"):
        config.value("train.data")


@pytest.mark.parametrize("name", list(TABLES))
def test_an_experiment_on_files_got_by_hand_has_the_papers_numbers(name):
    experiment = pathlib.Path(f"experiments/pm_uci_{name}.gin")
    assert experiment in BY_HAND
    text = (FOLDER / experiment).read_text()
    assert f"--gin_file={experiment}" in text and "Not run here" in text
    config.load([str(experiment)])
    assert gin.query_parameter("density_table.name") == name
    batch, latent, blocks, layer_norm, steps, period, delay = TABLE_3[name]
    assert gin.query_parameter("train.batch_size") == batch
    method = copy.deepcopy(gin.query_parameter("train.conditioner"))  # Calls it.
    model = method.model
    assert model.latent_size == model.posterior_head.event_size == latent
    assert method.partial_posterior_head.event_size == latent
    assert len(method.partial_posterior_head.blocks) == 3
    for network in (model.encoder, model.decoder, method.partial_encoder):
        found = [layer for layer in network.layers if hasattr(layer, "branch")]
        assert len(found) == blocks
        kinds = {type(part).__name__ for part in found[0].branch.layers}
        assert ("LayerNormalization" in kinds) == layer_norm
        assert ("Dropout" in kinds) == (name == "miniboone")
    if period is None:
        assert model.beta == models.MonotoneBeta(delay, steps)
    else:
        assert model.beta == models.CyclicalBeta(period, delay)
    assert copy.deepcopy(gin.query_parameter("train.num_steps")) == steps
    assert gin.query_parameter("adam.decay_steps") == (1000 if name == "miniboone" else 5000)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Where TFDS builds what the experiments on images share."""
    return tmp_path_factory.mktemp("built")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", IMAGES, ids=str)
def test_an_experiment_on_images_trains_evaluates_and_states_its_command(
    experiment, tmp_path, built
):
    text = (FOLDER / experiment).read_text()
    assert f"--gin_file={experiment}" in text
    files = FOLDER.parent / re.search(r"tfds_images.files_dir = '(.+)'", text)[1]
    if not files.is_dir():
        pytest.skip(f"needs {files}")
    # The archives may have been packed anew.
    sums = {path.name: sha256_of(path) for path in (files / "omniglot").glob("*.zip")}
    small = SMALL_IMAGES if "um_" in str(experiment) else [*SMALL_IMAGES, SMALL_DECODER]
    small = [*small, f"tfds_images.checksums = {sums}"] if "omniglot" in text else small
    params = [*SHORT, *small, f'tfds_images.files_dir = "{files}"']
    check(experiment, [*params, f'tfds_images.data_dir = "{built}"'], tmp_path)


@pytest.mark.parametrize("experiment", COMPARED, ids=str)
def test_an_experiment_to_compare_with_trains_its_model_first(experiment):
    config.load([str(experiment)])
    method = copy.deepcopy(gin.query_parameter("train.conditioner"))  # Calls it.
    assert type(method.model) is models.VAE
    assert method.stages()[0].trainable is method.model


@pytest.mark.parametrize("experiment", LIKE_OTHERS, ids=str)
def test_an_experiment_like_others_parses_and_makes_its_method_and_masks(experiment):
    text = (FOLDER / experiment).read_text()
    assert f"--gin_file={experiment}" in text
    config.load([str(experiment)])
    for name in ("train.conditioner", "train.mask", "evaluate.mask"):
        assert callable(copy.deepcopy(gin.query_parameter(name)))


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(p, marks=pytest.mark.slow if p in SLOW else ())
        for p in EXPERIMENTS
        if p not in [*BY_HAND, *IMAGES]
    ],
    ids=str,
)
def test_an_experiment_trains_evaluates_and_states_its_command(experiment, tmp_path):
    text = (FOLDER / experiment).read_text()
    assert f"--gin_file={experiment}" in text
    params = list(SHORT)
    if experiment.name.startswith("query_adaptive"):
        params += ["FirstOrder.num_steps = 2", "evaluate.num_samples = 100"]
    if experiment.name.startswith("closed_form"):
        # Nothing is asked for steps, and two numbers of components are enough.
        params[0] = "GaussianMixtureConditioner.components = (1, 2)"
    if experiment.name.startswith("monte_carlo"):
        params += ["NUM_DRAWS = 10", "NUM_BURN_IN = 10", "evaluate.num_samples = 20"]
    if given := re.search(r"table_file.path = '(.+)'", text):
        path = FOLDER.parent / given[1]
        if not path.is_file():
            pytest.skip(f"needs {path}")
        small = [] if experiment.name.startswith("closed_form") else SMALL
        params += [*small, f'table_file.path = "{path}"']
    elif "table_file" in text:
        table = tmp_path / "mine.csv"
        rows = "".join(f"{i % 7},{'' if i % 5 else i},{'uv'[i % 2]}\n" for i in range(80))
        table.write_text(f"a,b,c\n{rows}")
        params.append(f'table_file.path = "{table}"')
    check(experiment, params, tmp_path)


def check(experiment, params, tmp_path):
    """Trains a little, evaluates, and compares the configuration with what was saved."""
    config.load([str(experiment)], params)
    result = training.train(run_dir=str(tmp_path / "run"), config_text=config.full_config())
    report = evaluation.evaluate(conditioner=result.conditioner)
    assert report.scores
    # What was saved loads again, and is the same configuration.
    saved = config.full_config()
    config.load([str(tmp_path / "run" / runs.CONFIG)])
    assert config.full_config() == saved
