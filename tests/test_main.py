"""The command line."""

import datetime
import subprocess
import sys

import pytest
from made_notebooks import write_notebook

from artlib import __main__ as cli
from artlib import data
from artlib.data import Log
from artlib.running import run_folder


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
    assert not run_folder.runs_folder().exists()


def test_parameters_command_lists_all(folder, capsys):
    write_notebook(folder / "01_one.ipynb")
    assert cli.main(["parameters", "--notebooks", str(folder)]) == 0
    assert "rate: float = 0.001  # learning rate  [01_one]" in capsys.readouterr().out


def test_a_reader_who_has_read_enough_ends_it_quietly(folder):
    write_notebook(folder / "01_one.ipynb")
    command = [sys.executable, "-m", "artlib", "parameters", "--notebooks", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        listing.stdout.close()  # as `head -0` does
        assert (listing.wait(timeout=60), listing.stderr.read()) == (0, "")


def test_validate_says_what_is_odd_beside_the_counts(small_log, tmp_path, capsys):
    import dataclasses

    dataclasses.replace(small_log, histories=small_log.histories.slice(0, 0)).save(tmp_path / "log")
    assert cli.main(["validate", str(tmp_path / "log")]) == 0
    said = capsys.readouterr()
    assert "impressions" in said.out and said.err.startswith("warning: histories.parquet has no rows")


def test_starting_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'unsloth', 'sklearn', 'matplotlib', 'papermill', 'nbconvert'}"
    code = f"import sys, artlib.__main__, artlib.running.pipeline; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_validate_tells_counts_or_faults(capsys, tmp_path):
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    impression = {
        "impression_id": ["i1"],
        "user_id": ["u1"],
        "title_id": ["t1"],
        "timestamp": [day],
        "candidates": [["a1", "a2"]],
        "shown": [0],
        "propensity": [0.5],
        "reward": [1.0],
        "production": [[0.5, 0.5]],
        "split": ["test"],
    }
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
        Log(manifest={"world": "own"}, **{n: data.table(n, c) for n, c in columns.items()}).save(tmp_path / name)
        return cli.main(["validate", str(tmp_path / name)])

    assert validate("good") == 0
    assert capsys.readouterr().out.split() == "titles 1 artworks 2 histories 0 impressions 1 valid".split()
    assert validate("bad", propensity=[1.5]) == 1
    out, error = capsys.readouterr()
    assert "propensity" in error and not out
    assert cli.main(["validate", str(tmp_path / "none")]) == 1
