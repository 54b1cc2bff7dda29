"""Configuration: finds gin files, parses them strictly, explains what is wrong with them.

The only module of the library that reads gin files. Includes are resolved here rather than
by gin's search path, which is global, cannot be taken back, asks the working directory
first, and takes the folders of an include for Python packages: a user's own `data` folder
would then hide, or crash, `include 'data/wine.gin'`.
"""

import contextlib
import copy
import difflib
import importlib
import inspect
import io
import pathlib
import pkgutil
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import gin
from gin import config_parser

import vae_arbcond
from vae_arbcond.files import write_text

KINDS = ("gin", "zoo")

# Subpackages that hold no configurables: commands, which load configurations, and the folder
# in which an installation keeps gin files and zoo entries.
_NOT_CONFIGURABLE = ("_resources", "cli", "config", "demo")


class ConfigError(ValueError):
    """A configuration cannot be used; the message is for the user, without a traceback."""


def resource_dir(kind: str) -> pathlib.Path:
    """The folder of the gin files or of the zoo entries, whatever the working directory.

    Args:
      kind: "gin" or "zoo".

    Returns:
      The folder inside the installed package or, for a checkout and an editable install, the
      checkout's top-level folder.

    Raises:
      ConfigError: there is no such folder.
      ValueError: `kind` is neither of the two.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {list(KINDS)}; got {kind!r}.")
    package = pathlib.Path(__file__).resolve().parent
    packaged = package / "_resources" / kind
    if packaged.is_dir():
        return packaged
    # Next to an installed package lies site-packages/gin, the gin library: only a folder
    # beside this project's setup.py counts.
    checkout = package.parent / kind
    if (package.parent / "setup.py").is_file() and checkout.is_dir():
        return checkout
    raise ConfigError(
        f"The {kind} files of vae_arbcond are neither in {packaged} nor in {checkout}. The "
        f"installation is incomplete: install the package again with pip."
    )


def import_configurables() -> None:
    """Imports every module of the library, so that gin knows all of its names."""
    _import_below(vae_arbcond.__path__, vae_arbcond.__name__)


def _import_below(path, package: str) -> None:
    for found in pkgutil.iter_modules(path):
        if package == vae_arbcond.__name__ and found.name in _NOT_CONFIGURABLE:
            continue
        module = importlib.import_module(f"{package}.{found.name}")
        if found.ispkg:
            _import_below(module.__path__, module.__name__)


def load(gin_files: Sequence[str], gin_params: Sequence[str] = ()) -> None:
    """Replaces gin's configuration by that of the files, then of the parameters; locks it.

    A file, relative to the working directory or to the library's own gin folder, or absolute,
    may include others. An include is looked for beside the including file, then (for files
    outside the library) in the working directory, then in the library's gin folder, so the
    library's own experiments mean the same wherever they are started.

    Args:
      gin_files: paths such as "experiments/wine.gin"; later ones override earlier ones.
      gin_params: bindings such as "train.num_steps = 100"; they override the files.

    Raises:
      ConfigError: a file is missing or includes itself, a line cannot be parsed, a name or a
        parameter is unknown, a macro is used but not set, or set but not used (macros in
        UPPER_CASE that come from a file may go unused). gin's state is then empty.
      TypeError: a string was given where a list of strings is wanted.
    """
    for name, value in (("gin_files", gin_files), ("gin_params", gin_params)):
        if isinstance(value, str):
            raise TypeError(
                f"{name} must be a list of strings; got {value!r}. Pass [{value!r}]."
            )
    gin.clear_config()
    try:
        import_configurables()
        macros = _Macros()
        for name in gin_files:
            for piece in _read(_find_file(name), (), macros):
                _parse(piece)
        for binding in gin_params:
            for piece in _split(binding, _Source(f"parameter {binding!r}"), (), macros):
                _parse(piece)
        macros.check()
        with _explained(_Source("the configuration")):
            gin.finalize()
    except BaseException:
        gin.clear_config()
        raise


def operative_config() -> str:
    """Every parameter that configured code has used so far, as the text of a gin file."""
    return gin.operative_config_str()


def value(parameter: str):
    """What the loaded configuration binds a parameter to, `evaluate.data` say, made anew.

    Args:
      parameter: FUNCTION.ARGUMENT.

    Raises:
      ConfigError: it is not bound.
    """
    try:
        bound = gin.query_parameter(parameter)
    except ValueError as error:
        raise ConfigError(
            f"The configuration does not say what {parameter} is. Bind it: --gin_param="
            f"'{parameter} = ...'."
        ) from error
    return copy.deepcopy(bound)  # Which calls what is written as @something().


def full_config() -> str:
    """Everything that was loaded, used so far or not, as the text of a gin file."""
    return gin.config_str()


def save_operative_config(path: str | pathlib.Path) -> None:
    """Writes `operative_config()` to `path`, under a temporary name first.

    Raises:
      OSError: the file cannot be written.
    """
    write_text(path, operative_config())


# ---- reading --------------------------------------------------------------------------------


class _Source(NamedTuple):
    """Where text comes from: a file, or a parameter given on the command line."""

    name: str
    path: pathlib.Path | None = None


class _Piece(NamedTuple):
    """The lines of a source between two includes, at their own line numbers."""

    text: str
    source: _Source


def _find_file(name: str) -> pathlib.Path:
    looked_in = [pathlib.Path.cwd(), resource_dir("gin")]
    found = _first_file(name, looked_in)
    if found is None:
        raise ConfigError(f"There is no gin file {name!r}. {_where(name, looked_in)}")
    return found


def _find_include(name: str, source: _Source, line: int) -> pathlib.Path:
    library = resource_dir("gin")
    own = source.path is not None and source.path.is_relative_to(library)
    looked_in = [source.path.parent] if source.path else []
    looked_in += [library] if own else [pathlib.Path.cwd(), library]
    found = _first_file(name, looked_in)
    if found is None:
        raise ConfigError(
            f"{source.name}, line {line}: there is no file {name!r} to include. "
            f"{_where(name, looked_in)}"
        )
    return found


def _first_file(name: str, folders: Sequence[pathlib.Path]) -> pathlib.Path | None:
    candidates = ((folder / name).resolve() for folder in folders)  # `name` may be absolute.
    return next((path for path in candidates if path.is_file()), None)


def _where(name: str, looked_in: Sequence[pathlib.Path]) -> str:
    library = resource_dir("gin")
    if pathlib.Path(name).is_absolute():
        looked = "The path is absolute, so nowhere else was looked."
    else:
        looked = f"Looked in {', '.join(map(str, dict.fromkeys(looked_in)))}."
    known = sorted(str(p.relative_to(library)) for p in library.rglob("*.gin"))
    stems = _near(pathlib.Path(name).stem, [pathlib.Path(path).stem for path in known])
    near = [path for path in known if pathlib.Path(path).stem in stems] or _near(name, known)
    experiments = [path for path in known if path.startswith("experiments/")]
    return (
        f"{looked}{_did_you_mean(near)} Experiments that come with the library: "
        f"{_list(experiments)}."
    )


def _read(path: pathlib.Path, chain: tuple[pathlib.Path, ...], macros: "_Macros"):
    """The pieces of a file and of the files it includes, in gin's order."""
    if path in chain:
        circle = " -> ".join(map(str, (*chain[chain.index(path) :], path)))
        raise ConfigError(f"Gin files include each other in a circle: {circle}. Break it.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the gin file {path}: {error}.") from error
    return _split(text, _Source(str(path), path), (*chain, path), macros)


