"""Posters of MovieLens' titles: a caption's keywords in large letters, in colours and shapes that its hash chooses."""

import random

from PIL import Image

from artlib.worlds import movielens_text
from artlib.worlds.poster import Sheet, ascii_of, from_hue, ink, mix, muted


def draw(caption: str) -> Image.Image | None:
    """The picture of a caption of this world, in RGB; None for other captions and letters that cannot be set."""
    found = movielens_text.parts(caption)
    if found is None or ascii_of(caption) is None:
        return None
    keywords, mood = ", ".join(map(ascii_of, found[0])), ascii_of(found[1])
    chance = random.Random(caption)  # seeded by a hash of its letters, alike in all processes
    hue = chance.random()
    dark, strong = from_hue(hue, 0.17, 0.45), from_hue(hue + chance.choice((0.08, 0.42, 0.5)), 0.52, 0.62)
    pale = from_hue(hue + 0.1, 0.91, 0.5)
    ground, other = chance.choice(((dark, pale), (pale, dark), (strong, dark)))
    sheet = Sheet(ground)
    chance.choice(_SHAPES)(sheet, strong if ground != strong else pale, other, mix(ground, other, 0.15))
    letters = ink(ground, (dark, strong, pale))
    sheet.words(
        (0.08, 0.09, 0.92, 0.84),
        [(keywords[0].upper() + keywords[1:], 0.125, letters), (mood, 0.058, muted(letters, ground))],
    )
    return sheet.finished()


def _sun(sheet: Sheet, strong: str, other: str, faint: str) -> None:
    sheet.disc(0.68, 1.3, 0.42, faint)
    sheet.disc(0.68, 1.3, 0.34, strong)
    sheet.box(0, 1.38, 1, 1.5, other)


def _stripes(sheet: Sheet, strong: str, other: str, faint: str) -> None:
    for n, colour in enumerate((faint, strong, other, strong, faint)):
        sheet.shape([(0.12 * n, 1.5), (0.12 * n + 0.09, 1.5), (0.12 * n + 0.59, 0.9), (0.12 * n + 0.5, 0.9)], colour)


def _hills(sheet: Sheet, strong: str, other: str, faint: str) -> None:
    for x, y, colour in ((0.2, 0.98, faint), (0.85, 1.12, strong), (0.3, 1.3, other)):
        sheet.oval(x, y + 0.5, 0.8, 0.5, colour)


def _frames(sheet: Sheet, strong: str, other: str, faint: str) -> None:
    for n, colour in enumerate((faint, strong, other)):
        sheet.box(0.12 + 0.15 * n, 0.94 + 0.1 * n, 1.1, 1.5, colour)


def _steps(sheet: Sheet, strong: str, other: str, faint: str) -> None:
    for n in range(6):
        colour = (faint, strong, other)[n % 3]
        sheet.box(n / 6, 1.42 - 0.085 * n, (n + 1) / 6, 1.5, colour)


_SHAPES = (_sun, _stripes, _hills, _frames, _steps)
