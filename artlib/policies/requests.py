"""What a policy in service is asked: a row holds a member's history, a title and its candidate artworks, and nothing
else is looked up anywhere."""

import numbers
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data import Background, Log, LogError, table
from artlib.data.contract import one_line

_TITLE = [
    pa.field("name", pa.string()),
    pa.field("year", pa.int32()),
    pa.field("genres", pa.list_(pa.string())),
    pa.field("synopsis", pa.string()),
]
SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string()),
        # The latest last; weight: rating or watched fraction, 0 to 1.
        pa.field("history", pa.list_(pa.struct([*_TITLE, pa.field("weight", pa.float64())]))),
        pa.field("title", pa.struct(_TITLE)),
        pa.field("candidates", pa.list_(pa.struct([("artwork_id", pa.string()), ("caption", pa.string())]))),
    ]
)
OPTIONAL = {"year": None, "genres": [], "synopsis": "", "weight": 1.0}
# Of a watched title or the title asked about; what is missing is taken from `OPTIONAL`.
Title = dict | str


def row(
    history: Sequence[Title], title: Title, candidates: Sequence[dict | str], request_id: str = "request"
) -> pa.Table:
    """One request.

    Args:
        history: what the member watched, the latest last: names, or dicts with name, genres, year, synopsis, weight.
        title: a name, or a dict with name, genres, year, synopsis.
        candidates: captions, or dicts with artwork_id and caption.
    """
    offered = [c if isinstance(c, dict) else {"artwork_id": str(i), "caption": c} for i, c in enumerate(candidates)]
    asked = {
        "request_id": str(request_id),
        "history": [_title(watched) for watched in history],
        "title": _title(title),
        "candidates": offered,
    }
    return read([asked], "the request")


def _title(given: Title) -> dict:
    return given if isinstance(given, dict) else {"name": given}


def read(rows: pa.Table | pa.RecordBatch | pd.DataFrame | list[dict], where: str, first: int = 0) -> pa.Table:
    """Requests in the types of `SCHEMA`, with what may be missing filled in.

    Args:
        where: they come from, for messages.
        first: number of the first row there.

    Raises:
        LogError: one of them cannot be answered; names row, column, value and remedy.
    """
    if isinstance(rows, pd.DataFrame):
        rows = pa.Table.from_pandas(rows, preserve_index=False)
    plain = rows.to_pylist() if isinstance(rows, (pa.Table, pa.RecordBatch)) else rows
    for number, asked in enumerate(plain, start=first):
        if missing := [name for name in SCHEMA.names if name not in asked]:
            raise LogError(
                f"{where}, row {number}: column {missing[0]} is missing; its columns must be {', '.join(SCHEMA.names)}"
            )
        if wrong := _fault(asked):
            column, value, remedy = wrong
            raise LogError(f"{where}, row {number}, column {column}: {value!r} {remedy}")
    filled = [
        {
            "request_id": str(asked["request_id"]),
            "history": [_filled(watched) for watched in _listed(asked["history"]) or ()],
            "title": _filled(asked["title"]),
            "candidates": [{**c, "artwork_id": str(c["artwork_id"])} for c in _listed(asked["candidates"]) or ()],
        }
        for asked in plain
    ]
    try:
        return pa.Table.from_pylist(filled, SCHEMA)
    except (pa.ArrowException, TypeError) as error:
        raise LogError(
            f"{where} cannot be read as requests ({error}); their types are policies.requests.SCHEMA"
        ) from None


def _filled(title: dict) -> dict:
    return {**title, **{name: value for name, value in OPTIONAL.items() if title.get(name) is None}}


def _listed(value: object) -> list | None:
    """A list, empty for null; None for what is none."""
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [] if value is None else None


def _fault(asked: dict) -> tuple[str, object, str] | None:
    """Column, value and remedy of what cannot be answered."""
    request = asked["request_id"]
    if request is None or pd.isna(request) is True:
        return "request_id", request, "is null; give every request an id of its own, on which its random draw depends"
    history, candidates = _listed(asked["history"]), _listed(asked["candidates"])
    if history is None or candidates is None:
        column = "history" if history is None else "candidates"
        return column, asked[column], "is no list; give one"
    for column, titles in (("title", [asked["title"]]), ("history", history)):
        for title in titles:
            if not isinstance(title, dict) or not one_line(str(title.get("name") or "")):
                return column, title, "has no name; give the title's name"
            genres = title.get("genres")
            if isinstance(genres, str):
                return column, title, "has text for genres; give a list"
            weight = title.get("weight")
            if weight is not None and not (isinstance(weight, numbers.Real) and 0 <= float(weight) <= 1):
                return column, title, "has a weight that is no number in [0, 1]; scale the rating or watched fraction"
    if not candidates:
        return "candidates", candidates, "has no candidate; offer at least one"
    for candidate in candidates:
        if not isinstance(candidate, dict) or candidate.get("artwork_id") is None:
            return "candidates", candidate, "has no artwork_id; name the artwork"
        caption = candidate.get("caption")
        if not isinstance(caption, str) or not one_line(caption):
            return "candidates", candidate, "has no caption to read; describe the artwork in words"
    ids = [str(candidate["artwork_id"]) for candidate in candidates]
    if len(set(ids)) < len(ids):
        return "candidates", ids, "names an artwork twice; make it a set"
    return None


