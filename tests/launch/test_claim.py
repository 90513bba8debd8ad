"""Who may write to a folder: real processes that start at the same time, are killed, or are not here."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch import claim
from actfocus_verl.launch.claim import CLAIM_FILE, SILENT_SECONDS, FolderClaim, ProcessIdentity, this_process

ROUNDS = 40
GUARD_SECONDS = 60

_PROCESS = """
import sys
from contextlib import ExitStack
from pathlib import Path
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.claim import FolderClaim

held = ExitStack()
for line in sys.stdin:
    word, _, folder = line.strip().partition(" ")
    try:
        if word == "claim":
            held.enter_context(FolderClaim("run.dir", Path(folder)))
        else:
            held.close()
        print("ok", flush=True)
    except ConfigurationError as error:
        print(error, flush=True)
"""


class Process:
    """A process that claims and releases folders when it is told to."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _PROCESS]
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._popen.pid

    def say(self, *words: object) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(" ".join(map(str, words)) + "\n")
        self._popen.stdin.flush()

    def answer(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def claims(self, folder: Path) -> str:
        self.say("claim", folder)
        return self.answer()

    def releases(self) -> None:
        self.say("release")
        assert self.answer() == "ok"

    def kill(self, *, reap: bool = True) -> None:
        self._popen.kill()
        if reap:
            self._popen.wait(GUARD_SECONDS)

    def end(self) -> None:
        self.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def start() -> Iterator[Callable[[], Process]]:
    processes: list[Process] = []

    def start_one() -> Process:
        processes.append(Process())
        return processes[-1]

    yield start_one
    for process in processes:
        process.end()


def stale(folder: Path, **changes: Any) -> Path:
    """The claim that a killed process left, with some of its entries changed; the file."""
    with FolderClaim("run.dir", folder):
        left = json.loads((folder / CLAIM_FILE).read_text())
    (folder / CLAIM_FILE).write_text(json.dumps(left | changes))
    return folder / CLAIM_FILE


def silent(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def refusal(folder: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught, FolderClaim("run.dir", folder):
        pass
    assert "\n" not in str(caught.value)
    return caught.value


# --- Two at the same time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "a stale claim"])
def test_of_processes_that_start_together_exactly_one_wins(
    start: Callable[[], Process], tmp_path: Path, before: str
) -> None:
    rivals = [start() for _ in range(4)]
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        if before == "a stale claim":
            stale(folder, started=1)  # this process's id, and not its start: reused
        for each in rivals:
            each.say("claim", folder)
        answers = [each.answer() for each in rivals]
        assert answers.count("ok") == 1, answers
        winner = rivals[answers.index("ok")]
        assert all(f"process {winner.pid} on host" in answer for answer in answers if answer != "ok")
        winner.releases()
        assert not (folder / CLAIM_FILE).exists()


def test_the_refusal_names_process_host_and_since_when(start: Callable[[], Process], tmp_path: Path) -> None:
    first = start()
    assert first.claims(tmp_path / "new" / "folder") == "ok"
    held = json.loads((tmp_path / "new" / "folder" / CLAIM_FILE).read_text())

    error = refusal(tmp_path / "new" / "folder")

    assert (error.key, error.value) == ("run.dir", str(tmp_path / "new" / "folder"))
    assert error.problem == (
        f"process {first.pid} on host {this_process().host} has been writing to it since {held['since']}"
    )
    assert error.remedy == "Wait for it to end, or choose another run.dir"
    first.releases()
    with FolderClaim("run.dir", tmp_path / "new" / "folder"):
        pass


def test_a_second_claim_in_one_process_is_refused(tmp_path: Path) -> None:
    with FolderClaim("out", tmp_path):
        assert f"process {os.getpid()} " in refusal(tmp_path).problem


# --- What does not block ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reap", [True, False], ids=["gone", "a zombie"])
def test_a_killed_process_does_not_block(start: Callable[[], Process], tmp_path: Path, reap: bool) -> None:
    first = start()
    assert first.claims(tmp_path) == "ok"
    first.kill(reap=reap)
    while (
        this_process().is_running()
        and ProcessIdentity.from_json(json.loads((tmp_path / CLAIM_FILE).read_text())).is_running()
    ):
        time.sleep(0.01)  # until the kernel has ended it

    with FolderClaim("run.dir", tmp_path):
        assert json.loads((tmp_path / CLAIM_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / CLAIM_FILE).exists()


def test_a_reused_process_id_does_not_block(tmp_path: Path) -> None:
    """This very process runs, but it did not start when the one with its id did that made the claim."""
    here = this_process()
    assert here.is_running() is True
    assert dataclasses.replace(here, started=here.started - 1).is_running() is False
    stale(tmp_path, started=here.started - 1)
    with FolderClaim("run.dir", tmp_path):
        pass


def test_a_claim_ends_with_its_block_however_that_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FolderClaim("run.dir", tmp_path):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == [claim.LOCK_FILE]


# --- Processes that cannot be looked up ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"host": "gpu-3", "boot": "another"}, {"namespace": "pid:[1]"}, {"boot": "another"}],
    ids=["another host", "another container of this name", "another machine of this name"],
)
def test_another_host_s_claim_is_respected(tmp_path: Path, changes: dict[str, str]) -> None:
    path = stale(tmp_path, pid=1, **changes)
    before = path.read_bytes()
    silent(path, 42)

    error = refusal(tmp_path)

    host = changes.get("host", this_process().host)
    assert error.problem.startswith(f"process 1 on host {host} has been writing to it since 2")
    assert re.search(r" \(last sign of life \d+ s ago\)$", error.problem)
    assert error.remedy == f"Wait for it to end, or choose another run.dir; if that process is gone, delete {path}"
    assert path.read_bytes() == before
    path.unlink()
    with FolderClaim("run.dir", tmp_path):
        pass


@pytest.mark.parametrize(("job", "stale_claim"), [("slurm-7", True), ("slurm-8", False), ("", False)])
def test_an_earlier_attempt_of_the_same_job_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, stale_claim: bool
) -> None:
    """A requeued job starts on other nodes, which cannot look its first process up."""
    monkeypatch.setenv(claim.JOB_VARIABLE, "slurm-7" if job else "")
    stale(tmp_path, host="gpu-3", boot="another", pid=1)
    monkeypatch.setenv(claim.JOB_VARIABLE, job)
    if stale_claim:
        with FolderClaim("run.dir", tmp_path):
            assert json.loads((tmp_path / CLAIM_FILE).read_text())["job"] == job
    else:
        assert "process 1 on host gpu-3" in refusal(tmp_path).problem


def test_another_process_of_the_same_job_blocks(start: Callable[[], Process], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(claim.JOB_VARIABLE, "slurm-7")
        first = start()
        assert first.claims(tmp_path) == "ok"
        assert f"process {first.pid} on host" in refusal(tmp_path).problem


def test_a_silent_claim_of_another_host_is_respected_and_said_to_be_probably_stale(tmp_path: Path) -> None:
    path = stale(tmp_path, host="gpu-3", boot="another")
    silent(path, 3 * 3600)

    error = refusal(tmp_path)

    assert error.problem.endswith("has given no sign of life for 180 min")
    assert error.remedy == f"It is probably gone: make sure, and delete {path}, or choose another run.dir"
    assert path.exists()


@pytest.mark.parametrize("changes", [{"boot": "an earlier one"}, {"namespace": "pid:[1]"}])
def test_a_silent_claim_from_before_a_restart_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.01)
    path = stale(tmp_path, **changes)
    silent(path, SILENT_SECONDS + 1)
    with FolderClaim("run.dir", tmp_path):
        pass


def test_a_clock_that_was_set_forward_takes_no_living_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours lie between its last touch and now, until it is touched again. It is another container's, of this name."""
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.2)
    path = stale(tmp_path, namespace="pid:[1]")
    silent(path, 5 * 3600)
    beat = threading.Timer(0.1, os.utime, [path])
    beat.start()
    assert "has been writing to it since" in refusal(tmp_path).problem
    beat.join()
    assert path.exists()


def test_a_clock_that_was_set_back_takes_no_claim(tmp_path: Path) -> None:
    """Its last touch is to come: the user is told, and decides."""
    path = stale(tmp_path, boot="an earlier one")
    silent(path, -5 * 3600)
    error = refusal(tmp_path)
    assert error.problem.endswith("(last sign of life 0 s ago)")
    assert error.remedy.endswith(f"if that process is gone, delete {path}")


def test_a_claim_is_touched_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.01)
    with FolderClaim("run.dir", tmp_path):
        silent(tmp_path / CLAIM_FILE, 3600)
        deadline = time.monotonic() + GUARD_SECONDS
        while (tmp_path / CLAIM_FILE).stat().st_mtime < time.time() - 1800:
            assert time.monotonic() < deadline, "no heartbeat"
            time.sleep(0.01)
    assert "actfocus-claim" not in {thread.name for thread in threading.enumerate()}


