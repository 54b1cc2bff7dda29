"""Where data come from: tables and images bundled with scikit-learn, users' files.

How a CSV or TSV file is read (types are guessed from the cells, column by column):

* A cell is missing when it is empty or one of `MISSING_CELLS`, spaces around it aside. The
  word None is not among them, so it stays text. Where NA is a category, pass missing=("",).
* All whole numbers: int64, uint64 where that is too small, Int64 or UInt64 with gaps, so 64
  bits survive exactly. All numbers: float64. All True/False: bool, boolean with gaps.
* All ISO 8601 dates: datetime64; those with an offset become UTC.
* Anything else is text, unchanged; so are numbers with leading zeros ("0042" is a key) and
  integers beyond 64 bits. With `schema`, a column whose levels are text stays text too.

A blank line is skipped; between the rows of a file of one column it is a missing cell. A CSV
file has no index: `write_table` writes an index that is not simply 0, 1, 2, ... as first
columns. Parquet keeps dtypes and index; days (date32) become datetime64.

Types do not remember how a cell was written (68.30, 1e3, true). Who writes a table that came
from a text file reads those texts, too, and hands them to `write_table`.
"""

import csv
import dataclasses
import io
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import gin
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn.datasets

from vae_arbcond.files import check_folder, write_atomically
from vae_arbcond.schema import Categorical, Column, TableSchema
from vae_arbcond.schema.cells import is_object, is_text, read_datetimes

