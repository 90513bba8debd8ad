"""The runner: what is done is skipped, what was broken off resumes, whatever kills it and whenever."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.command import EXIT_LOST_NODE
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.episodes import EpisodeRecord
from actfocus_verl.evaluation.folder import EvaluationFolder
from actfocus_verl.evaluation.summary import summarise
from actfocus_verl.files import write_json
from actfocus_verl.reproduction import runner
from actfocus_verl.reproduction.folders import RunLock, State, Workspace, read_json
from actfocus_verl.reproduction.runner import Outcome, run_missing
from tests.reproduction.conftest import OPTIONS, start_runner, summaries
from tests.reproduction.stand_in import STEPS, figure

RunAll = Callable[..., Outcome]


def journal(workspace: Workspace) -> list[dict[str, Any]]:
    path = workspace.results.with_name("journal")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Callable[[], bool]) -> None:
    """Fails by the test's own time limit."""
    while not condition():
        time.sleep(0.001)


def test_every_run_gets_a_summary_of_its_own(workspace: Workspace, run_all: RunAll) -> None:
    outcome = run_all()
    assert [str(run) for run in outcome.done] == [
        *("small/uniform/seed0", "small/actfocus/seed0", "small/uniform/seed1", "small/actfocus/seed1"),
        *("small/uniform/seed2", "small/actfocus/seed2"),
    ]
    assert len(journal(workspace)) == 6 * STEPS
    for name in ("uniform", "actfocus"):
        for seed in range(3):
            summary = read_json(workspace.results / "trial" / "small" / name / f"seed{seed}.json")
            assert (summary["experiment"], summary["seed"]) == (f"small/{name}", seed)
            assert summary["metrics"]["step"] == list(range(1, STEPS + 1))
            expected = [pytest.approx(figure(seed, step), rel=1e-5) for step in range(1, STEPS + 1)]
            assert summary["metrics"]["episode/success_rate"] == expected
            assert "not/kept" not in summary["metrics"]
            assert [line["successes"] for line in summary["evaluations"]] == [100 + seed, 100 + 10 * STEPS + seed]
            assert summary["evaluations"][-1]["valid_action_rate"] == 1.0
            assert summary["settings"]["credit"] == {"name": name}
            assert summary["settings"]["actor_rollout_ref.actor.optim.lr"] == 1e-4
            assert summary["code"] == {"source": "a source", "commit": "c0ffee", "packages": {"verl": "0.9.1"}}
            assert summary["cost"]["seconds"] == 60.0
            assert (summary["cost"]["starts"], summary["cost"]["starts_without_end"]) == (1, 0)
            assert summary["mixed_versions"] is False


@pytest.fixture
def final_evaluation(workspace: Workspace, tmp_path: Path) -> Workspace:
    """The matrix, which asks for a final evaluation: three of its four boards are solved. Our code wrote it."""
    settings = {"env": "frozen_lake", "preset": "clean", "split": "evaluation", "world": {}, "temperature": 0.5}
    with EvaluationFolder(tmp_path / "evaluation", settings) as folder:
        for board in range(4):
            of_board = {
                "board_hash": "",
                "stratum": 1,
                "episode_seed": 0,
                "episode_return": 0.0,
                "optimal_return": None,
            }
            counts = {"turns": 1, "parsed_turns": 1, "valid_turns": 1, "actions": 1, "tokens": {"prompt": 1}}
            ends = {"success": board < 3, "outcome": {}, "stop_reason": "max_turns"}
            folder.append(EpisodeRecord(board=board, repeat=0, **of_board, **counts, **ends))
        folder.end("finished", summarise(folder.records))
    matrix = replace(workspace.matrix, final_evaluation={"frozen_lake": ("preset=clean", "episodes=4")})
    return replace(workspace, matrix=matrix)


def copies(evaluation: Path) -> tuple[str, ...]:
    """A command in the place of `actfocus evaluate`: copies an evaluation to `out=`, and notes what it was given."""
    script = (
        'for word; do case $word in out=*) out=${word#out=};; esac; done; cp -r "$0" "$out"; echo "$@" > "$out/given"'
    )
    return ("bash", "-c", script, str(evaluation))


