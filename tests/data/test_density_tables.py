"""The MAF tables: files refused and accepted, built with TFDS, read from their archive."""

import dataclasses
import hashlib
import pickle
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from vae_arbcond import config, evaluation, training
from vae_arbcond.data import density_tables, maf_archive
from vae_arbcond.data.density_tables import PARTS, TABLES, density_table

ROWS = (60, 20, 15)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Tables of the published form with few rows; returns the manual folder."""
    few = {
        name: dataclasses.replace(table, num_rows=ROWS, sha256={})
        for name, table in TABLES.items()
    }
    monkeypatch.setattr(density_tables, "TABLES", few)
    return tmp_path / "manual"


def write(manual_dir, name="power", ending="txt", rows=ROWS, columns=None):
    """Writes three files of random numbers; returns what they hold, float32."""
    folder = manual_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    parts = []
    for part, count in zip(PARTS, rows, strict=True):
        x = rng.normal(size=(count, columns or TABLES[name].num_columns))
        path = folder / f"{part}.{ending}"
        np.savetxt(path, x) if ending == "txt" else np.save(path, x)
        parts.append(x.astype(np.float32))
    return parts


def load(manual_dir, name="power", **options):
    data_dir = str(manual_dir.parent / "built")
    return density_table(name, str(manual_dir), data_dir, **options)


def refused(manual_dir, name="power", error=ValueError, **options) -> str:
    with pytest.raises(error) as info:
        load(manual_dir, name, **options)
    assert "\n" not in str(info.value)
    assert not list(manual_dir.parent.glob(f"built/**/{name}/1.0.0"))
    return str(info.value)


@pytest.mark.parametrize(("name", "ending"), [("power", "txt"), ("bsds300", "npy")])
def test_built_tables_are_the_files_in_their_order_and_units(small, name, ending):
    want = write(small, name, ending)
    splits = load(small, name)
    for part, x in zip(splits, want, strict=True):
        np.testing.assert_array_equal(part.x, x)
        assert part.x.dtype == np.float32 and part.present.all()
        np.testing.assert_array_equal(part.raw.to_numpy(), x)
    # So log-likelihoods need no correction to be in the files' units.
    np.testing.assert_array_equal(
        splits.test.schema.log_jacobian(splits.test.x, splits.test.present), 0.0
    )


def test_a_built_table_needs_its_files_no_more(small):
    want = write(small)
    load(small)
    (small / "power" / "train.txt").unlink()
    np.testing.assert_array_equal(load(small).train.x, want[0])


def test_tfds_loads_it_by_name(small, tmp_path):
    want = write(small)
    settings = tfds.download.DownloadConfig(manual_dir=str(small))
    data = tfds.load(
        "density_table/power",
        data_dir=tmp_path / "built",
        download_and_prepare_kwargs={"download_config": settings},
    )
    rows = np.stack([row["x"] for row in data["validation"].as_numpy_iterator()])
    np.testing.assert_array_equal(rows, want[1])


def test_a_part_of_the_rows_is_spread_over_all_of_them(small):
    want = write(small)
    splits = load(small, max_valid_rows=3, max_test_rows=100)
    np.testing.assert_array_equal(splits.valid.x, want[1][[0, 10, 19]])
    np.testing.assert_array_equal(splits.test.x, want[2])
    np.testing.assert_array_equal(splits.train.x, want[0])


@pytest.mark.parametrize("name", list(TABLES))
def test_missing_files_are_one_sentence_within_a_second(name, tmp_path):
    started = time.perf_counter()
    message = refused(tmp_path / "manual", name, FileNotFoundError)
    assert time.perf_counter() - started < 1
    for words in (str(tmp_path / "manual" / name), "train.txt", "zenodo.org", "lupalab/ace"):
        assert words in message


def test_an_incomplete_folder_is_missing_files_and_an_unknown_name_is_explained(small):
    write(small)
    (small / "power" / "val.txt").unlink()
    assert "val.txt" in refused(small, error=FileNotFoundError)
    assert "'bsds300'" in refused(small, "bsds")


def test_a_table_of_another_shape_is_refused(small):
    write(small, columns=5)
    message = refused(small)
    assert "[60, 5]" in message and "60 rows of 6 columns" in message
    write(small, rows=(60, 20, 14))
    assert "test.txt" in refused(small)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_number_that_is_none_is_refused(small, value):
    write(small, ending="npy")
    x = np.load(small / "power" / "val.npy")
    x[3, 1] = value
    np.save(small / "power" / "val.npy", x)
    assert "val.npy: row 3" in refused(small)


def test_damaged_files_are_refused(small):
    write(small)
    text = (small / "power" / "test.txt").read_text()
    (small / "power" / "test.txt").write_text(text[:-100])
    assert "test.txt" in refused(small)


def test_a_pickle_is_refused_and_never_run(small, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    write(small, ending="npy")
    (small / "power" / "train.npy").write_bytes(pickle.dumps(Bomb()))
    assert "Pickles are not read" in refused(small)
    np.save(small / "power" / "train.npy", np.array([Bomb()]), allow_pickle=True)
    assert "Pickles are not read" in refused(small)
    (small / "gas").mkdir()
    (small / "gas" / "ethylene_CO.pickle").write_bytes(pickle.dumps(Bomb()))
    assert "to_parquet('ethylene_CO.parquet')" in refused(small, "gas")
    assert not (tmp_path / "ran").exists()


def test_a_published_checksum_is_checked_unless_another_is_given(small, monkeypatch):
    write(small)
    path = small / "power" / "val.txt"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = dataclasses.replace(
        density_tables.TABLES["power"], sha256={"val.txt": "0" * 64}
    )
    monkeypatch.setitem(density_tables.TABLES, "power", published)
    message = refused(small)
    assert "published" in message and f"{{'val.txt': '{digest}'}}" in message
    assert "'vall.txt'" in refused(small, checksums={"vall.txt": digest})
    load(small, checksums={"val.txt": digest})


def test_a_built_table_knows_what_it_was_built_from(small):
    write(small)
    load(small)
    path = small / "power" / "val.txt"
    load(small, checksums={"val.txt": hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(ValueError, match="built from other files"):
        load(small, checksums={"val.txt": "0" * 64})


def test_every_published_checksum_is_a_sha256_and_names_a_file():
    for table in TABLES.values():
        assert set(table.sha256) in (set(), {f"{part}.txt" for part in PARTS})
        assert all(len(bytes.fromhex(digest)) == 32 for digest in table.sha256.values())


# What the archive's own files become.


def archive_file(manual_dir, name, count=200):
    """Writes files of the archive's form; returns what they hold."""
    folder = manual_dir / ("BSDS300" if name == "bsds300" else name)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    if name in ("power", "miniboone"):
        rows = rng.normal(3.0, 2.0, size=(count, {"power": 8, "miniboone": 43}[name]))
        np.save(folder / "data.npy", rows)
        return rows
    if name == "gas":
        table = pd.DataFrame(rng.normal(size=(count, 8)), columns=list("abcdefgh"))
        for copied in ("x", "y"):  # Each takes its original's place.
            table[copied] = table["c"] + 1e-3 * rng.normal(size=count)
        for extra in ("Time", "Meth", "Eth"):
            table[extra] = rng.normal(size=count)
        table.to_parquet(folder / "ethylene_CO.parquet")
        return table
    if name == "hepmass":
        for file, extra in (("1000_train.csv", ()), ("1000_test.csv", ("mass",))):
            names = ["label", *(f"f{i}" for i in range(22)), *extra]
            table = pd.DataFrame(rng.normal(size=(count, len(names))), columns=names)
            table["label"] = np.arange(count) % 2.0
            table["f7"] = np.arange(count) // 20  # Repeats itself.
            table.to_csv(folder / file, index=False)
        return None
    rows = rng.normal(size=(count, 63))
    with h5py.File(folder / "BSDS300.hdf5", "w") as file:
        for part, piece in zip(
            ("train", "validation", "test"), np.split(rows, [120, 150]), strict=True
        ):
            file[part] = piece
    return rows


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("power", (162, 18, 20)),
        ("gas", (162, 18, 20)),
        ("hepmass", (90, 10, 100)),
        ("miniboone", (162, 18, 20)),
        ("bsds300", (120, 30, 50)),
    ],
)
def test_the_archives_files_become_the_three_parts(small, name, rows, monkeypatch):
    raw = archive_file(small, name)
    table = dataclasses.replace(density_tables.TABLES[name], num_rows=rows)
    monkeypatch.setitem(density_tables.TABLES, name, table)
    files = density_tables.find_files(name, small)
    train, valid, test = density_tables.read_files(name, files)
    both = np.concatenate([train, valid])
    if name == "bsds300":
        np.testing.assert_array_equal(np.concatenate([both, test]), raw.astype(np.float32))
    elif name == "gas":
        whole = np.concatenate([both, test])
        kept = raw[[*"abdefgh", "y"]]  # Of c, x and y the first ones go.
        np.testing.assert_allclose(
            whole, (kept - kept.mean()) / kept.std(), rtol=1e-5, atol=1e-6
        )
    elif name == "hepmass":
        # By pandas' standard deviation, which divides by N - 1.
        np.testing.assert_allclose(both.std(0, ddof=1), 1.0, rtol=1e-5)
    else:
        # float32 sums of 180 numbers of size one.
        np.testing.assert_allclose(both.mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(both.std(0), 1.0, rtol=1e-5)
    if name == "miniboone":
        order = np.concatenate([both, test])[:, 0]
        np.testing.assert_array_equal(np.argsort(order), np.argsort(raw[:, 0]))


def test_power_loses_two_columns_and_blurs_four(small):
    raw = archive_file(small, "power")
    parts = maf_archive.power(small / "power" / "data.npy")
    got = np.concatenate(parts)
    # The time of day stays exact, but for the normalisation.
    order = np.argsort(got[:, 5])
    time_of_day = np.sort(raw[:, 7])
    np.testing.assert_allclose(np.corrcoef(got[order, 5], time_of_day)[0, 1], 1.0)
    kept = raw[np.argsort(raw[:, 7])][:, [0, 2, 4, 5, 6]]
    similar = [np.corrcoef(got[order, i], kept[:, i])[0, 1] for i in range(5)]
    # Noise of 0.001 and 0.01 beside a spread of 2 cannot be seen, that of 1 can: its standard
    # deviation is 0.29, so correlations of about 0.99.
    assert min(similar[:2]) > 0.9999 and 0.97 < min(similar[2:]) <= max(similar[2:]) < 0.999


def test_the_papers_experiment_trains_and_evaluates_on_a_synthetic_power(small, tmp_path):
    write(small)
    params = [
        f'density_table.manual_dir = "{small}"',
        f'density_table.data_dir = "{tmp_path / "built"}"',
        *("NUM_STEPS = 2", "HIDDEN = 16", "LATENT_SIZE = 4", "train.verbose = 0"),
        *("BLOCKS = 1", "train.batch_size = 8"),
        *("AutoregressiveMixture.hidden = 16", "AutoregressiveMixture.blocks = 1"),
        *("evaluate.seeds = (0,)", "evaluate.num_samples = 50"),
    ]
    config.load(["experiments/pm_uci_power.gin"], params)
    result = training.train(run_dir=str(tmp_path / "run"))
    report = evaluation.evaluate(conditioner=result.conditioner)
    assert np.isfinite(report.scores["log_likelihood_per_row"])
    assert report.conditions["test rows"] == ROWS[2]
    assert report.conditions["likelihood"].startswith("ratio")
