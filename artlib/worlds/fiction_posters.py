"""Fictional artworks as pictures: a poster drawn from its caption alone, the same bytes for the same caption.

Its three colours are the palette's, its shapes the composition, and the scene is set in words, so that the picture says
no less than the caption; a tone's look is set smaller below, over a pattern of its tone.
"""

import random
from collections.abc import Callable, Iterator

from PIL import Image, ImageDraw

from artlib.worlds import fiction_text
from artlib.worlds.fiction_layouts import LAYOUTS, Look, Place
from artlib.worlds.poster import Box, Sheet, contrast, ink, muted

_LARGEST, _SMALL, _CREDIT = 0.115, 0.058, 0.045  # letters of the scene, of a tone's look and of a name, in widths


def draw(caption: str) -> Image.Image | None:
    """The picture that a fictional caption describes, in RGB; None for any other caption."""
    said = fiction_text.read(caption)
    if said is None:
        return None
    chance = random.Random(caption)  # seeded by a hash of its letters, alike in all processes
    ground = chance.choice(said.palette[:2])
    near, far = sorted((c for c in said.palette if c != ground), key=lambda colour: contrast(ground, colour))
    look, sheet = Look(ground, far, near, chance), Sheet(ground)
    place = LAYOUTS[said.composition](sheet, look)
    if said.tone:
        sheet.over(_pattern(sheet, look, place, _PATTERNS[said.tone]))
    letters = ink(place.ground, said.palette)
    softer = muted(letters, place.ground)
    parts = [(said.scene, _LARGEST, letters)]
    parts += [(said.look, _SMALL, softer)] if said.look else []
    parts += [(f"with {said.actor}", _CREDIT, softer)] if said.actor else []
    sheet.words(place.box, parts, place.centred, place.low)
    return sheet.finished()


def _pattern(sheet: Sheet, look: Look, place: Place, draw_on: Callable) -> Image.Image:
    layer = Image.new("RGBA", sheet.image.size)
    draw_on(ImageDraw.Draw(layer), *layer.size, look, _Scattered(layer.width, look.chance, place.box))
    return layer


class _Scattered:
    """Points by chance all over a sheet but in the box of its words."""

    def __init__(self, unit: int, chance: random.Random, box: Box):
        self._unit, self._chance, self._box = unit, chance, box

    def __call__(self, n: int, beside: float = 0.03) -> Iterator[tuple[float, float, float]]:
        """At most n points, in pixels, and a random number from 0 to 1 for each; `beside` is the margin of the box."""
        left, top, right, bottom = self._box
        for _ in range(n):
            x, y, other = self._chance.random(), 1.5 * self._chance.random(), self._chance.random()
            if not (left - beside < x < right + beside and top - beside < y < bottom + beside):
                yield x * self._unit, y * self._unit, other


def _rain(pen, width: int, height: int, look: Look, scattered: _Scattered) -> None:
    for x, y, chance in scattered(110, 0.07):
        long = 14 + 26 * chance
        pen.line([x, y, x - long / 4, y + long], f"{look.far}40", 2)


def _dots(pen, width: int, height: int, look: Look, scattered: _Scattered) -> None:
    for row in range(0, height, 16):
        for column in range(0, width, 16):
            x, y = column + 8 * (row // 16 % 2), row
            radius = 6 * (x / width + y / height - 1.1)
            if radius > 0:
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], f"{look.ground}8c")


def _rays(pen, width: int, height: int, look: Look, scattered: _Scattered) -> None:
    box = [-height, -height * 0.4, width + height, height * 1.8]
    for n in range(12):
        pen.pieslice(box, 30 * n, 30 * n + 9, f"{look.far}1e")


def _glow(pen, width: int, height: int, look: Look, scattered: _Scattered) -> None:
    for n in range(10):
        radius, strength = width * (0.62 - 0.05 * n), f"{look.near}{6 + 5 * n:02x}"
        for x in (0, width):
            pen.ellipse([x - radius, height - radius, x + radius, height + radius], strength)


def _slits(pen, width: int, height: int, look: Look, scattered: _Scattered) -> None:
    for x, y, chance in scattered(26):
        long = 60 + 160 * chance
        pen.line([x, y, x + long, y + long / 7], f"{look.far}5a", 1)
        pen.line([x, y + 3, x + long, y + 3 + long / 7], f"{look.ground}5a", 2)


def _confetti(pen, width: int, height: int, look: Look, scattered: _Scattered) -> None:
    for n, (x, y, chance) in enumerate(scattered(44)):
        colour, radius = f"{(look.near, look.far)[n % 2]}80", 4 + 5 * chance
        if n % 3:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], colour)
        else:
            pen.regular_polygon((x, y, radius + 3), 4, round(90 * chance), colour)


_PATTERNS = {
    "bleak": _rain,
    "comic": _dots,
    "epic": _rays,
    "tender": _glow,
    "tense": _slits,
    "whimsical": _confetti,
}
