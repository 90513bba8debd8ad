"""Sokoban once more, slowly: a board is its rows of characters. Written without a look at the package's own rules."""

from __future__ import annotations

from collections import deque
from functools import cache

from actfocus_verl.environments.sokoban.rules import Board, Rewards

Grid = tuple[str, ...]

PAPER = Rewards(step=-0.1, on_target=1.0, off_target=-1.0, solved=10.0)
STEPS = {"Up": (-1, 0), "Down": (1, 0), "Left": (0, -1), "Right": (0, 1)}


def to_board(*rows: str) -> Board:
    """The board that a grid of symbols shows."""
    tiles = dict.fromkeys("#_OX√PS", 0)
    player = -1
    for row, line in enumerate(rows):
        assert len(line) == len(rows)
        for column, symbol in enumerate(line):
            tiles[symbol] |= 1 << row * len(rows) + column
            if symbol in "PS":
                player = row * len(rows) + column
    return Board(len(rows), tiles["#"], tiles["O"] | tiles["√"] | tiles["S"], tiles["X"] | tiles["√"], player)


def to_grid(board: Board) -> Grid:
    """The grid of symbols of a board."""
    cells = {}
    for tile in range(board.size**2):
        wall, target, box = (mask >> tile & 1 for mask in (board.walls, board.targets, board.boxes))
        thing = "wall" if wall else "player" if tile == board.player else "box" if box else "nothing"
        cells[tile] = {
            ("wall", 0): "#",
            ("player", 0): "P",
            ("player", 1): "S",
            ("box", 0): "X",
            ("box", 1): "√",
            ("nothing", 0): "_",
            ("nothing", 1): "O",
        }[thing, target]
    return tuple("".join(cells[row * board.size + c] for c in range(board.size)) for row in range(board.size))


def solved(grid: Grid) -> bool:
    return not any(symbol in "XOS" for row in grid for symbol in row)


@cache
def step(grid: Grid, action: str) -> Grid:
    """The grid after an action."""
    cells = {(r, c): symbol for r, row in enumerate(grid) for c, symbol in enumerate(row)}
    [here] = [place for place, symbol in cells.items() if symbol in "PS"]
    down, right = STEPS[action]
    there = here[0] + down, here[1] + right
    beyond = there[0] + down, there[1] + right
    if cells[there] in "X√":
        if cells[beyond] not in "_O":
            return grid
        cells[beyond] = "√" if cells[beyond] == "O" else "X"
        cells[there] = "O" if cells[there] == "√" else "_"
    if cells[there] not in "_O":
        return grid
    cells[there] = "S" if cells[there] == "O" else "P"
    cells[here] = "O" if cells[here] == "S" else "_"
    return tuple("".join(cells[r, c] for c in range(len(grid))) for r in range(len(grid)))


def reward(before: Grid, grid: Grid, rewards: Rewards = PAPER) -> float:
    """What the action between two grids earns."""
    gained = "".join(grid).count("√") - "".join(before).count("√")
    earned = rewards.step + (rewards.solved if solved(grid) else 0.0)
    return earned + {1: rewards.on_target, 0: 0.0, -1: rewards.off_target}[gained]


def shortest_solution(grid: Grid) -> int | None:
    """Breadth-first search with a queue of grids."""
    distance, queue = {grid: 0}, deque([grid])
    while queue:
        grid = queue.popleft()
        if solved(grid):
            return distance[grid]
        for action in STEPS:
            following = step(grid, action)
            if following not in distance:
                distance[following] = distance[grid] + 1
                queue.append(following)
    return None


def best_return(grid: Grid, turns: int, per_turn: int, actions: int, penalty: float, rewards: Rewards = PAPER) -> float:
    """The best sum of rewards and penalties, turn by turn: a turn holds some actions, or none and costs the penalty."""

    @cache
    def turn(grid: Grid, turns: int, actions: int) -> float:
        if solved(grid) or turns == 0 or actions == 0:
            return 0.0
        return max(penalty + turn(grid, turns - 1, actions), act(grid, turns, actions, per_turn))

    @cache
    def act(grid: Grid, turns: int, actions: int, room: int) -> float:
        """One more action in this turn, which has room for `room`."""
        outcomes = []
        for action in STEPS:
            following = step(grid, action)
            rest = turn(following, turns - 1, actions - 1)
            if room > 1 and actions > 1 and not solved(following):
                rest = max(rest, act(following, turns, actions - 1, room - 1))
            outcomes.append(reward(grid, following, rewards) + rest)
        return max(outcomes)

    return turn(grid, turns, actions)
