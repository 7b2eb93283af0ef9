"""The type by machine: what the processor has decides, a measurement where that does not say, and it is remembered."""

import pytest
import torch

from artlib import files
from artlib.lm import machine


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def imitate(monkeypatch, supported: bool, rates: dict[str, float] | None = None) -> list[str]:
    """A processor that has instructions for bfloat16 or not, and multiplies at these rates; what is measured of it."""
    measured = []
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(machine, "rate", lambda dtype: measured.append(dtype) or rates[dtype])
    return measured


def test_a_processor_without_bfloat16_takes_float32_unmeasured(monkeypatch):
    assert imitate(monkeypatch, supported=False) == []
    assert machine.best_type() == machine.resolve("auto") == "float32"


@pytest.mark.parametrize("faster", ["bfloat16", "float32"])
def test_a_processor_that_has_it_takes_the_faster_one_and_remembers(monkeypatch, faster):
    measured = imitate(monkeypatch, True, {"bfloat16": 1.0, "float32": 1.0, faster: 2.0})
    assert [machine.best_type() for _ in range(3)] == [faster] * 3
    assert sorted(measured) == ["bfloat16", "float32"]  # once each
    other = {"bfloat16": 1.0, "float32": 1.0, "float32" if faster == "bfloat16" else "bfloat16": 2.0}
    imitate(monkeypatch, True, other)  # busy today
    assert machine.best_type() == faster
    monkeypatch.setattr(machine, "described", lambda: {"device": "another"})
    assert machine.best_type() != faster


def test_a_damaged_memory_is_measured_anew(monkeypatch, tmp_path):
    imitate(monkeypatch, True, {"bfloat16": 2.0, "float32": 1.0})
    (tmp_path / "types.json").write_text("{")
    assert machine.best_type() == "bfloat16"
    files.write_json(tmp_path / "types.json", {key: "int8" for key in files.read_json(tmp_path / "types.json")})
    assert machine.best_type() == "bfloat16"


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_takes_bfloat16_if_it_has_it(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    assert machine.best_type() == ("bfloat16" if has else "float32")


def test_types_that_are_named_are_taken_and_others_refused():
    assert [machine.resolve(dtype) for dtype in ("bfloat16", "float32")] == ["bfloat16", "float32"]
    with pytest.raises(ValueError, match="dtype 'float16' is not one of auto, bfloat16, float32"):
        machine.resolve("float16")


def test_rates_are_measured_on_this_machine():
    assert 1e7 < machine.rate("float32", (64, 64, 64), seconds=0.01) < 1e15
    assert machine.described()["device"] and machine.described()["threads"] >= 1
