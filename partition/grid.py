"""A uniform grid over points of a plane: which of them are within a circle.

Guards the cost of a look-up: it reads the cells that the circle touches, or all that hold anything
where those are fewer, so that no radius and no place in the plane makes it dearer than all points are.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, frexp

Point = tuple[float, float]

View = tuple[float, float, float]
"""(x, y, radius) of a circle; its rim counts."""

Cell = tuple[int, int]

SMALLEST_CELL = 2.0**-20
"""A radius of nothing would want cells of nothing."""


def cell_size(radius: float) -> float:
    """The size of cells that suits circles of this radius: at most nine cells are read for one."""
    return max(SMALLEST_CELL, 2.0 ** frexp(radius)[1])


class Grid:
    """Numbered points, by the cell they are in."""

    def __init__(self, size: float = 64.0) -> None:
        self.size = size
        self._cells: dict[Cell, dict[int, Point]] = {}
        self._points: dict[int, Point] = {}

    def __len__(self) -> int:
        return len(self._points)

    def put(self, number: int, point: Point) -> None:
        """A point is here, wherever it was."""
        former = self._points.get(number)
        cell = self._cell(point)
        if former is not None and self._cell(former) != cell:
            self._take_out(number, former)
        self._points[number] = point
        self._cells.setdefault(cell, {})[number] = point

    def drop(self, number: int) -> None:
        """A point is gone, if it was there."""
        former = self._points.pop(number, None)
        if former is not None:
            self._take_out(number, former)

    def within(self, view: View) -> set[int]:
        """The points in the circle."""
        x, y, radius = view
        square = radius * radius
        return {
            number
            for points in self._near(view)
            for number, (px, py) in points.items()
            if (px - x) * (px - x) + (py - y) * (py - y) <= square
        }

    def resize(self, size: float) -> None:
        """Use cells of another size."""
        self.size = size
        points, self._cells = self._points, {}
        for number, point in points.items():
            self._cells.setdefault(self._cell(point), {})[number] = point

    def _near(self, view: View) -> Iterable[dict[int, Point]]:
        x, y, radius = view
        size, cells = self.size, self._cells
        left, right = floor((x - radius) / size), floor((x + radius) / size)
        low, high = floor((y - radius) / size), floor((y + radius) / size)
        if (right - left + 1) * (high - low + 1) > len(cells):
            return cells.values()
        return [
            cells[cell]
            for column in range(left, right + 1)
            for row in range(low, high + 1)
            if (cell := (column, row)) in cells
        ]

    def _cell(self, point: Point) -> Cell:
        return floor(point[0] / self.size), floor(point[1] / self.size)

    def _take_out(self, number: int, point: Point) -> None:
        cell = self._cell(point)
        points = self._cells[cell]
        del points[number]
        if not points:
            del self._cells[cell]

    def check_invariants(self) -> None:
        """Each point is in the cell it belongs to and in no other; no cell is empty."""
        listed = [(number, cell) for cell, points in self._cells.items() for number in points]
        assert len(listed) == len(self._points) and all(self._cells.values())
        for number, cell in listed:
            assert self._cell(self._points[number]) == cell
            assert self._cells[cell][number] == self._points[number]