# --- What else may be there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_claim_that_cannot_be_read_is_respected(tmp_path: Path, content: str) -> None:
    (tmp_path / CLAIM_FILE).write_text(content)
    error = refusal(tmp_path)
    assert error.problem == f"{tmp_path / CLAIM_FILE} is not a readable claim, so another process may be writing there"
    assert error.remedy.startswith("Make sure that none is, and delete that file")
    assert (tmp_path / CLAIM_FILE).read_text() == content


def test_a_claim_that_was_deleted_and_made_anew_by_another_is_left_to_it(
    start: Callable[[], Process], tmp_path: Path
) -> None:
    other = start()
    with FolderClaim("run.dir", tmp_path):
        (tmp_path / CLAIM_FILE).unlink()
        assert other.claims(tmp_path) == "ok"
    assert f"process {other.pid} " in refusal(tmp_path).problem


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = refusal(tmp_path / "file" / "run")
    assert error.problem.startswith("cannot be written (Not a directory: ")
    assert error.remedy == "Choose another run.dir"


def test_a_folder_deleted_meanwhile_ends_no_run(tmp_path: Path) -> None:
    with FolderClaim("run.dir", tmp_path / "run"):
        for path in (tmp_path / "run").iterdir():
            path.unlink()
        (tmp_path / "run").rmdir()


def test_signals_of_a_holder_are_its_own(start: Callable[[], Process], tmp_path: Path) -> None:
    """A stopped process still has its folder."""
    first = start()
    assert first.claims(tmp_path) == "ok"
    os.kill(first.pid, signal.SIGSTOP)
    assert f"process {first.pid} " in refusal(tmp_path).problem
