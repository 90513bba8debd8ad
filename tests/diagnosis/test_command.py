"""The whole command: what it writes and shows, and how mistakes end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.diagnose import RESULT_FILE, main
from actfocus_verl.diagnosis.arguments import Arguments
from actfocus_verl.evaluation.checkpoints import Checkpoint
from actfocus_verl.launch.claim import FolderClaim
from tests.diagnosis.conftest import Record, records, write_rollouts

pytestmark = pytest.mark.usefixtures("quick")


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "diagnosis.json").read_text()))


def test_a_run_with_a_checkpoint(run: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"run={run}", "tokens=4"]) == 0
    found = result(run / "diagnose")
    assert (found["steps"], found["episodes"], found["groups"], found["notes"]) == ([2, 4], 24, 8, [])
    assert found["correlation"]["pooled"]["action"]["groups"] == 8
    assert len(found["prompt_groups"]) == 8
    norms = found["gradient_norms"]
    assert (norms["model"], norms["checkpoint"], norms["temperature"]) == (str(run), 4, 0.8)
    assert norms["tokens"]["action"]["drawn"] == 4
    assert norms["score"]["reasoning"]["mean"] > 0
    assert (run / "diagnose" / "energy.png").read_bytes().startswith(b"\x89PNG")

    shown = capsys.readouterr().out
    for part, figures in found["correlation"]["pooled"].items():
        assert f"{part} {figures['rho']:.3f} [" in " ".join(shown.split())
    share = found["gradient_mass"]["uniform"]["action"]["share"]
    assert f"{100 * share:.1f} [" in shown
    assert f"{found['tokens']['share']['reasoning']['share']:.3f}" not in shown  # shares are in percent


def test_again_gives_the_same(run: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main([f"run={run}", "tokens=2", f"out={tmp_path / name}"]) == 0
    one, two = (result(tmp_path / name) for name in ("one", "two"))
    assert one.pop("arguments") != two.pop("arguments")
    assert one == two
    assert not (run / "diagnose").exists()


def test_one_step_and_a_model_that_is_named(run: Path, merged: Path) -> None:
    assert main([f"run={run}", "step=2", "tokens=2", f"model={merged}"]) == 0
    found = result(run / "diagnose")
    assert (found["steps"], found["gradient_norms"]["model"]) == ([2], str(merged))
    assert found["gradient_norms"]["checkpoint"] is None


def test_without_a_checkpoint_there_is_a_note_unless_one_was_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"run={run}"]) == 0
    found = result(run / "diagnose")
    assert found["gradient_norms"] is None
    assert len(found["notes"]) == 1
    assert "no gradient norms: " in found["notes"][0]
    assert "the run has no checkpoint" in found["notes"][0]
    assert "note: no gradient norms" in capsys.readouterr().out
    assert main([f"run={run}", "checkpoint=4"]) == 2


def test_without_energy_the_rest_is_there(run: Path, rewrite: Callable[..., None]) -> None:
    def without(episode: Record) -> None:
        del episode["energy"]

    for step in (2, 4):
        rewrite(step, without)
    (run / "diagnose").mkdir()
    (run / "diagnose" / "energy.png").touch()  # of an earlier diagnosis, which this one replaces
    assert main([f"run={run}", "tokens=0"]) == 0
    found = result(run / "diagnose")
    assert found["correlation"] is None
    assert found["notes"] == [
        "2 of 2 steps kept no energy: train with credit=actfocus or run.diagnose=true",
        "no gradient mass for actfocus: the run kept no energy",
    ]
    assert found["gradient_mass"]["uniform"]["action"]["share"] > 0
    assert not (run / "diagnose" / "energy.png").exists()


def test_what_a_reader_must_know_is_noted(run: Path) -> None:
    (run / "config.yaml").write_text(
        "actor_rollout_ref: {rollout: {n: 3}}\ncredit: {name: empg}\nfilter: {name: reward_variance}\n"
    )
    write_rollouts(run, 2, records(2)[:-2])
    assert main([f"run={run}", "tokens=0"]) == 0
    cut, dropped, added = result(run / "diagnose")["notes"]
    assert cut.startswith(
        "1 groups were kept only in part and are left out of the correlation: set run.rollouts_a_step"
    )
    assert dropped.startswith("filter=reward_variance dropped groups")
    assert added.startswith("this run's advantages include EMPG's additive term")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=/no/such/folder"], "error: run='/no/such/folder': is not a folder."),
        (["run={empty}"], "is not a run's folder, it holds none of config.yaml"),
        (["tokens=3"], "error: run=None: is required. Add run=<path>"),
        (["run={run}", "token=3"], "error: token=3: is not a known key. Known: run, evaluation, energy, out, step, "),
        (["run={run}", "tokens=-1"], "error: tokens=-1: must be an integer >= 0."),
        (["run={run}", "step=7"], "keeps no episodes of it. Choose one of: 2, 4"),
        (["run={run}", "model=/no/model"], "error: model='/no/model': is not a folder."),
        (["run={run}", "out={run}/config.yaml"], "cannot be written (File exists"),
        (["run"], "error: argument='run': must be key=value."),
    ],
)
def test_mistakes_end_with_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([word.format(run=run, empty=tmp_path / "empty") for word in words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_one_diagnosis_at_a_time(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FolderClaim("out", run / "diagnose"):
        assert main([f"run={run}", "tokens=0"]) == 2
        assert f"process {os.getpid()} on host" in capsys.readouterr().err
        assert not (run / "diagnose" / RESULT_FILE).exists()
    assert main([f"run={run}", "tokens=0"]) == 0


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [key for key in Arguments.__dataclass_fields__ if f"\n{key}" not in text] == []
    assert main([]) == 2
