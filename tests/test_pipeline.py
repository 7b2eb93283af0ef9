"""The runner, on small notebooks made here."""

import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from artlib import __main__ as cli
from artlib import log, notebook, parameters, pipeline, publish

DECLARED = """\
run: str = "demo"  # name of the run
seed: int = 0  # base seed
rate: float = 0.001  # learning rate
fast: bool = False  # take fewer steps
methods: list = ["sft"]  # what to train
"""
RUN_ONLY = '# Its only parameter\nrun: str = "demo"  # name of the run\n'
FOLDER = "from artlib import pipeline\nfolder = pipeline.run_folder(run)"


def write_notebook(path: Path, *cells: str, declares: str = DECLARED) -> Path:
    """A notebook with a title, a parameters cell and the given code cells."""
    tagged = new_code_cell(declares, metadata={"tags": ["parameters"]})
    made = new_notebook(cells=[new_markdown_cell("# Title"), tagged, *map(new_code_cell, cells)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A notebooks folder in a repository whose path would upset str.format, with two profiles."""
    for name in ("ARTLIB_DATA", "PYTHONPATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("ARTLIB_RUNS", str(tmp_path / "runs"))
    notebooks = tmp_path / "a {repository}" / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    (notebooks / "profiles" / "demo.yaml").write_text("# the defaults\n")
    (notebooks / "profiles" / "small.yaml").write_text("seed: 5\nrate: 1e-4\n")
    return notebooks


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Stands in for artlib in the fingerprints, lest someone at work on its files disturbs a test."""
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(pipeline, "PACKAGE", package)
    return package


def resolve(folder: Path, *settings: str, profile: str = "small", **options) -> dict:
    path = folder / "01_one.ipynb"
    known = parameters.known([path if path.exists() else write_notebook(path)])
    return parameters.resolve(known, folder / "profiles" / f"{profile}.yaml", settings, **options)


def run_json(name: str = "demo") -> dict:
    return json.loads((pipeline.runs_folder() / name / "run.json").read_text())


def executed(name: str = "demo") -> set[str]:
    return {path.name for path in (pipeline.runs_folder() / name / "notebooks").iterdir()}


# Parameters


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "small", "--set", "sed=1"], "sed = '1' (--set), did you mean seed?; known"),
        (["run", "--profile", "smal"], "no profile 'smal', did you mean small?; there are: demo, small"),
        (["run", "--profile", "small", "--set", "seed"], "must be key=value"),
        (["run", "--profile", "small", "--run", "a/b"], "plain folder name"),
        (["run", "--profile", "small", "--sett"], "unrecognized arguments"),
        (["run"], "--profile"),
    ],
)
def test_wrong_request_is_one_line_and_exit_2_and_starts_nothing(folder, arguments, message):
    write_notebook(folder / "01_one.ipynb")
    command = [sys.executable, "-m", "artlib", *arguments, "--notebooks", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert not pipeline.runs_folder().exists()


def test_notebook_without_run_is_refused(folder):
    write_notebook(folder / "01_one.ipynb", declares="# No run\nseed: int = 0  # base seed\n")
    with pytest.raises(parameters.ParameterError, match="declares no parameter `run: str`"):
        pipeline.run("demo", notebooks=folder)


def test_parameters_command_lists_all(folder, capsys):
    write_notebook(folder / "01_one.ipynb")
    assert cli.main(["parameters", "--notebooks", str(folder)]) == 0
    assert "rate: float = 0.001  # learning rate  [01_one]" in capsys.readouterr().out


def test_starting_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'unsloth', 'pandas', 'papermill', 'nbconvert'}"
    code = f"import sys, artlib.__main__, artlib.pipeline; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# A run's folder


def test_runs_folder_is_the_environments_else_the_repositorys(monkeypatch, tmp_path):
    monkeypatch.setenv("ARTLIB_RUNS", str(tmp_path))
    assert pipeline.runs_folder() == tmp_path
    monkeypatch.delenv("ARTLIB_RUNS")
    assert pipeline.runs_folder() == Path(__file__).resolve().parents[1] / "runs"


