"""Worlds stay free of the training stack and of the interpreter's hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_BOARDS = """
from actfocus_verl.environments import make_world
for preset in ("clean", "ragen"):
    for split in ("train", "evaluation", "test"):
        for index in (0, 1, 5, 40):
            world = make_world("frozen_lake", preset=preset, split=split, index=index, episode_seed=3)
            print(world.render(), world.board_hash(), world.anchor())
            while not world.done:
                world.step(world.parse_action("Right"))
                if world.player % 4 == 3:
                    break
            print(world.render())
    for env in ("sokoban", "sudoku"):
        for split in ("train", "evaluation", "test"):
            for index in (0, 5, 40):
                world = make_world(env, preset=preset, split=split, index=index)
                print(world.render(), world.board_hash(), world.anchor())
from tests.environments.test_ragen_boards import EVALUATED, evaluated
print({env: evaluated(env) == EVALUATED[env] for env in EVALUATED})
print(make_world("sokoban", preset="ragen", index=1482).render())
"""


def _run(code: str, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_boards_and_slips_do_not_depend_on_the_hash_seed():
    first = _run(_BOARDS, "1")
    assert first == _run(_BOARDS, "2")
    assert "{'frozen_lake': True, 'sokoban': True, 'sudoku': True}" in first


_MANIFESTS = """
from actfocus_verl.environments.__main__ import main
for env in ("frozen_lake", "sokoban", "sudoku", "webshop"):
    for preset in ("clean", "ragen"):
        for split in ("train", "evaluation", "test"):
            main(["manifest", f"env={env}", f"preset={preset}", f"split={split}", "n=20"])
"""


@pytest.mark.nightly
def test_manifests_do_not_depend_on_the_hash_seed():
    first = _run(_MANIFESTS, "1")
    assert first.count("\n") == 4 * 2 * 3 * 21
    assert first == _run(_MANIFESTS, "2")


def test_worlds_and_episodes_import_neither_torch_nor_verl_nor_ray():
    code = (
        "import sys, actfocus_verl.environments, actfocus_verl.rollout\n"
        "print(sorted({'torch', 'verl', 'ray', 'transformers', 'gymnasium'} & set(sys.modules)))"
    )
    assert _run(code, "0").strip() == "[]"
