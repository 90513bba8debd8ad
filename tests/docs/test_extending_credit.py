"""docs/extending_credit.md does what it says: its code, its YAML and its commands are run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from actfocus_verl.columns import COLUMNS, WEIGHTING
from actfocus_verl.config import require_weighting_columns, section
from actfocus_verl.credit import registry
from actfocus_verl.credit.estimation import Step, build_estimator
from actfocus_verl.credit.filters import build_filter
from actfocus_verl.credit.registry import build_weighting, known_weightings
from actfocus_verl.credit.signals import LOGIT_SIGNALS
from actfocus_verl.credit.token_weights import compute_token_weights
from actfocus_verl.errors import ConfigurationError
from tests.config.conftest import compose_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending_credit.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for found, text in _FENCE.findall(PAGE.read_text(encoding="utf-8")) if found == language]


MODULES = ("my_credit", "my_signal", "my_estimator", "my_filter")
"""The modules the page writes: each Python block begins with the name of its file."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with the page's files in it, from which its modules can be imported."""
    for name in MODULES:
        (code,) = [block for block in blocks("python") if block.startswith(f"# {name}.py\n")]
        (tmp_path / f"{name}.py").write_text(code)
    (yaml_block,) = blocks("yaml")
    path = tmp_path / yaml_block.splitlines()[0].removeprefix("# ")
    path.parent.mkdir(parents=True)
    path.write_text(yaml_block)
    monkeypatch.syspath_prepend(str(tmp_path))
    known_weightings()  # imports the shipped ones, which stay
    monkeypatch.setattr(registry.WEIGHTINGS, "entries", dict(registry.WEIGHTINGS.entries))
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def commands() -> list[list[str]]:
    """The page's command lines, without `python`; last, the one that it tells as overrides only."""
    (overrides,) = re.findall(r"on top of the simplest one: `([^`]+)`", PAGE.read_text(encoding="utf-8"))
    told = [shlex.split(block.replace("\\\n", " "))[1:] for block in blocks("bash")]
    return [*told, ["-m", "actfocus_verl.train", *shlex.split(overrides)]]


def composed_credit(arguments: list[str], folder: Path) -> dict[str, object]:
    """The credit section that a command of the page composes, started in `folder`."""
    command = [sys.executable, *arguments, "--cfg", "job", "--package", "credit"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    section: dict[str, object] = yaml.safe_load(answer.stdout)
    return section


def test_the_function_weighs_as_it_says(project: Path) -> None:
    weighting = build_weighting({"name": "my_credit:half_reasoning"})
    roles = torch.tensor([[1, 3, 2, 0]])
    assert weighting({"token_roles": roles})[0, :3].tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("number", [0, -1])
def test_both_ways_to_select_it_compose_and_build(project: Path, number: int) -> None:
    credit = composed_credit(commands()[number], project)
    weighting = build_weighting(credit)
    assert (weighting.name, weighting.params, weighting.normalize) == (
        "my_credit:half_reasoning",
        {"share": 0.3},
        "batch",
    )


def test_the_energy_is_asked_for_and_needs_a_reference(project: Path) -> None:
    arguments = commands()[1]
    assert arguments[:2] == ["-m", "actfocus_verl.train"]
    config = compose_config(*arguments[2:])
    weighting = build_weighting(config.credit)
    assert weighting.required_columns == ("energy",)
    require_weighting_columns(config, weighting)
    without = [argument for argument in arguments[2:] if "kl_loss" not in argument]
    with pytest.raises(ConfigurationError, match=r"use_kl_loss=true actor_rollout_ref\.actor\.kl_loss_coef=0"):
        require_weighting_columns(compose_config(*without), weighting)


def test_the_second_function_weighs_as_it_says(project: Path) -> None:
    weighting = build_weighting({"name": "my_signal:unsure_actions"})
    assert "unsure_actions" in known_weightings()  # the short name, now that the module is imported
    roles = torch.tensor([[1, 2, 2, 2, 3, 0]])
    nan = float("nan")
    energy = torch.tensor([[nan, -3.0, -2.0, -1.0, nan, nan]])
    raw = weighting({"token_roles": roles, "energy": energy})
    torch.testing.assert_close(raw[0, :5], torch.tensor([0.1, 0.1, 1.0, 1.0, 0.1]))  # the median is -2
    weights = compute_token_weights({"token_roles": roles, "energy": energy}, weighting)
    assert weights[0, 5] == 0
    assert weights[0, :5].mean().item() == pytest.approx(1.0)


def test_trying_it_without_a_run_prints_what_the_page_says(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("python") if not block.startswith("# my_")]
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == blocks("")[0]


def test_mistakes_look_as_the_page_says(project: Path) -> None:
    wrong = [
        partial(build_weighting, {"name": "my_credit:half_reasoning", "shares": 0.3}),
        partial(build_weighting, {"name": "my_credit:third_reasoning"}),
        partial(build_weighting, {"name": "nothing"}),
        partial(build_estimator, "my_estimator:against_the_best", {"shared": 0.5}),
        partial(build_filter, {"name": "my_filter:above", "most": 1}),
    ]
    for build, line in zip(wrong, blocks("")[1].splitlines(), strict=True):
        with pytest.raises(ConfigurationError) as caught:
            build()
        assert str(caught.value) == line


def test_the_table_of_columns_is_the_packages(project: Path) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \| (declared)? ?\|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert rows == [
        (
            each.name,
            each.per,
            each.content,
            each.given_by.name,
            "declared" * (each.on_request or each.name in LOGIT_SIGNALS),
        )
        for each in COLUMNS.values()
        if each.given_by is not WEIGHTING
    ]


def test_the_estimator_estimates_as_it_says(project: Path) -> None:
    config = compose_config(*commands()[2][2:])
    spec = build_estimator(config.algorithm.adv_estimator, section(config, "estimator"))
    assert spec is not None
    assert (spec.required_columns, spec.params) == ((), {"share": 0.5})
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 3.0], [0.0, 9.0]])
    step = Step(
        rewards=rewards,
        scores=rewards,
        response_mask=torch.tensor([[1, 1], [0, 1], [1, 1], [0, 0]]),
        group_ids=torch.tensor([0, 0, 1, 0]),
        valid_rows=torch.tensor([True, True, True, False]),
        columns={},
        gamma=1.0,
        lam=1.0,
        by_std=True,
        grpo=lambda rewards, mask: rewards,
    )
    assert spec(step).advantages.tolist() == [[0.5, 0.5], [0.0, 0.0], [1.5, 1.5], [0.0, 0.0]]  # the best: 1 and 3


def test_the_filter_keeps_what_it_says(project: Path) -> None:
    config = compose_config(*commands()[3][2:])
    group_filter = build_filter(section(config, "filter"))
    kept = group_filter({"a": [0.0, 0.1], "b": [0.0, 1.0], "c": [0.5, 0.5]})  # deviations 0.07, 0.71 and 0
    assert (kept.factors, group_filter.most_kept(4), group_filter.needs_deviation) == ({"b": 1.0}, 4, True)
