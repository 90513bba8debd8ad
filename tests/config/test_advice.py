"""Every setting that a message names exists: groups' files, keys of the composed configuration, names in registries.

Read off the source: each `key=value` in a string of the package, f-strings with the package's own constants filled in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

import actfocus_verl
from actfocus_verl.preflight.overrides import GROUPS, known_names
from tests.config.conftest import compose_config

PACKAGE = Path(actfocus_verl.__file__).parent
UNKNOWN = "\0"
"""What only the run knows, in place of an f-string's braces."""
SETTING = re.compile(r"(?<![\w.\0{])(\+?)([a-z]\w*(?:\.\w+)*)=([^\s,;:)'\"`]*)")

REGISTRIES: dict[str, Any] = {
    "trainer.v1.trainer_mode": TRAINER_REGISTRY,
    "actor_rollout_ref.actor.policy_loss.loss_mode": POLICY_LOSS_REGISTRY,
    "algorithm.adv_estimator": ADV_ESTIMATOR_REGISTRY,
    "actor_rollout_ref.rollout.agent.default_agent_loop": _agent_loop_registry,
}
COMPOSITIONS = (
    "env=none",
    "env=frozen_lake algorithm=a2tgpo",
    "env=sokoban algorithm=ppo filter=top_p",
    "env=sudoku algorithm=igpo early_stop=ragen2",
    "env=webshop algorithm=carl rollout=forked schedule=separate_async",
    "env=alfred_rooms",
    "env=babyai",
    "env=textcraft",
    "env=textworld_express",
    "env=bfcl_multi_turn",
    "env=tau2_telecom",
)
"""Between them they have every key that a message may name."""
NOT_OF_TRAIN = ("tiny.heads", "template.enable_thinking", "engine.tensor_parallel_size")
"""Dotted like a key, and of another program: `scripts/` builds a policy from `tiny.*`, evaluate has the others."""


class Advice(NamedTuple):
    place: str
    added: bool
    """Whether it has Hydra's plus: then the key is new."""
    key: str
    value: str


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def constants_of(path: Path) -> dict[str, str]:
    """The module's string constants, those it imports from the package among them."""
    found = {}
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("actfocus_verl"):
            source = PACKAGE.parent / f"{(node.module or '').replace('.', '/')}.py"
            known = constants_of(source) if source.exists() else {}
            found |= {each.asname or each.name: known[each.name] for each in node.names if each.name in known}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            text = text_of(node.value, found)
            if isinstance(target, ast.Name) and text is not None and UNKNOWN not in text:
                found[target.id] = text
    return found


def text_of(node: ast.expr, constants: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) or UNKNOWN for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value, constants)
    return None


def advice_in(path: Path) -> Iterator[Advice]:
    tree = tree_of(path)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr) or id(node) in inner | docstrings:
            continue
        for plus, key, value in SETTING.findall(text_of(node, constants_of(path)) or ""):
            end = "." if "[" in value else ".]"  # of the sentence, and of a list of settings
            yield Advice(f"{path.name}:{node.lineno}", bool(plus), key, value.rstrip(end))


def all_advice() -> list[Advice]:
    """But for plugin.py, whose settings `python -m actfocus_verl.plugin --check` looks up in the registries."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "plugin.py"]
    return [advice for path in paths for advice in advice_in(path)]


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """Every key of the compositions with a value it has there."""
    found: dict[str, Any] = {}
    for words in COMPOSITIONS:
        found |= dict(paths_of(OmegaConf.to_container(compose_config(*words.split()), resolve=False)))
    return found


def paths_of(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        path = f"{prefix}{key}"
        yield path, value
        if isinstance(value, dict):
            yield from paths_of(value, f"{path}.")


def problem_with(advice: Advice, keys: dict[str, Any]) -> str | None:
    """What is wrong with a setting; only dotted keys and groups can be told from other words with an equals sign."""
    _, added, key, value = advice
    put_together = UNKNOWN in value and value != UNKNOWN
    if key in GROUPS:
        wrong = put_together or (value not in ("", UNKNOWN) and value not in known_names(key))
        return f"there is no file configs/{key}/{value}.yaml" if wrong else None
    if "." not in key or key in NOT_OF_TRAIN or added:
        return None
    full = next((path for path in keys if path == key or path.endswith(f".{key}")), None)
    if full is None:
        return f"there is no key {key}"
    if full in REGISTRIES and value not in ("", UNKNOWN) and value not in REGISTRIES[full]:
        return f"{key} has no {value.replace(UNKNOWN, '<...>')}"
    if value and UNKNOWN not in value and value != "...":
        parsed = OverridesParser.create().parse_override(f"{full}={value}").value()
        if isinstance(keys[full], bool) and not isinstance(parsed, bool):
            return f"{key} is true or false"
    return None


def test_every_setting_named_in_a_message_exists(keys: dict[str, Any]) -> None:
    advice = all_advice()
    assert len([each for each in advice if "." in each.key or each.key in GROUPS]) > 60
    problems = [f"{each.place}: {found}" for each in advice if (found := problem_with(each, keys))]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('f"Set {MODE}={PREFIX}{mode}"', "trainer.v1.trainer_mode has no actfocus_<...>"),
        ('f"Set {MODE}=actfocus_one_step_off"', "trainer.v1.trainer_mode has no actfocus_one_step_off"),
        ('"Set actor_rollout_ref.actor.shufle=False"', "there is no key actor_rollout_ref.actor.shufle"),
        ('"Set actor.shuffle=no_bool"', "actor.shuffle is true or false"),
        ('"use credit=uniforn"', "there is no file configs/credit/uniforn.yaml"),
        ('"use credit=uniform, or +new.key=1."', None),
        ('f"Set {MODE}={mode}"', None),
    ],
)
def test_what_does_not_exist_is_noticed(keys: dict[str, Any], tmp_path: Path, source: str, problem: str | None) -> None:
    path = tmp_path / "module.py"
    path.write_text(f'MODE: Final = "trainer.v1.trainer_mode"\nPREFIX = "actfocus_"\n\ndef f(mode): return {source}\n')
    problems = [found for each in advice_in(path) if (found := problem_with(each, keys))]
    assert problems == ([] if problem is None else [problem])
