"""Pictures of artworks: where they lie, and whether they can be looked at.

The column `image` of artworks.parquet holds a path, relative to the log's folder or absolute, or null.
"""

import concurrent.futures
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from artlib.data.contract import LogError

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 100_000_000  # bytes of a file
MOST_PIXELS = 100_000_000  # of a picture: more is a decompression bomb, or a master that nobody serves
SHOWN = 20  # pictures that cannot be opened and are named one by one


def path(folder: str | os.PathLike | None, image: str) -> Path:
    """Where a picture lies, given its log's folder and the value of the column `image`."""
    return Path(folder or "") / image


def read(file: str | os.PathLike, side: int = 0) -> "Image":
    """A picture in RGB, upright.

    Args:
        side: the longer side of the result, at most, in pixels; 0 for as it is.

    Raises:
        LogError: the file is missing, too large, or no picture; the message names it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    file = Path(file)
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise LogError(f"{file} has {size:,} bytes; give a picture of at most {LARGEST:,}")
        with warnings.catch_warnings(), Image.open(file) as opened:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise LogError(f"{file} is {width:,} x {height:,} pixels; give one of at most {MOST_PIXELS:,} in all")
            if side:
                opened.draft("RGB", (side, side))  # JPEG: decoded at a fraction of its size
            picture = ImageOps.exif_transpose(opened).convert("RGB")
            if side:
                picture.thumbnail((side, side))
            return picture
    except FileNotFoundError:
        raise LogError(f"{file} does not exist; put the picture there, or leave the image null") from None
    except IsADirectoryError:
        raise LogError(f"{file} is a folder, not a picture") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, LogError):
            raise
        said = str(error).removesuffix(".")
        raise LogError(f"{file} cannot be opened as a picture ({said}); save it again as JPEG, PNG or WebP") from None


def unreadable(artworks: pa.Table, folder: str | os.PathLike | None) -> Iterator[tuple[int, LogError]]:
    """The pictures that cannot be read: row of `artworks` and why. Every file is opened and decoded."""
    rows = [(row, image) for row, image in enumerate(artworks["image"].to_pylist()) if image is not None]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for (row, _), fault in zip(rows, pool.map(lambda found: _fault(path(folder, found[1])), rows), strict=True):
            if fault:
                yield row, fault


def faults(artworks: pa.Table, folder: str | os.PathLike | None) -> list[str]:
    """What is wrong with the pictures, a line each in the manner of `contract.find`, at most `SHOWN`."""
    found = list(unreadable(artworks, folder))
    lines = [
        f"artworks.parquet row {row}, column image: {artworks['image'][row].as_py()!r}: {fault}"
        for row, fault in found[:SHOWN]
    ]
    return lines + ([f"and {len(found) - SHOWN:,} more pictures"] if len(found) > SHOWN else [])


def _fault(file: Path) -> LogError | None:
    try:
        read(file, side=64)
    except LogError as error:
        return error
    return None
