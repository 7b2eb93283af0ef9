"""A poster to draw on: a sheet of a few colours, shapes and people on it, and words that fill a box.

Drawn twice as large as it will be and then halved, so that edges are smooth. The letters are those that Pillow ships,
which has nothing but ASCII.
"""

import colorsys
import functools
import math
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIZE = 240, 360  # of a finished poster, in pixels
_UNIT = 2 * SIZE[0]  # pixels of the sheet's width, in which all lengths are given: a sheet is 1 wide and 1.5 high
_LEADING, _READABLE = 1.14, 4.5  # from line to line, in letters' heights; the least contrast of letters

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def ascii_of(words: str) -> str | None:
    """Words without their accents; None if any other letters are left, which cannot be set."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", words) if not unicodedata.combining(c))
    return plain if plain.isascii() and plain.isprintable() else None


def mix(first: str, second: str, share: float) -> str:
    """A colour between two: `share` of the second."""
    pairs = zip(_rgb(first), _rgb(second), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)


def from_hue(hue: float, lightness: float, saturation: float) -> str:
    """A colour by hue, lightness and saturation, each from 0 to 1."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue % 1, lightness, saturation))


def contrast(first: str, second: str) -> float:
    """How well two colours can be told apart, from 1 to 21: the ratio of luminances of WCAG 2.2."""
    low, high = sorted(map(_luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def ink(ground: str, colours: Sequence[str]) -> str:
    """The colour that reads best on a ground; nearly black or white, if none reads well."""
    best = max(colours, key=lambda colour: contrast(ground, colour))
    if contrast(ground, best) >= _READABLE:
        return best
    return max(("#101010", "#fafafa"), key=lambda colour: contrast(ground, colour))


def muted(letters: str, ground: str) -> str:
    """A softer colour for what is less important, if that reads well."""
    softer = mix(letters, ground, 0.18)
    return softer if contrast(ground, softer) >= _READABLE else letters


class Sheet:
    """What is drawn on, from (0, 0) at the top left to (1, 1.5).

    Args:
        ground: hex colour.
    """

    def __init__(self, ground: str):
        self.image = Image.new("RGB", (_UNIT, _UNIT * SIZE[1] // SIZE[0]), ground)
        self._pen = ImageDraw.Draw(self.image)
        self._set: list[tuple] = []  # lines of words: where, what, how large and in what colour

    def shape(self, points: Sequence[Point], colour: str) -> None:
        """A filled polygon."""
        self._pen.polygon([(x * _UNIT, y * _UNIT) for x, y in points], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """A filled rectangle."""
        self.shape([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: str) -> None:
        """A filled ellipse around a point."""
        self._pen.ellipse([(x - rx) * _UNIT, (y - ry) * _UNIT, (x + rx) * _UNIT, (y + ry) * _UNIT], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        """A filled circle."""
        self.oval(x, y, radius, radius, colour)

    def line(self, points: Sequence[Point], width: float, colour: str) -> None:
        """A stroke through points."""
        self._pen.line([(x * _UNIT, y * _UNIT) for x, y in points], colour, max(1, round(width * _UNIT)), "curve")

    def person(self, x: float, y: float, height: float, colour: str, lean: float = 0.0) -> None:
        """Somebody who stands at a point; upside down if the height is below 0. `lean` is in degrees."""
        for outline in _PERSON:
            self.shape(_placed(outline, x, y, height, lean), colour)

    def bust(self, x: float, y: float, height: float, colour: str) -> None:
        """Head and shoulders above a point."""
        for outline in _BUST:
            self.shape(_placed(outline, x, y, height, 0), colour)

    def over(self, layer: Image.Image) -> None:
        """Lay a picture in RGBA of the sheet's size over it."""
        self.image.paste(layer, mask=layer)

    def words(self, box: Box, parts: Sequence[tuple[str, float, str]], centred: bool = False, low: bool = False):
        """Set paragraphs under each other, above all shapes.

        Args:
            parts: words, the size of their letters, and their colour. The first is set as large as the room that the
                others leave allows, at most in its size.
            centred: else lines begin at the left edge.
            low: they end at the lower edge; else they begin at the upper one.
        """
        left, top, right, bottom = (round(edge * SIZE[0]) for edge in box)
        sizes = [round(size * SIZE[0]) for _, size, _ in parts]
        gap = round(0.035 * SIZE[0])
        taken = sum(
            gap + _height(_lines(words, size, right - left), size)
            for (words, _, _), size in zip(parts[1:], sizes[1:], strict=True)
        )
        sizes[0] = _fitting(parts[0][0], sizes[0], right - left, bottom - top - taken)
        paragraphs = [_lines(words, size, right - left) for (words, _, _), size in zip(parts, sizes, strict=True)]
        y = bottom - taken - _height(paragraphs[0], sizes[0]) if low else top
        for lines, size, (_, _, colour) in zip(paragraphs, sizes, parts, strict=True):
            for line in lines:
                x = left + (right - left - _font(size).getlength(line)) / 2 if centred else left
                self._set.append((x, y, line, size, colour))
                y += round(_LEADING * size)
            y += gap

    def finished(self) -> Image.Image:
        """The poster, in RGB."""
        poster = self.image.reduce(2)
        pen = ImageDraw.Draw(poster)
        for x, y, line, size, colour in self._set:
            pen.text((x, y), line, colour, _font(size))
        return poster


def _circle(x: float, y: float, rx: float, ry: float) -> list[Point]:
    return [(x + rx * math.cos(a / 14 * math.pi), y + ry * math.sin(a / 14 * math.pi)) for a in range(28)]


# Outlines upwards from where a figure of height 1 stands.
_PERSON = [
    _circle(0, 0.915, 0.072, 0.083),
    _circle(-0.115, 0.745, 0.055, 0.06),
    _circle(0.115, 0.745, 0.055, 0.06),
    [(-0.04, 0.86), (-0.05, 0.815), (-0.125, 0.80), (-0.17, 0.74), (-0.19, 0.42), (-0.145, 0.41), (-0.115, 0.66)]
    + [(-0.105, 0.48), (-0.115, 0.0), (-0.035, 0.0), (0.0, 0.42), (0.035, 0.0), (0.115, 0.0), (0.105, 0.48)]
    + [(0.115, 0.66), (0.145, 0.41), (0.19, 0.42), (0.17, 0.74), (0.125, 0.80), (0.05, 0.815), (0.04, 0.86)],
]
_BUST = [
    _circle(0, 0.70, 0.22, 0.29),
    [(-0.11, 0.55), (-0.10, 0.36), (-0.42, 0.27), (-0.52, 0.17), (-0.56, 0.0)]
    + [(0.56, 0.0), (0.52, 0.17), (0.42, 0.27), (0.10, 0.36), (0.11, 0.55)],
]


def _placed(outline: Sequence[Point], x: float, y: float, height: float, lean: float) -> list[Point]:
    sine, cosine = math.sin(math.radians(lean)), math.cos(math.radians(lean))
    size = abs(height)  # whoever stands on their head is as broad
    return [
        (x + size * px * cosine + height * py * sine, y + size * px * sine - height * py * cosine) for px, py in outline
    ]


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    # Without raqm, which sets a little differently and which not every Pillow has.
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _width(word: str) -> float:
    """Of a word in letters of size 1, and a little more: small letters are whole pixels wide."""
    return _font(100).getlength(word) / 95


def _lines(words: str, size: float, width: float) -> list[str]:
    """Words in lines of at most a width, as few as can be and as long as each other as can be."""
    choices = [_wrapped(words, size, width * (1 - 0.04 * narrower)) for narrower in range(10)]
    fewest = [lines for lines in choices if len(lines) == len(choices[0])]
    return min(fewest, key=lambda lines: max(map(len, lines)) - min(map(len, lines)))


def _wrapped(words: str, size: float, width: float) -> list[str]:
    lines, room, space = [], 0.0, size * _width(" ")
    for word in words.split():
        wide = size * _width(word)
        if lines and space + wide <= room:
            lines[-1] += f" {word}"
            room -= space + wide
        else:
            lines.append(word)
            room = width - wide
    return lines


def _fitting(words: str, largest: int, width: float, height: float) -> int:
    """The largest size at which words fit; the smallest that can be read, if none does."""
    longest = max(map(_width, words.split()))
    fits = (size for size in range(largest, 9, -1) if size * longest <= width)
    return next((size for size in fits if _height(_wrapped(words, size, width), size) <= height), 9)


def _height(lines: list[str], size: int) -> int:
    return round(_LEADING * size) * len(lines)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _luminance(colour: str) -> float:
    parts = [part / 255 for part in _rgb(colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