def from_log(log: Log) -> pa.Table:
    """The impressions of a log as requests, whose ids are those of the impressions."""
    titles = log.titles.select(["name", "year", "genres", "synopsis"]).to_pylist()
    artworks = log.artworks.select(["artwork_id", "caption"]).to_pylist()
    arrays, history = log.arrays(), log.history
    start, stop = history.spans(log.impressions)
    rows = [
        {
            "request_id": name,
            "history": [
                {**titles[title], "weight": float(weight)}
                for title, weight in zip(history.title[a:b], history.weight[a:b], strict=True)
            ],
            "title": titles[title],
            "candidates": [artworks[artwork] for artwork in candidates[mask]],
        }
        for name, a, b, title, candidates, mask in zip(
            log.impressions["impression_id"].to_pylist(),
            start,
            stop,
            arrays.title,
            arrays.candidates,
            arrays.mask,
            strict=True,
        )
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def to_log(requests: pa.Table, background: Background) -> Log:
    """Requests as the impressions of a log, for whatever reads one; nothing is known of what came of them.

    Args:
        requests: from `read`.
        background: of the log that the model was trained on.
    """
    titles: dict[tuple, int] = {}
    artworks: dict[tuple, int] = {}
    watched: dict[str, list] = {"user_id": [], "title_id": [], "timestamp": [], "weight": []}
    asked: dict[str, list] = {"title_id": [], "candidates": []}
    for number, request in enumerate(requests.to_pylist()):
        for time, title in enumerate(request["history"]):
            watched["user_id"].append(str(number))
            watched["title_id"].append(str(_number(titles, title)))
            watched["timestamp"].append(time)
            watched["weight"].append(title["weight"])
        title = str(_number(titles, request["title"]))
        offered = [(title, c["artwork_id"], c["caption"]) for c in request["candidates"]]
        asked["title_id"].append(title)
        asked["candidates"].append([str(artworks.setdefault(artwork, len(artworks))) for artwork in offered])
    n, counts = len(requests), np.array([len(offered) for offered in asked["candidates"]])
    name, year, genres, synopsis = zip(*titles, strict=True)
    owner, _, caption = zip(*artworks, strict=True)
    return Log(
        titles=table(
            "titles",
            {
                "title_id": [str(i) for i in range(len(titles))],
                "name": name,
                "year": pa.array(year, pa.int32()),
                "genres": pa.array(genres, pa.list_(pa.string())),
                "synopsis": synopsis,
            },
        ),
        artworks=table(
            "artworks",
            {
                "artwork_id": [str(i) for i in range(len(artworks))],
                "title_id": owner,
                "caption": caption,
                "image": pa.nulls(len(artworks), pa.string()),
            },
        ),
        histories=table(
            "histories",
            {
                "user_id": pa.array(watched["user_id"], pa.string()),
                "title_id": pa.array(watched["title_id"], pa.string()),
                "timestamp": pa.array(watched["timestamp"], pa.int64()),
                "weight": pa.array(watched["weight"], pa.float64()),
            },
        ),
        impressions=table(
            "impressions",
            {
                "impression_id": requests["request_id"],
                "user_id": [str(i) for i in range(n)],
                "timestamp": np.full(n, pc.max(pc.list_value_length(requests["history"])).as_py()),
                "shown": np.zeros(n, dtype=np.int32),
                "propensity": np.ones(n),
                "reward": np.zeros(n),
                "production": [np.full(k, 1 / k) for k in counts],
                "split": ["test"] * n,
                **asked,
            },
        ),
        manifest={},
        learnt_on=background,
    )


def _number(titles: dict[tuple, int], title: dict) -> int:
    key = title["name"], title["year"], tuple(title["genres"]), title["synopsis"]
    return titles.setdefault(key, len(titles))
