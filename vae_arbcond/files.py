"""Files that are either the old one or the new one, never half of either."""

import os
import pathlib
import secrets
from collections.abc import Callable


def write_atomically(path: str | os.PathLike, write: Callable[[pathlib.Path], None]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it to `path`.

    Args:
      path: where the file goes; a file that is there is replaced.
      write: writes the whole content to the path it is given.

    Raises:
      FileNotFoundError: the folder does not exist.
      Whatever `write` raises; `path` is then as it was before.
    """
    path = pathlib.Path(path)
    check_folder(path)
    # The ending stays: some writers go by it.
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        write(temporary)
        # The rename must not reach the disk before the content does.
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: pathlib.Path) -> None:
    """Raises FileNotFoundError where the folder that `path` is to be written to is missing."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {path}: the folder {path.parent} does not exist; create it first."
        )


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8 by `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
