"""What several test files need: a small log, the real data if it is here, a place for small notebooks."""

import os
from pathlib import Path

import hypothesis
import pytest

from artlib.data import Log
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]
hypothesis.settings.register_profile("artlib", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("artlib")


LONG = ("test_train.py", "test_benchmarks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no process is left alone with them at the end."""
    items.sort(key=lambda item: ("killed" not in item.name, item.path.name not in LONG))


@pytest.fixture(scope="session")
def small_log() -> Log:
    """A valid log with every file that a log can have."""
    return fiction.build(n_users=250, n_titles=60, n_train=400, n_validation=120, n_test=150, seed=7)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data: ARTLIB_DATA, else ../shared/data."""
    folder = Path(os.environ.get("ARTLIB_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set ARTLIB_DATA)")
    return folder


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
    from artlib.running import run_folder  # with what the core alone does not need

    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(run_folder, "PACKAGE", package)
    return package