def _split(
    text: str, source: _Source, chain: tuple[pathlib.Path, ...], macros: "_Macros"
) -> Iterator[_Piece]:
    lines = text.splitlines(keepends=True)
    start = 0
    with _explained(source):
        statements = list(config_parser.ConfigParser(io.StringIO(text), macros))
    for statement in statements:
        line = statement.location.line_num
        if isinstance(statement, config_parser.BindingStatement):
            macros.note(statement, source)
        elif isinstance(statement, config_parser.IncludeStatement):
            yield _Piece("\n" * start + "".join(lines[start : line - 1]), source)
            yield from _read(_find_include(statement.filename, source, line), chain, macros)
            start = line
    yield _Piece("\n" * start + "".join(lines[start:]), source)


def _parse(piece: _Piece) -> None:
    with _explained(piece.source):
        gin.parse_config(piece.text)


class _Macros(config_parser.ParserDelegate):
    """Which macros a configuration sets and which it uses."""

    def __init__(self):
        self.set_by: dict[str, tuple[_Source, int]] = {}
        self.used: set[str] = set()

    def configurable_reference(self, scoped_configurable_name, evaluate):
        """Part of gin's parser interface; references are checked when gin parses."""
        del evaluate
        return scoped_configurable_name

    def macro(self, macro_name):
        """Part of gin's parser interface: `%macro_name` was read."""
        self.used.add(macro_name)
        return macro_name

    def note(self, statement: config_parser.BindingStatement, source: _Source) -> None:
        """Remembers `statement` if it sets a macro: NAME = value."""
        if not statement.arg_name:
            name = "/".join(filter(None, (statement.scope, statement.selector)))
            self.set_by[name] = (source, statement.location.line_num)

    def check(self) -> None:
        """Refuses macros without effect or value: `num_steps = 10` is one, by mistake."""
        for name, (source, line) in self.set_by.items():
            if name in self.used or (name.isupper() and source.path):
                continue
            place = source.name if source.path is None else f"{source.name}, line {line}"
            owners = [f"{owner}.{name}" for owner in _names() if name in _parameters(owner)]
            if owners:
                hint = f" To set a parameter, name its owner: {_list(owners)}."
            else:
                hint = _did_you_mean(_near(name, self.used))
            raise ConfigError(
                f"{place}: {name!r} has no owner before a dot, so it sets a macro, which "
                f"nothing uses.{hint} Macros in use: {_list(sorted(self.used))}."
            )
        for name in sorted(self.used - set(self.set_by)):
            if not _is_constant(name):
                raise ConfigError(
                    f"%{name} is used but never set.{_did_you_mean(_near(name, self.set_by))} "
                    f"Set it with a line {name} = value."
                )


