"""Whole runs in a subprocess, as a user starts them, and what is needed to look at them from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 700
"""A generous bound: start-up takes about a minute on two idle cores."""
END_SECONDS = 60
"""How soon an interrupted run must have ended."""

RAYS_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")

SMALL = (
    "model=tiny",
    "platform=cpu",
    "data.train_batch_size=4",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "env.evaluation_size=16",
    "env.train_size=64",
    "trainer.total_training_steps=2",
    "trainer.test_freq=-1",
    "trainer.val_before_train=false",
    "trainer.save_freq=-1",
    "run.rollouts_every=1",
    "run.rollouts_a_step=4",
)


class Run:
    """A training process and its folder."""

    def __init__(self, folder: Path, *overrides: str, command: Sequence[str] | None = None) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.terminal"
        command = command or [sys.executable, "-m", "actfocus_verl.train", f"run.dir={folder}", *SMALL, *overrides]
        with self.log.open("w") as terminal:
            # Its own session, so that whatever it leaves behind can be found, and ended, by that.
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=terminal, stderr=subprocess.STDOUT, start_new_session=True, env=_environment()
            )
        self._seen: dict[int, psutil.Process] = {}

    @property
    def terminal(self) -> str:
        return self.log.read_text()

    def look(self) -> list[psutil.Process]:
        """Return the run's living processes below the driver, and remember them."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        self._seen |= {child.pid: child for child in children}
        return children

    def find(self, title: str) -> psutil.Process | None:
        """Return a living process of the run whose title contains `title`."""
        for process in self.look():
            try:
                if title in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        return None

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        """Wait until `condition` holds; fail with the terminal's text when the run ends first or time is up."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.look()
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.terminal[-4000:]}"
            assert time.monotonic() < deadline, f"no {what} within {seconds} s:\n{self.terminal[-4000:]}"
            time.sleep(0.5)

    def ended(self, seconds: float) -> float | None:
        """Seconds until the run has ended; None if it had not by then."""
        begun = time.monotonic()
        while self.process.poll() is None:
            self.look()
            if time.monotonic() - begun >= seconds:
                return None
            time.sleep(0.2)
        return time.monotonic() - begun

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Return the exit status."""
        assert self.ended(seconds) is not None, f"the run did not end within {seconds} s:\n{self.terminal[-4000:]}"
        return self.process.returncode

    def send(self, signum: signal.Signals) -> None:
        self.look()
        os.kill(self.process.pid, signum)

    def survivors(self, seconds: float = 20, but: tuple[str, ...] = ()) -> list[str]:
        """Return the titles of processes of the run that are still alive, after giving them time to end.

        but: beginnings of titles of processes that may live on.
        """
        deadline = time.monotonic() + seconds
        while (titles := self._living(but)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return titles

    def _living(self, but: tuple[str, ...]) -> list[str]:
        """A zombie has ended: an init that reaps none, as in many containers, keeps those whose parent was killed."""
        titles = []
        for process in self._seen.values():
            try:
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    title = " ".join(process.cmdline())
                    if not (but and title.startswith(but)):
                        titles.append(f"{process.pid} {title}")
            except psutil.NoSuchProcess:
                continue
        return titles

    def steps(self) -> int:
        """Return the number of steps recorded so far."""
        path = self.folder / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def left_by_a_kill(self) -> list[str]:
        """What `survivors` returns after SIGKILL to the driver, but for Ray's own two agents.

        These notice the missing raylet up to two minutes later.
        """
        return self.survivors(seconds=30, but=RAYS_AGENTS)

    def close(self) -> None:
        """End whatever is left, so that one failing test does not take the next ones along."""
        self.look()
        for process in self._seen.values():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=20)


def end(run: Run, signum: signal.Signals) -> None:
    """Interrupt a run, which ends as such and leaves nothing behind."""
    run.send(signum)
    assert run.wait(END_SECONDS) == 130
    assert run.survivors() == []
    assert json.loads((run.folder / "run.json").read_text())["exit_reason"] == "interrupted"


def require_resumed(run: Run, reasons: Sequence[str]) -> None:
    """Each step is there once, none is lost; reasons: how the exit of each start begins."""
    steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    starts = json.loads((run.folder / "run.json").read_text())["starts"]
    assert len(starts) == len(reasons)
    for start, reason in zip(starts, reasons, strict=True):
        assert start["exit_reason"].startswith(reason)


def _environment() -> dict[str, str]:
    # The test process itself runs with VERL_PLATFORM=cpu; a user's shell does not.
    return {key: value for key, value in os.environ.items() if key not in ("VERL_PLATFORM", "OMP_NUM_THREADS")}


def end_session(process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """End a command that was started in a session of its own, and whatever it left running there."""
    members = [each for each in psutil.process_iter() if _session(each.pid) == process.pid]
    for each in members:
        with contextlib.suppress(psutil.Error):
            each.terminate()
    _, alive = psutil.wait_procs(members, timeout=seconds)
    for each in alive:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait(timeout=seconds)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