@pytest.mark.parametrize(
    ("need", "maker"),
    [
        ("log", "01_explore_data"),
        ("adapters/sft", "02_train_lora"),
        ("policies/llm-sft.parquet", "03_evaluate"),
        ("evaluation.parquet", "03_evaluate"),
        ("errors", "04_analyze_errors"),
    ],
)
def test_missing_step_names_its_notebook_and_command(folder, need, maker):
    with pytest.raises(pipeline.MissingStep) as error:
        pipeline.run_folder("mine", needs=[need])
    assert f"notebook {maker} makes it" in str(error.value)
    assert "python -m artlib run --profile demo --run mine" in str(error.value)
    assert not (pipeline.runs_folder() / "mine").exists()


def test_missing_step_names_the_command_that_began_the_run(folder):
    mine = pipeline.run_folder("mine")
    (mine / "run.json").write_text(json.dumps({"command": "python -m artlib run --run mine --set world=own"}))
    with pytest.raises(pipeline.MissingStep, match="or `python -m artlib run --run mine --set world=own`"):
        pipeline.run_folder("mine", needs=["log"])


def test_folders_mean_the_same_to_the_notebooks_wherever_they_run(folder, monkeypatch):
    write_notebook(folder / "01_one.ipynb", "1", declares='run: str = "demo"  # name\ndata: str = ""  # folder')
    (folder.parent / "mylog").mkdir()
    monkeypatch.chdir(folder.parent)
    ran = []
    monkeypatch.setattr(pipeline, "_run_steps", lambda paths, known, values, *_: ran.append(values["data"]))
    for data in ("mylog", "elsewhere", ""):
        pipeline.run("demo", [f"data={data}"], notebooks=folder)
    assert ran == [str(folder.parent / "mylog"), "elsewhere", ""]


def test_present_step_is_no_error(folder):
    (pipeline.run_folder("mine") / "log").mkdir()
    assert pipeline.run_folder("mine", needs=["log"]) == pipeline.runs_folder() / "mine"


def test_record_merges_and_converts(folder):
    mine = pipeline.run_folder("mine")
    pipeline.record(mine, "01_one", notebook=np.float32(0.5), n=np.int64(3), ok=np.bool_(True))
    pipeline.record(mine, "01_one", n=np.array([1, 2]), bad=np.inf, path=Path("a"), deep={1: (np.nan, "x")})
    pipeline.record(mine, "02_two", n=1)
    assert run_json("mine")["results"] == {
        "01_one": {
            "notebook": 0.5,
            "n": [1, 2],
            "ok": True,
            "bad": None,
            "path": "a",
            "deep": {"1": [None, "x"]},
        },
        "02_two": {"n": 1},
    }
    with pytest.raises(ValueError, match="result x: a object cannot be written"):
        pipeline.record(mine, "01_one", x=object())


def test_damaged_run_json_is_named(folder):
    (pipeline.run_folder("mine") / "run.json").write_text("{")
    with pytest.raises(pipeline.RunStopped, match="run.json is not JSON"):
        pipeline.record(pipeline.run_folder("mine"), "01_one", x=1)


# Running


@pytest.mark.notebooks
def test_run_is_done_once_and_again_when_its_inputs_change(folder, package, capsys):
    hostile = "quo\"te 'n {brace} \\n ümlaut\nline"
    show = "print(seed, rate, fast, methods)\npipeline.record(folder, '01_one', text=text)"
    texts = DECLARED + 'text: str = ""  # any text\n'
    write_notebook(folder / "01_one.ipynb", FOLDER, show, declares=texts)
    write_notebook(folder / "02_two.ipynb", FOLDER, "print(globals().get('seed'))", declares=RUN_ONLY)

    def notebooks_run(*settings) -> list[str]:
        pipeline.run("small", [f"text={hostile}", *settings], notebooks=folder)
        lines = capsys.readouterr().out.splitlines()
        return [line.split()[1] for line in lines if line.endswith(" s") and line.startswith("[")]

    assert notebooks_run() == ["01_one", "02_two"]
    assert executed("small") == {"01_one.ipynb", "01_one.html", "02_two.ipynb", "02_two.html"}
    assert run_json("small")["results"]["01_one"] == {"text": hostile}
    step = run_json("small")["steps"]["01_one"]
    assert step["parameters"]["rate"] == 1e-4 and step["versions"]["python"] and step["seconds"] > 0
    assert run_json("small")["steps"]["02_two"]["parameters"] == {"run": "small"}
    second = nbformat.read(pipeline.runs_folder() / "small/notebooks/02_two.ipynb", as_version=4)
    assert second.cells[-1].outputs[0].text == "None\n"  # seed, which it does not declare, did not reach it

    assert notebooks_run() == []
    assert notebooks_run("seed=6") == ["01_one", "02_two"]
    (pipeline.runs_folder() / "small/notebooks/02_two.html").unlink()
    assert notebooks_run("seed=6") == ["02_two"]


