"""POWER, GAS, HEPMASS, MINIBOONE and BSDS300: the tables of density estimation papers.

Papamakarios et al. (MAF, 2017, https://arxiv.org/abs/1705.07057) chose, cleaned, normalised
and split them; ACFlow, ACE and Posterior Matching report their tables on the same rows. They
are got by hand (`INSTRUCTIONS` says where), built once with TFDS and read from its files
afterwards:

    import tensorflow_datasets as tfds
    import vae_arbcond.data.density_tables
    tfds.load("density_table/power", data_dir=..., download_and_prepare_kwargs={
        "download_config": tfds.download.DownloadConfig(manual_dir=...)})

Nothing is downloaded, and no pickle is read. What is checked: the sha256 of files whose
checksum their authors published, the number of columns and of rows, and that every cell is a
finite number.
"""

import dataclasses
import hashlib
import os
import pathlib
import typing
from collections.abc import Mapping

import gin
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

from vae_arbcond.data import maf_archive
from vae_arbcond.data.pipeline import Splits, given_splits
from vae_arbcond.schema import Numeric, TableSchema

PARTS = ("train", "val", "test")  # As the files are called.
SPLITS = ("train", "validation", "test")  # As TFDS calls them.
ROWS_AT_ONCE = 8192  # rows of a built table read at once
ARCHIVE = "https://zenodo.org/record/1161203"
ARCHIVE_MD5 = "9b9c9b0375315ad270eba4ce80c093ab"