def test_the_last_policy_is_evaluated_where_the_matrix_says(final_evaluation: Workspace, tmp_path: Path) -> None:
    run = final_evaluation.matrix.runs()[0]
    options = replace(OPTIONS, evaluation=("false",))
    broken = run_missing(final_evaluation, [run], options, lambda line: None)
    assert broken.failed[run].startswith("its final evaluation ended with status 1; see ")
    options = replace(OPTIONS, evaluation=copies(tmp_path / "evaluation"))
    assert run_missing(final_evaluation, [run], options, lambda line: None).done == [run]
    assert len(journal(final_evaluation)) == STEPS  # it was not trained again

    places = final_evaluation.places(run)
    given = f"model={places.folder} platform=cpu out={places.folder}/final_evaluation preset=clean episodes=4"
    assert (places.folder / "final_evaluation" / "given").read_text() == f"{given}\n"
    found = read_json(places.summary)["final_evaluation"]
    assert (found["preset"], found["episodes"], found["boards"]) == ("clean", 4, 4)
    # Wilson's interval of 3 successes in 4 trials, worked by hand with z = 1.96
    success = found["success"]
    assert (success["rate"], success["low"], success["high"]) == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)


def test_what_is_done_is_not_run_again(workspace: Workspace, run_all: RunAll) -> None:
    run_all()
    first = workspace.matrix.runs()[0]
    workspace.places(first).summary.unlink()
    before = journal(workspace)
    outcome = run_all()
    assert outcome.done == [first]
    assert journal(workspace) == before  # its training had finished: only the summary was missing


def test_killed_ten_times_it_ends_as_if_undisturbed(workspace: Workspace, run_all: RunAll, tmp_path: Path) -> None:
    """SIGKILL at seeded moments, to the runner alone or to its training as well."""
    undisturbed = replace(workspace, results=tmp_path / "calm" / "results", outputs=tmp_path / "calm" / "outputs")
    run_missing(undisturbed, undisturbed.matrix.runs(), OPTIONS, lambda line: None)
    calm_journal = len(journal(workspace))
    assert calm_journal == 6 * STEPS

    rng, steps_seen = random.Random(5), calm_journal
    for kill in range(10):
        process = start_runner(workspace)
        steps_seen += rng.randint(0, 3)
        wait_for(lambda: len(journal(workspace)) >= steps_seen)  # noqa: B023  (called within the round)
        time.sleep(rng.uniform(0.0, 0.03))
        steps_seen = len(journal(workspace))
        if kill % 2:
            os.kill(process.pid, signal.SIGKILL)  # its training goes on
        else:
            with contextlib.suppress(ProcessLookupError):  # no group yet
                os.killpg(process.pid, signal.SIGKILL)
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it was alive
    run_all()

    assert summaries(workspace) == summaries(undisturbed)
    assert len(summaries(workspace)) == 6
    assert not (tmp_path / "overlap").exists()
    assert all(workspace.state(run) is State.DONE for run in workspace.matrix.runs())


def test_a_training_that_outlives_its_runner_is_waited_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_SECONDS", "0.1")
    process = start_runner(workspace)
    wait_for(lambda: len(journal(workspace)) > 0)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    first = workspace.matrix.runs()[0]
    assert workspace.state(first) is State.RUNNING
    monkeypatch.delenv("STAND_IN_STEP_SECONDS")
    said: list[str] = []
    run_missing(workspace, workspace.matrix.runs(), OPTIONS, said.append)
    assert said[0] == f"{first}: its runner was killed; waiting for its training"
    assert len(journal(workspace)) == 6 * STEPS
    assert not (tmp_path / "overlap").exists()


def test_a_runner_that_dies_while_it_writes_a_summary_leaves_no_other_file(
    workspace: Workspace, run_all: RunAll
) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def die(descriptor: int) -> None:
            if "/results/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                os._exit(9)

        patch.setattr(os, "fsync", die)
        process = start_runner(workspace)
        process.join()
    assert process.exitcode == 9
    assert summary_files(workspace) == {".seed0.json.tmp"}
    run_all()
    assert summary_files(workspace) == {f"seed{seed}.json" for seed in range(3)}


def summary_files(workspace: Workspace) -> set[str]:
    return {path.name for path in workspace.results.rglob("*") if path.is_file()}