def test_page_fetches_nothing(folder, tmp_path):
    path = write_notebook(folder / "01_one.ipynb", "1")
    notebook._write_page(nbformat.read(path, as_version=4), tmp_path / "01_one.ipynb")
    page = (tmp_path / "01_one.html").read_text()
    assert "<title>01_one</title>" in page
    assert "<script" not in page and "@import" not in page and 'href="http' not in page


def test_page_shows_the_end_of_a_progress_bar_only(folder, tmp_path):
    node = nbformat.read(write_notebook(folder / "01_one.ipynb", "1"), as_version=4)
    texts = ("begun\n", "\rscoring:   0%", "\rscoring:  50%", "\rscoring: 100%\n", "done\n")
    node.cells[2].outputs = [nbformat.from_dict(stream(text, "stderr")) for text in texts]
    notebook._write_page(node, tmp_path / "01_one.ipynb")
    page = (tmp_path / "01_one.html").read_text()
    assert all(text in page for text in ("begun", "scoring: 100%", "done"))
    assert "scoring:   0%" not in page and "scoring:  50%" not in page
    assert len(node.cells[2].outputs) == 5  # the notebook itself keeps them


def test_fingerprint_depends_on_all_that_a_notebook_runs_and_reads(folder, package, monkeypatch):
    monkeypatch.setattr(pipeline, "READS", {"03_n": "figures/a-*.json"})
    (package / "worlds").mkdir()
    (package / "worlds" / "a.yaml").write_text("a: 1")
    paths = [write_notebook(folder / f"0{n}_n.ipynb", "1") for n in (1, 2, 3)]
    steps = {path.stem: {"seed": 0} for path in paths}

    def changed(before: dict) -> list[str]:
        after = pipeline.fingerprints(paths, steps, package)
        return [name for name in after if after[name] != before[name]]

    start = pipeline.fingerprints(paths, steps, package)
    assert changed(start) == []
    write_notebook(paths[2], "2")
    assert changed(start) == ["03_n"]
    write_notebook(paths[2], "1")
    record = folder.parent / "figures" / "a-1.json"
    record.parent.mkdir()
    record.write_text("{}")
    assert changed(start) == ["03_n"]
    record.unlink()
    assert changed(start) == []
    steps["02_n"] = {"seed": 1}
    assert changed(start) == ["02_n", "03_n"]
    (package / "worlds" / "a.yaml").write_text("a: 2")
    assert changed(start) == ["01_n", "02_n", "03_n"]
    (package / "worlds" / "a.yaml").write_text("a: 1")
    steps["02_n"] = {"seed": 0, "world": "own", "data": str(folder / "mine")}
    (folder / "mine").mkdir()
    (folder / "mine" / "titles.parquet").write_text("1")
    start = pipeline.fingerprints(paths, steps, package)
    assert changed(start) == []
    (folder / "mine" / "titles.parquet").write_text("22")
    assert changed(start) == ["02_n", "03_n"]


def test_missing_product_runs_its_notebook_again(folder):
    mine = pipeline.run_folder("mine")
    for name in ("notebooks/01_one.ipynb", "notebooks/01_one.html", "log/titles.parquet"):
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).touch()
    step = {"fingerprint": "f", "products": ["log"]}
    (mine / "run.json").write_text(json.dumps({"steps": {"01_one": step}}))
    assert pipeline._is_finished(mine, "01_one", "f")
    assert not pipeline._is_finished(mine, "01_one", "g")
    (mine / "log" / "titles.parquet").unlink()
    (mine / "log").rmdir()
    assert not pipeline._is_finished(mine, "01_one", "f")


