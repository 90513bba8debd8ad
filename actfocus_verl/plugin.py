"""verl's entry point (`verl.plugins`): registers what we add, and checks that it is registered.

    python -m actfocus_verl.plugin --check         every registration with its source; exits 1 when one is missing
    python -m actfocus_verl.plugin --check --ray   the same in a Ray worker as well

verl imports this module at the end of its own import, in the driver and in every Ray worker, and swallows what it
raises. So a failure is logged and kept here, and `verify`, which `train` calls first, turns it into an error that says
what happened. What we register follows when verl's module with that registry is imported (`_AFTER`).

Everything registered can be selected by name from a plain verl command line: `registrations` lists the settings. The
advantage estimators need our trainer beside them, which passes on the columns they read.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import wrapt

PLATFORM_VARIABLE = "VERL_PLATFORM"
ENTRY_POINT_GROUP = "verl.plugins"
PLUGIN_MODULE = "actfocus_verl.plugin"
_OURS = "actfocus_verl.integration"
WORKER_SECONDS = 300.0
"""How long a Ray worker may take to import verl before it counts as a problem."""

_failure: Exception | None = None
"""The error of a failed registration."""

_AFTER: Mapping[str, tuple[str, ...]] = {
    "verl.workers.engine": ("engine",),
    "verl.trainer.ppo.core_algos": ("estimators", "loss"),
    "verl.experimental.agent_loop": ("loop_output",),
    f"{_OURS}.loop_output": ("agent_loop",),
    f"{_OURS}.agent_loop": ("forked_loop", "gateway_loop"),
    "verl.trainer.ppo.v1": ("trainer",),
    f"{_OURS}.trainer": ("async_trainers",),
}
"""Modules of the integration room by the module of verl with whose registry they register, or by the one of ours that
they build on: that may be the first import of all, and is half loaded when verl's module has loaded."""


def register() -> None:
    """Register the platform now, and the rest when the part of verl is imported that holds its registry. Idempotent.

    A run has a dozen processes, and those that need little of verl should not import the rest because of us.
    """
    # verl's engines we do not use warn when their libraries are absent, in every process that imports one
    warnings.filterwarnings("ignore", message=".* engine is not available")
    _register_platform()
    for holder, modules in _AFTER.items():
        _when_imported(holder, functools.partial(_import_ours, modules))
    _when_imported("verl.utils.config", _check_commands)
    _when_imported("verl.experimental.agent_loop", _watch_tools)


def _import_ours(modules: Sequence[str], holder: ModuleType) -> None:
    for module in modules:
        importlib.import_module(f"{_OURS}.{module}")


def _check_commands(config: ModuleType) -> None:
    """Import what the check needs only in a process that loads verl's configuration."""
    from actfocus_verl.integration import half_chosen

    half_chosen.install(config)


def _watch_tools(agent_loops: ModuleType) -> None:
    from actfocus_verl.integration import standstill

    standstill.install(agent_loops)


def _when_imported(module: str, hook: Callable[[ModuleType], None]) -> None:
    """Call `hook` with a module once it is imported; its errors are kept, and the import succeeds."""

    def guarded(imported: ModuleType) -> None:
        with _failure_kept():
            hook(imported)

    wrapt.register_post_import_hook(guarded, module)


@contextmanager
def _failure_kept() -> Iterator[None]:
    global _failure
    try:
        yield
    except Exception as error:  # verl would swallow it unseen, or end in the middle of an import of its own
        _failure = error
        logging.getLogger(__name__).error("actfocus_verl did not register with verl", exc_info=error)


def on_cpu_platform() -> bool:
    """Whether this process has chosen the CPU platform."""
    return os.environ.get(PLATFORM_VARIABLE, "").strip().lower() == "cpu"


def _register_platform() -> None:
    """Register the CPU platform, and prepare a process that has chosen it."""
    from verl.plugin.platform import PlatformRegistry

    from actfocus_verl.platforms.cpu import PLATFORM_NAME, PlatformCPU

    if PlatformRegistry.get(PLATFORM_NAME) is not PlatformCPU:
        PlatformRegistry.register(PLATFORM_NAME)(PlatformCPU)
    if not on_cpu_platform():
        return
    from actfocus_verl.platforms import process_group, vllm_metadata

    vllm_metadata.install()
    _when_imported("verl.utils.distributed", process_group.install)
    _when_imported("verl.workers.rollout.replica", _register_cpu_replica)


def _register_cpu_replica(replica: ModuleType) -> None:
    replica.RolloutReplicaRegistry.register("vllm", _load_cpu_replica)


def _load_cpu_replica() -> type:
    """Import vLLM only in the processes that launch a server."""
    from actfocus_verl.platforms.vllm_cpu import CPUvLLMReplica

    return CPUvLLMReplica


def _register_at_import() -> None:
    with _failure_kept():
        register()


