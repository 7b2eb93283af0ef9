"""Parameters of notebooks: declared, given by a profile, given on the command line."""

from pathlib import Path

import nbformat
import pytest
from made_notebooks import RUN_ONLY, write_notebook

from artlib import parameters, pipeline


def resolve(folder: Path, *settings: str, profile: str = "small", **options) -> dict:
    path = folder / "01_one.ipynb"
    known = parameters.known([path if path.exists() else write_notebook(path)])
    return parameters.resolve(known, folder / "profiles" / f"{profile}.yaml", settings, **options)


def test_declaration_is_read_with_type_default_and_meaning(folder):
    found = parameters.known([write_notebook(folder / "01_one.ipynb")])
    assert list(found) == ["run", "seed", "rate", "fast", "methods"]
    assert found["rate"] == parameters.Parameter("rate", "float", 0.001, "learning rate", ("01_one",))
    assert found["methods"].default == ["sft"]


@pytest.mark.parametrize(
    "line",
    [
        "seed = 0  # no type",
        "seed: int = 0",
        "seed: int  # no value",
        "seed: int = 1.5  # ill-typed",
        "seed: int = True  # ill-typed",
        "seed: complex = 1j  # unknown type",
        "seed: int = len('a')  # not a literal",
        "methods: list = [1]  # not strings",
        "import os  # a statement",
        "seed: int =  # broken",
        "run: str = 'b'  # twice",
    ],
)
def test_bad_declaration_is_refused_and_named(folder, line):
    path = write_notebook(folder / "01_one.ipynb", declares=RUN_ONLY + line)
    with pytest.raises(parameters.ParameterError, match="01_one.ipynb, parameters cell"):
        parameters.known([path])


def test_single_line_that_ipython_would_take_for_a_magic_is_refused(folder):
    path = write_notebook(folder / "01_one.ipynb", declares=RUN_ONLY.splitlines()[1])
    with pytest.raises(parameters.ParameterError, match="magic command %run"):
        parameters.known([path])


def test_common_parameter_must_be_the_same_everywhere(folder):
    paths = [
        write_notebook(folder / "01_one.ipynb"),
        write_notebook(folder / "02_two.ipynb", declares=RUN_ONLY + "seed: int = 1  # base seed"),
    ]
    with pytest.raises(parameters.ParameterError, match="seed is `int = 0` in 01_one and `int = 1` in"):
        parameters.known(paths)


def test_two_or_no_parameters_cells_are_refused(folder):
    path = write_notebook(folder / "01_one.ipynb")
    made = nbformat.read(path, as_version=4)
    made.cells.append(made.cells[1].copy())
    nbformat.write(made, path)
    with pytest.raises(parameters.ParameterError, match="2 code cells are tagged"):
        parameters.known([path])


def test_set_beats_profile_beats_default(folder):
    values = resolve(folder, "seed=7", "fast=yes", "methods=sft, dpo")
    assert values == {"run": "small", "seed": 7, "rate": 1e-4, "fast": True, "methods": ["sft", "dpo"]}
    assert resolve(folder, run="other")["run"] == "other"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fast=true", True),
        ("fast=No", False),
        ("fast=1", True),
        ("fast=0", False),
        ("rate=3", 3.0),
        ("rate=1e-5", 1e-5),
        ("seed=-2", -2),
        ("methods=[a, 'b, c']", ["a", "b, c"]),
        ("methods=[1, no]", ["1", "no"]),
        ("methods=", []),
        ("run=x.y", "x.y"),
    ],
)
def test_set_is_parsed_by_the_declared_type(folder, setting, value):
    assert resolve(folder, setting)[setting.partition("=")[0]] == value


@pytest.mark.parametrize(
    ("setting", "type_"),
    [
        ("seed=1.5", "int"),
        ("seed=true", "int"),
        ("seed=", "int"),
        ("fast=2", "bool"),
        ("fast=falsch", "bool"),
        ("rate=x", "float"),
        ("rate=nan", "float"),
        ("methods=[a", "list of str"),
        ("methods=[[a]]", "list of str"),
    ],
)
def test_ill_typed_setting_names_parameter_value_type_and_known(folder, setting, type_):
    name, _, value = setting.partition("=")
    with pytest.raises(parameters.ParameterError) as error:
        resolve(folder, setting)
    assert f"parameter {name}: {value!r} (--set) is not of type {type_}; " in str(error.value)
    assert "known parameters: fast, methods, rate, run, seed" in str(error.value)


@pytest.mark.parametrize(
    "line", ["seed: 1.5", "seed: '1'", "fast: 1", "run: 7", "methods: sft", "methods: [1]", "rate:"]
)
def test_ill_typed_profile_is_refused(folder, line):
    (folder / "profiles" / "bad.yaml").write_text(line)
    with pytest.raises(parameters.ParameterError, match=r"\(profile bad\) is not of type"):
        resolve(folder, profile="bad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 1", "unknown parameter sede = 1 .*did you mean seed"),
        ("seed: 1\nseed: 2", "seed is given twice"),
        ("- seed", "flat mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_faulty_profile_is_refused(folder, text, message):
    (folder / "profiles" / "bad.yaml").write_text(text)
    with pytest.raises(parameters.ParameterError, match=message):
        resolve(folder, profile="bad")


@pytest.mark.parametrize("run", ["", "a/b", "..", ".hidden", "-x", "a b"])
def test_run_must_be_a_plain_folder_name(folder, run):
    with pytest.raises(parameters.ParameterError, match="plain folder name"):
        resolve(folder, run=run)
    with pytest.raises(parameters.ParameterError, match="plain folder name"):
        pipeline.run_folder(run)
