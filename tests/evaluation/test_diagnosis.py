"""The paper's diagnostic before training: an evaluation that keeps its rollouts, and the energies of its model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from actfocus_verl import diagnose, evaluate
from actfocus_verl.diagnosis import evaluations
from tests.evaluation.conftest import POSITIONS, FakeServer

REPEATS = 4


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Qwen2ForCausalLM:
    """A model of the evaluated tokenizer, in its folder."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}
    config = Qwen2Config(vocab_size=400, max_position_embeddings=POSITIONS, **sizes, **heads)
    network = Qwen2ForCausalLM(config).eval()
    network.save_pretrained(model_folder)
    return network


@pytest.fixture
def evaluated(model: Qwen2ForCausalLM, model_folder: Path, fake_server: FakeServer, tmp_path: Path) -> Path:
    """Four boards, each played four times by a policy that always says the same: only the slips differ."""
    return play(model_folder, fake_server, tmp_path / "evaluation", "rollouts=true")


def play(model_folder: Path, server: FakeServer, out: Path, *words: str) -> Path:
    boards = ["env=frozen_lake", "split=train", "episodes=16", f"repeats={REPEATS}", "temperature=1"]
    assert evaluate.main([f"model={model_folder}", f"server={server.address}", f"out={out}", *boards, *words]) == 0
    return out


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "diagnose" / "diagnosis.json").read_text()))


def test_energies_are_those_of_the_logits_that_predict_each_token(
    evaluated: Path, model: Qwen2ForCausalLM, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diagnose.main([f"evaluation={evaluated}", "tokens=2"]) == 0
    first, *energies = map(json.loads, (evaluated / "diagnose" / "energy.jsonl").read_text().splitlines())
    assert first["model"]["weights"]
    episodes = [json.loads(line) for line in (evaluated / "episodes.jsonl").read_text().splitlines()]
    assert len(energies) == len(episodes) == 16
    episode = episodes[0]
    found = next(line for line in energies if (line["board"], line["repeat"]) == (episode["board"], episode["repeat"]))
    assert len(found["energy"]) == len(episode["responses"])
    for position in (0, 7, len(episode["responses"]) - 1):  # Eq. 4, one prefix at a time, in plain arithmetic
        context = [*episode["prompt_ids"], *episode["responses"][:position]]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context])).logits[0, -1].tolist()
        assert found["energy"][position] == pytest.approx(-math.log(sum(map(math.exp, logits))), abs=1e-5)

    shown = result(evaluated)
    assert (shown["steps"], shown["episodes"], shown["groups"]) == ([0], 16, 4)
    assert {group["name"]: group["stratum"] for group in shown["prompt_groups"]} == {
        f"board {episode['board']:06d}": episode["stratum"] for episode in episodes
    }
    assert len(shown["prompt_groups"]) == 4
    assert shown["correlation"]["equal_difficulty"] is not None
    assert shown["gradient_norms"]["tokens"]["action"]["drawn"] == 2
    assert "Mean energy of a group" in capsys.readouterr().out


def test_shares_are_counts_and_weights(evaluated: Path) -> None:
    """alpha 0.1 leaves reasoning a tenth of its share, and every action token at least its own (Eq. 5)."""
    assert diagnose.main([f"evaluation={evaluated}", "tokens=0"]) == 0
    found = result(evaluated)
    episodes = [json.loads(line) for line in (evaluated / "episodes.jsonl").read_text().splitlines()]
    counts = {role: sum(episode["tokens"][role] for episode in episodes) for role in ("reasoning", "action", "format")}
    share = counts["action"] / sum(counts.values())
    assert found["tokens"]["share"]["action"]["share"] == pytest.approx(share)
    assert found["gradient_mass"]["uniform"]["action"]["share"] == pytest.approx(share)
    lowest = counts["action"] / (counts["action"] + 0.1 * (counts["reasoning"] + counts["format"]))
    assert lowest < found["gradient_mass"]["actfocus"]["action"]["share"] < 1.5 * lowest


def test_an_interrupted_pass_continues(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnose.main([f"evaluation={evaluated}", "tokens=0"]) == 0
    whole = result(evaluated)
    file = evaluated / "diagnose" / "energy.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:6]) + lines[6][:20])  # a line cut short
    passes = []
    compute = evaluations.response_energy
    monkeypatch.setattr(diagnose, "response_energy", lambda *given: passes.append(given) or compute(*given))
    assert diagnose.main([f"evaluation={evaluated}", "tokens=0"]) == 0
    assert len(passes) == 11
    assert result(evaluated) == whole


def test_what_cannot_be_diagnosed_is_refused(
    evaluated: Path, model_folder: Path, fake_server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = play(model_folder, fake_server, tmp_path / "bare")
    assert diagnose.main([f"evaluation={evaluated}", "energy=false", "tokens=0"]) == 0
    assert result(evaluated)["correlation"] is None
    assert not (evaluated / "diagnose" / "energy.jsonl").exists()
    file = evaluated / "diagnose" / "energy.jsonl"
    file.write_text('{"model": {"name": "another"}}\n')
    capsys.readouterr()
    for words, message in (
        ([f"evaluation={bare}"], "kept no token ids. Evaluate again with rollouts=true, into another folder"),
        ([f"evaluation={tmp_path}"], "holds no evaluation.json"),
        ([f"evaluation={evaluated}", f"run={tmp_path}"], "is not for an evaluation. Leave run out"),
        ([f"evaluation={evaluated}", "step=3"], "error: step='3': is not for an evaluation"),
        ([f"evaluation={evaluated}"], "holds the energies of {'name': 'another'}. Name another folder with out="),
    ):
        assert diagnose.main([*words, "tokens=0"]) == 2
        shown = capsys.readouterr()
        assert message in shown.err
        assert shown.err.count("\n") == 1
