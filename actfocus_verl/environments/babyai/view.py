"""What the agent sees, in words: the seven by seven cells before it that no wall or closed door hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A thing in sight. ahead: cells to the front. right: cells to the right, negative to the left."""

    name: str
    ahead: int
    right: int

    @property
    def place(self) -> str:
        """`2 ahead, 1 left`."""
        sideways = f"{abs(self.right)} {'right' if self.right > 0 else 'left'}" if self.right else ""
        return ", ".join(filter(None, [f"{self.ahead} ahead" if self.ahead else "", sideways]))


def things_in_sight(game: Any) -> list[Seen]:
    """Every object and door in sight, the nearest first."""
    return sorted(
        (each for each in _cells(game) if each.name != "wall"),
        key=lambda each: (each.ahead + abs(each.right), each.right, each.name),
    )


def walls(game: Any) -> list[Seen]:
    """The nearest wall in sight straight ahead, to the left and to the right."""
    found = [each for each in _cells(game) if each.name == "wall"]
    lines = (
        [each for each in found if each.right == 0],
        [each for each in found if each.ahead == 0 and each.right < 0],
        [each for each in found if each.ahead == 0 and each.right > 0],
    )
    return [min(line, key=lambda each: each.ahead + abs(each.right)) for line in lines if line]


def name_of(thing: Any) -> str:
    """`red ball`, `locked blue door`."""
    if thing.type == "wall":
        return "wall"
    state = ""
    if thing.type == "door":
        state = "open " if thing.is_open else "locked " if thing.is_locked else "closed "
    return f"{state}{thing.color} {thing.type}"


def _cells(game: Any) -> list[Seen]:
    grid, visible = game.gen_obs_grid()
    middle, last = grid.width // 2, grid.height - 1
    found = []
    for column in range(grid.width):
        for row in range(grid.height):
            thing = grid.get(column, row)
            own = (column, row) == (middle, last)  # what the agent carries is put there
            if thing is not None and visible[column, row] and not own:
                found.append(Seen(name_of(thing), last - row, column - middle))
    return found
