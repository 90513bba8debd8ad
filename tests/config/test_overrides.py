"""Group files named on the command line: known ones pass, unknown ones are one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.overrides import GROUPS, check_overrides, known_names


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["env=frozen_lake", "algorithm=ppo", "credit=uniform", "filter=none", "model=tiny", "platform=cpu"],
        ["model=qwen2.5-0.5b"],
        ["model=tiny.yaml"],
        ["experiment=paper/frozen_lake_3b"],
        ["+experiment=paper/frozen_lake_3b"],
        ["experiment=null"],
        ["algorithm.gamma=1", "credit.alpha=0.3", "env.size=5", "+env.nothing=1", "++run.seed=3"],
        ["~experiment", "~filter=none"],
        ["--config-name=train", "credit=actfocus"],
        ["--config-name", "train", "--cfg", "job", "credit=actfocus"],
        ["--help"],
        ["model@actor_rollout_ref.model=hf_model"],
        ["trainer.logger=[tensorboard,wandb]"],
        ["credit={name: uniform"],  # Hydra's to refuse, with the position
        ["-m", "credit=uniform,actfocus"],
    ],
)
def test_what_is_known_passes(argv: list[str]) -> None:
    check_overrides(argv)


@pytest.mark.parametrize(
    ("argument", "key", "value", "one_of_the_known"),
    [
        ("env=frozen_lak", "env", "frozen_lak", "frozen_lake"),
        ("algorithm=gpro", "algorithm", "gpro", "gigpo, graphgpo, grpo, igpo"),
        ("credit=actfocuss", "credit", "actfocuss", "actfocus, action_only, aem"),
        ("filter=variance", "filter", "variance", "none, reward_variance"),
        ("model=qwen", "model", "qwen", "qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen2.5-7b, smollm2-135m, tiny"),
        ("platform=tpu", "platform", "tpu", "cpu, gpu"),
        ("experiment=frozen_lake_3b", "experiment", "frozen_lake_3b", "paper/frozen_lake_3b, "),
        ("+experiment=paper/none", "experiment", "paper/none", "quickstart, small/babyai, small/frozen_lake, "),
        ("++credit=carl", "credit", "carl", "entropy_quantile, hindsight, influence, uniform"),
    ],
)
def test_an_unknown_name_lists_the_known(argument: str, key: str, value: str, one_of_the_known: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_overrides(["run.seed=1", argument, "--config-name=train"])
    message = str(caught.value)
    assert message.startswith(f"{key}={value!r}: there is no such file in configs/{key}. Choose one of: ")
    assert one_of_the_known in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "experiment"),
    [
        ("paper/frozen_lake_3b_ppo_actfocus", "paper/frozen_lake_3b"),
        ("paper/sokoban_0.5b_grpo_uniform", "paper/sokoban_0.5b"),
        ("small/frozen_lake_coupled_grpo_placebo", "small/frozen_lake"),
    ],
)
def test_a_cell_s_name_is_told_its_settings(name: str, experiment: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_overrides([f"experiment={name}"])
    message = str(caught.value)
    assert f"there is no such file in configs/experiment. Write experiment={experiment} algorithm=... cred" in message
    assert "scripts/reproduce.py show recipes/matrices/" in message
    assert "\n" not in message


def test_one_unknown_name_of_a_sweep_is_found() -> None:
    with pytest.raises(ConfigurationError, match="credit='actfocuss'"):
        check_overrides(["-m", "credit=uniform,actfocuss"])


def test_files_of_a_folder_of_ones_own_are_known(tmp_path: Path) -> None:
    (tmp_path / "credit").mkdir()
    (tmp_path / "credit" / "mine.yaml").touch()
    check_overrides([f"--config-dir={tmp_path}", "credit=mine"])
    check_overrides([f"hydra.searchpath=[file://{tmp_path}]", "credit=mine"])
    with pytest.raises(ConfigurationError, match=r"credit='theirs'.*, hindsight, influence, mine, uniform"):
        check_overrides([f"--config-dir={tmp_path}", "credit=theirs"])


def test_every_group_has_files() -> None:
    assert all(known_names(group) for group in GROUPS)


def test_it_takes_neither_torch_nor_verl() -> None:
    """A mistyped name is told at once, not after the seconds those imports take."""
    code = (
        "import sys, actfocus_verl.train; actfocus_verl.train.check_overrides(['credit=uniform']);"
        "sys.exit(bool({'torch', 'transformers', 'verl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
