"""A run that is killed again and again ends where an undisturbed one does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
# What says when something was made, or lists a set, and so differs from run to run.
TIMES = (
    "run.json",
    "adapters/sft/training.json",
    "adapters/sft/adapter_config.json",
    "policies/fingerprint.json",
    "notebooks/",
    "figures/",
)


def start(run: str, runs: Path) -> subprocess.Popen:
    """`make run PROFILE=test` without its set-up, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "artlib", "run", "--profile", "test", "--run", run],
        cwd=ROOT,
        env={**os.environ, "ARTLIB_RUNS": str(runs), "ARTLIB_DATA": "", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kernels(runs: Path) -> list[int]:
    """Processes that work for these runs."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"ARTLIB_RUNS={runs}".encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
        except OSError:
            pass
    return found


def contents(run: Path) -> dict[str, bytes | None]:
    """By path, what is in a run; None for what bears the time."""
    files = (path for path in run.rglob("*") if path.is_file())
    names = {path: path.relative_to(run).as_posix() for path in files}
    return {name: None if name.startswith(TIMES) else path.read_bytes() for path, name in names.items()}


def training(run: Path) -> dict:
    """What training.json says, but for how long it took and whether it was interrupted."""
    content = json.loads((run / "adapters" / "sft" / "training.json").read_text())
    content["curve"] = [{key: entry.get(key) for key in ("step", "loss", "eval_loss")} for entry in content["curve"]]
    return {key: value for key, value in content.items() if key not in ("seconds", "tokens_per_second", "resumed")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, float]:
    """A whole run, and how long it took."""
    runs, begun = tmp_path_factory.mktemp("whole"), time.monotonic()
    assert start("killed", runs).wait() == 0
    return runs / "killed", time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path, undisturbed, seed):
    """Four moments a seed, each between the start and the time that a whole run takes."""
    whole, seconds = undisturbed
    moments = np.random.default_rng(seed).uniform(0, seconds, 4)
    for moment in moments:
        runner = start("killed", tmp_path)
        try:
            runner.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(runner.pid, signal.SIGKILL)
            runner.wait()
            time.sleep(0.2)
            assert kernels(tmp_path) == [], f"seed {seed}, {moment:.1f} s"
    assert start("killed", tmp_path).wait() == 0, f"seed {seed}, killed at {moments}"
    found, expected = contents(tmp_path / "killed"), contents(whole)
    assert found.keys() == expected.keys(), f"seed {seed}, killed at {moments}"
    different = [name for name in expected if found[name] != expected[name]]
    assert not different, f"seed {seed}, killed at {moments}"
    assert training(tmp_path / "killed") == training(whole)
