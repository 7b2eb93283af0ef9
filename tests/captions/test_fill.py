"""A log's missing captions: each at its artwork, asked for once, whatever the server does and whoever is killed."""

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_pictures import answer, caption, captions, pictured_log, well
from made_server import number, reply, serving, words
from PIL import Image

from artlib import __main__ as cli
from artlib import files
from artlib.captions import answers, fill, schema
from artlib.captions.remote import Remote
from artlib.data import Log, LogError, pictures

ROOT = Path(__file__).resolve().parents[2]


def remote(server, model: str = "eye", **options) -> Remote:
    return Remote(server.url, model, **({"workers": 3, "timeout": 5, "pause": 0.01} | options))


def command(folder: Path, server, *more: str) -> int:
    return cli.main(["caption", str(folder), "--captioner", server.url, "--model", "eye", *more])


def valid(folder: Path) -> Log:
    """The log, with its checksums, contract and pictures checked."""
    log = Log.load(folder, validate=False)
    log.validate()
    return log


def captioner_record(folder: Path) -> dict:
    """What the manifest says of the captioner."""
    return Log.load(folder, validate=False).manifest["captioner"]


def test_captions_land_at_their_artworks_and_others_stay(tmp_path, capsys):
    folder = pictured_log(tmp_path / "log", 6, captions={1: "A cat.", 4: " \u200b\n"})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serving(well) as server:
        assert command(folder, server) == 0
    assert captions(folder) == [caption(0), "A cat.", *map(caption, (2, 3, 4, 5))]
    assert sorted(server.numbers) == [0, 2, 3, 4, 5]
    said = capsys.readouterr()
    assert "captions written: 5\nasked: 5 pictures, 5 answers, 500 prompt and 35 completion tokens\n" in said.out
    assert "lengths: the longest caption of a title has 1.00 times" in said.out
    assert "first 't0': eye, question" in said.err and "someone else" in said.err  # A cat, beside a machine's
    log = valid(folder)
    record = log.manifest["captioner"]
    assert record["model"] == "eye" and record["question"] == schema.version(60, 768) and record["words"] == 60
    assert (record["captions"], record["prompt_tokens"], record["completion_tokens"]) == (5, 500, 35)
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before.get(path.name)}
    assert changed == {"artworks.parquet", "manifest.json", "captions.jsonl"}
    body = server.bodies[0]
    assert body["temperature"] == 0 and body["max_tokens"] == schema.most_tokens(60)
    assert body["response_format"] == schema.response_format() and words(body) == schema.prompt(60)


def test_a_log_without_captions_loads_and_is_told_how_to_get_them(tmp_path):
    folder = pictured_log(tmp_path / "log", 4)
    table = pq.read_table(folder / "artworks.parquet")  # as pandas writes a column of None
    (folder / "manifest.json").unlink()
    pq.write_table(table.set_column(2, "caption", pa.nulls(4)), folder / "artworks.parquet")
    assert captions(folder) == [None] * 4
    with pytest.raises(LogError, match="column caption: None is null .* python -m artlib caption FOLDER"):
        Log.load(folder)
    with serving(well) as server:
        fill.fill(folder, remote(server))
    assert captions(folder) == [*map(caption, range(4))] and valid(folder)


def misbehave(body: dict, time: int):
    """By picture: 0 well; the others badly, some of them for ever."""
    shown, text = number(body), words(body)
    told = "An earlier answer could not be used: " in text
    good = json.dumps(answer(shown))
    return {
        0: reply(good),
        1: reply(f"Of course! ```{good}``` I hope this helps {{you}}."),
        2: reply(good) if time > 1 else (429, {"Retry-After": "0.05"}, b"slow down"),
        3: reply(good) if time > 2 else (429, {}, b"slow down"),
        4: (500, {}, b"out of memory"),
        5: reply('{"scene": "' + "very " * 500, "length"),
        6: reply("I cannot help with that."),
        7: reply(good) if told and "palette" in text else reply(json.dumps(answer(shown, palette=["red"]))),
        8: reply(json.dumps(answer(shown, mood="calm " * 50))),
        9: b"<html>",
        10: reply('{"scene": "a dog"}'),
        11: reply(json.dumps(answer(shown, scene=f"scene of picture {shown}" + " and on" * 8))),
    }[shown]


