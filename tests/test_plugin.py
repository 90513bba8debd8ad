"""What is registered with verl, and that the check says so when it is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from verl.workers.engine import EngineRegistry

from actfocus_verl import plugin
from actfocus_verl.integration.engine import CPUEnergyFSDPEngine, EnergyFSDPEngine


def test_everything_is_registered_once_and_is_ours() -> None:
    found = plugin.registrations()
    assert not [entry.problem for entry in found if entry.problem]
    assert {entry.registry for entry in found} >= {
        *("platform", "engine", "policy loss", "advantage estimator", "trainer", "agent loop")
    }
    assert len({(entry.registry, entry.setting) for entry in found}) == len(found)
    for entry in found:
        path, line = entry.source.split(":")
        assert path.startswith("actfocus_verl/")
        assert int(line) > 0
    assert plugin.verify() == []


def test_engines_take_over_without_touching_verls_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, vendor, expected in (("cpu", "generic", CPUEnergyFSDPEngine), ("cuda", "nvidia", EnergyFSDPEngine)):
        monkeypatch.setenv("VERL_ENGINE_DEVICE", device)
        monkeypatch.setenv("VERL_ENGINE_VENDOR", vendor)
        assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is expected
    monkeypatch.setenv("VERL_ENGINE_VENDOR", "metax")  # another CUDA-like vendor keeps verl's
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2").__module__.startswith("verl.")


def test_a_missing_registration_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(POLICY_LOSS_REGISTRY, "token_weighted")
    expected = (
        "policy loss (actor_rollout_ref.actor.policy_loss.loss_mode=token_weighted) is not registered, but should be "
        "actfocus_verl.integration.loss.token_weighted_policy_loss"
    )
    assert plugin.verify() == [expected]
    assert plugin.main(["--check"]) == 1
    assert f"problem: {expected}" in capsys.readouterr().out


def test_a_registration_of_somebody_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    vanilla = POLICY_LOSS_REGISTRY["vanilla"]
    monkeypatch.setitem(POLICY_LOSS_REGISTRY, "token_weighted", vanilla)
    [problem] = plugin.verify()
    assert f"is {vanilla.__module__}.{vanilla.__qualname__}, but should be actfocus_verl.integration.loss" in problem


@pytest.mark.e2e
@pytest.mark.parametrize("module", ["loop_output", "trainer"])
def test_a_module_of_ours_may_be_the_first_import(module: str) -> None:
    """As in a user's agent loop; verl's module with the registry then loads in the middle of ours."""
    code = f"import actfocus_verl.integration.{module}; from actfocus_verl import plugin; print(plugin.verify())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == "[]", result.stdout + result.stderr[-2000:]
    assert "did not register" not in result.stderr


def test_what_verl_swallows_at_import_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ImportError("cannot import name 'PlatformRegistry'")

    monkeypatch.setattr(plugin, "_failure", None)
    monkeypatch.setattr(plugin, "register", broken)
    plugin._register_at_import()

    expected = "actfocus_verl.plugin failed to register: ImportError: cannot import name 'PlatformRegistry'"
    assert "actfocus_verl did not register with verl" in caplog.text
    assert plugin.verify() == [expected]
    assert plugin.main(["--check"]) == 1
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(("policy", "allowed"), [("auto", True), ("none", False), ("a,actfocus", True), ("a,b", False)])
def test_a_policy_that_keeps_verl_from_loading_us_is_reported(
    monkeypatch: pytest.MonkeyPatch, policy: str, allowed: bool
) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    problems = plugin.verify()
    assert (problems == []) == allowed
    assert allowed or f"VERL_USE_EXTERNAL_PLUGINS={policy}" in problems[0]


def test_a_package_that_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "entry_points", lambda group: [])
    assert "pip install actfocus_verl" in plugin.verify()[0]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("more", "where"),
    [
        ((), "in this process"),
        # every whole run trains with what is registered in Ray's workers
        pytest.param(("--ray",), "in this process and in a Ray worker", marks=pytest.mark.nightly),
    ],
)
def test_the_command_lists_everything(more: tuple[str, ...], where: str) -> None:
    """In a process of its own: this file then runs as __main__ and is imported by verl as well."""
    result = subprocess.run(
        [sys.executable, "-m", "actfocus_verl.plugin", "--check", *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert f"everything is registered {where}\n" in result.stdout
    for setting in (
        "trainer.v1.trainer_mode=actfocus_sync",
        "actor_rollout_ref.actor.policy_loss.loss_mode=token_weighted",
        "actor_rollout_ref.rollout.agent.default_agent_loop=actfocus",
    ):
        assert any(setting in line and line.rstrip().endswith("ok") for line in result.stdout.splitlines())
    assert "did not register" not in result.stderr
