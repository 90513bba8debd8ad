"""The whole command with lookup policies, without vLLM: what it finds, how it goes on, how it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.arguments import RunDefaults
from actfocus_verl.evaluation.checkpoints import Checkpoint
from actfocus_verl.evaluation.models import NamedModel
from actfocus_verl.run_files import TINY_POLICY_FILE
from actfocus_verl.truth.arguments import KEYS, complete, read_options_and_world
from actfocus_verl.truth.command import main
from tests.truth.made_up import CONSTANT, COUPLED, LOOSE, LookupEngine, LookupServer

Words = Callable[..., list[str]]
SEED = 1
"""Of fifteen intervals of 95 % not all hold with every seed, and with few boards they are too narrow."""


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "truth.json").read_text())


@pytest.mark.parametrize(
    ("replies", "more", "kind"),
    [
        (LOOSE, [], "action"),
        (COUPLED, [], "reasoning"),
        (CONSTANT, ["slip=0.5"], "luck"),
    ],
)
def test_the_share_lies_where_the_decision_is(
    words: Words, engine: type[LookupEngine], tmp_path: Path, replies: Sequence[str], more: list[str], kind: str
) -> None:
    engine.replies = replies
    assert main(words(*more, f"seed={SEED}")) == 0
    found = result(tmp_path / "out")
    for name, share in found["shares"].items():
        assert share["low"] <= (name in (kind, "sum")) <= share["high"], (name, share)
    assert found["shares"][kind]["low"] > 0.5
    assert found["continuations"] == 8


def test_it_goes_on_where_it_was_interrupted(
    words: Words, engine: type[LookupEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["slip=0.3", "max_turns=2", "boards=2", "continuations=2"]
    assert main(words(*more)) == 0
    whole, sampled = result(tmp_path / "out"), engine.sampled
    assert [turn["reached"] for turn in whole["by_turn"]] == [1.0, 1.0]
    shown = capsys.readouterr()
    assert "sum" in shown.out
    assert {name: part["episodes"] for name, part in whole["strata"].items()} == {"1": 2, "2": 2}
    assert "By stratum" in shown.out
    assert "starting vLLM" in shown.err

    other = words(*more, f"out={tmp_path / 'other'}", "concurrency=4")
    engine.sampled, engine.stop_after = 0, sampled // 2
    assert main(other) == 1
    assert capsys.readouterr().err.endswith("error: the engine stopped\n")
    lines = (tmp_path / "other" / "samples.jsonl").read_bytes()
    (tmp_path / "other" / "samples.jsonl").write_bytes(lines[:-3])  # the last line was cut short
    engine.stop_after = None
    assert main(other) == 0
    assert engine.sampled < 1.5 * sampled
    assert result(tmp_path / "other") == whole

    engine.sampled = 0
    capsys.readouterr()
    assert main(other) == 0
    assert engine.sampled == 0
    again = capsys.readouterr()
    assert (again.out, "starting vLLM" in again.err) == (shown.out, False)

    assert main([*other, "temperature=0.5"]) == 2
    problem = f"error: temperature=0.5: {tmp_path / 'other' / 'samples.jsonl'} was sampled with temperature=1.0."
    assert capsys.readouterr().err.startswith(problem)


def test_ctrl_c_keeps_what_was_sampled(
    words: Words, engine: type[LookupEngine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["boards=2", "continuations=2"]
    engine.stop_after, engine.interrupts = 40, True
    assert main(words(*more)) == 130
    assert capsys.readouterr().err.endswith("interrupted; run the same command again to resume\n")
    kept = (tmp_path / "out" / "samples.jsonl").read_text()
    assert kept.count("returns") >= 4
    engine.stop_after = None
    assert main(words(*more)) == 0
    assert (tmp_path / "out" / "samples.jsonl").read_text().startswith(kept)


def test_a_served_policy_is_asked_by_token_ids(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actfocus_verl.evaluation.server.CompletionServer", LookupServer)
    more = ["boards=2", "continuations=2"]
    assert main(words(*more)) == 0
    here = result(tmp_path / "out")
    address = "http://127.0.0.1:9/v1"
    served = [*words(*more), f"server={address}", "request.priority=1", f"out={tmp_path / 'served'}"]
    assert main(served) == 0
    there = result(tmp_path / "served")
    ((asked, settings),) = LookupServer.asked
    assert (asked, settings["fields"], settings["timeout"]) == (address, {"priority": 1}, 600.0)
    assert there["shares"] == here["shares"]
    assert there["settings"]["server"] == address
    assert there["settings"]["platform"] is None
    assert "server" not in here["settings"]
    assert main([*served, "server_api=chat"]) == 2
    refusal = "error: server_api='chat': a continuation within a reply needs token ids, which a chat does not take."
    assert refusal in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["continuations=1"], "continuations=1: must be an integer >= 2."),
        (["boards=1"], "boards=1: must be an integer >= 2."),
        (["server_model=tiny"], "server_model='tiny': needs a server."),
        (["repeats=2"], "repeats=2: is not a known key. Known: model, out, "),
        (
            ["judge=true", "methods=grpo + focus"],
            "methods='grpo + focus': is not a method that can be judged. Choose from: grpo + actfocus, ",
        ),
        (["methods=grpo + actfocus"], "methods='grpo + actfocus': judges methods, and judge=false."),
        (["colour=red"], "env.colour='red': unknown key of Coin."),
        (["env=tests.truth.made_up:Silent"], "env='tests.truth.made_up:Silent': does not say how its randomness"),
        (["env=tests.truth.made_up:Forgetful"], "env='tests.truth.made_up:Forgetful': does not replay: "),
    ],
)
def test_mistakes_end_with_one_line(
    words: Words, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(words(*more)) == 2
    assert message in last_line(capsys)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


def test_returns_that_never_vary_are_a_failure(
    words: Words, engine: type[LookupEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    engine.replies = CONSTANT
    assert main(words()) == 1
    assert "there is no variance to share" in last_line(capsys)
    assert engine.sampled == 20 * 9  # the episodes and their starts, and nothing after them


def test_a_policy_of_another_world_is_refused(
    words: Words, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in model_folder.iterdir():
        (model / file.name).symlink_to(file)
    (model / TINY_POLICY_FILE).write_text(json.dumps({"config": {"env": "sudoku"}}))
    assert main(words(f"model={model}")) == 2
    problem = "error: env='tests.truth.made_up:Coin': the checkpoint is of another world (sudoku). Write env=sudoku"
    assert last_line(capsys).startswith(problem)


def test_a_run_of_another_world_is_refused() -> None:
    named = NamedModel("run", is_folder=True, checkpoint=Checkpoint(Path("run"), 5))
    run = RunDefaults("sokoban", "clean", {}, max_context_tokens=900, max_response_tokens=600)
    options, world = read_options_and_world(["model=run", "out=out", "env=frozen_lake"])
    with pytest.raises(ConfigurationError) as refused:
        complete(options, world, named, run)
    problem = (
        "env='frozen_lake': the checkpoint is of another world (sokoban). Write env=sokoban, or name another model"
    )
    assert str(refused.value).startswith(problem)


@pytest.mark.parametrize("env", ["bfcl_multi_turn", "tau2_telecom"])
def test_a_world_of_tools_is_refused(env: str) -> None:
    """A call stands behind no tag that is cut at: the whole reply would be reasoning."""
    options, world = read_options_and_world(["model=model", "out=out", f"env={env}"])
    with pytest.raises(ConfigurationError, match=f"env='{env}': is acted in by tool calls"):
        complete(options, world, NamedModel("model", is_folder=True, checkpoint=None), None)


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [key for key in KEYS if f"\n{key}" not in text] == []
