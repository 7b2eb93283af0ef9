"""Small notebooks for the tests of what runs them."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DECLARED = """\
run: str = "demo"  # name of the run
seed: int = 0  # base seed
rate: float = 0.001  # learning rate
fast: bool = False  # take fewer steps
methods: list = ["sft"]  # what to train
"""
RUN_ONLY = '# Its only parameter\nrun: str = "demo"  # name of the run\n'
FOLDER = "from artlib.running import run_folder\nfolder = run_folder.of(run)"


def write_notebook(path: Path, *cells: str, declares: str = DECLARED) -> Path:
    """A notebook with a title, a parameters cell and the given code cells."""
    tagged = new_code_cell(declares, metadata={"tags": ["parameters"]})
    made = new_notebook(cells=[new_markdown_cell("# Title"), tagged, *map(new_code_cell, cells)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}
