"""The runner, on small notebooks made here."""

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
from made_notebooks import DECLARED, FOLDER, RUN_ONLY, write_notebook

from artlib import __main__ as cli
from artlib.lm import machine
from artlib.running import forecast, parameters, pipeline, run_folder


def run_json(name: str = "demo") -> dict:
    return json.loads((run_folder.runs_folder() / name / "run.json").read_text())


def executed(name: str = "demo") -> set[str]:
    return {path.name for path in (run_folder.runs_folder() / name / "notebooks").iterdir()}


# A run's folder


def test_runs_folder_is_the_environments_else_the_repositorys(monkeypatch, tmp_path):
    monkeypatch.setenv("ARTLIB_RUNS", str(tmp_path))
    assert run_folder.runs_folder() == tmp_path
    monkeypatch.delenv("ARTLIB_RUNS")
    assert run_folder.runs_folder() == Path(__file__).resolve().parents[2] / "runs"


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
    with pytest.raises(run_folder.MissingStep) as error:
        run_folder.of("mine", needs=[need])
    assert f"notebook {maker} makes it" in str(error.value)
    assert "python -m artlib run --profile demo --run mine" in str(error.value)
    assert not (run_folder.runs_folder() / "mine").exists()


def test_missing_step_names_the_command_that_began_the_run(folder):
    mine = run_folder.of("mine")
    (mine / "run.json").write_text(json.dumps({"command": "python -m artlib run --run mine --set world=own"}))
    with pytest.raises(run_folder.MissingStep, match="or `python -m artlib run --run mine --set world=own`"):
        run_folder.of("mine", needs=["log"])


def test_folders_mean_the_same_to_the_notebooks_wherever_they_run(folder, monkeypatch):
    write_notebook(folder / "01_one.ipynb", "1", declares='run: str = "demo"  # name\ndata: str = ""  # folder')
    (folder.parent / "mylog").mkdir()
    monkeypatch.chdir(folder.parent)
    ran = []
    monkeypatch.setattr(pipeline, "_run_steps", lambda paths, known, values, *_: ran.append(values["data"]))
    for data in ("mylog", ""):
        pipeline.run("demo", [f"data={data}"], notebooks=folder)
    with pytest.raises(parameters.ParameterError, match="parameter data: 'elsewhere' is not a folder"):
        pipeline.run("demo", ["data=elsewhere"], notebooks=folder)
    assert ran == [str(folder.parent / "mylog"), ""]


def test_models_in_folders_do_too_and_embedded_ones_stay_what_they_are(folder, monkeypatch):
    declares = "\n".join(f'{name}: str = ""  # {name}' for name in ("run", "base", "encoder"))
    declares += "\noverrides: dict = {}  # settings"
    write_notebook(folder / "01_one.ipynb", "1", declares=declares.replace('run: str = ""', 'run: str = "demo"'))
    for name in ("models", "tiny", "all-MiniLM-L6-v2"):
        (folder.parent / name).mkdir()
    monkeypatch.chdir(folder.parent)
    ran = []
    monkeypatch.setattr(pipeline, "_run_steps", lambda paths, known, values, *_: ran.append(values))
    pipeline.run("demo", ["base=models", "encoder=models", "teacher=models"], notebooks=folder)
    pipeline.run("demo", ["base=tiny", "encoder=all-MiniLM-L6-v2"], notebooks=folder)
    there = str(folder.parent / "models")
    assert [(values["base"], values["encoder"]) for values in ran] == [(there, there), ("tiny", "all-MiniLM-L6-v2")]
    assert ran[0]["overrides"] == {"teacher": there}


def test_present_step_is_no_error(folder):
    (run_folder.of("mine") / "log").mkdir()
    assert run_folder.of("mine", needs=["log"]) == run_folder.runs_folder() / "mine"


def test_record_merges_and_converts(folder):
    mine = run_folder.of("mine")
    run_folder.record(mine, "01_one", notebook=np.float32(0.5), n=np.int64(3), ok=np.bool_(True))
    run_folder.record(mine, "01_one", n=np.array([1, 2]), bad=np.inf, path=Path("a"), deep={1: (np.nan, "x")})
    run_folder.record(mine, "02_two", n=1)
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
        run_folder.record(mine, "01_one", x=object())


def test_damaged_run_json_is_named(folder):
    (run_folder.of("mine") / "run.json").write_text("{")
    with pytest.raises(run_folder.RunStopped, match="run.json is not JSON"):
        run_folder.record(run_folder.of("mine"), "01_one", x=1)