@pytest.mark.notebooks
def test_failing_cell_is_shown_and_leaves_nothing_finished(folder, capsys):
    write_notebook(folder / "01_one.ipynb", "x = 1", "raise ValueError('no \\x1b[31mgood')", "x = 2")
    write_notebook(folder / "02_two.ipynb", "1")
    assert cli.main(["run", "--profile", "demo", "--notebooks", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "01_one failed in cell 4: ValueError: no good" in error
    assert "----> 1 raise ValueError" in error and "\x1b" not in error and "papermill/" not in error
    assert executed() == {"01_one.failed.ipynb"}
    assert "steps" not in run_json() or run_json()["steps"] == {}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("import os; os._exit(9)", "cell 3 lost its kernel"),
        ("import time; time.sleep(30)", "cell 3 took too long"),
        ("import sys; sys.exit()", "ended before cell 4"),
    ],
)
def test_lost_kernel_slow_cell_and_exit_are_told_apart(folder, tmp_path, cell, message):
    path = write_notebook(folder / "01_one.ipynb", cell, "1")
    timeout = 2 if "sleep" in cell else None
    with pytest.raises(notebook.NotebookFailed, match=message):
        notebook.execute(path, tmp_path / "out" / path.name, {"seed": 1}, timeout=timeout)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["01_one.failed.ipynb"]


@pytest.mark.notebooks
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_run_leaves_nothing_finished_no_kernel_and_no_lock(folder, tmp_path, signal_):
    wait = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    write_notebook(folder / "01_one.ipynb", wait)
    command = [sys.executable, "-m", "artlib", "run", "--profile", "demo", "--notebooks", str(folder)]
    # A shell lets its background jobs ignore SIGINT, and children inherit that: tests may run in one.
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as runner:  # fmt: skip
        kernel = int(_wait_for(lambda: (tmp_path / "pid").read_text()))
        with pytest.raises(pipeline.RunStopped, match="in use by another runner"):
            pipeline.run("demo", notebooks=folder)
        runner.send_signal(signal_)
        code = runner.wait(timeout=15)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signal_]
    assert not {"01_one.ipynb", "01_one.html"} & executed()
    assert not run_json().get("steps")
    _wait_for(lambda: not Path(f"/proc/{kernel}").exists() or "Z" in Path(f"/proc/{kernel}/stat").read_text())
    filelock.FileLock(pipeline.runs_folder() / "demo" / ".lock", timeout=0).acquire()


