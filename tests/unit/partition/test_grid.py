"""The grid: what it finds is what is within the circle, whatever the cells."""

import random
from math import inf

import pytest

from connserver.limits import LARGEST_INTEGER
from partition.grid import Grid, View, cell_size


def within(points: dict[int, tuple[float, float]], view: View) -> set[int]:
    x, y, radius = view
    return {n for n, (px, py) in points.items() if (px - x) ** 2 + (py - y) ** 2 <= radius**2}


@pytest.mark.parametrize("size", [0.5, 8.0, 4096.0])
def test_it_finds_the_points_in_a_circle_whatever_the_cells(size: float) -> None:
    chance, grid = random.Random(size), Grid(size)
    points: dict[int, tuple[float, float]] = {}
    for step in range(2_000):
        number = chance.randrange(300)
        if chance.random() < 0.2:
            grid.drop(number)
            points.pop(number, None)
        else:
            points[number] = chance.uniform(-99, 99), chance.uniform(-99, 99)
            grid.put(number, points[number])
        if step % 20 == 0:
            view = chance.uniform(-99, 99), chance.uniform(-99, 99), chance.choice([0.0, 1, 9, 50, 1e9])
            assert grid.within(view) == within(points, view)
        if step % 500 == 0:
            grid.check_invariants()
    grid.resize(size * 4)
    grid.check_invariants()
    assert grid.within((0.0, 0.0, 60.0)) == within(points, (0.0, 0.0, 60.0))


def test_the_rim_counts_and_no_radius_or_place_costs_more_than_all_points() -> None:
    grid = Grid(cell_size(0.0))
    grid.put(1, (3.0, 4.0))
    grid.put(2, (float(LARGEST_INTEGER), -float(LARGEST_INTEGER)))
    assert grid.within((0.0, 0.0, 5.0)) == {1}
    assert grid.within((3.0, 4.0, 0.0)) == {1}
    assert grid.within((0.0, 0.0, 4.0 * LARGEST_INTEGER)) == {1, 2}
    assert 0 < cell_size(0.0) < cell_size(float(LARGEST_INTEGER)) < inf
    assert all(radius <= cell_size(radius) <= 2 * radius for radius in (0.1, 1.0, 7.0, 4096.0))
