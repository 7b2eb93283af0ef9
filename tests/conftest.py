"""What several test files need: a small log, the real data if it is here."""

import os
from pathlib import Path

import pytest

from artlib import log as logs
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def small_log() -> logs.Log:
    """A valid log with every file that a log can have."""
    return fiction.build(n_users=250, n_titles=60, n_train=400, n_validation=120, n_test=150, seed=7)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data: ARTLIB_DATA, else ../shared/data."""
    folder = Path(os.environ.get("ARTLIB_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set ARTLIB_DATA)")
    return folder