MISSING_CELLS = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NaT", "null", "NULL")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ENDINGS = (*_SEPARATORS, ".parquet")
_WHOLE = re.compile(r"\s*[+-]?(0|[1-9][0-9]*)\s*")
_REAL = re.compile(
    r"\s*[+-]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf(inity)?)\s*",
    re.IGNORECASE,
)
_DATE = re.compile(r"\s*[0-9]{4}-[0-9]{2}-[0-9]{2}.*", re.DOTALL)
_WORDS = {"False": False, "false": False, "FALSE": False}
_WORDS |= {"True": True, "true": True, "TRUE": True}
_BUNDLED = {
    "breast_cancer": sklearn.datasets.load_breast_cancer,
    "wine": sklearn.datasets.load_wine,
    "diabetes": sklearn.datasets.load_diabetes,
    "iris": sklearn.datasets.load_iris,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Data in the user's units, and what is known about them beyond the values.

    Args:
      name: for messages and pictures.
      raw: a DataFrame, or images [N, H, W] or [N, H, W, C].
      overrides: for TableSchema.infer, by column name.
      max_levels: for TableSchema.infer.
      value_range: smallest and largest possible pixel; None for a table, or to infer it.
    """

    name: str
    raw: pd.DataFrame | np.ndarray
    overrides: Mapping[str, str | Column] = dataclasses.field(default_factory=dict)
    max_levels: int = 100
    value_range: tuple[float, float] | None = None

    @property
    def is_image(self) -> bool:
        return not isinstance(self.raw, pd.DataFrame)


@gin.register(module="vae_arbcond")
def bundled_table(name: str, target: bool = True) -> Source:
    """A table that scikit-learn brings along; nothing is downloaded.

    Args:
      name: breast_cancer (569 rows, 30 columns), wine (178, 13), diabetes (442, 10) or iris
        (150, 4).
      target: whether to add the column "target": the class's name, for diabetes the number.

    Raises:
      ValueError: another name.
    """
    if name not in _BUNDLED:
        raise ValueError(f"No bundled table {name!r}; there are {sorted(_BUNDLED)}.")
    if name == "diabetes":
        bunch = sklearn.datasets.load_diabetes(as_frame=True, scaled=False)
    else:
        bunch = _BUNDLED[name](as_frame=True)
    frame = bunch.data.copy()
    if target and name == "diabetes":
        frame["target"] = bunch.target
    elif target:
        names = [str(n) for n in bunch.target_names]
        frame["target"] = pd.Categorical.from_codes(bunch.target, names)
    return Source(name, frame)


@gin.register(module="vae_arbcond")
def digits_images() -> Source:
    """scikit-learn's 1797 handwritten digits: uint8 [1797, 8, 8], values 0 to 16."""
    images = sklearn.datasets.load_digits().images.astype(np.uint8)
    return Source("digits", images, value_range=(0.0, 16.0))


@gin.register(module="vae_arbcond")
def table_file(
    path: str,
    drop: Sequence[str] = (),
    overrides: Mapping[str, str | Column] | None = None,
    max_levels: int = 100,
    missing: Sequence[str] = MISSING_CELLS,
    separator: str | None = None,
    header: bool = True,
) -> Source:
    """A user's .csv, .tsv, .parquet or .npy file, or text with a separator of its own.

    Args:
      path: the file.
      drop: columns to leave out (keys, free text).
      overrides: kinds of columns by name, as for TableSchema.infer.
      max_levels: as for TableSchema.infer.
      missing, separator, header: as for read_table.

    Raises:
      FileNotFoundError, ValueError: as read_table; or `drop` names no column.
    """
    if isinstance(drop, str):
        raise ValueError(f"drop is a list of columns: write [{drop!r}], not {drop!r}.")
    frame = read_table(path, missing=missing, separator=separator, header=header)
    unknown = [name for name in drop if name not in frame.columns]
    if unknown:
        raise ValueError(
            f"{path}: drop names column(s) {unknown}, but the file has {list(frame.columns)}."
        )
    frame = frame.drop(columns=list(drop))
    return Source(pathlib.Path(path).stem, frame, dict(overrides or {}), max_levels)


def read_table(
    path: str | os.PathLike,
    schema: TableSchema | None = None,
    missing: Sequence[str] = MISSING_CELLS,
    separator: str | None = None,
    header: bool = True,
) -> pd.DataFrame:
    """Reads a .csv, .tsv, .parquet or .npy file by the rules in the module's docstring.

    Args:
      path: the file; UTF-8 where it is text.
      schema: columns whose levels are text are then kept as text ("1", "007", "True").
      missing: what a missing cell of a text file looks like.
      separator: one character between the cells of a text file, which may then have any
        ending; None takes the comma of .csv and the tab of .tsv.
      header: whether the first line of a text file names the columns; otherwise they are
        called c0, c1, ..., as those of a .npy file are.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: wrong ending or separator, empty or damaged file, a column name twice or
        empty, or a row whose number of cells differs from the header's.
    """
    path = pathlib.Path(path)
    if separator is None:
        ending = _ending(path, (*_ENDINGS, ".npy"))
    elif len(separator) == 1 and separator not in '"\r\n':
        ending = ".csv"  # Text, whatever it is called.
    else:
        raise ValueError(f"A separator is one character such as ';', got {separator!r}.")
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        where = "" if path.is_absolute() else f" (looked in {pathlib.Path.cwd()})"
        raise FileNotFoundError(
            f"The table {path} {what}{where}; check the path (of a run: table_file.path, "
            f"which --gin_param can set)."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); a table needs a header and a row.")
    if ending == ".parquet":
        return _read_parquet(path)
    if ending == ".npy":
        return _read_matrix(path)
    text_columns = {
        c.name
        for c in (schema.columns if schema else ())
        if isinstance(c, Categorical) and all(isinstance(v, str) for v in c.levels)
    }
    names, rows = _read_cells(path, separator or _SEPARATORS[ending], header)
    columns = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            name: _typed(
                np.array(cells, object), name in text_columns, frozenset(missing), name
            )
            for name, cells in zip(names, columns, strict=True)
        }
    )


def read_texts(
    path: str | os.PathLike, separator: str | None = None, header: bool = True
) -> pd.DataFrame | None:
    """The cells of a text file as they are written, before any reading of types.

    Args:
      path, separator, header: as for `read_table`.

    Returns:
      A DataFrame of str with the rows and columns of `read_table`; None for a .parquet or .npy
      file, which holds no texts.

    Raises:
      As read_table.
    """
    path = pathlib.Path(path)
    if separator is None:
        ending = _ending(path, (*_ENDINGS, ".npy"))
        if ending not in _SEPARATORS:
            return None
        separator = _SEPARATORS[ending]
    names, rows = _read_cells(path, separator, header)
    return pd.DataFrame(rows, columns=names, dtype=object)


