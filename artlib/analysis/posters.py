"""The picture of an artwork wherever people look: the log's own file, else what its world draws, else its caption."""

import base64
import dataclasses
import html
import io
from typing import TYPE_CHECKING

import numpy as np

from artlib import worlds
from artlib.analysis import errors
from artlib.data import Log, LogError, pictures

if TYPE_CHECKING:
    from PIL.Image import Image

_ENCODED, _SHOWN = 160, 132  # width of a picture in a page: its pixels, and how wide it is shown at least
_LARGE = 90  # characters of a caption that are set in large letters
_CELL = "text-align:left;vertical-align:top;padding:3px 8px;white-space:normal;min-width:132px;max-width:180px"
_NAME = "text-align:right;vertical-align:top;padding:3px 8px;font-weight:normal;white-space:nowrap"
_CARD = "min-width:132px;min-height:198px;box-sizing:border-box;padding:10px;border-radius:3px"


@dataclasses.dataclass(frozen=True)
class Poster:
    """What can be seen of an artwork.

    Attributes:
        caption: its caption.
        picture: in RGB; None where there is none, or none that can be opened.
        fault: why the log's picture cannot be opened; else empty.
    """

    caption: str
    picture: "Image | None" = None
    fault: str = ""


def of(log: Log, artwork: int, side: int = 360) -> Poster:
    """What can be seen of an artwork of a log.

    Args:
        artwork: row in `artworks`.
        side: the longer side of a picture that is read from a file, at most, in pixels.
    """
    caption, image = (log.artworks[column][int(artwork)].as_py() for column in ("caption", "image"))
    if image is not None:
        path = pictures.path(log.folder, image)
        try:
            return Poster(caption, pictures.read(path, side))
        except LogError as fault:
            return Poster(caption, fault=str(fault).replace(str(path), path.name))
    world = worlds.known().get(log.manifest.get("world"))
    return Poster(caption, world.draw(caption) if world and world.draw else None)


def tag(poster: Poster) -> str:
    """A poster as HTML that fetches nothing: a small WebP, or a card with the caption or with what is wrong."""
    if poster.picture is not None:
        small = poster.picture.copy()
        small.thumbnail((_ENCODED, 2 * _ENCODED))
        file = io.BytesIO()
        small.save(file, "WEBP", quality=60)
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img src="data:image/webp;base64,{data}" alt="{html.escape(poster.caption)}" width="{_SHOWN}">'
    if poster.fault:
        said = f"This picture cannot be opened: {html.escape(poster.fault)}"
        return f'<div style="{_CARD};background:#e4e4e4;color:#6b1d1d;font-size:11px">{said}</div>'
    size = "15px" if len(poster.caption) <= _LARGE else "11px"
    style = f"{_CARD};background:#22333f;color:#f3ead3;font-size:{size};line-height:1.25"
    return f'<div style="{style}">{html.escape(poster.caption)}</div>'


def strip(log: Log, test: Log, row: int, policies: dict[str, np.ndarray]) -> str:
    """One impression to look at, as HTML: the candidates side by side, and under each with which probability every
    policy would show it, its true reward where that is known, and what came of the one that was shown.

    Args:
        row: of the impressions of `test`.
        policies: name -> (n, K) probabilities.
    """
    artworks = test.arrays().candidates[row][test.arrays().mask[row]]
    seen = [of(log, artwork) for artwork in artworks]
    frame = errors.read_case(log, test, row, policies)
    rows = [_row("", [tag(poster) for poster in seen])]
    captions = [html.escape(poster.caption) if poster.picture is not None or poster.fault else "" for poster in seen]
    rows += [_row("caption", [f"<small>{caption}</small>" for caption in captions])] if any(captions) else []
    for name in frame.columns.drop(["caption", "shown"]):
        values = frame[name].to_numpy()
        rows.append(_row(name, [_bar(value, value == values.max()) for value in values]))
    rows.append(_row("shown", [f"<b>{html.escape(said)}</b>" for said in frame["shown"]]))
    return f'<div style="overflow-x:auto"><table style="border-collapse:collapse">{"".join(rows)}</table></div>'


def _row(name: str, cells: list[str]) -> str:
    told = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
    return f'<tr><th style="{_NAME}">{html.escape(name)}</th>{told}</tr>'


def _bar(value: float, highest: bool) -> str:
    """A number and a bar as long; the highest of a row in bold."""
    said = f"<b>{value:.3f}</b>" if highest else f"{value:.3f}"
    long = 100 * min(1.0, max(0.0, float(value)))
    colour = "#0173b2" if highest else "#9aa5ad"
    return f'{said}<div style="height:4px;width:{long:.0f}%;background:{colour}"></div>'
