"""The programs in examples/ do what they say."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np

from artlib.data import Log

ROOT = Path(__file__).resolve().parents[1]


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_frame_is_judged_by_the_estimators_alone():
    table = load("ope_only").main().set_index(["policy", "estimator"])
    expected = (0.1 * 0.2 + 0.8 * 0.2) / (0.4 / 3) - 1
    for estimator in ("ips", "snips"):
        row = table.loc[("mine", estimator)]
        assert row["lift_lower"] < expected < row["lift_upper"] and row["lift_lower"] > 0
        assert row["verdict"] == "ok"


def test_ones_own_log_is_valid_without_a_warning_and_judged(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("own_log").write(tmp_path / "log")
        log = Log.load(tmp_path / "log")
    assert log.warnings() == []
    table = load("own_log").main(tmp_path / "again").set_index(["policy", "estimator"])
    assert (table["n"] == len(log.split("test").impressions)).all()
    assert table.loc[("popular", "snips"), "lift"] > 0 and np.isfinite(table.loc[("production", "ips"), "value"])


def test_a_csv_export_becomes_a_log_without_a_warning_and_is_judged(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = load("csv_export").main(tmp_path)
        table = table[table["slice"] == "all"].set_index(["policy", "estimator"])
    assert "derived:" in capsys.readouterr().out
    assert table.loc[("mine", "snips"), "lift_lower"] > 0 and (table["verdict"] == "ok").all()
