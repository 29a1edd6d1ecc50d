"""The twelve drawn sign faces: a shape, a colour and a glyph each, as flat RGBA artwork."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Colour = tuple[int, int, int]
Point = tuple[float, float]

RED: Colour = (200, 30, 38)
BLUE: Colour = (22, 84, 176)
YELLOW: Colour = (246, 190, 24)
GREEN: Colour = (18, 132, 84)
WHITE: Colour = (240, 240, 236)
BLACK: Colour = (34, 34, 38)
AMBER: Colour = (240, 160, 30)

_SUPERSAMPLING = 4


class _Pen:
    """Draws in coordinates that run from -1 to 1, y downwards, on a transparent square."""

    def __init__(self, size: int) -> None:
        from PIL import Image, ImageDraw

        self.image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._half = size / 2

    def _at(self, point: Point) -> Point:
        return (self._half * (1 + point[0]), self._half * (1 + point[1]))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([self._at(point) for point in points], fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        (x, y), r = self._at(centre), radius * self._half
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour,
            corner: float = 0.0) -> None:  # fmt: skip
        self._draw.rounded_rectangle(
            (*self._at((left, top)), *self._at((right, bottom))), corner * self._half, fill=colour
        )

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A polyline with round joints and ends."""
        for start, stop in pairwise(points):
            pixels = round(width * self._half)
            self._draw.line((*self._at(start), *self._at(stop)), fill=colour, width=pixels)
        for point in points:
            self.disc(point, width / 2, colour)

    def ring(self, centre: Point, radii: Point, width: float, colour: Colour) -> None:
        """An ellipse that is only outlined; `radii` reach to the middle of the line."""
        (x, y), w = self._at(centre), width * self._half
        rx, ry = radii[0] * self._half + w / 2, radii[1] * self._half + w / 2
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), outline=colour, width=round(w))


def _octagon(radius: float) -> list[Point]:
    a, b = radius, radius * 0.4142
    return [(-b, -a), (b, -a), (a, -b), (a, b), (b, a), (-b, a), (-a, b), (-a, -b)]


def _rounded_polygon(pen: _Pen, corners: Sequence[Point], corner: float, colour: Colour) -> None:
    pen.polygon(corners, colour)
    pen.stroke([*corners, corners[0]], 2 * corner, colour)


def _ring_plate(pen: _Pen) -> None:
    """The plate of a prohibition: white, with a broad red rim."""
    pen.disc((0, 0), 0.98, WHITE)
    pen.disc((0, 0), 0.95, RED)
    pen.disc((0, 0), 0.68, WHITE)


def _triangle_plate(pen: _Pen, up: bool) -> None:
    """The plate of a warning (point up) or of a yield sign (point down)."""
    sign = 1 if up else -1

    def corners(scale: float) -> list[Point]:
        shift = 0.2 * sign
        points = ((0.0, -1.0), (0.87, 0.5), (-0.87, 0.5))
        return [(scale * x, scale * sign * y + shift) for x, y in points]

    _rounded_polygon(pen, corners(0.94), 0.12, WHITE)
    _rounded_polygon(pen, corners(0.92), 0.10, RED)
    _rounded_polygon(pen, corners(0.55), 0.04, WHITE)


def _square_plate(pen: _Pen, colour: Colour) -> None:
    pen.box(-0.92, -0.92, 0.92, 0.92, WHITE, corner=0.16)
    pen.box(-0.86, -0.86, 0.86, 0.86, colour, corner=0.12)


def _no_entry(pen: _Pen) -> None:
    pen.disc((0, 0), 0.98, WHITE)
    pen.disc((0, 0), 0.93, RED)
    pen.box(-0.68, -0.19, 0.68, 0.19, WHITE, corner=0.03)


def _stop(pen: _Pen) -> None:
    pen.polygon(_octagon(0.97), WHITE)
    pen.polygon(_octagon(0.88), RED)
    width, top, bottom = 0.12, -0.27, 0.27
    pen.stroke([(-0.52, -0.24), (-0.68, top), (-0.74, -0.14), (-0.54, 0.1), (-0.58, bottom),
                (-0.76, 0.24)], width, WHITE)  # fmt: skip
    pen.stroke([(-0.4, top), (-0.08, top)], width, WHITE)
    pen.stroke([(-0.24, top), (-0.24, bottom)], width, WHITE)
    pen.ring((0.2, 0.0), (0.13, 0.27), width, WHITE)
    pen.stroke([(0.52, bottom), (0.52, top), (0.7, top), (0.75, -0.14), (0.7, 0.0), (0.54, 0.0)],
               width, WHITE)  # fmt: skip


def _yield(pen: _Pen) -> None:
    _triangle_plate(pen, up=False)


def _priority(pen: _Pen) -> None:
    def diamond(radius: float) -> list[Point]:
        return [(0, -radius), (radius, 0), (0, radius), (-radius, 0)]

    _rounded_polygon(pen, diamond(0.92), 0.06, BLACK)
    _rounded_polygon(pen, diamond(0.89), 0.05, WHITE)
    _rounded_polygon(pen, diamond(0.58), 0.04, YELLOW)