def _is_constant(name: str) -> bool:
    # gin.REQUIRED and what gin.constant defined: a macro reference resolves to them.
    try:
        gin.query_parameter(name)
    except ValueError:
        return False
    return True


# ---- explaining -----------------------------------------------------------------------------

_LOCATION = re.compile(r"\n  In (?:file \".*\",|bindings string) line (\d+)\n    (.*)")
_UNKNOWN_PARAMETER = re.compile(r"Configurable '(.+)' doesn't have a parameter named '(.+)'")
_UNKNOWN_NAME = re.compile(r"No configurable matching (?:reference )?'@?(.+?)(?:\(\))?'")


@contextlib.contextmanager
def _explained(source: _Source):
    """Turns whatever gin raises about `source` into a ConfigError of a sentence or two."""
    try:
        yield
    except Exception as error:
        text = str(error)
        place, line = source.name, _line(error)
        if source.path is not None and line is not None:
            place += f", line {line}"
        content = _LOCATION.search(text)
        if source.path is not None and content and content[2].strip():
            place += f" ({content[2].strip()})"
        raise ConfigError(f"{place}: {_explain(error, text)}") from error


def _line(error: Exception) -> int | None:
    location = _LOCATION.search(str(error))
    if location:
        return int(location[1])
    if isinstance(error, SyntaxError):
        return error.lineno
    if isinstance(error, tokenize.TokenError):
        return error.args[1][0]
    return None


def _explain(error: Exception, text: str) -> str:
    if found := _UNKNOWN_PARAMETER.search(text):
        owner, parameter = found.groups()
        parameters = _parameters(owner)
        guess = _did_you_mean(_near(parameter, parameters))
        return f"{owner} has no parameter {parameter!r}.{guess} It has: {_list(parameters)}."
    if found := _UNKNOWN_NAME.search(text):
        name = found[1].rsplit("/", 1)[-1]
        guess = _did_you_mean(_near(name, _names())) or f" Known names: {_list(_names())}."
        return f"nothing configurable is called {name!r}.{guess}"
    if isinstance(error, SyntaxError):
        message = error.msg.splitlines()[0].rstrip(".")
        if message.startswith("malformed node"):  # The parser of Python's own literals.
            message = (
                f"cannot read the value in {(error.text or '').strip()!r}. Text needs quotes, "
                f"a configurable @Name() and a macro %NAME"
            )
        elif error.text:
            message = f"cannot read {error.text.strip()!r}: {message}"
        return f"{message}. A line reads owner.parameter = value."
    if isinstance(error, tokenize.TokenError):
        return f"{error.args[0]}. Is a bracket or a quote left open?"
    if isinstance(error, ImportError):
        return f"the import failed ({text.splitlines()[0]}). Is the module installed?"
    return f"{_LOCATION.sub('', text).strip().splitlines()[0]}"


def _near(name: str, known: Iterable[str]) -> list[str]:
    by_lower = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return [by_lower[key] for key in near]


def _did_you_mean(near: Sequence[str]) -> str:
    return f" Did you mean {_list([repr(name) for name in near], ' or ')}?" if near else ""


def _list(names: Sequence[str], separator: str = ", ") -> str:
    return separator.join(names) or "none"


def _names() -> list[str]:
    """Names of this library's configurables."""
    modules = [m for n, m in sys.modules.items() if n.startswith(f"{vae_arbcond.__name__}.")]
    names = {
        name
        for module in modules
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and _configurable(name) is not None
    }
    return sorted(names)


def _parameters(name: str) -> list[str]:
    configurable = _configurable(name)
    if configurable is None:
        return []
    function = configurable.__init__ if inspect.isclass(configurable) else configurable
    return [p for p in inspect.signature(function).parameters if p != "self"]


def _configurable(name: str) -> Callable | None:
    try:
        return gin.get_configurable(name)
    except (KeyError, ValueError):  # Unknown, or two of that name in different modules.
        return None
