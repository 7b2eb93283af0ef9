"""Tables of the pages: as the records have them, and no others."""

import json
from pathlib import Path

import pytest

from artlib.__main__ import main
from artlib.running import report, run_folder

ROOT = Path(__file__).resolve().parents[2]
FORMS = {
    "rows": [
        {"form": "linear", "model": "zero-shot", "gap_closed": 0.221, "loss": 1.5},
        {"form": "linear", "model": "sft", "gap_closed": 0.44, "loss": 1.4181},
        {"form": "mixture", "model": "zero-shot", "gap_closed": 0.32, "loss": 1.49},
        {"form": "mixture", "model": "sft", "gap_closed": 0.57, "loss": 1.387},
    ]
}
PAGE = "# Results\n\n<!-- table: forms -->\nold\n<!-- end -->\n\nMore.\n"


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    for name in ("docs", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "results" / "forms.json").write_text(json.dumps(FORMS))
    monkeypatch.setattr(run_folder, "root", lambda: tmp_path)
    return tmp_path


def test_committed_tables_are_those_of_the_records():
    assert report.outdated(ROOT) == {}, "python -m artlib report"


def test_a_table_is_filled_in_once_and_nothing_else_is_touched(repository, capsys):
    assert main(["report"]) == 0 and capsys.readouterr().out == "written: README.md\n"
    text = (repository / "README.md").read_text()
    assert text.startswith("# Results\n\n<!-- table: forms -->\n| form | zero-shot | sft |\n")
    assert "| linear | 22 %, 1.500 | 44 %, 1.418 |\n| mixture | 32 %, 1.490 | 57 %, 1.387 |\n<!-- end -->" in text
    assert text.endswith("<!-- end -->\n\nMore.\n")
    assert main(["report"]) == 0 and capsys.readouterr().out == ""


def test_a_changed_record_is_noticed(repository):
    report.write(repository)
    changed = json.loads(json.dumps(FORMS).replace("1.4181", "1.5181"))
    (repository / "results" / "forms.json").write_text(json.dumps(changed))
    assert list(report.outdated(repository)) == ["README.md"]


def test_a_policy_on_fewer_tests_says_how_many_and_is_compared_on_the_same(repository):
    fold = {"commit": "0123456789", "machine": {"threads": 1, "device": "CPU"}}
    lift = {"mean": 0.08, "lower": 0.06, "upper": 0.1}
    rows = [
        {"policy": "ridge", "meaning": "plain", "n": 1683, "lift": lift, "over_baseline": None, "told": [fold]},
        {"policy": "soft", "meaning": "trained", "n": 337, "lift": lift, "over_baseline": lift, "told": [fold]},
    ]
    path = repository / "results" / "clicks.json"
    path.write_text(json.dumps({"command": "python benchmarks/clicks.py", "rows": rows}))
    said = report.filled(repository, "clicks")
    assert "| ridge | plain | 1,683 | +8.0 % (+6.0, +10.0) |  |\n" in said
    assert "| soft | trained | 337 | +8.0 % (+6.0, +10.0) | +8.0 % (+6.0, +10.0) |\n" in said
    assert "commits 0123456, 1 thread(s) of CPU" in said


def test_a_peer_that_cannot_do_a_prompt_has_an_empty_cell(repository):
    ours = {"per_second": 12.345, "utilisation": 0.614}
    peer = {"per_second": 3.0, "ratio": 4.115, "lowest": 3.9, "highest": 4.3}
    common = {"command": "python benchmarks/speed.py", "date": "2026-11-27", "commit": "0123456789", "load": 0.25}
    common |= {"machine": {"threads": 2, "device": "CPU", "dtype": "float32"}, "lora_layers": 30}
    common |= {"impressions": 40, "impressions_per_title": 10, "training": {"ours": ours | {"peak_gib": 3.14}}}
    records = {
        "small, genre-likelihood": common | {"scoring": {"ours": ours, "harness": peer}},
        "small, label": common | {"scoring": {"ours": ours, "harness": peer, "generate": peer | {"ratio": 2}}},
    }
    (repository / "results" / "speed.json").write_text(json.dumps(records))
    said = report.filled(repository, "speed")
    columns = "model, prompt | scored a second | times harness | times generate | of a matrix product's rate"
    assert f"| {columns} |\n" in said
    assert "| small, genre-likelihood | 12.3 | 4.12 (3.9, 4.3) |  | 61 % |\n" in said
    assert "| small, label | 12.3 | 4.12 (3.9, 4.3) | 2 (3.9, 4.3) | 61 % |\n" in said
    assert "| small, label | 12.3 | 61 % | 3.1 |\n" in said
    assert "commit 0123456, 40 impressions, 10 a title, adapters in 30 layers, 2 threads of CPU in float32" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [("from", "no table is called 'from'"), ("methods mars", "methods-mars.json is missing; measure it first")],
)
def test_a_table_that_cannot_be_made_says_why(repository, capsys, name, message):
    (repository / "README.md").write_text(PAGE.replace("forms", name))
    assert main(["report"]) == 1 and message in capsys.readouterr().err
    assert (repository / "README.md").read_text() == PAGE.replace("forms", name)
