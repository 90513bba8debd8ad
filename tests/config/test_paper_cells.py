"""Every cell of the paper's Tables 2, 5 and 6 and of its sweeps: its numbers are the paper's, and a script runs it.

The numbers are read from cells.json, which test_cells.py holds the configurations to.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from actfocus_verl.preflight.overrides import known_names
from actfocus_verl.reproduction.matrix import read_matrix
from tests.config.conftest import composed
from tests.config.test_cells import MATRICES, ROOT, expected

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
NAMES = {"_".join(cell) for cell in CELLS}
# App. C.2: P, G, steps, context, evaluation boards and rollouts of each, turns, actions a turn
NUMBERS = {
    "sokoban": (8, 16, 200, 3600, 32, 16, 5, 2),
    "frozen_lake": (8, 16, 200, 3600, 32, 16, 5, 2),
    "sudoku": (8, 16, 200, 3600, 32, 16, 8, 2),
    "webshop": (16, 8, 100, 8192, 256, 1, 9, 1),
}
# Fig. 7, 8a and 8b: key of credit -> cell -> value, all of 3B and PPO; what else the figures show is a cell
SWEEPS = {
    "alpha": {
        f"{world}_3b_ppo_alpha_{alpha:g}": alpha for world in ("sokoban", "webshop") for alpha in (0.0, 0.3, 0.5, 1.0)
    },
    "beta": {f"webshop_3b_ppo_beta_{beta:g}": beta for beta in (0.0, 0.3, 1.0, 2.0)},
    "signal": {f"webshop_3b_ppo_signal_{signal}": signal for signal in ("entropy", "nll", "log_prob_shift")},
}
UNFILTERED = {("webshop", "ppo"), ("webshop", "grpo"), ("frozen_lake", "grpo")}
LARGER = {name for name in NAMES if name.startswith(("sokoban_3b", "frozen_lake_3b", "sudoku_1.5b", "webshop_3b"))}
SCRIPTS = {
    "table2": {name for name in NAMES if "_ppo_" in name},
    "table5": NAMES,
    "table6": {name for name in LARGER if "_grpo_" in name},
    "fig7": {*SWEEPS["alpha"], "sokoban_3b_ppo_actfocus", "webshop_3b_ppo_actfocus"},
    "fig8": {*SWEEPS["beta"], *SWEEPS["signal"], "webshop_3b_ppo_actfocus"},
}
BEFORE_TRAINING = {"table1": 8, "fig1": 1, "fig2": 1}
"""Scripts that train nothing, and how many models they play."""


def test_the_matrix_has_every_cell_of_the_paper_and_no_other() -> None:
    swept = {name for sweep in SWEEPS.values() for name in sweep}
    assert {name.removeprefix("paper/") for name in MATRICES["paper"]} == NAMES | swept


def test_there_is_an_experiment_a_world_and_scale() -> None:
    paper = {f"paper/{world}_{scale}" for world, scales in SCALES.items() for scale in scales}
    small = {f"small/{world}" for world in (*SCALES, "babyai", "textcraft")}
    assert set(known_names("experiment")) == paper | small | {"quickstart", "smollm2"}


@pytest.mark.parametrize("cell", CELLS, ids="_".join)
def test_a_cell_is_the_paper_s(cell: tuple[str, str, str, str]) -> None:
    world, scale, algorithm, credit = cell
    config = expected(f"paper/{'_'.join(cell)}")
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"

    assert (config["env.name"], config["env.preset"], config["platform.name"]) == (world, "ragen", "gpu")
    assert config["model.path"] == f"Qwen/Qwen2.5-{scale.upper()}-Instruct"
    assert config["algorithm_name"] == algorithm
    assert (config["algorithm.gamma"], config["algorithm.lam"]) == (1.0, 1.0)
    assert config["run.dir"] == f"outputs/paper/{'_'.join(cell)}-seed0"
    assert config["credit.name"] == credit
    if credit == "actfocus":
        assert (config["credit.alpha"], config["credit.beta"], config["credit.signal"]) == (0.1, 0.5, "energy")

    groups, group, steps, context, boards, repeats, turns, actions = NUMBERS[world]
    assert (config["data.train_batch_size"], config[f"{rollout}.n"]) == (groups, group)
    assert config["trainer.total_training_steps"] == steps
    assert config["data.max_prompt_length"] + config["data.max_response_length"] == context
    assert config[f"{rollout}.max_model_len"] == context
    assert (config["env.evaluation_size"], config[f"{rollout}.val_kwargs.n"]) == (boards, repeats)
    assert config[f"{rollout}.val_kwargs.temperature"] == 0.5
    assert (config["env.max_turns"], config["env.max_actions_per_turn"]) == (turns, actions)
    assert config[f"{actor}.ppo_mini_batch_size"] * group == 32
    assert (config[f"{actor}.clip_ratio_low"], config[f"{actor}.clip_ratio_high"]) == (0.2, 0.28)
    assert config[f"{actor}.entropy_coeff"] == 0.001
    assert (config[f"{actor}.optim.lr"], config["critic.optim.lr"]) == (1e-6, 1e-5)
    assert config[f"{rollout}.enforce_eager"]
    assert config["filter.ratio"] == (1.0 if (world, algorithm) in UNFILTERED else 0.25)
    penalty = (world, algorithm) == ("webshop", "grpo")
    assert (config[f"{actor}.use_kl_loss"] and config[f"{actor}.kl_loss_coef"]) == (0.001 if penalty else 0.0)
    if penalty:
        assert config[f"{actor}.kl_loss_type"] == "k1"


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, sweep in SWEEPS.items() for name in sweep])
def test_a_sweep_changes_one_thing_about_its_cell(key: str, name: str) -> None:
    config, base = expected(f"paper/{name}"), expected(f"paper/{name.partition('_ppo_')[0]}_ppo_actfocus")
    assert config["run.name"] == f"{name}-seed0"
    assert config[f"credit.{key}"] == SWEEPS[key][name] != base[f"credit.{key}"]
    assert {each for each in base if config[each] != base[each]} == {f"credit.{key}", "run.name", "run.dir"}


@pytest.mark.parametrize("name", [name for name in known_names("experiment") if name.startswith("paper/")])
def test_an_experiment_passes_the_checks(name: str) -> None:
    config = composed(f"experiment={name}")
    assert (config.algorithm_name, config.critic.enable, config.credit.name) == ("ppo", True, "actfocus")


def test_the_command_line_alone_makes_a_cell_of_a_table() -> None:
    config = composed("experiment=paper/sokoban_3b", "algorithm=grpo", "credit=uniform")
    assert config.run.dir == "outputs/paper/sokoban_3b_grpo_uniform-seed0"


@pytest.mark.parametrize("dry", ["", "1"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_of_a_table_runs_its_cells(name: str, dry: str, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(program), "DRY_RUN": dry, "SEED": "2"}
    script = ROOT / "recipes" / "paper" / f"{name}.sh"
    answer = subprocess.run(
        ["bash", script, "--minutes=9"], env=environment, capture_output=True, text=True, check=True, cwd="/"
    )
    words = answer.stdout.splitlines()
    action = ["show", "--config"] if dry else ["run"]
    assert words[: len(action) + 2] == ["scripts/reproduce.py", *action, "recipes/matrices/paper.yaml"]
    assert words[-1] == "--minutes=9"
    patterns = [word for word in words[len(action) + 2 : -1] if word != "--only"]
    runs = {str(run) for run in read_matrix(ROOT / "recipes" / "matrices" / "paper.yaml").runs(patterns)}
    assert runs == {f"paper/{cell}/seed2" for cell in SCRIPTS[name]}
    assert f"\n# {len(SCRIPTS[name])} cells with 3 seeds: {3 * len(SCRIPTS[name])} runs of " in script.read_text()


def test_every_script_is_one_of_these() -> None:
    assert {path.stem for path in (ROOT / "recipes" / "paper").glob("*.sh")} == {*SCRIPTS, *BEFORE_TRAINING, "run"}


def run_cell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, **environment}
    command = ["bash", str(ROOT / "recipes" / "paper" / "run.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")


def test_a_cell_s_script_prints_the_configuration_without_running() -> None:
    answer = run_cell(
        "sokoban_3b_grpo_uniform", "trainer.test_freq=7", "credit=actfocus", "--resolve", DRY_RUN="1", STEPS="3"
    )
    assert answer.returncode == 0, answer.stderr
    for text in (
        "total_training_steps: 3",
        "test_freq: 7",
        "algorithm_name: grpo",
        "dir: outputs/paper/sokoban_3b_grpo_uniform-seed0",
        "alpha: 0.1",  # what comes after the name wins
    ):
        assert text in [line.strip() for line in answer.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: run.sh <cell of recipes/matrices/paper.yaml>"),
        (["sokoban_3b"], "error: --only='paper/sokoban_3b': matches no run of the matrix paper"),
    ],
)
def test_without_a_cell_the_script_says_what_it_wants(arguments: list[str], message: str) -> None:
    answer = run_cell(*arguments)
    assert answer.returncode != 0
    assert message in answer.stderr


def test_training_boards_come_in_the_order_of_the_code_base() -> None:
    """Step s plays its seeds 10000 + 8 s to 10007 + 8 s: in the order of indices, a new board for every prompt."""
    config = composed("experiment=paper/sokoban_3b", "model=tiny", "platform=cpu")
    assert (config.data.shuffle, config.data.train_batch_size, config.env.train_size) == (False, 8, 8 * 200)


def test_what_is_measured_before_training_is_the_paper_s() -> None:
    """Table 1's models are those of the training cells, its shares add up to 100; Fig. 1 and 2 are of Sokoban 3B."""
    content = yaml.safe_load((ROOT / "recipes" / "paper" / "before_training.yaml").read_text())
    models = {
        f"{world}_{scale}": (world, f"Qwen/Qwen2.5-{scale.upper()}-Instruct")
        for world, scales in SCALES.items()
        for scale in scales
    }
    assert {name: (cell["env"], cell["model"]) for name, cell in content["table1"].items()} == models
    assert all(cell["think"] + cell["act"] == pytest.approx(100) for cell in content["table1"].values())
    for figure in ("fig1", "fig2"):
        assert {name: (cell["env"], cell["model"]) for name, cell in content[figure].items()} == {
            "sokoban_3b": models["sokoban_3b"]
        }


