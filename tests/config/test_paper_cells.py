"""Every cell of the paper's Tables 2, 5 and 6: its file composes, its numbers are the paper's, its script names it."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from omegaconf import DictConfig

from actfocus_verl.preflight.overrides import known_names
from tests.config.conftest import composed

ROOT = Path(__file__).resolve().parents[2]
SCALES = {
    "sokoban": ("0.5b", "3b"),
    "frozen_lake": ("0.5b", "3b"),
    "sudoku": ("0.5b", "1.5b"),
    "webshop": ("1.5b", "3b"),
}
CELLS = [
    (world, scale, algorithm, credit)
    for world, scales in SCALES.items()
    for scale, algorithm, credit in product(scales, ("ppo", "grpo"), ("uniform", "actfocus"))
]
# App. C.2: P, G, steps, context, evaluation boards and rollouts of each, turns, actions a turn
NUMBERS = {
    "sokoban": (8, 16, 200, 3600, 32, 16, 5, 2),
    "frozen_lake": (8, 16, 200, 3600, 32, 16, 5, 2),
    "sudoku": (8, 16, 200, 3600, 32, 16, 8, 2),
    "webshop": (16, 8, 100, 8192, 256, 1, 9, 1),
}
# Fig. 7, 8a and 8b: key of credit -> file -> value, all of 3B and PPO; what else the figures show is a cell
SWEEPS = {
    "alpha": {
        f"{world}_3b_ppo_alpha_{alpha:g}": alpha for world in ("sokoban", "webshop") for alpha in (0.0, 0.3, 0.5, 1.0)
    },
    "beta": {f"webshop_3b_ppo_beta_{beta:g}": beta for beta in (0.0, 0.3, 1.0, 2.0)},
    "signal": {f"webshop_3b_ppo_signal_{signal}": signal for signal in ("entropy", "nll", "log_prob_shift")},
}
UNFILTERED = {("webshop", "ppo"), ("webshop", "grpo"), ("frozen_lake", "grpo")}


def cell_name(*parts: str) -> str:
    return "_".join(parts)


def test_there_is_a_file_and_a_script_for_each_cell_and_no_other() -> None:
    names = {cell_name(*cell) for cell in CELLS}
    files = {name.removeprefix("paper/") for name in known_names("experiment") if name.startswith("paper/")}
    assert files == names | {name for sweep in SWEEPS.values() for name in sweep}
    assert {path.stem for path in (ROOT / "recipes" / "paper").glob("*.sh")} == names | {"run"}
    for name in names:
        last_line = (ROOT / "recipes" / "paper" / f"{name}.sh").read_text().splitlines()[-1]
        assert last_line.endswith(f'/run.sh" {name} "$@"')


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell_name(*cell))
def test_a_cell_is_the_paper_s(cell: tuple[str, str, str, str]) -> None:
    world, scale, algorithm, credit = cell
    config: DictConfig = composed(f"experiment=paper/{cell_name(*cell)}")
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor

    assert (config.env.name, config.env.preset) == (world, "ragen")
    assert config.model.path == f"Qwen/Qwen2.5-{scale.upper()}-Instruct"
    assert (config.algorithm_name, config.critic.enable) == (algorithm, algorithm == "ppo")
    assert config.run.dir == f"outputs/paper/{cell_name(*cell)}-seed0"
    assert config.credit.name == credit
    if credit == "actfocus":
        assert (config.credit.alpha, config.credit.beta) == (0.1, 0.5)

    groups, group, steps, context, boards, repeats, turns, actions = NUMBERS[world]
    assert (config.data.train_batch_size, rollout.n, config.trainer.total_training_steps) == (groups, group, steps)
    assert config.data.max_prompt_length + config.data.max_response_length == rollout.max_model_len == context
    assert (config.env.evaluation_size, rollout.val_kwargs.n, rollout.val_kwargs.temperature) == (boards, repeats, 0.5)
    assert (config.env.max_turns, config.env.max_actions_per_turn) == (turns, actions)
    assert actor.ppo_mini_batch_size * group == 32
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.entropy_coeff) == (0.2, 0.28, 0.001)
    assert (actor.optim.lr, config.critic.optim.lr) == (1e-6, 1e-5)
    assert rollout.enforce_eager
    kept = 1.0 if (world, algorithm) in UNFILTERED else 0.25
    assert config.filter.ratio == kept
    penalty = (world, algorithm) == ("webshop", "grpo")
    assert (actor.use_kl_loss and actor.kl_loss_coef) == (0.001 if penalty else 0.0)
    if penalty:
        assert actor.kl_loss_type == "k1"


@pytest.mark.parametrize(
    ("key", "name"), [("alpha", "sokoban_3b_ppo_alpha_0.3"), ("signal", "webshop_3b_ppo_signal_nll")]
)
def test_a_sweep_changes_one_thing_about_its_cell(key: str, name: str) -> None:
    config = composed(f"experiment=paper/{name}")
    base = composed(f"experiment=paper/{name.partition('_ppo_')[0]}_ppo_actfocus")
    assert config.run.name == f"{name}-seed0"
    assert config.credit[key] == SWEEPS[key][name] != base.credit[key]
    base.credit[key] = config.credit[key]
    base.run = config.run
    assert config == base


def test_the_script_prints_the_configuration_without_running() -> None:
    script = ROOT / "recipes" / "paper" / "sokoban_3b_grpo_actfocus.sh"
    environment = os.environ | {"DRY_RUN": "1", "PYTHON": sys.executable, "STEPS": "3"}
    arguments = ["bash", str(script), "trainer.test_freq=7", "--package", "trainer"]
    answer = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, cwd="/")
    assert "total_training_steps: 3" in answer.stdout
    assert "test_freq: 7" in answer.stdout


def test_without_a_cell_the_script_says_what_it_wants() -> None:
    answer = subprocess.run(["bash", str(ROOT / "recipes/paper/run.sh")], capture_output=True, text=True)
    assert answer.returncode != 0
    assert "usage: run.sh <name of a file in configs/experiment/paper>" in answer.stderr
