"""What boards a split holds: its manifest, and the boards it shares with another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actfocus_verl.environments.registry import make_world


@dataclass(frozen=True)
class BoardLine:
    """One board of a manifest. hash: equal for boards that a symmetry turns into each other."""

    index: int
    hash: str
    stratum: int
    optimal_return: float

    def __str__(self) -> str:
        # six digits: further ones are not the same on every machine's arithmetic
        return f"{self.index}\t{self.hash}\t{self.stratum}\t{self.optimal_return:.6f}"


MANIFEST_HEADER = "index\thash\tstratum\toptimal_return"


def manifest(env: str, *, preset: str, split: str, count: int, overrides: Mapping[str, Any]) -> Iterator[BoardLine]:
    """The first `count` boards of a split. Raises ConfigurationError where it has fewer."""
    for index in range(count):
        world = make_world(env, preset=preset, split=split, index=index, **overrides)
        yield BoardLine(index, world.board_hash(), world.stratum(), world.optimal_return())


@dataclass(frozen=True)
class Overlap:
    """How far two splits hold the same boards, symmetries included.

    shared: evaluation boards that are training boards too. repeated: evaluation boards that were there before in their
    own split. train, evaluation: boards looked at.
    """

    shared: int
    repeated: int
    train: int
    evaluation: int

    def __str__(self) -> str:
        return (
            f"{self.shared} of {self.evaluation} evaluation boards ({self.shared / self.evaluation:.1%}) are, up to "
            f"symmetry, among {self.train} training boards; {self.repeated} repeat an earlier evaluation board"
        )


def overlap(env: str, *, preset: str, train: int, evaluation: int, overrides: Mapping[str, Any]) -> Overlap:
    """Compare the first `evaluation` boards of the evaluation split with the first `train` of the training split."""

    def hashes(split: str, count: int) -> list[str]:
        worlds = (make_world(env, preset=preset, split=split, index=index, **overrides) for index in range(count))
        return [world.board_hash() for world in worlds]

    evaluated, trained = hashes("evaluation", evaluation), set(hashes("train", train))
    shared = sum(each in trained for each in evaluated)
    return Overlap(shared, len(evaluated) - len(set(evaluated)), train, evaluation)