INSTRUCTIONS = f"""\
Make a folder manual_dir/NAME, where NAME is power, gas, hepmass, miniboone or bsds300, and put
into it one of

* train.txt, val.txt and test.txt as the authors of ACE and Posterior Matching distribute them:
  github.com/lupalab/ace at commit 023b7f695ee5 names their Google Drive identifiers in
  datasets/NAME (datasets/bsds for bsds300);
* the same three tables as train.npy, val.npy and test.npy;
* what data.tar.gz of {ARCHIVE} holds in its folder NAME (its published
  md5 is {ARCHIVE_MD5}): data.npy for power and miniboone,
  1000_train.csv and 1000_test.csv for hepmass, BSDS300.hdf5 for bsds300. The three parts are
  made of it as for MAF. Its gas table is a pickle, which can run any code when it is read, so
  it is not read here: convert it once where you trust it, and put ethylene_CO.parquet there:

  import pandas
  pandas.read_pickle("ethylene_CO.pickle").to_parquet("ethylene_CO.parquet")
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """What is published about a table.

    Args:
      num_columns: D.
      num_rows: of train, val and test.
      homepage: where the measurements come from.
      sha256: of the distributed text files, by name; {} where nobody published them.
    """

    num_columns: int
    num_rows: tuple[int, int, int]
    homepage: str
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)


# Checksums: the checksums.tsv that github.com/lupalab/ace had in datasets/NAME at commit
# e3aa9698cfc9; it had none for HEPMASS. Rows: as the recipes of maf_archive leave them. The
# sizes beside those checksums, divided by these rows, give one number of bytes a row.
TABLES = {
    "power": Table(
        6,
        (1_659_917, 184_435, 204_928),
        "http://archive.ics.uci.edu/ml/datasets/Individual+household+electric+power+consumption",
        {
            "train.txt": "d5f96b7e415cf21f174d4f15a9a100c21f2f16947bc85e5b549c1a2115704224",
            "val.txt": "ca2ff03a6762a7e6871b590378862e2c88674440c7925bd989bae4e92d5ec0c9",
            "test.txt": "c02040fa8d3aee1238cf99876ba5dc9b415738a9a6da5ba7ab57b653ef2c7be4",
        },
    ),
    "gas": Table(
        8,
        (852_174, 94_685, 105_206),
        "https://archive.ics.uci.edu/ml/datasets/gas+sensor+array+under+dynamic+gas+mixtures",
        {
            "train.txt": "5a54216ec6cc7fb2aef76453934706ed186c080b376215bf86ac1d91c48699bb",
            "val.txt": "7fbb537e9c0c3e9c9e263f967517684ae1ccb32d12c1703cbdbb75d537ee0dc9",
            "test.txt": "e19e9e96646c57f37a6a0031271826915683fe92c2dbee41f57fd80df2612730",
        },
    ),
    "hepmass": Table(
        21, (315_123, 35_013, 174_987), "https://archive.ics.uci.edu/ml/datasets/HEPMASS"
    ),
    "miniboone": Table(
        43,
        (29_556, 3_284, 3_648),
        "https://archive.ics.uci.edu/ml/datasets/MiniBooNE+particle+identification",
        {
            "train.txt": "966a898bffbf8f813196bce5269acceb812f3304e829d9a81071d9e14f4f1359",
            "val.txt": "c3e514fdef9bbefc966741003afb875ac3e3a16d8ec2cfc6282aaa1139b1398f",
            "test.txt": "697fc548be20c59c474ede00be0b8a741333723bb6dc71f8d460b5c96e952395",
        },
    ),
    "bsds300": Table(
        63,
        (1_000_000, 50_000, 250_000),
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
        {
            "train.txt": "15d64e530c45da2559738375ff2a5da64b0722904ae8c930996b4ae3170f65a6",
            "val.txt": "fb7b286a5e55c6878b5056b3e020cb6af2994916e2288b55e94123dab22205d8",
            "test.txt": "f4f77546f5561c832f3c4bec6d2cb0b3466bb0376edc6954d202fa9396b0fa07",
        },
    ),
}


class DensityTable(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: splits train, validation and test of {"x": float32 [D]}, in file order."""

    checksums: Mapping[str, str] | None = None  # In place of the published ones.

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: typing.ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS
    BUILDER_CONFIGS: typing.ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"{name}: {table.num_columns} columns.")
        for name, table in TABLES.items()
    ]

    def _info(self):
        table = TABLES[self.builder_config.name]
        x = tfds.features.Tensor(shape=(table.num_columns,), dtype=tf.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description="A table of the MAF paper, prepared and split as there.",
            features=tfds.features.FeaturesDict({"x": x}),
            homepage=table.homepage,
            metadata=tfds.core.MetadataDict(sha256={}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        name = self.builder_config.name
        files = find_files(name, pathlib.Path(dl_manager.manual_dir))
        sums = {path.name: sha256_of(path) for path in files}
        _check_sums(name, sums, self.checksums)
        # Every cell is read and checked before the first row is written.
        tables = read_files(name, files)
        self.info.metadata["sha256"] = sums
        return {
            split: self._generate_examples(rows)
            for split, rows in zip(SPLITS, tables, strict=True)
        }

    def _generate_examples(self, rows):
        for i, row in enumerate(rows):
            yield i, {"x": row}


@gin.register(module="vae_arbcond")
def density_table(
    name: str,
    manual_dir: str | None = None,
    data_dir: str | None = None,
    checksums: Mapping[str, str] | None = None,
    max_valid_rows: int | None = None,
    max_test_rows: int | None = None,
) -> Splits:
    """A density estimation table with its own splits, built with TFDS on first use.

    The columns c0, c1, ... keep the units of the files, which are normalised already: mean 0
    and scale 1 in the schema. So noise and log-likelihoods are in the files' units, as in the
    papers, and nothing is learnt from the rows before training.

    Args:
      name: power, gas, hepmass, miniboone or bsds300.
      manual_dir: folder with a folder `name`; see `INSTRUCTIONS`. None: downloads/manual in
        `data_dir`. Not looked at once the table is built.
      data_dir: where TFDS keeps what it builds; None: its own default.
      checksums: file name -> sha256 that the files must have (or had, when the table was
        built), in place of the published ones.
      max_valid_rows, max_test_rows: evenly spaced rows of these parts; None takes all.

    Raises:
      ValueError: another name, or files that are not the table; the message says what differs.
      FileNotFoundError: files are missing; the message says which, and where to get them.
    """
    if name not in TABLES:
        raise ValueError(f"There is no density table {name!r}; there are {list(TABLES)}.")
    builder = DensityTable(config=name, data_dir=data_dir)
    folder = pathlib.Path(manual_dir or builder.data_path.parents[2] / "downloads" / "manual")
    folder = folder.expanduser()
    if not (builder.data_path / "dataset_info.json").is_file():
        find_files(name, folder)  # First of all: TFDS' own complaints are long.
        builder.checksums = checksums
        settings = tfds.download.DownloadConfig(manual_dir=os.fspath(folder))
        builder.download_and_prepare(download_config=settings)
    _check_built(name, builder, checksums)
    limits = (None, max_valid_rows, max_test_rows)
    columns = [f"c{i}" for i in range(TABLES[name].num_columns)]
    schema = TableSchema(tuple(Numeric(c, 0.0, 1.0, dtype="float32") for c in columns))
    frames = [
        pd.DataFrame(_spaced(_rows(builder, split), limit), columns=columns, copy=False)
        for split, limit in zip(SPLITS, limits, strict=True)
    ]
    return given_splits(*frames, schema=schema)


def find_files(name: str, manual_dir: pathlib.Path) -> list[pathlib.Path]:
    """The files of a table: three of one ending, or those of the MAF archive.

    Args:
      name: a key of TABLES.
      manual_dir: the folder that `INSTRUCTIONS` speaks of.

    Raises:
      FileNotFoundError: no form of the table is complete.
      ValueError: there is a pickle only.
    """
    folder = manual_dir / name
    as_archived = manual_dir / maf_archive.FOLDERS[name]
    if not folder.is_dir() and as_archived.is_dir():
        folder = as_archived
    forms = [[f"{part}.{ending}" for part in PARTS] for ending in ("txt", "npy")]
    forms.append(list(maf_archive.FILES[name]))
    for form in forms:
        if all((folder / file).is_file() for file in form):
            return [folder / file for file in form]
    pickles = sorted(folder.glob("*.pickle")) + sorted(folder.glob("*.pkl"))
    if pickles:
        raise ValueError(
            f"{pickles[0]} is a pickle, which can run any code when it is read, so it is not "
            f"read here. Convert it once where you trust it: import pandas; "
            f"pandas.read_pickle({pickles[0].name!r}).to_parquet({forms[-1][0]!r}), and put "
            f"the result beside it."
        )
    wanted = "; or ".join(", ".join(form) for form in forms)
    state = "holds" if folder.is_dir() else "does not exist, so there are"
    raise FileNotFoundError(
        f"{name} is not built yet, and the folder {folder} {state} none of its complete "
        f"forms: {wanted}. The text files: Google Drive, by the identifiers in github.com/"
        f"lupalab/ace at commit 023b7f695ee5, datasets/{'bsds' if name == 'bsds300' else name}"
        f"; the last form: data.tar.gz of {ARCHIVE}. Another folder: density_table.manual_dir."
    )


def sha256_of(path: pathlib.Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_files(name: str, files: list[pathlib.Path]) -> list[np.ndarray]:
    """Train, val and test: float32 [N, D], checked against what is published.

    Args:
      name: a key of TABLES.
      files: what `find_files` returned.

    Raises:
      ValueError: a file cannot be read, or its numbers are not those of the table.
    """
    if files[0].stem == PARTS[0]:
        parts = [_read_matrix(path) for path in files]
        where = [str(path) for path in files]
    else:
        parts = maf_archive.RECIPES[name](*files)
        where = [f"{part} as made of {files[0].parent}" for part in PARTS]
    table = TABLES[name]
    for i, (part, num_rows) in enumerate(zip(parts, table.num_rows, strict=True)):
        if part.ndim != 2 or part.shape != (num_rows, table.num_columns):
            raise ValueError(
                f"{where[i]}: an array of shape {list(part.shape)}, but {name} has "
                f"{num_rows} rows of {table.num_columns} columns there; get the file again "
                f"(density_tables.INSTRUCTIONS says where)."
            )
        with np.errstate(over="ignore"):  # Found below, as what is not finite.
            parts[i] = np.asarray(part, np.float32)
        wrong = np.flatnonzero(~np.isfinite(parts[i]).all(1))
        if len(wrong):
            raise ValueError(
                f"{where[i]}: row {wrong[0]} (counted from 0) holds a number that is missing, "
                f"infinite or too large for float32, and so do {len(wrong) - 1} more rows; "
                f"{name} is complete, so get the file again."
            )
    return parts


def _read_matrix(path: pathlib.Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return np.loadtxt(path, np.float32, ndmin=2)
    except (ValueError, EOFError) as error:
        if path.suffix == ".npy":
            raise ValueError(
                f"{path} is no NumPy file of plain numbers ({error}); save a float array with "
                f"numpy.save. Pickles are not read."
            ) from error
        raise ValueError(
            f"{path} is no table of numbers separated by blanks ({error}); get it again."
        ) from error


def _check_sums(name: str, sums: Mapping[str, str], given: Mapping[str, str] | None) -> None:
    """Compares the sha256 of files with those the user gave, else with the published ones."""
    wanted = TABLES[name].sha256 if given is None else given
    for file, digest in wanted.items():
        if given is not None and file not in sums:
            raise ValueError(
                f"density_table.checksums names {file!r}, but {name} is made of {list(sums)}; "
                f"name those."
            )
        if file in sums and sums[file] != digest.lower():
            whose = "published" if given is None else "given"
            own = f"density_table.checksums = {{{file!r}: {sums[file]!r}}}"
            raise ValueError(
                f"{name}/{file} has sha256 {sums[file]}, but the {whose} one is {digest}; get "
                f"the file again, or, if it is meant to differ, say so with {own}."
            )


def _check_built(name, builder, checksums):
    """Whether the table that TFDS kept is of the files that were asked for."""
    if checksums is None:
        return
    try:
        _check_sums(name, builder.info.metadata["sha256"], checksums)
    except ValueError as error:
        raise ValueError(
            f"The table kept in {builder.data_path} was built from other files: {error} To "
            f"build it anew, remove that folder."
        ) from error


def _rows(builder, split: str) -> np.ndarray:
    """A split of a built table: float32 [N, D] in the order of the file."""
    info = builder.info.splits[split]
    shape = builder.info.features["x"].shape
    rows, end = np.empty((info.num_examples, *shape), np.float32), 0
    # TFDS decodes row by row, which takes a minute and more for a million; this is 50 times
    # faster. Its files are TFRecords of tf.train.Example, in the order of their names.
    spec = {"x": tf.io.FixedLenFeature(shape, tf.float32)}
    records = tf.data.TFRecordDataset([str(path) for path in info.filepaths])
    for batch in records.batch(ROWS_AT_ONCE).map(lambda part: tf.io.parse_example(part, spec)):
        start, end = end, end + len(batch["x"])
        rows[start:end] = batch["x"].numpy()
    if end != len(rows):
        raise ValueError(
            f"{builder.data_path} holds {end} rows of its split {split!r} instead of "
            f"{len(rows)}: it is damaged. Remove that folder to build it anew."
        )
    return rows


def _spaced(rows: np.ndarray, limit: int | None) -> np.ndarray:
    if limit is None or limit >= len(rows):
        return rows
    # Not the first ones: two of the tables are in the order of time or place.
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]
