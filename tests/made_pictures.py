"""A small log whose artworks have pictures and lack captions."""

import datetime
import json
from pathlib import Path

from PIL import Image

from artlib import data
from artlib.data import Log

FIELDS = ("scene", "people", "setting", "mood", "palette", "composition", "text")


def answer(number: int, **changes) -> dict:
    """A usable description of picture `number`."""
    return dict.fromkeys(FIELDS, "") | {"scene": f"scene of picture {number}", "mood": "calm"} | changes


def caption(number: int) -> str:
    """The caption that comes of it."""
    return f"Scene of picture {number}. Mood: calm."


def pictured_log(folder: Path, n: int = 6, captions: dict[int, str] | None = None, manifest: bool = True) -> Path:
    """A log of two artworks a title, each with a picture of its own (see `made_server.number`) and none with a caption
    but those given."""
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    titles = [f"t{title}" for title in range(n // 2)]
    columns = {
        "titles": {
            "title_id": titles,
            "name": titles,
            "year": [None] * len(titles),
            "genres": [["G"]] * len(titles),
            "synopsis": ["s"] * len(titles),
        },
        "artworks": {
            "artwork_id": [f"a{i}" for i in range(n)],
            "title_id": [f"t{i // 2}" for i in range(n)],
            "caption": [(captions or {}).get(i) for i in range(n)],
            "image": [f"{i}.png" for i in range(n)],
        },
        "histories": {"user_id": [], "title_id": [], "timestamp": [], "weight": []},
        "impressions": {
            "impression_id": ["i1"],
            "user_id": ["u1"],
            "title_id": ["t0"],
            "timestamp": [day],
            "candidates": [["a0", "a1"]],
            "shown": [0],
            "propensity": [0.5],
            "reward": [1.0],
            "production": [[0.5, 0.5]],
            "split": ["test"],
        },
    }
    tables = {name: data.table(name, values) for name, values in columns.items() if name != "artworks"}
    schema = data.SCHEMAS["artworks"]
    fields = [field.with_nullable(True) for field in schema]
    tables["artworks"] = data.log.pa.table(columns["artworks"], schema=data.log.pa.schema(fields))
    Log(manifest={"world": "own"}, **tables).save(folder)
    for i in range(n):
        Image.new("RGB", (40, 60), (10 * i,) * 3).save(folder / f"{i}.png")
    if not manifest:
        (folder / "manifest.json").unlink()
    return folder


def captions(folder: Path) -> list:
    """The captions of a log."""
    return Log.load(folder, validate=False).artworks["caption"].to_pylist()


def well(body: dict, _) -> bytes:
    """Behave well: see `made_server.serving`."""
    import made_server

    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    return made_server.reply(json.dumps(answer(made_server.number(body))), usage=usage)