def test_a_server_that_misbehaves_costs_only_what_it_spoils(tmp_path, capsys):
    folder = pictured_log(tmp_path / "log", 12)
    with serving(misbehave) as server:
        work = fill.fill(folder, remote(server, tries=3))
    cut = f"Scene of picture 11{' and on' * 5} and. Mood: calm."
    lost = {4, 5, 6, 8, 9, 10}
    assert captions(folder) == [None if i in lost else caption(i) for i in range(11)] + [cut]
    assert work.faults == {
        "HTTP 500": 1,
        "cut off": 1,
        "no JSON object": 1,
        "too long": 1,
        "no completion": 1,
        "missing field": 1,
    }
    assert {int(name[1:]) for name in work.refused} == lost
    asked = server.numbers
    expected = {0: 1, 1: 1, 2: 2, 3: 3, 4: 3, 5: 3, 6: 3, 7: 2, 8: 3, 9: 1, 10: 3, 11: 1}
    assert {i: asked.count(i) for i in range(12)} == expected
    last = [words(body) for body in server.bodies if number(body) == 5][-1]
    assert last.endswith("could not be used: the answer was too long and was cut off; be brief")
    assert captioner_record(folder)["captions"] == 6 and captioner_record(folder)["faults"] == work.faults
    with serving(well) as server:  # who has mended it asks for the rest only
        assert command(folder, server) == 0
        assert sorted(server.numbers) == sorted(lost) and None not in captions(folder)
    assert captioner_record(folder)["captions"] == 12 and captioner_record(folder)["faults"] == {}
    assert captioner_record(folder)["prompt_tokens"] == 600  # the first server told none


def test_a_caption_that_cannot_be_had_is_named_and_exits_1_and_the_others_are_kept(tmp_path, capsys):
    folder = pictured_log(tmp_path / "log", 8)
    (folder / "1.png").write_text("<html>")
    (folder / "2.png").unlink()
    os.truncate(folder / "3.png", pictures.LARGEST + 1)
    with serving(lambda body, time: reply("No.") if number(body) == 4 else well(body, time)) as server:
        assert command(folder, server) == 1
    assert captions(folder) == [caption(0), None, None, None, None, *map(caption, (5, 6, 7))]
    out, error = capsys.readouterr()
    assert "captions written: 4" in out and "no usable answer: no JSON object: 1" in out
    for name, reason in {
        "a1": "cannot be opened",
        "a2": "does not exist",
        "a3": "100,000,001 bytes",
        "a4": "no JSON object",
    }.items():
        assert any(line.startswith(f"no caption: {name}: ") and reason in line for line in error.splitlines())


def test_a_server_that_takes_no_response_format_is_asked_without_it(tmp_path):
    def behave(body, time):
        return (400, {}, b"unknown field response_format") if "response_format" in body else well(body, time)

    folder = pictured_log(tmp_path / "log", 6)
    with serving(behave) as server, pytest.warns(UserWarning, match="takes no response format"):
        fill.fill(folder, remote(server, workers=1))
    assert captions(folder) == [*map(caption, range(6))]
    assert ["response_format" in body for body in server.bodies] == [True] + [False] * 6


def test_a_server_that_takes_no_such_picture_is_not_said_to_take_no_format(tmp_path):
    folder = pictured_log(tmp_path / "log", 4)
    with serving(lambda body, time: (400, {}, b"too small") if number(body) == 1 else well(body, time)) as server:
        work = fill.fill(folder, remote(server, workers=1))
    assert work.faults == {"HTTP 400": 1} and "too small" in work.refused["a1"]
    assert "response_format" in server.bodies[-1]


def test_a_server_that_knows_no_such_model_is_asked_once(tmp_path, capsys):
    folder = pictured_log(tmp_path / "log", 8)
    with serving(lambda *_: (404, {}, b"no model eye")) as server:
        work = fill.fill(folder, remote(server, workers=1))
    assert len(server.bodies) == 1 and work.faults == {"HTTP 404": 8} and captions(folder) == [None] * 8