def write_table(
    frame: pd.DataFrame,
    path: str | os.PathLike,
    missing: Sequence[str] = MISSING_CELLS,
    texts: pd.DataFrame | None = None,
) -> None:
    """Writes a .csv, .tsv or .parquet file, whole or not at all.

    Args:
      frame: the table. Missing cells of a text file are written as missing[0].
      path: by its ending.
      missing: what `read_table` will take for missing.
      texts: for text files: cells to write as they stand here, None where the cell of `frame`
        is to be written; as many rows as `frame`, any of its columns. A cell of `frame` that
        equals one with a text is written like that one (true, not True).

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: wrong ending, a column name twice, or a text that would be read back as
        missing.
    """
    path = pathlib.Path(path)
    ending = _ending(path)
    _refuse_duplicates(list(frame.columns), path)
    if ending == ".parquet":
        write_atomically(path, lambda temporary: _write_parquet(frame, temporary, path))
        return
    index = frame.index
    if not (isinstance(index, pd.RangeIndex) and index.equals(pd.RangeIndex(len(frame)))):
        names = [f"index{i or ''}" if n is None else n for i, n in enumerate(index.names)]
        _refuse_duplicates([*names, *frame.columns], path)
        frame = frame.reset_index(names=names)
    for name in frame.columns:
        _refuse_lost_text(frame[name], name, missing, path)
    written = {name: _as_texts(frame[name], missing[0]) for name in frame.columns}
    for name in () if texts is None else texts.columns:
        written[name] = _overlaid(written[name], texts[name].to_numpy(object))

    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=_SEPARATORS[ending], lineterminator="\n")
            writer.writerow(written)
            writer.writerows(zip(*written.values(), strict=True))

    write_atomically(path, write)


def _as_texts(cells: pd.Series, gap: str) -> list[str]:
    """A column as pandas writes it: one format for all dates, numbers without loss."""
    text = cells.to_csv(index=False, header=False, na_rep=gap, lineterminator="\n")
    # A gap of a single column is written as quotes, never as a blank line.
    return [row[0] for row in csv.reader(io.StringIO(text, newline=""))]


def _overlaid(own: list[str], given: np.ndarray) -> list[str]:
    """`given` where it is not None; elsewhere `own`, written as `given` writes its like."""
    spelt: dict[str, str] = {}
    for mine, theirs in zip(own, given, strict=True):
        if theirs is not None:
            spelt.setdefault(mine, theirs)
    return [
        spelt.get(mine, mine) if theirs is None else theirs
        for mine, theirs in zip(own, given, strict=True)
    ]


def check_output(path: str | os.PathLike) -> None:
    """Whether `write_table` could write `path`.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: wrong ending.
    """
    path = pathlib.Path(path)
    _ending(path)
    check_folder(path)


def _ending(path: pathlib.Path, endings: Sequence[str] = _ENDINGS) -> str:
    ending = path.suffix.lower()
    if ending not in endings:
        hint = ""
        if endings is not _ENDINGS:
            hint = " If it is text, say what separates its cells: table_file.separator = ';'."
        raise ValueError(
            f"{path} ends in {path.suffix!r}, but a table is a file ending in "
            f"{', '.join(endings)}; convert or rename it.{hint}"
        )
    return ending


def _refuse_duplicates(names: list, path: pathlib.Path) -> None:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path}: the column name(s) {twice} occur more than once; rename one of each."
        )


def _read_parquet(path: pathlib.Path) -> pd.DataFrame:
    try:
        stored = pq.read_schema(path)
        _refuse_duplicates(stored.names, path)
        frame = pd.read_parquet(path, engine="pyarrow")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"{path} cannot be read as Parquet ({error}); it is damaged, truncated or of "
            f"another format."
        ) from error
    if len(frame) == 0:
        raise ValueError(f"{path} has no rows; a table needs at least one.")
    for field in stored:
        # pandas makes Python objects of days; as datetime64 they are a column like any other.
        if pa.types.is_date(field.type) and is_object(frame.dtypes.get(field.name)):
            frame[field.name] = pd.to_datetime(frame[field.name])
    return frame


