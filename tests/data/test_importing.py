"""A folder of CSV files from the command line to a log, and every command that docs/your_log.md shows."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_tables import tables

from artlib import __main__ as cli
from artlib.data import Log, LogError
from artlib.data.tables import importing

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your_log.md").read_text()


@pytest.fixture
def export(tmp_path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    for name, frame in tables(400).items():
        frame.map(lambda v: json.dumps(v) if isinstance(v, list) else v).to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_import_writes_a_log_that_validates_and_prints_what_it_did(export, capsys):
    assert cli.main(["import", str(export), str(export / "log")]) == 0
    out, error = capsys.readouterr()
    assert "400 impressions" in out and "derived:" in out and "missing, and how to get it" in out and not error
    assert cli.main(["validate", str(export / "log")]) == 0
    assert cli.main(["import", str(export), str(export / "log")]) == 0, "a log that is there is replaced"


def test_import_without_propensities_warns_and_estimates_them_on_request(export, capsys):
    path = export / "impressions.csv"
    pd.read_csv(path).drop(columns=["propensity", "production"]).to_csv(path, index=False)
    assert cli.main(["import", str(export), str(export / "log")]) == 0
    assert "there are none; IPS, SNIPS and DR are refused" in capsys.readouterr().err
    assert cli.main(["import", str(export), str(export / "log"), "--estimate-propensities"]) == 0
    said = capsys.readouterr()
    assert "propensity: ESTIMATED" in said.out and "no unobserved confounding" in said.err
    with pytest.warns(UserWarning, match="estimated, not logged"):
        assert Log.load(export / "log").propensities == "estimated"


def test_import_never_writes_over_what_is_no_log(export):
    for out in (export, export / "histories.csv"):
        with pytest.raises(LogError, match="holds other files than a log's"):
            importing.import_folder(export, out)
    assert (export / "titles.csv").exists()


def test_files_that_cannot_be_read_are_named(export, tmp_path):
    with pytest.raises(LogError, match="is not a folder"):
        importing.import_folder(export / "none", tmp_path / "log")
    (export / "titles.csv").write_bytes("title_id,name\n10,Käse".encode("latin-1"))
    with pytest.raises(LogError, match=r"titles\.csv cannot be read .*encoding"):
        importing.import_folder(export, tmp_path / "log")
    for text, message in (
        ("a: [", "is no YAML"),
        ("- a", "is no mapping"),
        ("files: {title: x}", "'title' is not one of"),
    ):
        (export / "mapping.yaml").write_text(text)
        with pytest.raises(LogError, match=message):
            importing.import_folder(export, tmp_path / "log")
    (export / "mapping.yaml").write_text("files: {titles: films.csv}")
    with pytest.raises(LogError, match=r"films\.csv is missing"):
        importing.import_folder(export, tmp_path / "log")
    (export / "mapping.yaml").unlink()
    (export / "titles.csv").unlink()
    with pytest.raises(LogError, match=r"titles\.csv or \.parquet is missing; a log needs"):
        importing.import_folder(export, tmp_path / "log")


@pytest.mark.parametrize(
    ("separator", "encoding", "mapping"),
    [(";", "utf-8-sig", ""), ("\t", "latin-1", "encoding: latin-1"), ("|", "utf-8", "delimiter: '|'\nseparator: ','")],
)
def test_csv_of_spreadsheets_is_read(tmp_path, separator, encoding, mapping):
    frames = tables()
    frames["titles"]["synopsis"] = 'Two lines,\n"quoted"; and K\u00e4se'
    for name, frame in frames.items():
        frame = frame.map(lambda v: json.dumps(v) if isinstance(v, list) else v)
        frame.to_csv(tmp_path / f"{name}.csv", sep=separator, encoding=encoding, index=False)
    (tmp_path / "mapping.yaml").write_text(mapping or "{}")
    log = importing.import_folder(tmp_path, tmp_path / "log", report=lambda _: None)
    assert log.titles["synopsis"].to_pylist() == frames["titles"]["synopsis"].tolist()


def test_pictures_are_found_in_the_export_from_the_log(export):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(export / "one.png")
    path = export / "artworks.csv"
    pd.read_csv(path).assign(image="one.png").to_csv(path, index=False)
    importing.import_folder(export, export / "log", report=lambda _: None)
    Log.load(export / "log")  # which opens every picture


def test_the_core_alone_imports_and_says_what_a_mapping_needs(export):
    code = f"""
import sys
sys.modules["yaml"] = sys.modules["polars"] = sys.modules["duckdb"] = sys.modules["torch"] = None
from artlib.data import LogError
from artlib.data.tables import importing
importing.import_folder({str(export)!r}, {str(export / "log")!r})
open({str(export / "mapping.yaml")!r}, "w").write("timezone: UTC")
try:
    importing.import_folder({str(export)!r}, {str(export / "log")!r})
except LogError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs PyYAML: pip install pyyaml" in done.stdout, done.stderr


def test_datasets_loads_every_table_of_a_folder_by_name(small_log, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    small_log.save(tmp_path / "log")
    names = datasets.get_dataset_config_names(str(tmp_path / "log"))
    assert names == list(small_log.tables())
    for name, table in small_log.tables().items():
        found = datasets.load_dataset(str(tmp_path / "log"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert found.num_rows == table.num_rows and found.column_names == table.column_names


def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """In the page's order, on the export that its first line makes; `run` and `evaluate` have tests of their own."""
    monkeypatch.chdir(tmp_path)
    example = ROOT / "examples" / "csv_export.py"
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "yaml", "python", "python"]
    for kind, text in blocks:
        if kind == "yaml":
            assert text in example.read_text(), "the mapping is the example's"
        elif kind == "python":
            exec(compile(text, "docs/your_log.md", "exec"), {})
        else:
            for line in text.splitlines():
                run(shlex.split(line, comments=True), monkeypatch)
    assert "popular" in capsys.readouterr().out and Log.load(tmp_path / "demo" / "log-without-histories")


def run(command: list[str], monkeypatch) -> None:
    """A line of the page, in this process."""
    assert command[0] == "python"
    if command[1].startswith("examples/"):
        monkeypatch.setattr(sys, "argv", command[1:])
        runpy.run_path(str(ROOT / command[1]), run_name="__main__")
    else:
        assert command[1:3] == ["-m", "artlib"]
        if command[3] not in ("run", "evaluate"):
            assert cli.main(command[3:]) == 0