@dataclass(frozen=True)
class Registration:
    """One of our names in one of verl's registries."""

    registry: str
    """Which registry: platform, engine, policy loss, ..."""
    setting: str
    """The setting that selects it: a configuration key with its value, or an environment variable."""
    expected: str
    """Qualified name of our object."""
    found: str | None
    """Qualified name of the entry in verl's registry; None without an entry."""
    source: str
    """`package/module.py:line` of the entry."""

    @property
    def problem(self) -> str | None:
        """Its problem, in one line; None without one."""
        if self.found == self.expected:
            return None
        return f"{self.registry} ({self.setting}) is {self.found or 'not registered'}, but should be {self.expected}"


def registrations() -> list[Registration]:
    """Look every registration up in verl's registries, as a run of this process's platform would."""
    import verl  # noqa: F401  (registers, through the entry point, in a process that has not)

    return [_registration(*entry) for entry in _expected()]


def _expected() -> Iterator[tuple[str, str, str, Callable[[], Any]]]:
    """Yield registry, setting, our object's qualified name, and how to look it up."""
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.plugin.platform import PlatformRegistry
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
    from verl.workers.engine import EngineRegistry
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    from actfocus_verl.credit.estimation import ESTIMATORS

    ours, engines = _OURS, EngineRegistry._engines
    lm, values = engines.get("language_model", {}), engines.get("value_model", {})

    yield (
        "platform",
        f"{PLATFORM_VARIABLE}=cpu",
        "actfocus_verl.platforms.cpu.PlatformCPU",
        lambda: PlatformRegistry.get("cpu"),
    )
    if on_cpu_platform():
        yield (
            "rollout replica",
            "actor_rollout_ref.rollout.name=vllm",
            f"{PLUGIN_MODULE}._load_cpu_replica",
            lambda: RolloutReplicaRegistry._registry.get("vllm"),
        )
    for strategy in ("fsdp", "fsdp2"):
        for models, key, name, where in (
            (lm, ("cuda", "nvidia"), "EnergyFSDPEngine", "actor, NVIDIA"),
            (lm, ("cuda", "amd"), "EnergyFSDPEngine", "actor, AMD"),
            (lm, "cpu", "CPUEnergyFSDPEngine", "actor, CPU"),
            (values, "cpu", "CPUValueFSDPEngine", "critic, CPU"),
            (values, ("cuda", "nvidia"), "ValueFSDPEngine", "critic, NVIDIA"),
            (values, ("cuda", "amd"), "ValueFSDPEngine", "critic, AMD"),
        ):
            yield (
                "engine",
                f"{'critic' if models is values else 'actor_rollout_ref.actor'}.strategy={strategy} ({where})",
                f"{ours}.engine.{name}",
                functools.partial(models.get(strategy, {}).get, key),
            )
    for loss in ("token_weighted", "turn_ratio"):
        yield (
            "policy loss",
            f"actor_rollout_ref.actor.policy_loss.loss_mode={loss}",
            f"{ours}.loss.{loss}_policy_loss",
            functools.partial(POLICY_LOSS_REGISTRY.get, loss),
        )
    for name in ESTIMATORS.known():
        yield (
            "advantage estimator",
            f"algorithm.adv_estimator={name}",
            _qualified(ESTIMATORS.get(name).function),
            functools.partial(ADV_ESTIMATOR_REGISTRY.get, name),
        )
    for mode, trainer in (
        ("actfocus_sync", "trainer.TokenCreditTrainerSync"),
        ("actfocus_colocate_async", "async_trainers.TokenCreditTrainerColocateAsync"),
        ("actfocus_separate_async", "async_trainers.TokenCreditTrainerSeparateAsync"),
    ):
        yield (
            "trainer",
            f"trainer.v1.trainer_mode={mode}",
            f"{ours}.{trainer}",
            functools.partial(TRAINER_REGISTRY.get, mode),
        )
    yield (
        "agent loop",
        "actor_rollout_ref.rollout.agent.default_agent_loop=actfocus",
        f"{ours}.agent_loop.EpisodeAgentLoop",
        lambda: _agent_loop_registry.get("actfocus"),
    )
    yield (
        "agent loop",
        "data.boards.train_loop=actfocus_forked",
        f"{ours}.forked_loop.ForkedAgentLoop",
        lambda: _agent_loop_registry.get("actfocus_forked"),
    )
    yield (
        "agent loop",
        "actor_rollout_ref.rollout.agent.default_agent_loop=actfocus_gateway",
        f"{ours}.gateway_loop.GatewayAgentLoop",
        lambda: _agent_loop_registry.get("actfocus_gateway"),
    )


def _registration(registry: str, setting: str, expected: str, look_up: Callable[[], Any]) -> Registration:
    found = look_up()
    if isinstance(found, dict):  # the agent-loop registry holds Hydra targets instead of classes
        import hydra.utils

        found = hydra.utils.get_object(found["_target_"])
    if found is None:
        return Registration(registry, setting, expected, None, "")
    return Registration(registry, setting, expected, _qualified(found), _source(found))


