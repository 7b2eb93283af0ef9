"""Parameters of notebooks: declared, given by a profile, given on the command line."""

from pathlib import Path

import nbformat
import pytest
from made_notebooks import RUN_ONLY, write_notebook

from artlib import __main__ as cli
from artlib.posttrain.settings import FIELDS, Range, unfit
from artlib.running import parameters, run_folder


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
        ("rate=-2", -2.0),
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
        run_folder.of(run)


@pytest.fixture
def notebooks(folder) -> Path:
    """The repository's own notebooks and profiles, where a run that starts would be noticed."""
    return Path(__file__).resolve().parents[2] / "notebooks"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("n_bootstrap=10", "parameter n_bootstrap 10 is out of range: it must be at least 100 (--set)"),
        ("epochs=0", "parameter epochs 0 is out of range: it must be at least 1 (--set)"),
        ("batch_size=0", "parameter batch_size 0 is out of range: it must be at least 1"),
        ("micro_batch=0", "parameter micro_batch 0 is out of range: it must be at least 1"),
        ("temperature=0", "parameter temperature 0.0 is out of range: it must be above 0 (--set)"),
        ("seed=-1", "parameter seed -1 is out of range: it must be at least 0 and at most 4294967295"),
        ("lora_rank=0", "parameter lora_rank 0 is out of range: it must be at least 1"),
        ("max_examples=0", "parameter max_examples 0 is out of range: it must be at least 1"),
        ("learning_rate=-1", "parameter learning_rate -1.0 is out of range: it must be above 0 and at most 1"),
        ("negative_weight=1.5", "parameter negative_weight 1.5 is out of range: it must be at least 0 and at most 1"),
        ("max_test=-1", "parameter max_test -1 is out of range: it must be at least 0"),
        ("n_users=0", "parameter n_users 0 is out of range: it must be at least 1"),
        ("method=stf", "counterfactual, policy-gradient, sft-reasoning, grpo, distil, did you mean sft? (--set)"),
        ("method=stf", "parameter method 'stf' is not one of sft, sft-ips, sft-logq, awsft, soft, dpo"),
        ("world=fictoin", "parameter world 'fictoin' is not one of fiction, movielens, own, upworthy, did you mean"),
        (
            "prompt=captoin",
            "parameter prompt 'captoin' is not one of genre-likelihood, appeal, caption, member-likelihood, ",
        ),
        ("value_estimator=snip", "parameter value_estimator 'snip' is not one of ips, snips, dr, did you mean snips?"),
        ("dtype=half", "parameter dtype 'half' is not one of"),
        ("comparisons=fiction,../x", "parameter comparisons: '../x' is no world; give names such as fiction"),
        ("batch_size=6 micro_batch=4", "parameters: batch_size 6 is not a multiple of micro_batch 4"),
        (
            "prompt=reasoned",
            "method=sft-reasoning or grpo or distil and prompt=reasoned go together: not method=sft, prompt=reasoned",
        ),
        ("method=sft-reasoning", "go together: not method=sft-reasoning, prompt=genre-likelihood"),
        ("method=grpo prompt=label", "go together: not method=grpo, prompt=label"),
        ("method=sft-reasoning prompt=reasoned teacher=http://x/v1", "say which of its models with teacher_model"),
        ("world=own", "world 'own' needs the parameter data: the folder of your log"),
    ],
)
def test_a_value_out_of_range_is_exit_2_and_names_parameter_value_and_range(notebooks, capsys, settings, message):
    code = cli.main(["run", "--profile", "test", "--set", *settings.split(), "--notebooks", str(notebooks)])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not run_folder.runs_folder().exists()


def test_a_profiles_value_out_of_range_names_the_profile(folder):
    (folder / "profiles" / "bad.yaml").write_text("seed: -1")
    with pytest.raises(parameters.ParameterError, match=r"seed -1 is out of range: .* \(profile bad\)"):
        resolve(folder, profile="bad")


def test_every_numeric_parameter_has_a_range_and_every_range_a_parameter(notebooks):
    known = parameters.known(sorted(notebooks.glob("[0-9]*.ipynb")))
    numeric = {name for name, parameter in known.items() if parameter.type in ("int", "float")}
    allowed = parameters.ALLOWED | {name: field.metadata["allowed"] for name, field in FIELDS.items()}
    assert {name for name, values in allowed.items() if isinstance(values, Range)} == numeric
    assert set(allowed) <= set(known)
    assert all(unfit(name, parameter.default, allowed.get(name)) is None for name, parameter in known.items())


def test_defaults_that_a_notebook_declares_are_those_of_the_settings(notebooks):
    known = parameters.known(sorted(notebooks.glob("[0-9]*.ipynb")))
    assert all(known[name].default == field.default for name, field in FIELDS.items())
    assert all(known[name].type == field.type.__name__ for name, field in FIELDS.items())


def test_settings_that_no_notebook_declares_go_into_overrides(notebooks, tmp_path):
    known = parameters.known(sorted(notebooks.glob("[0-9]*.ipynb")))
    (tmp_path / "own.yaml").write_text("clip: 5\nmax_tokens: 4096\noverrides: {beta: 0.5}\n")
    values = parameters.resolve(known, tmp_path / "own.yaml", ["max_tokens=1024", "epochs=2"])
    assert values["overrides"] == {"beta": 0.5, "clip": 5.0, "max_tokens": 1024} and values["epochs"] == 2
    assert "clip" not in values and "beta" not in values
    for text, message in (
        ("overrides: {bate: 0.5}", "overrides: bate is no setting that it takes"),
        ("overrides: {beta: -1}", "beta -1.0 is out of range"),
        ("overrides: {epochs: 2}", "epochs is no setting that it takes"),
        ("overrides: {samples: '5'}", "samples: '5' .* is not of type int"),
    ):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(parameters.ParameterError, match=message):
            parameters.resolve(known, tmp_path / "own.yaml")


def allowed_of(name: str):
    return FIELDS[name].metadata["allowed"] if name in FIELDS else parameters.ALLOWED[name]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("temperature", [1e-6, 1e6], [0.0, -1.0]),
        ("negative_weight", [0.0, 1.0], [-0.01, 1.01]),
        ("n_bootstrap", [100], [99]),
        ("seed", [0, 2**32 - 1], [-1, 2**32]),
        ("learning_rate", [1e-9, 1.0], [0.0, 1.1, float("inf")]),
    ],
)
def test_ranges_hold_at_their_ends(name, inside, outside):
    assert not any(unfit(name, value, allowed_of(name)) for value in inside)
    assert all(unfit(name, value, allowed_of(name)) for value in outside)
