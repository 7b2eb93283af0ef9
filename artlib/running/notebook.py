"""One notebook, run through papermill: finished whole or not at all, its output seen as it comes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from traitlets import default

from artlib import ArtlibError, files
from artlib.running.display import Display, without_colours

if TYPE_CHECKING:
    import nbformat

# nbconvert's page without what it would fetch from the network.
_PAGE = "{% extends 'lab/index.html.j2' %}" + "".join(
    f"{{% block {name} %}}{{% endblock %}}"
    for name in ("html_head_js", "jupyter_widgets", "html_head_js_mathjax", "html_head_js_mermaidjs")
)


# A kernel has a session of its own, which a killed runner's group would leave behind, computing. Linux ends it at once;
# elsewhere it looks every second whether its parent is there.
_KERNEL = (
    "import ctypes, runpy, signal, sys; "
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, signal.SIGKILL); "  # PR_SET_PDEATHSIG
    "runpy.run_module('ipykernel_launcher', run_name='__main__')"
)


class NotebookFailed(ArtlibError, RuntimeError):
    """A cell raised an error, took too long or lost its kernel."""


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook from its file."""
    import nbformat  # with all that it imports, it takes seconds: nothing is printed before

    return nbformat.read(path, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[str]:
    """The sources of a notebook's code cells, without those that papermill put in."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code" and not is_added(cell)]


def is_added(cell: nbformat.NotebookNode) -> bool:
    """Whether papermill put this cell in."""
    return bool({"injected-parameters", "papermill-error-cell-tag"} & set(cell.metadata.get("tags", [])))


def execute(
    notebook: Path,
    target: Path,
    values: dict,
    label: str = "",
    timeout: int | None = None,
    expected: float | None = None,
) -> None:
    """Run one notebook into `target`, with an HTML page beside it; neither appears before all cells have run.

    Args:
        notebook: the source.
        target: where the executed notebook goes.
        values: its parameters.
        label: of the notebook, for its progress.
        timeout: seconds a cell may take.
        expected: seconds that the notebook will take, about.

    Raises:
        NotebookFailed: a cell failed or the kernel died. What ran until then is left in `NAME.failed.ipynb`.
    """
    partial = target.with_name(f".{target.stem}.partial.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        executed = _papermill(notebook, partial, values, timeout, Display(label, expected))
    except BaseException as error:
        if partial.exists():
            os.replace(partial, failed)
        if isinstance(error, NotebookFailed):
            raise NotebookFailed(f"{target.stem} {error}\nsee {failed}") from None
        raise
    _write_page(executed, target)
    os.replace(partial, target)


def _papermill(
    notebook: Path, partial: Path, values: dict, timeout: int | None, display: Display
) -> nbformat.NotebookNode:
    """Run a notebook into `partial`; its errors become NotebookFailed, to follow the notebook's name."""
    # Slow to import, and needed by no notebook.
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        executed = papermill.execute_notebook(
            # papermill sends paths through str.format.
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, partial)),
            parameters=values,
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            progress_bar=False,
            stdout_file=display,
            stderr_file=display,
            start_timeout=180,
            iopub_timeout=60,  # nbclient's 4 s are too few for a machine whose cores are all training
            execution_timeout=timeout,
            kernel_manager_class=_ThisInterpreter,
        )
    except papermill.PapermillExecutionError as error:
        traceback = without_colours("\n".join(error.traceback)).splitlines()[-12:]
        message = without_colours(f"{error.ename}: {error.evalue}")
        # In the file, papermill put a cell before the failed one and one at the top.
        where = _cell(read(partial), error.cell_index + 2)
        raise NotebookFailed("\n".join([f"failed in {where}: {message}", *traceback])) from None
    except (DeadKernelError, CellTimeoutError) as error:
        cells = read(partial)
        started = [n for n, cell in enumerate(cells.cells) if cell.metadata.papermill.start_time]
        reason = "lost its kernel (out of memory?)" if isinstance(error, DeadKernelError) else "took too long"
        where = _cell(cells, started[-1]) if started else "the first cell"
        raise NotebookFailed(f"failed: {where} {reason}") from None
    except RuntimeError as error:
        if "kernel" not in str(error).lower():
            raise
        raise NotebookFailed(f"failed: its kernel did not start ({error}); is the machine busy?") from None
    finally:
        display.close()
    for number, cell in enumerate(executed.cells):
        if cell.cell_type == "code" and cell.source and cell.execution_count is None:
            raise NotebookFailed(f"ended before {_cell(executed, number)}; did a cell call exit()?")
    return executed


class _ThisInterpreter(AsyncKernelManager):
    """Starts kernels of the running interpreter, whatever its user has installed as `python3`; they end with it."""

    @default("kernel_spec_manager")
    def _no_installed_kernels(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        command = super().format_kernel_cmd(extra_arguments)
        module = command.index("-m")
        # Its log would tell the terminal that it was interrupted when it is shut down.
        return [sys.executable, "-c", _KERNEL, "--log-level=CRITICAL", *command[module + 2 :]]

    @default("transport_encryption")
    def _encrypt_if_possible(self) -> str:
        return "auto"  # newer kernels warn on the terminal when it is off


def _write_page(executed: nbformat.NotebookNode, target: Path) -> None:
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor

    # A progress bar is many outputs, each over the one before: shown is the last.
    exporter = HTMLExporter(raw_template=_PAGE, preprocessors=[CoalesceStreamsPreprocessor])
    exporter.log.disabled = True  # it would complain of pictures without a description
    page, _ = exporter.from_notebook_node(executed, resources={"metadata": {"name": target.stem}})
    with files.replacing(target.with_suffix(".html")) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _cell(executed: nbformat.NotebookNode, index: int) -> str:
    """Where a cell of an executed notebook is in its source, which lacks what papermill put in."""
    return f"cell {sum(not is_added(cell) for cell in executed.cells[: index + 1])}"
