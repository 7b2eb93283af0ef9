"""How the compositions of fictional captions are laid out on a poster: one function a composition.

Each draws in the colours of a `Look` and says where the words stand, and on what ground.
"""

import dataclasses
import random
from collections.abc import Callable

from PIL import ImageFilter

from artlib.worlds.poster import Box, Sheet, mix

TOP, TALL, FOOT = (0.08, 0.09, 0.92, 0.58), (0.08, 0.09, 0.92, 0.92), (0.08, 0.98, 0.92, 1.42)


@dataclasses.dataclass(frozen=True)
class Look:
    """The colours of a poster: its ground, the one farthest from that, and the third; and its own chance."""

    ground: str
    far: str
    near: str
    chance: random.Random

    def shade(self, share: float) -> str:
        """A colour between ground (0) and far (1)."""
        return mix(self.ground, self.far, share)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the words of a poster stand: in a box, on a ground of one colour."""

    box: Box
    ground: str
    centred: bool = False
    low: bool = False


def wide(sheet: Sheet, look: Look) -> Place:
    x = look.chance.choice((0.3, 0.7))
    sheet.disc(1 - x, 1.02, 0.2, look.near)
    sheet.box(0, 1.22, 1, 1.5, look.far)
    sheet.person(x, 1.23, 0.42, look.far)
    return Place(TOP, look.ground)


def extreme_wide(sheet: Sheet, look: Look) -> Place:
    sheet.disc(0.8, 1.12, 0.045, look.far)
    sheet.oval(0.35, 1.85, 1.5, 0.55, look.near)
    for x, height in ((0.2, 0.06), (0.25, 0.07), (0.31, 0.055)):
        sheet.person(x, 1.32, height, look.far)
    return Place(TALL, look.ground)


def from_below(sheet: Sheet, look: Look) -> Place:
    for x in (-0.45, 0.05, 0.55, 1.05):
        sheet.shape([(0.5, 0.66), (x, 1.5), (x + 0.28, 1.5)], look.shade(0.12))
    sheet.shape([(-0.2, 1.5), (0.1, 1.13), (0.36, 1.04), (0.64, 1.04), (0.9, 1.13), (1.2, 1.5)], look.far)
    sheet.oval(0.5, 0.86, 0.17, 0.19, look.far)
    sheet.shape([(0.40, 0.94), (0.60, 0.94), (0.63, 1.12), (0.5, 1.2), (0.37, 1.12)], mix(look.far, look.near, 0.6))
    sheet.oval(0.5, 0.96, 0.12, 0.05, look.far)
    sheet.shape([(0.37, 1.11), (0.5, 1.2), (0.63, 1.11), (0.78, 1.5), (0.22, 1.5)], look.near)
    return Place(TOP, look.ground)


def tight(sheet: Sheet, look: Look) -> Place:
    sheet.disc(0.5, 0.92, 0.86, look.far)
    for x in (0.24, 0.76):
        sheet.shape(
            [(x - 0.17, 0.48), (x - 0.06, 0.40), (x + 0.06, 0.40), (x + 0.17, 0.48)]
            + [(x + 0.06, 0.55), (x - 0.06, 0.55)],
            look.ground,
        )
        sheet.disc(x, 0.475, 0.068, look.near)
        sheet.disc(x, 0.475, 0.028, look.far)
        sheet.line([(x - 0.17, 0.33), (x, 0.28), (x + 0.17, 0.33)], 0.03, look.ground)
    sheet.line([(0.5, 0.55), (0.46, 0.73), (0.53, 0.75)], 0.012, look.ground)
    return Place((0.1, 0.86, 0.9, 1.42), look.far, low=True)


def against_light(sheet: Sheet, look: Look) -> Place:
    sheet.disc(0.5, 1.0, 0.42, look.near)
    sheet.disc(0.5, 1.0, 0.36, look.far)
    sheet.box(0, 1.26, 1, 1.5, look.ground)
    sheet.person(0.5, 1.28, 0.5, look.ground)
    return Place((0.08, 0.09, 0.92, 0.54), look.ground, centred=True)


def from_above(sheet: Sheet, look: Look) -> Place:
    for n in range(7):
        sheet.line([(0, 0.62 + 0.16 * n), (1, 0.62 + 0.16 * n)], 0.006, look.shade(0.18))
        sheet.line([(0.1 + 0.16 * n, 0.62), (0.1 + 0.16 * n, 1.5)], 0.006, look.shade(0.18))
    sheet.person(0.38, 0.98, 0.72, look.shade(0.32), lean=124)  # the shadow
    sheet.oval(0.34, 0.98, 0.17, 0.06, look.far)
    sheet.oval(0.30, 1.05, 0.035, 0.055, look.far)
    sheet.disc(0.34, 0.975, 0.066, look.near)
    return Place(TOP, look.ground)


def low_angle(sheet: Sheet, look: Look) -> Place:
    sheet.shape([(0, 1.5), (0.30, 1.5), (0.44, 0.66), (0.22, 0.66)], look.near)
    sheet.shape([(0.30, 1.5), (0.40, 1.5), (0.46, 0.66), (0.44, 0.66)], mix(look.near, look.ground, 0.4))
    sheet.shape([(1, 1.5), (0.70, 1.5), (0.57, 0.60), (0.78, 0.60)], look.far)
    sheet.shape([(0.70, 1.5), (0.60, 1.5), (0.55, 0.60), (0.57, 0.60)], look.shade(0.55))
    for n in range(1, 9):
        far = n / 9  # storeys, closer together the higher they are
        y, along = 0.66 + 0.84 * far**1.6, far**1.6
        sheet.line([(0.22 - 0.22 * along, y), (0.44 - 0.14 * along, y)], 0.007, mix(look.near, look.ground, 0.4))
        sheet.line([(0.57 + 0.13 * along, y), (0.78 + 0.22 * along, y)], 0.007, look.shade(0.55))
    return Place((0.08, 0.09, 0.92, 0.54), look.ground)


def high_angle(sheet: Sheet, look: Look) -> Place:
    inner = [(0.26, 0.94), (0.74, 0.94), (0.68, 1.36), (0.32, 1.36)]
    outer = [(0.0, 0.62), (1.0, 0.62), (1.0, 1.5), (0.0, 1.5)]
    for n, share in enumerate((0.12, 0.3, 0.2, 0.4)):
        sheet.shape([outer[n], outer[(n + 1) % 4], inner[(n + 1) % 4], inner[n]], look.shade(share))
    sheet.shape(inner, look.near)
    sheet.person(0.47, 1.26, 0.2, mix(look.near, look.ground, 0.5), lean=58)
    sheet.person(0.46, 1.27, 0.2, look.far)
    return Place((0.08, 0.09, 0.92, 0.57), look.ground)


def over_shoulder(sheet: Sheet, look: Look) -> Place:
    sheet.box(0, 1.2, 1, 1.5, look.near)
    sheet.person(0.27, 1.28, 0.42, look.shade(0.75))
    sheet.bust(0.86, 1.55, 0.92, look.far)
    return Place(TOP, look.ground)


def symmetrical(sheet: Sheet, look: Look) -> Place:
    for half, colour in ((0.42, look.shade(0.25)), (0.32, look.near), (0.22, look.far)):
        sheet.disc(0.5, 1.04, half, colour)
        sheet.box(0.5 - half, 1.04, 0.5 + half, 1.5, colour)
    sheet.person(0.5, 1.44, 0.46, look.ground)
    return Place((0.08, 0.09, 0.92, 0.54), look.ground, centred=True)


def empty_sky(sheet: Sheet, look: Look) -> Place:
    sheet.box(0, 0.9, 1, 1.5, look.far)
    sheet.person(0.84, 0.91, 0.2, look.far)
    sheet.line([(0.08, 0.9), (0.2, 0.9)], 0.02, look.near)
    return Place(FOOT, look.far, low=True)


def split(sheet: Sheet, look: Look) -> Place:
    other = Sheet(look.far)
    sheet.bust(0.5, 0.94, 0.78, look.far)
    other.bust(0.5, 0.94, 0.78, look.ground)
    width, height = sheet.image.size
    right = (width // 2, 0, width, height)
    sheet.image.paste(other.image.crop(right), right)
    sheet.box(0, 0.92, 1, 1.5, look.near)
    return Place(FOOT, look.near)


def doorway(sheet: Sheet, look: Look) -> Place:
    sheet.box(0.26, 0.64, 0.74, 1.36, look.near)
    sheet.box(0.30, 0.68, 0.70, 1.36, look.far)
    sheet.shape([(0.30, 1.36), (0.70, 1.36), (0.92, 1.5), (0.08, 1.5)], look.shade(0.6))
    sheet.person(0.5, 1.38, 0.5, look.ground)
    return Place(TOP, look.ground)


def puddle(sheet: Sheet, look: Look) -> Place:
    sheet.person(0.5, 1.06, 0.44, look.far)
    sheet.oval(0.5, 1.24, 0.42, 0.2, look.near)
    sheet.person(0.5, 1.07, -0.34, mix(look.near, look.ground, 0.65))
    for y, half in ((1.17, 0.2), (1.25, 0.28), (1.33, 0.16)):
        sheet.line([(0.5 - half, y), (0.5 + half, y)], 0.008, look.near)
    return Place(TOP, look.ground)


def tilted(sheet: Sheet, look: Look) -> Place:
    sheet.disc(0.26, 0.86, 0.13, look.near)
    sheet.shape([(0, 1.28), (1, 0.96), (1, 1.5), (0, 1.5)], look.far)
    sheet.person(0.66, 1.08, 0.38, look.far, lean=-18)
    return Place(TOP, look.ground)


def from_behind(sheet: Sheet, look: Look) -> Place:
    sheet.disc(0.5, 0.98, 0.34, look.shade(0.2))
    sheet.bust(0.5, 1.5, 0.82, look.far)
    sheet.oval(0.5, 0.94, 0.195, 0.26, look.near)  # hair, and no face
    sheet.line([(0.5, 0.71), (0.5, 1.18)], 0.008, look.far)
    return Place(TOP, look.ground)


def layered(sheet: Sheet, look: Look) -> Place:
    colours = (look.shade(0.22), look.near, look.shade(0.6), look.far)
    for n, (x, y) in enumerate(((0.2, 0.92), (0.85, 1.02), (0.3, 1.2), (0.75, 1.38))):
        sheet.oval(x, y + 0.5, 0.75, 0.5, colours[n])
        sheet.person((0.32, 0.62, 0.16, 0.8)[n], y + 0.03, 0.11 + 0.07 * n, colours[n])
    return Place((0.08, 0.09, 0.92, 0.56), look.ground)


def blurred(sheet: Sheet, look: Look) -> Place:
    for _ in range(9):
        x, y = look.chance.uniform(0, 1), look.chance.uniform(0.85, 1.4)
        colour = look.chance.choice((look.near, look.shade(0.25)))
        sheet.disc(x, y, look.chance.uniform(0.07, 0.14), colour)
    part = (0, round(0.62 * sheet.image.width), *sheet.image.size)
    sheet.image.paste(sheet.image.crop(part).filter(ImageFilter.GaussianBlur(14)), part)
    sheet.box(0, 1.43, 1, 1.5, look.near)
    sheet.person(0.5, 1.45, 0.8, look.far)
    return Place((0.08, 0.09, 0.92, 0.56), look.ground)


def collage(sheet: Sheet, look: Look) -> Place:
    panels = ((0.24, 0.26, -9), (0.78, 0.3, 7), (0.2, 1.26, 8), (0.78, 1.24, -6), (0.5, 0.2, 3))
    for n, (x, y, turn) in enumerate(panels):
        half, high, slope = 0.3, 0.26, turn / 60
        corners = [
            (x + sx * half - sy * high * slope, y + sy * high + sx * half * slope)
            for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        colour = (look.near, look.shade(0.35), look.shade(0.6), look.near, look.shade(0.2))[n]
        sheet.shape(corners, colour)
        sheet.line([*corners, corners[0]], 0.008, look.ground)
        if n % 2:
            sheet.disc(x, y, 0.13, look.ground)
        else:
            sheet.person(x, y + 0.22, 0.38, look.ground, lean=turn)
    sheet.box(0.06, 0.45, 0.94, 1.05, look.ground)
    sheet.box(0.08, 0.47, 0.92, 1.03, look.far)
    return Place((0.13, 0.52, 0.87, 0.99), look.far)


def profile(sheet: Sheet, look: Look) -> Place:
    face = [(0.58, 0.66), (0.40, 0.70), (0.32, 0.82), (0.31, 0.92), (0.25, 1.04), (0.30, 1.07), (0.29, 1.12)]
    face += [(0.31, 1.14), (0.29, 1.18), (0.33, 1.26), (0.46, 1.27), (0.48, 1.38), (0.30, 1.5)]
    back = [(0.95, 1.5), (0.74, 1.37), (0.72, 1.22), (0.80, 1.02), (0.80, 0.84), (0.72, 0.71)]
    sheet.shape([*face, *back], look.far)
    sheet.shape([(0.56, 0.66), (0.5, 0.9), (0.53, 1.08), (0.5, 1.26), (0.56, 1.5), *back], look.near)
    sheet.line([(0.34, 0.94), (0.41, 0.945)], 0.014, look.ground)
    return Place(TOP, look.ground)


def medium(sheet: Sheet, look: Look) -> Place:
    sheet.box(0, 0, 1, 0.40, look.shade(0.14))
    sheet.oval(0.5, 0.34, 0.2, 0.23, look.near)
    sheet.bust(0.5, 0.94, 0.8, look.far)
    sheet.shape(
        [(0.31, 0.40), (0.33, 0.26), (0.42, 0.13), (0.58, 0.12), (0.67, 0.25), (0.69, 0.40), (0.61, 0.28)], look.near
    )
    sheet.box(0, 0.93, 1, 1.5, look.far)
    sheet.shape([(0.40, 0.66), (0.60, 0.66), (0.5, 0.92)], look.near)
    return Place(FOOT, look.far)


def diagonal(sheet: Sheet, look: Look) -> Place:
    sheet.shape([(0, 1.42), (1, 0.68), (1, 1.5), (0, 1.5)], look.near)
    sheet.shape([(0, 1.42), (1, 0.68), (1, 0.76), (0, 1.5)], look.far)
    for x in (0.2, 0.42, 0.66):
        sheet.person(x, 1.42 - 0.74 * x + 0.01, 0.14 + 0.2 * x, look.far, lean=10)
    return Place((0.08, 0.09, 0.92, 0.56), look.ground)


def single(sheet: Sheet, look: Look) -> Place:
    sheet.oval(0.5, 0.87, 0.2, 0.022, look.near)
    sheet.person(0.5, 0.87, 0.68, look.far)
    return Place(FOOT, look.ground, centred=True)


def crowded(sheet: Sheet, look: Look) -> Place:
    for row in range(9):
        colours = (look.shade(0.25), look.near, look.shade(0.5), look.far)
        for n in range(6):
            x = 0.2 * n - 0.1 * (row % 2) + look.chance.uniform(-0.02, 0.02)
            sheet.bust(x + 0.05, 0.22 + 0.17 * row, 0.24, colours[(n + 2 * row) % 4])
    sheet.box(0.06, 0.42, 0.94, 1.04, look.ground)
    return Place((0.12, 0.48, 0.88, 0.99), look.ground)


LAYOUTS: dict[str, Callable[[Sheet, Look], Place]] = {
    "wide shot": wide,
    "extreme wide shot with tiny figures": extreme_wide,
    "close-up from below": from_below,
    "tight close-up": tight,
    "silhouette against the light": against_light,
    "view from directly above": from_above,
    "low angle looking up": low_angle,
    "high angle looking down": high_angle,
    "over the shoulder view": over_shoulder,
    "symmetrical and centred": symmetrical,
    "off centre with empty sky above": empty_sky,
    "split down the middle": split,
    "framed through a doorway": doorway,
    "reflection in a puddle": puddle,
    "tilted horizon": tilted,
    "seen from behind": from_behind,
    "deep focus with layered foreground": layered,
    "blurred background and sharp foreground": blurred,
    "collage of overlapping panels": collage,
    "profile view in half shadow": profile,
    "medium shot at eye level": medium,
    "strong diagonal across the frame": diagonal,
    "single subject on a plain background": single,
    "crowded frame filled edge to edge": crowded,
}
