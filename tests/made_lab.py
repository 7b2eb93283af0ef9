"""JupyterLab as `make lab` serves it, and what a person does there: open, choose from a menu, run, save."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

from artlib.running import notebook, parameters

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[1]
# Cells out of view are to be in the page, too, and nothing is to ask whether it may fetch news.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# Tests that are killed do not end their server: it ends by itself, minutes after its kernels were last of use.
OPTIONS = "--no-browser --MappingKernelManager.cull_idle_timeout=300 --ServerApp.shutdown_no_activity_timeout=300"
SECONDS = 120  # the most that anything may take; an idle machine needs a few
IDLE = '#jp-main-statusbar :text("| Idle")'  # the notebook's own sign is so before there is a kernel
# What raised looks as what was written to stderr.
ERRORS = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]'
DIALOG = ".jp-Dialog"
# All cells have a number, or none waits any more and something says why.
DONE = f"""cells => {{
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent);
    const numbered = prompts.filter(text => /[0-9]/.test(text)).length;
    const stopped = document.querySelector('{ERRORS}') && !prompts.some(text => text.includes('*'));
    return numbered >= cells || stopped || document.querySelector('{DIALOG}');
}}"""


@contextlib.contextmanager
def serving(folder: Path, **variables: str) -> Iterator[tuple[str, str]]:
    """What `make lab` serves in a folder with `notebooks/`: its address and token. Nothing of it outlives the block.

    The settings, kernels and history of whoever runs the tests stay out.
    """
    for name, values in SETTINGS.items():
        path = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    # A `make` around the tests hands down its ARGS.
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("JUPYTER", "MAKE", "MFLAGS"))}
    homes = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("config", "data", "runtime")}
    command = ["make", "-f", str(ROOT / "Makefile"), "-C", str(folder), "lab", "READY=", f"PYTHON={sys.executable}"]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [*command, f"ARGS={OPTIONS}"],
            env=clean | homes | {"IPYTHONDIR": str(folder / "ipython")} | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield _address(server, folder)
    finally:
        _end(server)


def _address(server: subprocess.Popen, folder: Path) -> tuple[str, str]:
    """Where the server says that it listens: it takes the first port that is free."""
    deadline = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        for path in (folder / "runtime").glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):  # half written
                said = json.loads(path.read_text())
                return said["url"], said["token"]
        time.sleep(0.1)
    raise RuntimeError(f"make lab does not serve:\n{(folder / 'lab.log').read_text()[-2000:]}")


def _end(server: subprocess.Popen) -> None:
    """Ask the server to end its kernels and itself; kernels of a server that had to be killed miss it, and end."""
    for asked in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, asked)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)


def processes(variable: str) -> list[str]:
    """The command lines of those whose environment has `NAME=value`; none where there is no /proc."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in environment.read_bytes().split(b"\0"):
                found.append((environment.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def small_copy(stem: str, folder: Path, run: str) -> Path:
    """A committed notebook without outputs, with the profile test's values as papermill injects them."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = ROOT / "notebooks" / f"{stem}.ipynb"
    profile = source.parent / "profiles" / "test.yaml"
    values = parameters.resolve(parameters.known(sorted(source.parent.glob("*.ipynb"))), profile, run=run)
    own = {parameter.name: values[parameter.name] for parameter in parameters.declared(source)}
    node = parameterize_notebook(load_notebook_node(str(source)), own)
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(node, folder / source.name)
    return folder / source.name


def choose(page: Page, menu: str, item: str) -> None:
    """Choose from the menu bar."""
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.locator(".lm-Menu").get_by_text(item, exact=True).click()


def run_all(page: Page, path: Path) -> nbformat.NotebookNode:
    """Run all cells of the open notebook, until all have run or one has failed; save it, and what the file then has."""
    page.locator(IDLE).wait_for()
    choose(page, "Run", "Run All Cells")
    cells = sum(1 for cell in notebook.read(path).cells if cell.cell_type == "code" and cell.source)
    page.wait_for_function(DONE, arg=cells)
    dialog = page.locator(DIALOG)
    assert dialog.count() == 0, f"JupyterLab asks: {dialog.first.inner_text()}"
    page.locator(IDLE).wait_for()
    choose(page, "File", "Save Notebook")
    page.locator(".jp-mod-dirty").first.wait_for(state="detached")
    return notebook.read(path)


def faults(node: nbformat.NotebookNode) -> list[str]:
    """What went wrong in a notebook that was run: cells that raised, complained or did not run."""
    found = []
    for number, cell in enumerate(node.cells, 1):
        if cell.cell_type != "code" or not cell.source:
            continue
        if cell.execution_count is None:
            found.append(f"cell {number} did not run")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number} raised {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"cell {number} wrote to stderr: {output.text}")
    return found


def change_first_choice(page: Page) -> tuple[str, str]:
    """Take another option of the first drop-down of the widgets: what they said before, and what they then say."""
    widgets: Locator = page.locator(".jp-OutputArea-output").filter(has=page.locator(".jupyter-widgets select")).first
    select = widgets.locator("select").first
    select.wait_for()
    before = widgets.inner_text()
    last = select.locator("option").count() - 1
    select.select_option(index=last if select.evaluate("select => select.selectedIndex") != last else 0)
    page.wait_for_function(
        "([widgets, before]) => widgets.innerText !== before", arg=[widgets.element_handle(), before]
    )
    select.scroll_into_view_if_needed()
    return before, widgets.inner_text()
