"""What `pip install .` alone gives: logs and their evaluation, without torch, quickly."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_artlib_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import artlib; print(sorted(set(sys.modules) - before - {'artlib'}))"
    assert run(code) == "[]\n"


def test_logs_and_estimators_need_nothing_of_the_extras():
    extras = ("torch", "transformers", "yaml", "filelock", "tqdm", "matplotlib", "seaborn", "papermill", "httpx")
    code = f"""
import sys
from artlib import data, ope, worlds
from artlib.policies import baselines
print(*worlds.known(), *sorted(set({extras}) & set(sys.modules)))
"""
    assert run(code) == "fiction movielens own upworthy\n"


def test_a_log_is_validated_from_the_command_line(small_log, tmp_path):
    small_log.save(tmp_path / "log")
    said = subprocess.run(
        [sys.executable, "-m", "artlib", "validate", tmp_path / "log"], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("titles") and "impressions" in said
