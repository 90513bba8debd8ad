"""The summary of a run's folder: what is kept, what is left out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction.folders import Places
from actfocus_verl.reproduction.matrix import Experiment, Run
from actfocus_verl.reproduction.summary import Summary, _seconds, other_weights, summarise, to_text

RUN = Run(Experiment("small/mine", "mine", ("credit.alpha=0.3",)), 4)
START = {"code": {"source": "s", "commit": "c", "packages": {}}, "settings_digest": "d", "mixed_versions": False}
CONFIG = {
    "credit": {"name": "actfocus", "alpha": 0.3},
    "actor_rollout_ref": {"actor": {"optim": {"lr": 1e-4, "betas": [0.9, 0.999]}}},
    "trainer": {"total_training_steps": 4, "test_freq": 2, "default_local_dir": "/somewhere"},
}


def start(begin: str, end: str | None) -> dict[str, Any]:
    ended = end and f"2026-01-01T{end}+00:00"
    return {"started": f"2026-01-01T{begin}+00:00", "ended": ended}


def evaluation(step: int, rate: float) -> dict[str, Any]:
    fields = {"step": step, "env": "e", "preset": "p", "split": "s", "episodes": 8, "successes": int(8 * rate)}
    more = {"boards": 4, "outcome/moves": 1.23456789}
    return fields | {"rate": rate, "ci_low": 0, "ci_high": 1, "mean_return": 0.5, "seed": 4, "temperature": 1.0} | more


class Folder:
    """A finished run of four steps; a resumed one evaluated at step 3 as well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = {"exit_reason": "finished", "machine": {"cores": 2}}
        self.info["starts"] = [start("00:00:00", None), start("01:00:00", "01:02:30")]
        self.metrics = [
            {"step": step, "timing_s/step": 0.1234567891, "actor/none": 1, "timing_s/ref": None}
            for step in (1, 2, 3, 4)
        ]
        self.evaluations = [evaluation(step, step / 8) for step in (0, 2, 3, 4)]
        self.config: dict[str, Any] = json.loads(json.dumps(CONFIG))

    def summarise(self, source: str = "s") -> dict[str, Any]:
        self.path.mkdir(exist_ok=True)
        (self.path / "config.yaml").write_text(yaml.safe_dump(self.config))
        (self.path / "run.json").write_text(json.dumps(self.info))
        for name, lines in (("metrics", self.metrics), ("evaluations", self.evaluations)):
            (self.path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return summarise("trial", RUN, Places(self.path.with_suffix(".json"), self.path), START, source)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")


def test_what_is_kept(folder: Folder) -> None:
    found = folder.summarise()
    assert (found["matrix"], found["experiment"], found["seed"]) == ("trial", "small/mine", 4)
    assert found["overrides"] == ["experiment=small/mine", "credit.alpha=0.3"]
    assert found["settings"]["credit"] == CONFIG["credit"]
    assert found["settings"]["actor_rollout_ref.actor.optim.lr"] == 1e-4
    assert found["metrics"] == {"step": [1, 2, 3, 4], "timing_s/ref": [None] * 4, "timing_s/step": [0.123457] * 4}
    assert found["evaluations"][0]["boards"] == 4
    assert found["evaluations"][0]["outcome/moves"] == 1.23457
    assert "/somewhere" not in json.dumps(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_summary_is_written_with_a_key_a_line() -> None:
    content = {
        "format": 1,
        "cost": {"seconds": 2.0, "starts": [1, 2]},
        "evaluations": [{"step": 0, "rate": None}],
        "x": [],
    }
    lines = ["{", '  "format": 1,', '  "cost": {', '    "seconds": 2.0,', '    "starts": [1, 2]', "  },"]
    lines += ['  "evaluations": [', '    {"step": 0, "rate": null}', "  ],", '  "x": []', "}"]
    assert to_text(content) == "\n".join(lines) + "\n"
    assert json.loads(to_text(content)) == content


def test_an_evaluation_of_a_resumed_run_alone_is_left_out(folder: Folder) -> None:
    assert [line["step"] for line in folder.summarise()["evaluations"]] == [0, 2, 4]
    folder.config["trainer"]["test_freq"] = 3  # then the last step is one for being the last
    assert [line["step"] for line in folder.summarise()["evaluations"]] == [0, 3, 4]


def test_only_starts_whose_end_is_known_have_a_cost(folder: Folder) -> None:
    cost = folder.summarise()["cost"]
    assert (cost["seconds"], cost["starts"], cost["starts_without_end"]) == (150.0, 2, 1)


def test_the_cost_is_what_the_clock_of_the_run_says() -> None:
    """Its dates lie five hours apart, in the wrong order: the machine's clock was set back."""
    dates = {"started": "2026-03-29T12:00:00+00:00", "ended": "2026-03-29T07:01:00+00:00"}
    assert _seconds({**dates, "seconds": 60.0}) == 60.0
    assert _seconds(dates) == 60.0 - 5 * 3600  # of a record that has no more


def test_the_policy_is_described(folder: Folder, tmp_path: Path) -> None:
    policy = tmp_path / "lake-loose-1a"
    policy.mkdir()
    (policy / "tiny_policy.json").write_text('{"parameters": 7, "vocabulary": 3, "seconds": 1}')
    (policy / "model.safetensors").write_bytes(b"one")
    folder.config["model"] = {"path": str(policy)}
    described = folder.summarise()["policy"]
    assert described == {"name": "lake-loose-1a", "parameters": 7, "vocabulary": 3, "weights": described["weights"]}
    (policy / "model.safetensors").write_bytes(b"two")
    assert folder.summarise()["policy"]["weights"] != described["weights"]
    folder.config["model"] = {"path": "Qwen/Qwen2.5-3B-Instruct"}
    assert folder.summarise()["policy"] == {"name": "Qwen/Qwen2.5-3B-Instruct"}


def test_code_that_changed_during_a_run_is_told(folder: Folder) -> None:
    assert folder.summarise()["mixed_versions"] is False
    assert folder.summarise(source="another")["mixed_versions"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: folder.info.update(exit_reason="failed: x"), r"has not finished \(failed: x\)"),
        (lambda folder: folder.metrics.pop(1), "has 3 of 4 steps, or lacks one between"),
        (lambda folder: folder.metrics.pop(), "has 3 of 4 steps"),
        (lambda folder: folder.evaluations.clear(), "has no evaluation"),
    ],
)
def test_an_incomplete_run_has_no_summary(folder: Folder, change: Any, message: str) -> None:
    change(folder)
    with pytest.raises(ConfigurationError, match=message):
        folder.summarise()


def test_runs_that_started_from_other_weights_of_a_policy_are_found() -> None:
    names = [("lake", "1"), ("lake", "1"), ("sudoku", "2"), ("lake", "3"), ("lake", None), ("Qwen", None)]
    runs: list[Summary] = [{"policy": {"name": name} | ({"weights": each} if each else {})} for name, each in names]
    assert other_weights(runs) == {"lake": [runs[3]]}
    assert other_weights(runs[:3]) == {}