@pytest.mark.parametrize(("script", "models"), BEFORE_TRAINING.items())
def test_a_script_before_training_prints_its_commands(script: str, models: int) -> None:
    command = ["bash", str(ROOT / "recipes" / "paper" / f"{script}.sh")]
    environment = {**os.environ, "DRY_RUN": "1", "PYTHON": sys.executable, "SERVER": "http://there:8000/v1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    evaluations, diagnoses = done.stderr.splitlines()[::2], done.stderr.splitlines()[1::2]
    assert len(evaluations) == len(diagnoses) == models
    for line in evaluations:
        assert "preset=ragen split=train episodes=6400 repeats=16 temperature=1.0" in line
        assert "server=http://there:8000/v1 rollouts=true" in line
    assert all(("energy=false" in line) == (script == "table1") for line in diagnoses)


def test_other_models_stand_beside_the_paper_s() -> None:
    """A file of cells has its own models, worlds and counts, and takes the paper's numbers from the paper's file."""
    for table in BEFORE_TRAINING:
        command = [
            sys.executable,
            "scripts/before_training.py",
            table,
            "--cells",
            "recipes/real_model.yaml",
            "--dry-run",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert (
            "model=outputs/real_model/cold_start env=frozen_lake preset=clean split=train episodes=800" in done.stderr
        )
        assert "max_context_tokens=1280 max_turns=3 max_turn_tokens=128" in done.stderr
        assert ("model=smollm2-135m" in done.stderr) == (table == "table1")
        done = subprocess.run([*command, "--episodes", "16"], cwd=ROOT, capture_output=True, text=True, check=True)
        played = re.findall(r" episodes=(\d+)", done.stderr)
        assert set(played) == {"16"}  # of a cell with a number of its own, too