def _qualified(found: Any) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def _source(found: Any) -> str:
    """`package/module.py:line` of a class or function."""
    file = f"{found.__module__.replace('.', '/')}.py"
    try:
        return f"{file}:{inspect.getsourcelines(found)[1]}"
    except (OSError, TypeError):  # not written in Python, or its source is not installed
        return file


def verify() -> list[str]:
    """Return the problems of this process's registrations and of the installed verl; empty without any.

    Imports verl, which fixes its platform, but not vLLM: `integration.contract.check_contract` checks that as well.
    """
    problems = _entry_point_problems()
    from actfocus_verl.integration.contract import SYMBOLS, check_contract

    of_verl = check_contract(SYMBOLS)  # imports all that we hang on
    if _failure is not None:
        problems.append(f"{PLUGIN_MODULE} failed to register: {type(_failure).__name__}: {_failure}")
    problems += of_verl
    if _failure is None:
        problems += [entry.problem for entry in registrations() if entry.problem]
    return problems


def _entry_point_problems() -> list[str]:
    """Problems of the entry point, by which verl must find this module in Ray's workers."""
    entries = [entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.value == PLUGIN_MODULE]
    if not entries:
        return [f"no entry point of group {ENTRY_POINT_GROUP} leads to {PLUGIN_MODULE}: pip install actfocus_verl"]
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip().lower()
    if policy != "auto" and not {entry.name for entry in entries} & {name.strip() for name in policy.split(",")}:
        return [
            f"VERL_USE_EXTERNAL_PLUGINS={policy} keeps verl from loading {PLUGIN_MODULE}: unset it, or add actfocus"
        ]
    return []


def worker_probe() -> Callable[..., list[str]]:
    """Return a function that runs `verify` where Ray sends it: a task, or an actor's `__ray_call__`."""

    def probe(actor: object = None) -> list[str]:  # nested: Ray sends its code, and verl alone imports the plugin
        import sys

        import verl  # noqa: F401

        if "actfocus_verl.plugin" not in sys.modules:
            return ["in a Ray worker: verl did not load actfocus_verl.plugin through its entry point"]
        from actfocus_verl.plugin import verify

        return [f"in a Ray worker: {problem}" for problem in verify()]

    return probe


def verify_in_worker() -> list[str]:
    """Return `verify`'s findings in a Ray worker, of the running Ray or of a small local one that is stopped again."""
    import ray

    started = not ray.is_initialized()
    if started:
        # RAY_ADDRESS names a cluster: then the check is made there
        local = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "num_cpus": 1, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        variables = {PLATFORM_VARIABLE: os.environ[PLATFORM_VARIABLE]} if PLATFORM_VARIABLE in os.environ else {}
        remote = ray.remote(num_cpus=0, runtime_env={"env_vars": variables})(worker_probe())
        return list(ray.get(remote.remote(), timeout=WORKER_SECONDS))
    except ray.exceptions.RayError as error:
        return [f"in a Ray worker: {str(error).strip().splitlines()[-1]}"]  # above it stands the worker's traceback
    finally:
        if started:
            ray.shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of registrations and every problem; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m actfocus_verl.plugin", description="Check what is registered with verl."
    )
    parser.add_argument(
        "--check", action="store_true", required=True, help="list every registration; exit 1 when one is wrong"
    )
    parser.add_argument("--ray", action="store_true", help="check in a Ray worker, too")
    options = parser.parse_args(arguments)

    from rich.console import Console
    from rich.table import Table

    problems = verify()
    table = Table("registry", "selected by", "object", "defined in", "", box=None, pad_edge=False)
    for entry in registrations() if _failure is None else []:
        table.add_row(
            entry.registry, entry.setting, entry.found or "-", entry.source, "wrong" if entry.problem else "ok"
        )
    if on_cpu_platform():
        from actfocus_verl.integration.contract import CPU_ROLLOUT_SYMBOLS, EVALUATION_SYMBOLS, check_contract

        problems += check_contract((*CPU_ROLLOUT_SYMBOLS, *EVALUATION_SYMBOLS))
    if options.ray:
        problems += verify_in_worker()
    problems = list(dict.fromkeys(problems))

    console = Console(width=None if sys.stdout.isatty() else 220, highlight=False, markup=False)
    console.print(table)
    for problem in problems:
        console.print(f"problem: {problem}", soft_wrap=True)
    where = "in this process and in a Ray worker" if options.ray else "in this process"
    console.print(f"{len(problems)} problem(s)" if problems else f"everything is registered {where}")
    return 1 if problems else 0


if __name__ == "__main__":
    # verl imports this file under its own name; the copy that runs as __main__ must not register a second time.
    from actfocus_verl.plugin import main as _main

    sys.exit(_main())

_register_at_import()
