"""A folder of CSV files from the command line to a log, and every command that docs/your_log.md shows."""

import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_tables import tables

from artlib import __main__ as cli
from artlib import files
from artlib.captions import record
from artlib.data import Log, LogError
from artlib.data.tables import importing, kept

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
    other = export / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    for out, said in (
        (export, "holds your tables, which would be lost"),
        (export / "histories.csv", "is a file"),
        (other, "holds other files than a log's, notes.txt among them"),
    ):
        with pytest.raises(LogError, match=said):
            importing.import_folder(export, out)
    assert (export / "titles.csv").exists() and (other / "notes.txt").exists()


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("titles: titles.csv", "mapping: 'titles' is not one of"),
        ("folder: x", "mapping: 'folder' is not one of"),
        ("files: titles.csv", "files: 'titles.csv'; give the file of each table"),
        ("files: {titles: [titles.csv]}", "give the file of each table"),
        ("delimiter: 9", "titles.csv cannot be read"),
        ("encoding: 1252", "titles.csv cannot be read"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_said(export, mapping, said):
    (export / "mapping.yaml").write_text(mapping)
    with pytest.raises(LogError, match=said):
        importing.import_folder(export, export / "log", report=lambda _: None)


@pytest.mark.parametrize("said", ["'\\t'", "\\t", '"\\t"'])
def test_a_tab_is_a_tab_however_yaml_has_it(export, said):
    for path in export.glob("*.csv"):
        pd.read_csv(path, dtype=str).to_csv(path, sep="\t", index=False)
    known = (export / "mapping.yaml").read_text() if (export / "mapping.yaml").exists() else ""
    (export / "mapping.yaml").write_text(f"{known}\ndelimiter: {said}\n")
    log = importing.import_folder(export, export / "log", report=lambda _: None)
    assert len(log.impressions)


@pytest.mark.parametrize("out", [".", ".."])
def test_the_folder_that_one_is_in_is_not_replaced(export, tmp_path, monkeypatch, out):
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "inner")
    with pytest.raises(LogError, match="is the folder that you are in, or one around it"):
        importing.import_folder(export, out)


def test_tables_that_have_the_names_of_a_logs_files_are_not_replaced(export):
    for path in export.glob("*.csv"):
        pd.read_csv(path, dtype=str).to_parquet(path.with_suffix(".parquet"))
        path.unlink()
    before = (export / "impressions.parquet").read_bytes()
    with pytest.raises(LogError, match="holds your tables"):
        importing.import_folder(export, export)
    assert (export / "impressions.parquet").read_bytes() == before


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
from artlib.data.tables import importing, kept
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
    """In the page's order, on the export that its first line makes; `run` has tests of its own."""
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
    assert "mine" in (said := capsys.readouterr().out) and "popular" in said
    assert Log.load(tmp_path / "demo" / "log-without-histories")


def run(command: list[str], monkeypatch) -> None:
    """A line of the page, in this process."""
    assert command[0] == "python"
    if command[1].startswith("examples/"):
        monkeypatch.setattr(sys, "argv", command[1:])
        runpy.run_path(str(ROOT / command[1]), run_name="__main__")
    else:
        assert command[1:3] == ["-m", "artlib"]
        fewer = ["--bootstrap", "40"] if command[3] == "evaluate" else []
        if command[3] != "run":
            assert cli.main([*command[3:], *fewer]) == 0


# Pictures in


def pictured(export: Path) -> Path:
    """The export with a picture for every artwork."""
    from PIL import Image

    path = export / "artworks.csv"
    frame = pd.read_csv(path)
    for row in range(len(frame)):
        Image.new("RGB", (8, 8), (row, 0, 0)).save(export / f"{row}.png")
    frame.assign(image=[f"{row}.png" for row in range(len(frame))]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("captions", [None, "", "null", "some"])
def test_pictures_without_captions_are_imported_and_the_report_names_the_next_command(export, capsys, captions):
    path = pictured(export)
    frame = pd.read_csv(path)
    frame["caption"] = {"": " ", "null": None, "some": ["A picture.", *[None] * (len(frame) - 1)]}.get(captions)
    frame = frame.drop(columns="caption") if captions is None else frame
    frame.to_csv(path, index=False)
    out = export / "my log"
    assert cli.main(["import", str(export), str(out)]) == 0
    lacking = len(frame) - (captions == "some")
    said = capsys.readouterr().out.split("missing, and how to get it:")[1]
    assert f"{lacking} of {len(frame)} artworks have an image and no caption" in said
    assert f"python -m artlib caption '{out}' --captioner ..." in said
    assert Log.load(out, validate=False).artworks["caption"].null_count == lacking
    with pytest.raises(LogError, match="python -m artlib caption"):
        Log.load(out)
    if importlib.util.find_spec("filelock"):  # captioning needs more than the core
        assert cli.main(["caption", str(out), "--dry-run"]) == 0
        assert f"{lacking} pictures to ask about" in capsys.readouterr().out
    artworks = out / "artworks.parquet"
    record.write(out, dict.fromkeys(range(len(frame)), "A picture."), files.sha256(artworks), {"model": "m"})
    assert Log.load(out).manifest["captioner"]["written"], "as `caption` writes them"


def test_an_artwork_with_neither_caption_nor_picture_is_a_fault(export):
    path = pictured(export)
    frame = pd.read_csv(path).drop(columns="caption")
    frame.loc[3, "image"] = None
    frame.to_csv(path, index=False)
    with pytest.raises(LogError, match=r"artworks.csv row 3, column caption: '' is empty; describe") as raised:
        importing.import_folder(export, export / "log")
    assert str(raised.value).count("\n- ") == 1 and not (export / "log").exists()


def test_answers_about_pictures_survive_another_import_and_a_kill_at_any_point(export, capsys, monkeypatch):
    path, out = pictured(export), export / "log"
    pd.read_csv(path).drop(columns="caption").to_csv(path, index=False)
    importing.import_folder(export, out)
    answers = b'{"image": "1"}\n{"image": "2"}\n'
    (out / "captions.jsonl").write_bytes(answers)
    capsys.readouterr()
    importing.import_folder(export, out)
    assert (out / "captions.jsonl").read_bytes() == answers
    assert "captions.jsonl stays: what it answers is filled in from it without asking" in capsys.readouterr().out

    class KilledError(BaseException):
        pass

    def killed(*_):
        raise KilledError

    def gone(log, folder, **_):
        shutil.rmtree(folder)
        raise KilledError

    for owner, name, instead in ((Log, "save", gone), (kept, "put_back", killed)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, instead)
            with pytest.raises(KilledError):
                importing.import_folder(export, out)
        assert (out / "captions.jsonl").exists() == (name == "put_back")
        if name == "put_back":  # and an answer came before the next import
            (out / "captions.jsonl").write_bytes(answers + b'{"image": "3"}\n')
            answers += b'{"image": "3"}\n'
        importing.import_folder(export, out)
        assert (out / "captions.jsonl").read_bytes() == answers
    assert not list(export.glob(".*")), "nothing is left beside it"


def test_a_log_that_is_being_captioned_is_not_replaced(export):
    filelock = pytest.importorskip("filelock")
    out = export / "log"
    importing.import_folder(export, out)
    (out / "captions.jsonl").write_bytes(b'{"image": "1"}\n')
    with filelock.FileLock(out / ".captions.jsonl.lock"), pytest.raises(LogError, match="is being captioned"):
        importing.import_folder(export, out)