def test_pictures_are_sent_small_and_each_once(tmp_path):
    folder = pictured_log(tmp_path / "log", 4)
    Image.new("RGB", (2000, 1000), (20,) * 3).save(folder / "2.png")
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes())
    with serving(well) as server:
        fill.fill(folder, remote(server), side=128)
    assert sorted(server.numbers) == [0, 1, 2]
    assert captions(folder)[2] == captions(folder)[3] == caption(2)
    urls = [body["messages"][0]["content"][0]["image_url"]["url"] for body in server.bodies]
    sizes = {Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls}
    assert sizes == {(40, 60), (128, 64)}


def test_answers_are_kept_by_picture_model_and_question(tmp_path):
    folder = pictured_log(tmp_path / "log", 4)
    bare = (folder / "artworks.parquet").read_bytes()

    def asked(model: str = "eye", **options) -> list[int]:
        """Which pictures are asked about when all captions are missing again."""
        (folder / "manifest.json").unlink(missing_ok=True)
        (folder / "artworks.parquet").write_bytes(bare)
        with serving(well) as server:
            fill.fill(folder, remote(server, model), **options)
        assert None not in captions(folder)
        return sorted(server.numbers)

    assert asked() == [0, 1, 2, 3] and asked() == []
    Image.new("RGB", (41, 60), (10,) * 3).save(folder / "1.png")  # other bytes
    assert asked() == [1]
    assert asked("another eye") == [0, 1, 2, 3] and asked("another eye") == []
    assert asked(words=80) == [0, 1, 2, 3] and asked(side=512) == [0, 1, 2, 3]
    assert asked() == []


def test_half_written_and_foreign_lines_are_left_out(tmp_path):
    folder = pictured_log(tmp_path / "log", 4)
    with serving(well) as server:
        fill.fill(folder, remote(server), limit=2)
        whole = (folder / answers.FILE).read_text()
        odd = ['{"image": 3}', "[1]", "null", json.dumps(json.loads(whole.splitlines()[0]) | {"fields": None})]
        (folder / answers.FILE).write_text("\n".join(odd) + "\n" + whole + whole[:50])
        assert len(answers.read(folder)) == 2
        fill.fill(folder, remote(server))
    assert sorted(server.numbers) == [0, 1, 2, 3] and captions(folder) == [*map(caption, range(4))]
    assert len(answers.read(folder)) == 4


def start(folder: Path, server) -> subprocess.Popen:
    line = ["caption", str(folder), "--captioner", server.url, "--model", "eye", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "artlib", *line], stderr=subprocess.PIPE, env=environment)


def test_a_command_that_is_killed_goes_on_without_asking_twice(tmp_path):
    folder = pictured_log(tmp_path / "log", 20)

    def slowly(body, count):
        time.sleep(0.1)
        return well(body, count)

    with serving(slowly) as server:
        process = start(folder, server)
        while len(server.bodies) < 8:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        kept = {found.fields["scene"] for found in answers.read(folder)}
        assert 4 <= len(kept) < 20 and captions(folder) == [None] * 20
        before = server.numbers
        assert command(folder, server) == 0
        after = server.numbers[len(before) :]
    assert captions(folder) == [*map(caption, range(20))] and valid(folder)
    assert {f"scene of picture {i}" for i in after}.isdisjoint(kept) and len(after) == 20 - len(kept)
    assert len(server.numbers) <= 20 + 2  # what was under way


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("step", range(6))
def test_a_log_loads_wherever_its_writing_is_killed(tmp_path, monkeypatch, checksums, step):
    folder = pictured_log(tmp_path / "log", 4, manifest=checksums)
    steps = iter(range(100))

    @contextlib.contextmanager
    def replacing(path):
        for killed in (False, True):
            if next(steps) == step:
                raise KeyboardInterrupt
            if not killed:
                with plain(path) as temporary:
                    yield temporary

    plain = files.replacing
    with serving(well) as server:
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(files, "replacing", replacing)
            fill.fill(folder, remote(server))
        assert captions(folder) in ([None] * 4, [*map(caption, range(4))])
        assert len(server.bodies) == 4
        fill.fill(folder, remote(server))
        assert len(server.bodies) == 4
    log = valid(folder)
    assert captions(folder) == [*map(caption, range(4))] and log.manifest["captioner"]["model"] == "eye"
    recorded = log.manifest.get("files", {}).get("artworks.parquet", {}).get("sha256")
    assert recorded == (files.sha256(folder / "artworks.parquet") if checksums else None)


