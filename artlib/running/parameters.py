"""The notebooks' parameters: what each declares, and the values of one run, checked before anything starts.

papermill itself only warns about a parameter that no notebook knows, and passes `false` on as a string.
"""

import ast
import dataclasses
import difflib
import io
import json
import math
import re
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from artlib import ArtlibError, worlds
from artlib.posttrain.settings import ANY, FIELDS, SEED, SOME, Range, Settings, kind_of, unfit

TYPES = ("bool", "int", "float", "str", "list", "dict")
# What the notebooks' own parameters may be; those of post-training: see `Settings`.
ALLOWED = {
    **dict.fromkeys(("n_users", "n_titles", "n_train", "n_validation", "n_test"), SOME),
    **dict.fromkeys(("max_test", "n_cases"), ANY),
    "world": worlds.known,
    "genres": ("fine", "broad"),
    "n_bootstrap": Range(100),  # the tails of a 95 % interval
    "seed": SEED,
}
OVERRIDES = "overrides"  # the parameter that takes all settings of post-training that no notebook declares
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ParameterError(ArtlibError, ValueError):
    """A parameter that no notebook declares, a value that it cannot take, or a faulty declaration."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter as its notebooks declare it: `name: type = default  # meaning`.

    Attributes:
        overrides: whether it is a setting that no notebook declares, and goes into their parameter `overrides`.
    """

    name: str
    type: str
    default: object
    meaning: str
    notebooks: tuple[str, ...]
    overrides: bool = False


def known(notebooks: Iterable[Path]) -> dict[str, Parameter]:
    """The parameters of several notebooks, in the order of their first declaration, then the settings that they take in
    `overrides`.

    Raises:
        ParameterError: a cell declares badly, or two notebooks give one parameter another type or default.
    """
    merged: dict[str, Parameter] = {}
    for path in notebooks:
        for new in declared(path):
            old = merged.setdefault(new.name, dataclasses.replace(new, notebooks=()))
            if (old.type, old.default) != (new.type, new.default):
                raise ParameterError(
                    f"parameter {new.name} is `{old.type} = {old.default!r}` in {old.notebooks[0]} and "
                    f"`{new.type} = {new.default!r}` in {path.stem}; make them the same"
                )
            merged[new.name] = dataclasses.replace(old, notebooks=(*old.notebooks, path.stem))
    if OVERRIDES in merged:
        for name, setting in _settings(merged[OVERRIDES].notebooks).items():
            merged.setdefault(name, setting)
    return merged


def _settings(notebooks: tuple[str, ...]) -> dict[str, Parameter]:
    """All settings of post-training, as parameters."""
    return {
        name: Parameter(name, kind_of(name).__name__, field.default, field.metadata["meaning"], notebooks, True)
        for name, field in FIELDS.items()
    }


