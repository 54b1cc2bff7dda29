"""Schemas as JSON: strict, versioned, and exact to the last bit of every float."""

import dataclasses
import json
import os
import pathlib
import types
import typing

from vae_arbcond.files import write_text

VERSION = 1


def fields_to_json(record) -> dict:
    """The fields of a dataclass as JSON values; tuples become lists."""
    values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def fields_from_json(cls, values: dict, where: str):
    """A dataclass of type `cls` from `values`.

    Raises:
      ValueError: a key is unknown or lacking, or a value has the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    check_keys(values, set(fields), {n for n, f in fields.items() if _required(f)}, where)
    typed = {name: _typed(value, hints[name], name, where) for name, value in values.items()}
    return cls(**typed)


def check_keys(values: dict, known: set[str], required: set[str], where: str) -> None:
    """Refuses keys that are not known, and the lack of those required."""
    unknown, lacking = sorted(set(values) - known), sorted(required - set(values))
    if unknown or lacking:
        what = f"has unknown key(s) {unknown}" if unknown else f"lacks key(s) {lacking}"
        raise ValueError(
            f"Schema JSON: {where} {what}; version {VERSION} knows {sorted(known)}. Write the "
            f"file with the schema's save method rather than by hand."
        )


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _typed(value, hint, name: str, where: str):
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, list):
            return tuple(_typed(v, inner, f"{name}[{i}]", where) for i, v in enumerate(value))
        wanted, allowed = "a list", ()
    else:
        union = isinstance(hint, types.UnionType)
        allowed = typing.get_args(hint) if union else (hint,)
        wanted = " or ".join("null" if t is type(None) else t.__name__ for t in allowed)
    if float in allowed and int not in allowed and type(value) is int:
        return float(value)  # 3 for 3.0 is no mistake.
    if type(value) not in allowed:  # Not isinstance: True is no integer here.
        raise ValueError(f"Schema JSON: {where}: {name!r} must be {wanted}, got {value!r}.")
    return value


def dump(kind: str, content: dict) -> str:
    """JSON text with the version and the kind in front."""
    document = {"version": VERSION, "kind": kind, **content}
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def parse(text: str) -> dict:
    """The JSON document, its version checked.

    Raises:
      ValueError: not strict JSON, not an object, a key twice, or another version.
    """
    try:
        document = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Schema JSON: line {error.lineno} is not valid JSON ({error.msg}); the file is "
            f"damaged or no schema. Restore it, or save the schema again."
        ) from error
    if not isinstance(document, dict) or "version" not in document:
        raise ValueError(
            "Schema JSON: an object with a 'version' was wanted; this file is no schema."
        )
    version = document.pop("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"Schema JSON: version {version!r} was given, but this installation reads version "
            f"{VERSION}; install the release of vae_arbcond that wrote the file."
        )
    return document


def _refuse(constant: str):
    raise ValueError(
        f"Schema JSON: {constant} is not allowed; every number of a schema is finite."
    )


def _unique(pairs: list) -> dict:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"Schema JSON: the key {key!r} occurs twice; remove one of them.")
    return dict(pairs)


def read_text(path: str | os.PathLike) -> str:
    """The text of a schema file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not UTF-8 text.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no schema file {path}; a run directory keeps it as schema.json."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a schema: it is not UTF-8 text.") from error


def save_text(text: str, path: str | os.PathLike) -> None:
    """Writes a schema file; `path` holds the old text or the new one, never half of either."""
    write_text(path, text)
