"""One notebook through papermill, and its page."""

import json
import sys

import nbformat
import pytest
from made_notebooks import stream, write_notebook

from artlib.running import notebook


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