def _read_matrix(path: pathlib.Path) -> pd.DataFrame:
    """A NumPy file [N, D] of plain numbers, with columns c0, c1, ..."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as a NumPy array of plain numbers ({error}); it is "
            f"damaged, or holds objects: save a float array with numpy.save."
        ) from error
    if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "biuf":
        raise ValueError(
            f"{path} holds {rows.dtype} of shape {list(rows.shape)}, but a table is numbers "
            f"[rows, columns], at least one of each."
        )
    return pd.DataFrame(rows, columns=_numbered(rows.shape[1]))


def _numbered(count: int) -> list[str]:
    return [f"c{i}" for i in range(count)]


def _write_parquet(frame: pd.DataFrame, temporary: pathlib.Path, path: pathlib.Path) -> None:
    try:
        frame.to_parquet(temporary, engine="pyarrow")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(
            f"{path}: Parquet cannot hold this table ({error}); give each column one type, "
            f"with .astype('str'), say."
        ) from error


def _read_cells(
    path: pathlib.Path, separator: str, has_header: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a text file; one cell a column. See the module for blank lines."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = _lines(csv.reader(file, delimiter=separator, strict=True), path)
            header = next((row for _, row in lines if row), None)
            if header is None:
                raise ValueError(f"{path} has only blank lines; it needs a header and a row.")
            rows, blank, first = [], 0, "header" if has_header else "first line"
            if not has_header:
                rows, header = [header], _numbered(len(header))
            _check_header(header, separator, path)
            for number, row in lines:
                if not row:
                    blank += 1
                    continue
                if len(header) == 1:
                    rows += [[""]] * blank
                blank = 0
                if len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {number}: {len(row)} cells, but the {first} has "
                        f"{len(header)} columns; correct the line (a cell that contains "
                        f"{separator!r} needs double quotes)."
                    )
                rows.append(row)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}); save it again as UTF-8."
        ) from error
    if not rows:
        raise ValueError(f"{path} has a header but no rows; a table needs at least one.")
    return header, rows


def _lines(reader, path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line; a blank line has none."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {reader.line_num}: {error}; correct the quotes in that line."
            ) from error
        yield reader.line_num, row


def _check_header(header: list[str], separator: str, path: pathlib.Path) -> None:
    if any(not name.strip() for name in header):
        position = 1 + next(i for i, name in enumerate(header) if not name.strip())
        raise ValueError(
            f"{path}: column {position} has no name; name it in the first line, or, if it is "
            f"the row number that pandas wrote, write the file with index=False."
        )
    other = [s for s in (";", "\t", ",") if s != separator and s in header[0]]
    if len(header) == 1 and other:
        raise ValueError(
            f"{path}: the header is one name containing {other[0]!r}, so it seems to use "
            f"that as its separator; .csv files use ',' and .tsv files tabs, unless you say "
            f"separator={other[0]!r} (of a run: table_file.separator)."
        )
    _refuse_duplicates(header, path)


def _typed(
    cells: np.ndarray, keep_text: bool, missing: frozenset[str], name: str
) -> pd.Series:
    """Text cells as the narrowest type that holds all of them without loss."""
    gap = np.array([cell.strip() in missing for cell in cells], bool)
    present = cells[~gap].tolist()
    text = pd.Series(np.where(gap, None, cells), dtype="str")
    if keep_text or not present:
        return text
    if all(_WHOLE.fullmatch(cell) for cell in present):
        return _integers([int(cell) for cell in present], gap, text)
    if all(cell.strip() in _WORDS for cell in present):
        words = [_WORDS[cell.strip()] for cell in present]
        return _scattered(words, gap, "bool", "boolean")
    if all(_REAL.fullmatch(cell) for cell in present):
        values = np.full(len(cells), np.nan)
        values[~gap] = [float(cell) for cell in present]
        return pd.Series(values)
    if not all(_DATE.fullmatch(cell) for cell in present):
        return text
    try:
        return read_datetimes(text, name)
    except ValueError:  # Not a date: text is what is left, and no error.
        return text


def _integers(values: list[int], gap: np.ndarray, text: pd.Series) -> pd.Series:
    if min(values) >= -(2**63) and max(values) < 2**63:
        return _scattered(values, gap, "int64", "Int64")
    if min(values) >= 0 and max(values) < 2**64:
        return _scattered(values, gap, "uint64", "UInt64")
    return text


def _scattered(values: list, gap: np.ndarray, dtype: str, nullable: str) -> pd.Series:
    """`values` at the places that are no gap; the nullable dtype only where there is one."""
    if not gap.any():
        return pd.Series(np.array(values, dtype))
    data = np.zeros(len(gap), dtype)
    data[~gap] = values
    column = pd.Series(data).astype(nullable)
    column[gap] = pd.NA
    return column


def _refuse_lost_text(cells: pd.Series, name, missing: Sequence[str], path) -> None:
    values = cells
    if isinstance(cells.dtype, pd.CategoricalDtype):
        values = pd.Series(cells.cat.categories[np.unique(cells.cat.codes[cells.notna()])])
    if not (is_text(values.dtype) or values.dtype.kind == "O"):
        return
    lost = {v for v in values.dropna() if isinstance(v, str) and v.strip() in missing}
    if lost:
        raise ValueError(
            f"{path}: column {name!r} holds the text {min(lost)!r}, which would be read back "
            f"as a missing cell; write a .parquet file, or read and write with missing=('',)"
            f" if that text is not empty."
        )
