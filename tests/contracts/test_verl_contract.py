"""What we use of verl is there, the list of it is complete, and the check notices what it is for."""

from __future__ import annotations

import ast
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from actfocus_verl.integration import contract
from actfocus_verl.integration.contract import check_contract, check_version
from actfocus_verl.symbols import Symbol, check_symbol

PACKAGE = Path(contract.__file__).parent.parent
FOREIGN = ("verl", "transfer_queue", "vllm")
ALL = (*contract.SYMBOLS, *contract.CPU_ROLLOUT_SYMBOLS, *contract.EVALUATION_SYMBOLS)
PATH = re.compile(r"[\w.]+:[\w.]+")
"""As pkgutil.resolve_name takes it."""
LISTED = {symbol.path.replace(":", ".") for symbol in ALL}


def test_the_installed_verl_keeps_the_contract() -> None:
    problems = check_contract()
    assert not problems, "\n" + "\n".join(problems)


# The list is complete


def used_names(source: str) -> Iterator[str]:
    """Dotted names of FOREIGN that are imported, or named as `module:name`; of a module, the attributes read."""
    tree = ast.parse(source)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    yield from (text.replace(":", ".") for text in texts if PATH.fullmatch(text) and is_foreign(text.partition(":")[0]))
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {each.asname: each.name for each in node.names if each.asname and is_foreign(each.name)}
        elif isinstance(node, ast.ImportFrom) and is_foreign(node.module or ""):
            aliases |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    for alias, name in aliases.items():
        read = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == alias
        }
        is_module = any(path.startswith(f"{name}.") for path in LISTED) and name not in LISTED
        yield from (f"{name}.{attribute}" for attribute in sorted(read)) if is_module and read else (name,)


def is_foreign(module: str) -> bool:
    return module.split(".")[0] in FOREIGN


def missing_names(source: str) -> list[str]:
    return [name for name in used_names(source) if name not in LISTED]


def test_every_import_of_the_package_is_listed() -> None:
    missing = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != Path(contract.__file__)
        for name in missing_names(path.read_text())
    ]
    assert not missing, "add to integration/contract.py:\n" + "\n".join(missing)


def extended_methods(source: str) -> list[str]:
    """Names of the methods that a module extends: those it calls on `super()`."""
    return [
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
    ]


def is_ours(method: str, sources: Iterable[str]) -> bool:
    """Whether the package defines the method, and no class of verl that we know does (then it is an override)."""
    defined = any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == method
        for source in sources
        for node in ast.walk(ast.parse(source))
    )
    classes = {part for symbol in ALL if isinstance(part := pkgutil.resolve_name(owner_of(symbol.path)), type)}
    return defined and not any(hasattr(each, method) for each in classes)


def owner_of(path: str) -> str:
    """The symbol's class, where the symbol is a method; else the symbol itself."""
    module, _, name = path.partition(":")
    return f"{module}:{name.split('.')[0]}" if name else module


def test_every_overridden_or_extended_method_is_listed() -> None:
    methods = {path.rsplit(".", 1)[1] for path in LISTED}
    rooms = (PACKAGE / "integration", PACKAGE / "platforms")
    sources = {path: path.read_text() for room in rooms for path in room.glob("*.py")}
    missing = [
        f"{path.relative_to(PACKAGE)}: super().{method}"
        for path, source in sorted(sources.items())
        for method in extended_methods(source)
        if method not in methods and not is_ours(method, sources.values())
    ]
    assert not missing, "add to integration/contract.py:\n" + "\n".join(missing)