def test_two_runners_share_the_work(workspace: Workspace, run_all: RunAll, tmp_path: Path) -> None:
    processes = [start_runner(workspace) for _ in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(summaries(workspace)) == 6
    assert len(journal(workspace)) == 6 * STEPS  # no step was done twice
    assert not (tmp_path / "overlap").exists()


def test_a_lost_node_leaves_the_other_runs_for_the_next_nodes(
    workspace: Workspace, run_all: RunAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "small/uniform")
    monkeypatch.setenv("STAND_IN_STATUS", str(EXIT_LOST_NODE))
    runs = workspace.matrix.runs()
    outcome = run_all()
    lost = next(iter(outcome.failed))
    assert outcome.lost_node
    assert [*outcome.done, lost, *outcome.left] == runs
    monkeypatch.delenv("STAND_IN_FAILS")
    assert run_all().done == [lost, *outcome.left]


def test_a_failed_run_does_not_keep_the_others_from_running(
    workspace: Workspace, run_all: RunAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "small/uniform")
    outcome = run_all()
    assert [run.experiment.label for run in outcome.done] == ["actfocus"] * 3
    assert {str(run) for run in outcome.failed} == {f"small/uniform/seed{seed}" for seed in range(3)}
    assert "ended with status 1; see " in next(iter(outcome.failed.values()))
    assert workspace.state(workspace.matrix.runs()[0]) is State.FAILED
    monkeypatch.delenv("STAND_IN_FAILS")
    assert len(run_all().done) == 3


def test_a_run_of_another_is_left_alone(workspace: Workspace, run_all: RunAll) -> None:
    first = workspace.matrix.runs()[0]
    with RunLock(workspace.places(first).lock) as lock:
        assert lock.acquire()
        assert workspace.state(first) is State.RUNNING
        assert run_all().left == [first]
    assert workspace.state(first) is State.MISSING
    assert run_all().done == [first]


class TestVersions:
    def test_other_code_is_not_mixed_into_a_cell(
        self, workspace: Workspace, run_all: RunAll, version: Callable[..., None]
    ) -> None:
        self._first_run(workspace)
        version("another source")
        with pytest.raises(ConfigurationError, match="small/uniform/seed0 was run with other code or settings: the p"):
            run_all()
        assert len(summaries(workspace)) == 2  # that of the other cell, which came first, and the first
        assert run_all(mix_versions=True).failed == {}
        assert len(summaries(workspace)) == 6

    def test_other_packages_are_not_mixed(
        self, workspace: Workspace, run_all: RunAll, version: Callable[..., None]
    ) -> None:
        self._first_run(workspace)
        version("a source", verl="0.9.2")
        with pytest.raises(ConfigurationError, match=r"verl 0\.9\.2 and 0\.9\.1"):
            run_all()

    def test_other_settings_are_not_mixed(
        self, workspace: Workspace, run_all: RunAll, composed: dict[str, Any]
    ) -> None:
        self._first_run(workspace)
        composed["data"]["train_batch_size"] = 16
        with pytest.raises(ConfigurationError, match="other code or settings: the experiment's settings"):
            run_all()

    def test_other_starting_weights_are_not_mixed(
        self, workspace: Workspace, run_all: RunAll, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """As of a policy that another machine has built; in any cell, since cells are compared by seed."""
        weights = self._policy(tmp_path / "lake-1a", monkeypatch)
        self._first_run(workspace)
        weights.write_bytes(b"built there")
        with pytest.raises(ConfigurationError, match="started from other weights of lake-1a than finished runs"):
            run_all()
        assert len(summaries(workspace)) == 1
        assert len(journal(workspace)) == 2 * STEPS
        assert run_all(mix_versions=True).failed == {}
        assert len(journal(workspace)) == 6 * STEPS  # the refused run is not trained again

    def test_mixed_weights_of_one_policy_refuse_no_run_of_another(
        self, workspace: Workspace, run_all: RunAll, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        weights = self._policy(tmp_path / "lake-1a", monkeypatch)
        self._first_run(workspace)
        weights.write_bytes(b"built there")
        run_missing(workspace, workspace.matrix.runs()[1:2], replace(OPTIONS, mix_versions=True), lambda line: None)
        self._policy(tmp_path / "sudoku-2b", monkeypatch)
        assert run_all().failed == {}
        assert len(summaries(workspace)) == 6

    def test_a_commit_that_changes_no_run_is_no_other_code(self, workspace: Workspace, run_all: RunAll) -> None:
        path = self._first_run(workspace)
        summary = read_json(path)
        write_json(path, summary | {"code": summary["code"] | {"commit": "another"}})
        assert len(run_all().done) == 5

    def test_other_code_does_not_resume_a_run(
        self, workspace: Workspace, run_all: RunAll, version: Callable[..., None]
    ) -> None:
        process = start_runner(workspace)
        wait_for(lambda: len(journal(workspace)) > 3)  # so there is a checkpoint
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        version("another source")
        with pytest.raises(ConfigurationError, match="small/uniform/seed0, which was interrupted,"):
            run_all()
        run_all(mix_versions=True)
        first, *others = (summary["mixed_versions"] for summary in self._in_order(workspace))
        assert first is True
        assert others == [False] * 5

    def test_a_run_without_a_checkpoint_starts_over_with_other_code(
        self, workspace: Workspace, run_all: RunAll, version: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STAND_IN_FAILS", "small/uniform")
        assert len(run_all().failed) == 3
        monkeypatch.delenv("STAND_IN_FAILS")
        self._delete_actfocus(workspace)
        version("a source without the mistake")
        assert len(run_all().done) == 6
        assert not any(summary["mixed_versions"] for summary in self._in_order(workspace))

    def test_a_finished_training_keeps_the_version_it_had(
        self, workspace: Workspace, run_all: RunAll, version: Callable[..., None]
    ) -> None:
        path = self._first_run(workspace)
        path.unlink()
        version("another source")
        assert self._first_run(workspace) == path
        summary = read_json(path)
        assert (summary["code"]["source"], summary["mixed_versions"]) == ("a source", False)

    def test_a_finished_training_of_other_settings_is_not_counted(
        self, workspace: Workspace, run_all: RunAll, composed: dict[str, Any]
    ) -> None:
        self._first_run(workspace).unlink()
        composed["trainer"]["total_training_steps"] = 80
        with pytest.raises(ConfigurationError, match="small/uniform/seed0, which has finished, was run with other"):
            run_all()

    def test_a_folder_of_unknown_origin_is_not_taken_over(self, workspace: Workspace, run_all: RunAll) -> None:
        folder = workspace.places(workspace.matrix.runs()[0]).folder
        write_json(folder / "run.json", {"exit_reason": "finished"})
        with pytest.raises(ConfigurationError, match="was not started by this script"):
            run_all()

    def _policy(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A tiny policy that runs start from, from now on; returns the file of its weights."""
        folder.mkdir()
        (folder / "tiny_policy.json").write_text('{"parameters": 7}')
        monkeypatch.setenv("STAND_IN_POLICY", str(folder))
        weights = folder / "model.safetensors"
        weights.write_bytes(b"built here")
        return weights

    def _first_run(self, workspace: Workspace) -> Path:
        first = workspace.matrix.runs()[0]
        run_missing(workspace, [first], OPTIONS, lambda line: None)
        return workspace.places(first).summary

    def _delete_actfocus(self, workspace: Workspace) -> None:
        for root in (workspace.results, workspace.outputs):
            shutil.rmtree(root / "trial" / "small" / "actfocus")
            for path in (root / "trial" / "small").glob("actfocus*"):
                path.unlink()

    def _in_order(self, workspace: Workspace) -> list[dict[str, Any]]:
        return [read_json(workspace.places(run).summary) for run in workspace.matrix.runs()]


def test_sigterm_ends_the_training_too(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_STOPPING_SECONDS", 0.1)
    monkeypatch.setenv("STAND_IN_STEP_SECONDS", "500")
    first = workspace.matrix.runs()[0]
    process = start_runner(workspace)
    wait_for(lambda: workspace.places(first).folder.joinpath("evaluations.jsonl").exists())
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode != 0
    assert workspace.state(first) is State.INTERRUPTED  # free, so the training has ended
    assert summaries(workspace) == {}


def test_there_is_no_time_for_a_run_that_takes_longer(workspace: Workspace, run_all: RunAll) -> None:
    first = workspace.matrix.runs()[0]
    run_missing(workspace, [first], OPTIONS, lambda line: None)  # it took a minute, it says
    outcome = run_all(minutes=0.9)
    assert [str(run) for run in outcome.left] == [str(run) for run in workspace.matrix.runs()[1:]]
    assert len(run_all(minutes=60.0).done) == 5
