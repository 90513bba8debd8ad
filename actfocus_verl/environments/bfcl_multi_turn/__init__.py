"""BFCL's multi-turn tasks as a world; the README says what is the benchmark's and what is ours."""

from actfocus_verl.environments.bfcl_multi_turn.world import BfclMultiTurn

__all__ = ["BfclMultiTurn"]