def test_a_hook_of_our_own_is_no_method_of_verl() -> None:
    source = "class A:\n    def fit(self): ...\n    def _note_played(self): ..."
    assert is_ours("_note_played", [source])
    assert not is_ours("fit", [source])  # verl's trainer has it: a new override
    assert not is_ours("_note_played", [])


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        (
            "from verl.trainer.ppo.core_algos import get_kl_controller",
            ["verl.trainer.ppo.core_algos.get_kl_controller"],
        ),
        ("def f():\n    from verl.utils.device import get_nccl_backend as x", ["verl.utils.device.get_nccl_backend"]),
        ("import transfer_queue as tq\ntq.kv_list()", ["transfer_queue.kv_list"]),
        ("from verl.utils import tensordict_utils as tu\ntu.pop(1)", ["verl.utils.tensordict_utils.pop"]),
        ("from verl.utils import tensordict_utils as tu\ntu.get_non_tensor_data(1)", []),
        ("from verl.workers.config import ActorConfig\nActorConfig.anything", []),
        ("import torch\nfrom verlet import x", []),
        ("pkgutil.resolve_name('vllm.outputs:RequestOutput')", ["vllm.outputs.RequestOutput"]),
        ("say('verl: no such file')\nresolve('verlet.x:y')", []),
    ],
)
def test_an_unlisted_import_is_noticed(source: str, missing: list[str]) -> None:
    assert missing_names(source) == missing


# The check notices

PADDING = "verl.workers.utils.padding:response_to_nested"  # (tensor, response_mask)
TRAINER = "verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync"


@pytest.mark.parametrize(
    ("symbol", "problem"),
    [
        (Symbol("verl.workers.utils.padding:gone"), r"padding:gone is gone: .*has no attribute 'gone'"),
        (Symbol(f"{TRAINER}._gone"), r"PPOTrainerSync\._gone is gone"),
        (Symbol("verl.workers.gone:f"), r"verl.workers.gone:f cannot be imported: ModuleNotFoundError"),
        (Symbol(PADDING, ("tensor", "mask")), r"no longer starts with \(tensor, mask\); .*\(tensor, response_mask\)"),
        (Symbol(PADDING, ("response_mask", "tensor")), r"no longer starts with \(response_mask, tensor\)"),
        (Symbol(PADDING, ("tensor",)), r"has the new parameter response_mask"),
        (Symbol(PADDING, keywords=("tensor", "response_mask", "dtype")), r"no longer takes dtype"),
        (Symbol("transfer_queue:kv_batch_get", ("keys", "partition_id"), exact=True), r"new parameter select_fields"),
        (Symbol(TRAINER, attributes=("config", "gone")), r"PPOTrainerSync no longer sets self\.gone"),
        (Symbol("verl.trainer.ppo.core_algos:POLICY_LOSS_REGISTRY", ("name",)), r"no longer a function or class"),
    ],
)
def test_a_removed_or_changed_symbol_is_reported_in_one_line(symbol: Symbol, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        assert not check_contract([symbol])
    assert all("\n" not in line for line in check_contract([symbol]))


@pytest.mark.parametrize(
    "symbol",
    [
        Symbol(PADDING, ("tensor", "response_mask"), exact=True),
        Symbol(PADDING, ("tensor",), keywords=("response_mask",)),
        Symbol("transfer_queue:kv_batch_get", ("keys", "partition_id")),  # a new optional parameter breaks no caller
        Symbol(TRAINER, attributes=("global_steps", "actor_rollout_wg")),  # set in the base class
        Symbol("verl.experimental.agent_loop:AgentLoopOutput", attributes=("prompt_ids",)),  # a field
    ],
)
def test_what_still_holds_is_no_problem(symbol: Symbol) -> None:
    assert check_symbol(symbol) == []


def test_a_version_outside_the_range_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_version() == []
    for version, supported in (("0.9.0", False), ("0.9.1", True), ("0.9.2.dev1", True), ("0.10.0", False)):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        problems = check_version()
        assert (not problems) == supported
        assert supported or f"verl {version} is outside the supported range; install verl>=0.9.1,<0.10" in problems


def test_the_module_itself_imports_no_verl() -> None:
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*(m for m in ('verl', 'vllm') if m in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code, contract.__file__], capture_output=True, text=True, check=True
    ).stdout
    assert found.split() == []