# Running


def test_notebook_without_run_is_refused(folder):
    write_notebook(folder / "01_one.ipynb", declares="# No run\nseed: int = 0  # base seed\n")
    with pytest.raises(parameters.ParameterError, match="declares no parameter `run: str`"):
        pipeline.run("demo", notebooks=folder)


@pytest.mark.notebooks
def test_run_is_done_once_and_again_when_its_inputs_change(folder, package, capsys):
    hostile = "quo\"te 'n {brace} \\n ümlaut\nline"
    show = "print(seed, rate, fast, methods)\nrun_folder.record(folder, '01_one', text=text)"
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
    second = nbformat.read(run_folder.runs_folder() / "small/notebooks/02_two.ipynb", as_version=4)
    assert second.cells[-1].outputs[0].text == "None\n"  # seed, which it does not declare, did not reach it

    assert notebooks_run() == []
    assert notebooks_run("seed=6") == ["01_one", "02_two"]
    (run_folder.runs_folder() / "small/notebooks/02_two.html").unlink()
    assert notebooks_run("seed=6") == ["02_two"]


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
    mine = run_folder.of("mine")
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


@pytest.mark.notebooks
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_run_leaves_nothing_finished_no_kernel_and_no_lock(folder, tmp_path, signal_):
    wait = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    write_notebook(folder / "01_one.ipynb", wait)
    command = [sys.executable, "-m", "artlib", "run", "--profile", "demo", "--notebooks", str(folder)]
    # A shell lets its background jobs ignore SIGINT, and children inherit that: tests may run in one.
    with subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as runner:
        kernel = int(_wait_for(lambda: (tmp_path / "pid").read_text()))
        with pytest.raises(run_folder.RunStopped, match="in use by another runner"):
            pipeline.run("demo", notebooks=folder)
        runner.send_signal(signal_)
        code = runner.wait(timeout=15)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signal_]
    assert not {"01_one.ipynb", "01_one.html"} & executed()
    assert not run_json().get("steps")
    _wait_for(lambda: not Path(f"/proc/{kernel}").exists() or "Z" in Path(f"/proc/{kernel}/stat").read_text())
    filelock.FileLock(run_folder.runs_folder() / "demo" / ".lock", timeout=0).acquire()


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


def test_finished_notebooks_after_a_changed_one_are_taken_back(folder):
    mine = run_folder.of("mine")
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


def test_the_time_to_go_is_told_from_the_rates_and_corrected_by_what_it_took(folder, monkeypatch, capsys):
    monkeypatch.setattr(machine, "best_type", lambda: "float32")
    monkeypatch.setattr(machine, "rate", lambda dtype, **_: 1e10)
    record = folder.parent / forecast.DURATIONS
    forecast.record(record, "small", {"01_one": {"seconds": 60.0}, "02_two": {"seconds": 30.0}})
    monkeypatch.setattr(machine, "rate", lambda dtype, **_: 5e9)  # half as fast
    expected = forecast.Forecast.of("small", folder)
    assert capsys.readouterr().out.startswith("about 3 min 0 s on this machine, with the profile's own settings: ")
    assert expected.to_go(["02_two"]) == 60
    expected.learn("01_one", 240.0)  # four times as long as there
    assert expected.to_go(["02_two"]) == 120
    assert forecast.Forecast.of("demo", folder).to_go(["01_one"]) == 0 and capsys.readouterr().out == ""


def test_environment_for_kernels_is_absolute(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARTLIB_RUNS", "relative")
    monkeypatch.setenv("ARTLIB_DATA", "data")
    pipeline._set_environment()
    assert os.environ["ARTLIB_RUNS"] == str(tmp_path / "relative")
    assert os.environ["ARTLIB_DATA"] == str(tmp_path / "data")
    assert os.environ["PYTHONPATH"] == str(run_folder.root())


def test_commit_says_whether_what_was_run_is_what_was_committed(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    assert run_folder.commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "figures").mkdir()
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = run_folder.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "figures" / "results.json").write_text("{}")
    assert (run_folder.commit(tmp_path), run_folder.commit(tmp_path, but="figures")) == (f"{clean}+changes", clean)
    (tmp_path / "code.py").write_text("2")
    assert run_folder.commit(tmp_path / "figures", but="figures") == f"{clean}+changes"