def _limit(pen: _Pen) -> None:
    _ring_plate(pen)
    width = 0.15
    pen.stroke([(-0.1, -0.31), (-0.4, -0.31), (-0.43, -0.03), (-0.22, -0.08), (-0.1, 0.08),
                (-0.15, 0.27), (-0.29, 0.34), (-0.43, 0.27)], width, BLACK)  # fmt: skip
    pen.ring((0.28, 0.015), (0.175, 0.325), width, BLACK)


def _no_cars(pen: _Pen) -> None:
    _ring_plate(pen)
    pen.polygon([(-0.32, -0.02), (-0.22, -0.34), (0.22, -0.34), (0.32, -0.02)], BLACK)
    pen.box(-0.5, -0.06, 0.5, 0.25, BLACK, corner=0.08)
    pen.box(-0.45, 0.2, -0.25, 0.39, BLACK, corner=0.04)
    pen.box(0.25, 0.2, 0.45, 0.39, BLACK, corner=0.04)
    pen.polygon([(-0.22, -0.06), (-0.16, -0.25), (0.16, -0.25), (0.22, -0.06)], WHITE)
    pen.disc((-0.35, 0.09), 0.07, WHITE)
    pen.disc((0.35, 0.09), 0.07, WHITE)


def _ahead(pen: _Pen) -> None:
    pen.disc((0, 0), 0.98, WHITE)
    pen.disc((0, 0), 0.93, BLUE)
    pen.polygon([(0, -0.74), (0.44, -0.18), (-0.44, -0.18)], WHITE)
    pen.box(-0.16, -0.22, 0.16, 0.66, WHITE)


def _parking(pen: _Pen) -> None:
    _square_plate(pen, BLUE)
    pen.box(-0.36, -0.62, -0.1, 0.64, WHITE)
    pen.box(-0.36, -0.62, 0.46, 0.2, WHITE, corner=0.36)
    pen.box(-0.36, -0.62, 0.0, 0.2, WHITE)
    pen.box(-0.12, -0.38, 0.2, -0.04, BLUE, corner=0.15)
    pen.box(-0.12, -0.38, 0.05, -0.04, BLUE)


def _first_aid(pen: _Pen) -> None:
    _square_plate(pen, GREEN)
    pen.box(-0.2, -0.64, 0.2, 0.64, WHITE)
    pen.box(-0.64, -0.2, 0.64, 0.2, WHITE)


def _danger(pen: _Pen) -> None:
    _triangle_plate(pen, up=True)
    pen.polygon([(-0.13, -0.24), (0.13, -0.24), (0.08, 0.2), (-0.08, 0.2)], BLACK)
    pen.disc((0, 0.36), 0.12, BLACK)


def _signals(pen: _Pen) -> None:
    _triangle_plate(pen, up=True)
    pen.box(-0.19, -0.26, 0.19, 0.5, BLACK, corner=0.1)
    for y, colour in ((-0.11, RED), (0.12, AMBER), (0.35, (30, 176, 90))):
        pen.disc((0, y), 0.105, colour)


def _end(pen: _Pen) -> None:
    pen.disc((0, 0), 0.98, BLACK)
    pen.disc((0, 0), 0.9, WHITE)
    for shift in (-0.48, -0.16, 0.16, 0.48):
        reach, across = 0.58 - 0.3 * abs(shift), shift / 2
        pen.stroke(
            [(across + reach, across - reach), (across - reach, across + reach)], 0.11, BLACK
        )


_FACES: dict[str, Callable[[_Pen], None]] = {
    "red circle, bar": _no_entry,
    "red octagon, STOP": _stop,
    "red triangle down, blank": _yield,
    "yellow diamond, blank": _priority,
    "red ring, 50": _limit,
    "red ring, car": _no_cars,
    "blue circle, arrow up": _ahead,
    "blue square, P": _parking,
    "green square, cross": _first_aid,
    "red triangle up, exclamation mark": _danger,
    "red triangle up, traffic light": _signals,
    "white circle, diagonal stripes": _end,
}

FACE_NAMES: tuple[str, ...] = tuple(_FACES)


@lru_cache(maxsize=4)
def draw_faces(size: int) -> tuple[Image.Image, ...]:
    """Draw every face, in the order of `FACE_NAMES`, as a `size` x `size` image.

    The images are in Pillow's mode "RGBa" (colours multiplied by alpha), so that they can be
    warped and resized without a dark fringe. No face is the mirror image of another one: a
    horizontal flip turns an image into an unusual one of the same class, never into another class.
    """
    from PIL import Image

    faces = []
    for draw in _FACES.values():
        pen = _Pen(_SUPERSAMPLING * size)
        draw(pen)
        faces.append(pen.image.convert("RGBa").resize((size, size), Image.Resampling.BOX))
    return tuple(faces)