def test_a_files_own_columns_and_types_are_kept(tmp_path):
    folder = pictured_log(tmp_path / "log", 4, manifest=False)
    table = pq.read_table(folder / "artworks.parquet").append_column("campaign", [["x", "y", "x", "y"]])
    table = table.set_column(2, "caption", table["caption"].cast(pa.large_string()))
    pq.write_table(table.replace_schema_metadata({"made": "by us"}), folder / "artworks.parquet")
    with serving(well) as server:
        fill.fill(folder, remote(server))
    found = pq.read_table(folder / "artworks.parquet")
    assert found["campaign"].to_pylist() == ["x", "y", "x", "y"] and found.schema.metadata[b"made"] == b"by us"
    assert found.schema.field("caption").type == pa.large_string() and captions(folder)[3] == caption(3)


def test_a_log_that_changed_meanwhile_is_not_written_over(tmp_path):
    folder = pictured_log(tmp_path / "log", 4, manifest=False)

    def behave(body, count):
        pq.write_table(pq.read_table(folder / "artworks.parquet").slice(0, 2), folder / "artworks.parquet")
        return well(body, count)

    with serving(behave) as server, pytest.raises(LogError, match="changed while .* the answers are kept"):
        fill.fill(folder, remote(server, workers=1))
    assert captions(folder) == [None, None] and len(answers.read(folder)) == 4


def test_two_commands_do_not_caption_one_log_at_once(tmp_path):
    folder = pictured_log(tmp_path / "log", 4)
    with serving(well) as server, filelock.FileLock(folder / f".{answers.FILE}.lock"):
        with pytest.raises(LogError, match="being captioned by another process"):
            fill.fill(folder, remote(server))
    assert not server.bodies


def test_a_limit_asks_about_so_many_and_a_dry_run_about_none(tmp_path, capsys):
    folder = pictured_log(tmp_path / "log", 6, captions={0: "one", 1: "one two three"})
    (folder / "5.png").unlink()
    assert cli.main(["caption", str(folder), "--dry-run"]) == 1
    out, error = capsys.readouterr()
    assert "4 artworks with a picture lack a caption" in out and "3 pictures to ask about" in out
    assert "at most 3.00 times (title 't0': 1 to 3 words)" in out and "no caption: a5: " in error
    with serving(well) as server:
        assert command(folder, server, "--limit", "1", "--workers", "1") == 0
        assert server.numbers == [2] and captions(folder)[2:] == [caption(2), None, None, None]
        assert command(folder, server, "--dry-run") == 1
        assert len(server.bodies) == 1 and "2 pictures to ask about" in capsys.readouterr().out


def test_progress_is_said_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fill, "SILENCE", 0.05)
    folder = pictured_log(tmp_path / "log", 4)

    def slowly(body, count):
        time.sleep(0.3)
        return well(body, count)

    with serving(slowly) as server:
        fill.fill(folder, remote(server, workers=1))
    lines = [line for line in capsys.readouterr().err.splitlines() if "captions: " in line]
    assert len(lines) >= 8 and any("2/4" in line and "tokens=214" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--captioner", "http://localhost:1/v1"], 2, "is an endpoint: say which of its models with --model"),
        (["--captioner", "some/model", "--model", "eye"], 2, "--model eye is for endpoints"),
        ([], 2, "say who describes the pictures with --captioner"),
        (["--dry-run", "--words", "20"], 2, "words = 20 is too little for 7 fields; give at least 30"),
        (["--dry-run", "--side", "0"], 2, "--side 0 must be at least 1"),
        (["--captioner", "nowhere"], 1, "model 'nowhere' is neither"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, code, message):
    folder = pictured_log(tmp_path / "log", 4)
    before = (folder / "artworks.parquet").read_bytes()
    assert cli.main(["caption", str(folder), *arguments]) == code
    assert message in capsys.readouterr().err
    assert (folder / "artworks.parquet").read_bytes() == before and not (folder / answers.FILE).exists()


def test_what_is_no_log_is_said_to_be_none(tmp_path, capsys):
    with serving(well) as server:
        assert command(tmp_path / "none", server) == 1
    assert "is not a folder" in capsys.readouterr().err