def _wait_for(answer, seconds: float = 20.0):
    """What `answer` gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := answer():
                return found
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.notebooks
def test_kernel_is_this_interpreter_whatever_kernels_the_user_has(folder, tmp_path, monkeypatch):
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "other", "language": "python"}
    other = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = write_notebook(folder / "01_one.ipynb", "import sys, os; print(sys.executable, os.getcwd())")
    notebook.execute(path, tmp_path / path.name, {"seed": 1})
    text = nbformat.read(tmp_path / path.name, as_version=4).cells[-1].outputs[0].text
    assert text == f"{sys.executable} {folder}\n"


def test_finished_notebooks_after_a_changed_one_are_taken_back(folder):
    mine = pipeline.run_folder("mine")
    (mine / "notebooks").mkdir()
    for name in (
        "01_one.ipynb",
        "02_two.ipynb",
        "02_two.html",
        "02_two.failed.ipynb",
        ".02_two.partial.ipynb",
    ):
        (mine / "notebooks" / name).touch()
    content = {"steps": {"01_one": {}, "02_two": {}}, "results": {"02_two": {}}}
    (mine / "run.json").write_text(json.dumps(content))
    pipeline._forget(mine, ["02_two"])
    assert executed("mine") == {"01_one.ipynb"}
    assert run_json("mine") == {"steps": {"01_one": {}}, "results": {}}


def test_environment_for_kernels_is_absolute(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARTLIB_RUNS", "relative")
    monkeypatch.setenv("ARTLIB_DATA", "data")
    pipeline._set_environment()
    assert os.environ["ARTLIB_RUNS"] == str(tmp_path / "relative")
    assert os.environ["ARTLIB_DATA"] == str(tmp_path / "data")
    assert os.environ["PYTHONPATH"] == str(pipeline.root())


def test_terminal_shows_lines_and_thins_out_progress_bars(capsys, monkeypatch):
    monkeypatch.setattr(notebook.time, "monotonic", lambda: 5.0)  # a machine that has just started
    terminal = notebook._Terminal(every=1000)
    for text in ["one\ntw", "o\n\n", *(f"\r{n}%" for n in range(100)), "\r100%\n", "\x1b[31mred\x1b[0m"]:
        terminal.write(text)
    terminal.close()
    assert capsys.readouterr().out.split("\n") == ["    one", "    two", "    0%", "    100%", "    red", ""]


# Publishing


def ran(folder: Path, *cells_outputs: tuple[str, list], profile: str = "demo") -> tuple[Path, dict]:
    """A notebook, as if its run had given these outputs."""
    source = write_notebook(folder / "01_one.ipynb", *(cell for cell, _ in cells_outputs))
    mine = pipeline.run_folder(profile)
    done = nbformat.read(source, as_version=4)
    for cell, (_, outputs) in zip(done.cells[2:], cells_outputs, strict=True):
        cell.outputs = [nbformat.from_dict(output) for output in outputs]
    done.cells.insert(2, new_code_cell("seed = 0", metadata={"tags": ["injected-parameters"]}))
    for count, cell in enumerate(done.cells[1:], 1):
        cell.execution_count = count
        cell.metadata["papermill"] = {"status": "completed"}
    done.metadata["papermill"] = {"input_path": str(source)}
    (mine / "notebooks").mkdir()
    nbformat.write(done, mine / "notebooks" / source.name)
    (mine / "figures").mkdir()
    (mine / "figures" / "lift.png").write_bytes(b"png")
    (mine / "figures" / "stale.png").write_bytes(b"of other parameters")
    step = {"started": "2026-01-01", "commit": "c0ffee", "versions": {"torch": "2"}, "figures": ["lift.png"]}
    return mine, {"profile": profile, "command": "python -m artlib run", "steps": {"01_one": step}}


def publish_run(folder: Path, mine: Path, content: dict, **values) -> list[str]:
    known = parameters.known([folder / "01_one.ipynb"])
    values = {name: parameter.default for name, parameter in known.items()} | values
    return publish.publish(mine, content, [folder / "01_one.ipynb"], known, values)


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def display(**data) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": data}


def test_publishing_cleans_outputs_and_writes_provenance(folder):
    widget = "application/vnd.jupyter.widget-view+json"
    result = {
        "output_type": "execute_result",
        "execution_count": 9,
        "metadata": {},
        "data": {"text/plain": "7"},
    }
    picture = display(**{"image/png": "iVBOR/tmp/x", "text/plain": "<Figure>"})
    outputs = [
        stream("a\n"),
        stream("warning", "stderr"),
        stream("\r1%\r100%\nb\n"),
        display(**{widget: {}}),
        display(**{"text/html": "<progress value='1'>"}),
        picture,
        result,
    ]
    mine, content = ran(folder, ("print('a')", outputs), ("print(folder)", []))
    node = nbformat.read(mine / "notebooks" / "01_one.ipynb", as_version=4)
    text = f"{mine}/log {mine} {folder.parent}/x {folder.parent} {sys.prefix}/lib\n"
    node.cells[-1].outputs = [nbformat.from_dict(stream(text))]
    nbformat.write(node, mine / "notebooks" / "01_one.ipynb")

    said = publish_run(folder, mine, content)
    node = nbformat.read(folder / "01_one.ipynb", as_version=4)
    assert [cell.source for cell in node.cells[2:]] == ["print('a')", "print(folder)"]
    assert [cell.execution_count for cell in node.cells[1:]] == [1, 2, 3]
    kept = node.cells[2].outputs
    assert [output.output_type for output in kept] == ["stream", "display_data", "execute_result"]
    assert kept[0].text == "a\n100%\nb\n" and kept[1].data["image/png"] == "iVBOR/tmp/x"
    assert kept[2].execution_count == 2
    assert node.cells[3].outputs[0].text == "runs/demo/log runs/demo x . <python>/lib\n"
    assert "papermill" not in nbformat.writes(node) and node.metadata.kernelspec.name == "python3"
    assert node.metadata.artlib == {"run": "demo", "code": publish.code_hash(node)}

    figure = folder.parent / "figures" / "lift.png"
    assert said == [f"published {figure}", f"published {folder / '01_one.ipynb'}"]
    provenance = json.loads(figure.with_suffix(".json").read_text())
    assert provenance["sha256"] == hashlib.sha256(b"png").hexdigest()
    assert (provenance["commit"], provenance["profile"]) == ("c0ffee", "demo")
    assert provenance["date"] == "2026-01-01"
    assert provenance["parameters"]["seed"] == 0 and provenance["versions"] == {"torch": "2"}


def test_other_parameters_publish_figures_under_their_own_name_and_no_notebooks(folder):
    mine, content = ran(folder, ("1", []), profile="small")
    before = (folder / "01_one.ipynb").read_bytes()
    said = publish_run(folder, mine, content, run="small", seed=5)
    assert (folder / "01_one.ipynb").read_bytes() == before
    assert "notebooks not published" in said[-1] and "seed = 5 (not 0)" in said[-1]
    figures = {path.name for path in (folder.parent / "figures").iterdir()}
    assert figures == {"small-lift.png", "small-lift.json"}


@pytest.mark.parametrize(
    "path", ["/home/me/data", "path=/tmp/x1", "log:/Users/y", "file:///srv/x", "C:\\Users\\me", "/Users/me/x"]
)
def test_foreign_local_path_is_refused_before_anything_is_written(folder, path):
    mine, content = ran(folder, ("1", [stream(f"read {path}\n")]))
    before = (folder / "01_one.ipynb").read_bytes()
    with pytest.raises(publish.PublishError, match="is a path of this machine's"):
        publish_run(folder, mine, content)
    assert (folder / "01_one.ipynb").read_bytes() == before
    assert not (folder.parent / "figures").exists()


def test_address_is_no_local_path():
    assert not publish.LOCAL_PATH.search("see https://example.org/home/x and runs/tmp/y and ~/home/")


def test_notebook_changed_since_its_run_is_not_published(folder):
    mine, content = ran(folder, ("1", []))
    write_notebook(folder / "01_one.ipynb", "2")
    with pytest.raises(publish.PublishError, match="changed since"):
        publish_run(folder, mine, content)


@pytest.mark.notebooks
def test_run_publishes_end_to_end_and_stays_finished(folder, package, capsys):
    draw = "(folder / 'figures').mkdir(exist_ok=True)\n(folder / 'figures' / 'a.png').write_bytes(b'png')"
    write_notebook(folder / "01_one.ipynb", FOLDER, draw, "print(folder)")
    arguments = ["run", "--profile", "demo", "--publish", "--notebooks", str(folder)]
    assert cli.main(arguments) == 0
    assert (folder.parent / "figures" / "a.json").exists()
    assert nbformat.read(folder / "01_one.ipynb", as_version=4).cells[-1].outputs[0].text == "runs/demo\n"
    assert cli.main(arguments) == 0
    assert "[1/1] 01_one ... unchanged, skipped" in capsys.readouterr().out
    assert cli.main([*arguments, "--force"]) == 0
    assert "skipped" not in capsys.readouterr().out


# Checking a log


def test_validate_tells_counts_or_faults(capsys, tmp_path):
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    impression = {
        "impression_id": ["i1"], "user_id": ["u1"], "title_id": ["t1"], "timestamp": [day],
        "candidates": [["a1", "a2"]], "shown": [0], "propensity": [0.5], "reward": [1.0],
        "production": [[0.5, 0.5]], "split": ["test"],
    }  # fmt: skip
    titles = {"title_id": ["t1"], "name": ["N"], "year": [None], "genres": [["G"]], "synopsis": ["s"]}
    artworks = {
        "artwork_id": ["a1", "a2"],
        "title_id": ["t1"] * 2,
        "caption": ["c", "d"],
        "image": [None] * 2,
    }
    histories = {"user_id": [], "title_id": [], "timestamp": [], "weight": []}

    def validate(name: str, **changes) -> int:
        columns = {"titles": titles, "artworks": artworks, "histories": histories}
        columns["impressions"] = impression | changes
        log.Log(manifest={"world": "own"}, **{n: log.table(n, c) for n, c in columns.items()}).save(
            tmp_path / name
        )
        return cli.main(["validate", str(tmp_path / name)])

    assert validate("good") == 0
    assert capsys.readouterr().out.split() == "titles 1 artworks 2 histories 0 impressions 1".split()
    assert validate("bad", propensity=[1.5]) == 1
    out, error = capsys.readouterr()
    assert "propensity" in error and not out
    assert cli.main(["validate", str(tmp_path / "none")]) == 1
