"""Sokoban: push every box onto a target. See README.md in this folder."""

from actfocus_verl.environments.sokoban.world import Sokoban

__all__ = ["Sokoban"]
