"""The notebooks in JupyterLab, in a browser: what papermill cannot tell is whether menus, figures and widgets work."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_lab import (
    ERRORS,
    ROOT,
    SECONDS,
    change_first_choice,
    faults,
    processes,
    run_all,
    serving,
    small_copy,
)
from made_notebooks import write_notebook

from artlib.running import notebook

pytestmark = pytest.mark.browser
PICTURES = ROOT / "runs" / "browser"  # pytest's own folders are gone after three runs, anyone's
# A live kernel that says of itself that it is another one.
OTHER_KERNEL = (
    "import sys, runpy; sys.executable = 'other'; runpy.run_module('ipykernel_launcher', run_name='__main__')"
)
WIDGETS = """\
import ipywidgets
choice = ipywidgets.Dropdown(options=["day", "night"])
card, said = ipywidgets.HTML("<b>a sun</b>"), ipywidgets.Output()

def answer(change):
    card.value = "<b>a moon</b>"
    with said:
        print("it is", change["new"])

choice.observe(answer, "value")
ipywidgets.VBox([choice, card, said])"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: `make browser` installs it")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser: install chromium (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=chromium)
        yield found.new_context(viewport={"width": 1400, "height": 1000})  # shared: what one page fetched, all have
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where JupyterLab is started: copies in `notebooks`, runs in `runs`, another kernel `python3` in `jupyter`."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    spec = {"argv": [sys.executable, "-c", OTHER_KERNEL, "-f", "{connection_file}"], "display_name": "other"}
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({**spec, "language": "python"}))
    return folder


@pytest.fixture(scope="module")
def variables(folder) -> dict[str, str]:
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
    return {"ARTLIB_RUNS": str(folder / "runs"), "ARTLIB_DATA": "", "PYTHONPATH": os.pathsep.join([str(ROOT), *others])}


@pytest.fixture(scope="module")
def lab(browser, folder, variables) -> Iterator[tuple[str, str]]:
    with serving(folder, **variables, JUPYTER_PATH=str(folder / "jupyter")) as address:
        yield address
    deadline = time.monotonic() + 10  # a kernel looks every second whether its server is there
    while (left := processes(f"ARTLIB_RUNS={folder / 'runs'}")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "these outlive JupyterLab"


@pytest.fixture
def opened(browser, lab, folder, capsys) -> Iterator[Callable]:
    """Opens a notebook of the folder in JupyterLab; afterwards a picture of what was seen last is kept."""
    address, token = lab
    pages = {}

    def open_notebook(path: Path):
        page = pages[path] = browser.new_page()
        page.set_default_timeout(1000 * SECONDS)
        # A workspace of its own: none of the notebooks that were open before.
        page.goto(f"{address}lab/workspaces/{path.stem}/tree/{path.name}?token={token}")
        return page

    yield open_notebook
    for path, page in pages.items():
        picture = PICTURES / f"{path.stem}.png"
        page.screenshot(path=picture)
        page.close()
        with capsys.disabled():
            print(f"\nscreenshot: {picture}")


def test_notebook_01_runs_from_the_menu_and_shows_its_table_and_figures(opened, folder):
    path = small_copy("01_explore_data", folder / "notebooks", run="seen")
    page = opened(path)
    node = run_all(page, path)
    assert faults(node) == []
    assert page.locator(ERRORS).count() == 0
    tables = page.locator(".jp-OutputArea-output table")
    assert {"titles", "artworks", "histories", "impressions"} <= set(tables.first.inner_text().split())
    figures = page.locator(".jp-OutputArea-output img")
    assert figures.count() == sum("plots.save(" in source for source in notebook.code(node)) > 0
    assert all(figures.nth(n).evaluate("figure => figure.naturalWidth") > 100 for n in range(figures.count()))
    figures.first.scroll_into_view_if_needed()
    assert (folder / "runs" / "seen" / "figures").is_dir()


def test_cell_that_raises_is_seen(opened, folder):
    path = write_notebook(folder / "notebooks" / "raises.ipynb", "1 / 0", "2")
    page = opened(path)
    assert faults(run_all(page, path)) == ["cell 3 raised ZeroDivisionError: division by zero", "cell 4 did not run"]
    assert page.locator(ERRORS).count() == 1


def test_kernel_is_this_interpreter_whatever_kernel_JUPYTER_PATH_has(opened, folder):
    source = "import sys, os, artlib\nprint(sys.executable, os.getcwd(), artlib.__file__)"
    path = write_notebook(folder / "notebooks" / "kernel.ipynb", source)
    node = run_all(opened(path), path)
    expected = f"{sys.executable} {folder / 'notebooks'} {ROOT / 'artlib' / '__init__.py'}\n"
    assert (faults(node), node.cells[-1].outputs[0].text) == ([], expected)


def test_widgets_answer(opened, folder):
    path = write_notebook(folder / "notebooks" / "widgets.ipynb", WIDGETS)
    page = opened(path)
    assert faults(run_all(page, path)) == []
    before, after = change_first_choice(page)
    assert "a sun" in before and "a moon" in after
    page.get_by_text("it is night", exact=True).wait_for()


def test_explorer_of_notebook_04_answers(opened, folder, small_log):
    from artlib.analysis import evaluation
    from artlib.policies import answers, baselines  # torch takes seconds, and no other test here needs it

    run = folder / "runs" / "explored"
    small_log.save(run / "log")
    test = small_log.split("test")
    popular = baselines.greedy(baselines.popular_scores(small_log, test))
    policies = {"production": test.arrays().production, "text": popular, "llm-sft": baselines.oracle(test)}
    for name, policy in policies.items():
        answers.save(run / "policies", name, test, policy)
    evaluation.save(run / "evaluation.parquet", evaluation.evaluate(small_log, test, policies, n_bootstrap=100))
    path = small_copy("04_analyze_errors", folder / "notebooks", run="explored")
    page = opened(path)
    assert faults(run_all(page, path)) == []
    change_first_choice(page)
    assert page.locator(ERRORS).count() == 0