def declared(path: Path) -> list[Parameter]:
    """The parameters that one notebook declares in its one code cell tagged `parameters`."""
    try:  # without nbformat, whose imports take seconds
        found = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in found if cell["cell_type"] == "code"]
        cells = ["".join(cell["source"]) for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{path} is no notebook ({type(error).__name__}: {error})") from None
    if len(cells) != 1:
        raise ParameterError(f"{path}: {len(cells)} code cells are tagged `parameters`; there must be one")
    if len(cells[0].splitlines()) == 1:
        raise ParameterError(
            f"{path}, parameters cell: IPython takes one single line `run: ...` for its magic command %run; "
            "put a comment line above"
        )
    try:
        statements = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise ParameterError(f"{path}, parameters cell, line {error.lineno}: {error.msg}") from None
    comments = _comments(cells[0])
    found = [_declaration(path, node, comments.get(node.end_lineno, "")) for node in statements]
    names = [parameter.name for parameter in found]
    if len(set(names)) < len(names):
        raise ParameterError(f"{path}, parameters cell: {max(names, key=names.count)} is declared twice")
    return found


def read_profile(path: Path) -> dict:
    """The flat mapping of names to values in a profile's YAML file."""
    if not path.is_file():
        names = sorted(p.stem for p in path.parent.glob("*.yaml"))
        near = _nearest(path.stem, names)
        raise ParameterError(f"no profile {path.stem!r}{near}; there are: {', '.join(names)}")
    try:
        node = yaml.compose(path.read_text())
        profile = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(profile, dict):
        raise ParameterError(f"{path}: must be a flat mapping, `name: value` a line")
    names = [key.value for key, _ in node.value] if profile else []
    if len(set(names)) < len(names):
        raise ParameterError(f"{path}: {max(names, key=names.count)} is given twice")
    return profile


def resolve(
    parameters: dict[str, Parameter], profile: Path, settings: Iterable[str] = (), run: str | None = None
) -> dict[str, Any]:
    """The value of every parameter in one run: the default, over it the profile, `--set` and `--run`.

    Args:
        parameters: what the notebooks know, `run` among them.
        profile: a YAML file; its stem is the run's name unless something else names it.
        settings: `key=value`, the value parsed by the parameter's type.
        run: the run's name.

    Raises:
        ParameterError: names the parameter, the value, and its type, range or choices; or which do not go together.
    """
    values = {name: parameter.default for name, parameter in parameters.items()} | {"run": profile.stem}
    origins = dict.fromkeys(values, "default")
    for name, value in read_profile(profile).items():
        origins[name] = f"profile {profile.stem}"
        values[name] = _value(parameters, name, value, conform, origins[name])
    _set(parameters, settings, values, origins)
    _expand(parameters, values, origins)
    _require_fit(values, origins)
    values["run"] = plain_name(str(values["run"]) if run is None else run)
    return _gathered(parameters, values, origins)


def settings_of(given: Iterable[str]) -> Settings:
    """The settings of one training: the defaults, and over them `--set`, read as `resolve` does.

    Raises:
        ParameterError: as `resolve`.
    """
    parameters = _settings(())
    values: dict[str, Any] = {name: parameter.default for name, parameter in parameters.items()}
    origins = dict.fromkeys(values, "default")
    _set(parameters, given, values, origins)
    _require_fit(values, origins)
    return Settings(**values)


def _set(parameters: dict[str, Parameter], given: Iterable[str], values: dict[str, Any], origins: dict) -> None:
    for setting in given:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ParameterError(f"--set {setting}: must be key=value")
        origins[name] = "--set"
        values[name] = _value(parameters, name, text, parse, origins[name])


def _require_fit(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Refuse values out of range, and those that do not go together."""
    for name, value in values.items():
        found = Settings.fault(name, value) if name in FIELDS else unfit(name, value, ALLOWED.get(name))
        if name == "comparisons" and (odd := [item for item in value if not _PLAIN.fullmatch(item)]):
            found = f"comparisons: {odd[0]!r} is no world; give names such as {' or '.join(list(worlds.known())[:2])}"
        if found:
            raise ParameterError(f"parameter {found} ({origins[name]})")
    clash = Settings.clash(values) if FIELDS.keys() <= values.keys() else None
    if values.get("world") == "own" and not values.get("data", "own"):
        clash = "world 'own' needs the parameter data: the folder of your log"
    if clash:
        raise ParameterError(f"parameters: {clash}")


def _expand(parameters: dict[str, Parameter], values: dict[str, Any], origins: dict[str, str]) -> None:
    """Give the settings inside `overrides` as if each had been given by itself; what is given by itself wins.

    Raises:
        ParameterError: something inside is no setting that it takes.
    """
    inside = {name for name, parameter in parameters.items() if parameter.overrides}
    for name, value in dict(values.get(OVERRIDES, {})).items():
        if name not in inside:
            known = f"it takes {', '.join(sorted(inside))}"
            raise ParameterError(f"parameter {OVERRIDES}: {name} is no setting that it takes; {known}")
        if origins[name] == "default":
            values[name] = _value(parameters, name, value, conform, f"{OVERRIDES}, {origins[OVERRIDES]}")
            origins[name] = origins[OVERRIDES]


def _gathered(parameters: dict[str, Parameter], values: dict[str, Any], origins: dict[str, str]) -> dict[str, Any]:
    """The values of declared parameters, those of all others that were given inside `overrides`."""
    declared = {name: value for name, value in values.items() if not parameters[name].overrides}
    if OVERRIDES in declared:
        given = [name for name in values if parameters[name].overrides and origins[name] != "default"]
        declared[OVERRIDES] = {name: values[name] for name in sorted(given)}
    return declared


def plain_name(run: str) -> str:
    """Return a run's name if it is fit to be a folder's name."""
    if not _PLAIN.fullmatch(run):
        raise ParameterError(f"run: {run!r} is not a plain folder name (letters, digits, `.`, `_`, `-`)")
    return run


def conform(type_: str, value: Any) -> object:
    """Return a value from Python or YAML as the declared type; ValueError if it is of another."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match type_:
        case "bool" if isinstance(value, bool):
            return value
        case "int" if number and isinstance(value, int):
            return value
        case "float" if number and math.isfinite(value):
            return float(value)
        case "float" if isinstance(value, str):  # YAML 1.1 reads 1e-4, which has no point, as a string
            return parse(type_, value)
        case "str" if isinstance(value, str):
            return value
        case "list" if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        case "dict" if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
    raise ValueError(value)


def parse(type_: str, text: str) -> object:
    """Return the text after `--set key=` as the declared type; ValueError if it cannot be read as that."""
    match type_:
        case "bool" if text.strip().lower() in _BOOLEANS:
            return _BOOLEANS[text.strip().lower()]
        case "int":
            return int(text)
        case "float":
            return conform(type_, float(text))
        case "list" if text.strip().startswith("["):
            return conform(type_, _yaml_strings(text))
        case "list":
            return [item.strip() for item in text.split(",") if item.strip()]
        case "dict":
            return conform(type_, yaml.safe_load(text) or {})
        case "str":
            return text
    raise ValueError(text)


def _value(parameters: dict[str, Parameter], name: str, value: Any, read: Callable, origin: str) -> object:
    names = f"known parameters: {', '.join(sorted(parameters))}"
    if name not in parameters:
        raise ParameterError(
            f"unknown parameter {name} = {value!r} ({origin}){_nearest(str(name), list(parameters))}; {names}"
        )
    expected = parameters[name].type
    try:
        return read(expected, value)
    except (ValueError, OverflowError, yaml.YAMLError):
        wanted = {"list": "list of str", "dict": "mapping of settings to values"}.get(expected, expected)
        raise ParameterError(f"parameter {name}: {value!r} ({origin}) is not of type {wanted}; {names}") from None


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {near[0]}?" if near else ""


def _yaml_strings(text: str) -> object:
    try:
        return yaml.load(text, yaml.BaseLoader)  # leaves every scalar a string
    except yaml.YAMLError:
        raise ValueError(text) from None


def _declaration(path: Path, node: ast.stmt, meaning: str) -> Parameter:
    try:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name) and node.value and meaning):
            raise ValueError
        if node.annotation.id not in TYPES or not isinstance(node.target, ast.Name):
            raise ValueError
        default = conform(node.annotation.id, ast.literal_eval(node.value))
        return Parameter(node.target.id, node.annotation.id, default, meaning, (path.stem,))
    except (ValueError, AttributeError):
        raise ParameterError(
            f"{path}, parameters cell, line {node.lineno}: `{ast.unparse(node)}` must be "
            f"`name: type = value  # meaning`, the type one of {', '.join(TYPES)}"
        ) from None


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
