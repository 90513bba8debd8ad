"""Runs the missing runs of a matrix, one at a time, and can be killed at any moment.

A run is done when its summary exists, and a summary appears atomically. Until then everything it needs is in its
folder: the next runner waits for a training that outlived its runner, resumes an interrupted one, and writes the
summary of a finished one. A lock per run keeps several runners apart.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

from actfocus_verl.command import EXIT_LOST_NODE
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import write_json, write_text
from actfocus_verl.launch.claim import this_process
from actfocus_verl.reproduction import cost
from actfocus_verl.reproduction.composition import compose_experiment
from actfocus_verl.reproduction.folders import (
    Places,
    RunLock,
    Workspace,
    is_locked,
    is_orphan,
    read_json,
)
from actfocus_verl.reproduction.matrix import Run
from actfocus_verl.reproduction.summary import Summary, other_weights, summarise, to_text
from actfocus_verl.reproduction.version import current_version, difference
from actfocus_verl.run_files import CHECKPOINTS_FOLDER, RUN_FILE, tracked_step

TRAINING = (sys.executable, "-m", "actfocus_verl.train")
EVALUATION = (sys.executable, "-m", "actfocus_verl.evaluate")
_POLL_SECONDS = 0.2
_STOPPING_SECONDS = 5.0
"""Seconds to wait for a training that the terminal may have interrupted, before it is terminated."""

Say = Callable[[str], None]
"""Prints a line on the terminal."""


@dataclass(frozen=True)
class Options:
    """training, evaluation: the commands a run's settings are appended to.

    minutes: start no run that would end later than that.
    mix_versions: let runs of other code, settings or starting weights stand in a cell beside new ones.
    """

    training: Sequence[str] = TRAINING
    evaluation: Sequence[str] = EVALUATION
    minutes: float | None = None
    mix_versions: bool = False


@dataclass
class Outcome:
    """The result of a call, by run."""

    done: list[Run]
    failed: dict[Run, str]
    left: list[Run]
    """Not started: another runner works on them, there was no time, or a node is gone."""
    lost_node: bool = False
    """A training lost a node: the same command, on other nodes, resumes it and starts those that are left."""


def run_missing(workspace: Workspace, runs: Sequence[Run], options: Options, say: Say) -> Outcome:
    """Run the unfinished `runs`, in their order; a failed run does not stop the others, unless it lost a node.

    Raises:
        ConfigurationError: a cell holds runs of other code or other settings, and `mix_versions` is off; before the run
            that would mix them is started. Or a run did not start from the weights of the others; its folder is kept.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the training has ended; it resumes next time.
    """
    outcome = Outcome([], {}, [])
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    with _interruptible():
        _await_orphans(workspace, runs, say)
        for position, run in enumerate(runs, start=1):
            places = workspace.places(run)
            with RunLock(places.lock) as lock:
                if not lock.acquire():
                    say(f"{run}: skipped, another runner works on it")
                    outcome.left.append(run)
                    continue
                if places.summary.exists():
                    continue
                if not _in_time(workspace, run, deadline):
                    say(f"{run}: skipped, it would exceed the time limit")
                    outcome.left.append(run)
                    continue
                say(f"[{position}/{len(runs)}] {run}")
                problem = _work(workspace, run, places, lock, options, say)
            if problem:
                outcome.failed[run] = problem
                say(f"{run}: failed: {problem}")
                if read_json(places.start).get("exit_status") == EXIT_LOST_NODE:
                    outcome.lost_node, outcome.left = True, [*outcome.left, *runs[position:]]
                    break
            else:
                outcome.done.append(run)
    return outcome


def _await_orphans(workspace: Workspace, runs: Sequence[Run], say: Say) -> None:
    """Wait for trainings whose runner was killed: a second training would slow both down."""
    for run in runs:
        places = workspace.places(run)
        if is_locked(places.lock) and is_orphan(read_json(places.start)):
            say(f"{run}: its runner was killed; waiting for its training")
            while is_locked(places.lock):
                time.sleep(_POLL_SECONDS)


def _in_time(workspace: Workspace, run: Run, deadline: float | None) -> bool:
    if deadline is None:
        return True
    matrix, summaries = workspace.matrix, finished_summaries(workspace)
    expected = cost.estimate(run.experiment, compose_experiment(run.experiment), summaries, matrix.cost_guess)
    return time.monotonic() + (expected.seconds if expected else 0.0) <= deadline


def finished_summaries(workspace: Workspace) -> list[Summary]:
    """The summaries of the matrix, in its order."""
    found = (read_json(workspace.places(run).summary) for run in workspace.matrix.runs())
    return [summary for summary in found if summary]


def _work(workspace: Workspace, run: Run, places: Places, lock: RunLock, options: Options, say: Say) -> str | None:
    """Finish a run whose lock is held; return the problem, or None."""
    earlier = _earlier_start(places)
    if read_json(places.folder / RUN_FILE).get("exit_reason") == "finished":
        # Its runner was killed between the end of the training and the summary: what it ran with is what counts.
        digest = compose_experiment(run.experiment).digest
        _require_alike(earlier | {"settings_digest": digest}, earlier, f"{run}, which has finished,", options)
        start, source = earlier, earlier["code"]["source"]
        _require_a_cell_alike(workspace, run, start, options)
    else:
        start = _new_start(run, places, earlier, options)
        _require_a_cell_alike(workspace, run, start, options)
        write_json(places.start, start)
        status = _train(run, places, lock, options)
        write_json(places.start, start | {"exit_status": status})
        if status != 0:
            return f"the training ended with status {status}; see {places.log}"
        source = current_version().source
    status = _evaluate(workspace, run, places, lock, options)
    if status != 0:
        return f"its final evaluation ended with status {status}; see {places.log}"
    try:
        summary = summarise(workspace.matrix.name, run, places, start, source)
    except ConfigurationError as error:
        return str(error)
    if not options.mix_versions:
        _require_the_same_weights(workspace, run, summary)
    write_text(places.summary, to_text(summary))
    say(f"{run}: done in {summary['cost']['seconds'] / 60:.1f} min, {_success(summary)}")
    return None


def _require_the_same_weights(workspace: Workspace, run: Run, summary: Summary) -> None:
    """Not before the training, which builds a tiny policy that is not there yet."""
    name = summary["policy"].get("name")
    if name in other_weights([*finished_summaries(workspace), summary]):
        problem = f"started from other weights of {name} than finished runs of the matrix: another machine built them"
        remedy = "Delete its folder and copy the policy's from that machine, or add --mix-versions"
        raise ConfigurationError("run", str(run), problem, remedy)


def _success(summary: Summary) -> str:
    first, last = summary["evaluations"][0], summary["evaluations"][-1]
    return f"success {first['rate']:.3f} -> {last['rate']:.3f} ({last['episodes']} episodes)"


def _earlier_start(places: Places) -> dict[str, Any]:
    """The last runner's record of this run; empty if it was never started."""
    earlier = read_json(places.start)
    if not earlier and (places.folder / RUN_FILE).exists():
        problem = "holds a run that was not started by this script, so its code and settings are unknown"
        raise ConfigurationError("run", str(places.folder), problem, "Move it away")
    return earlier


def _new_start(run: Run, places: Places, earlier: dict[str, Any], options: Options) -> dict[str, Any]:
    """The record of this start. A training resumes from its checkpoint, so code and settings must be the same."""
    start: dict[str, Any] = {
        "experiment": run.experiment.name,
        "seed": run.seed,
        "settings_digest": compose_experiment(run.experiment).digest,
        "code": current_version().to_json(),
        "runner": asdict(this_process()),
        "mixed_versions": False,
    }
    if earlier and tracked_step(places.folder / CHECKPOINTS_FOLDER) is not None:
        _require_alike(start, earlier, f"{run}, which was interrupted,", options)
        unlike = difference(start["code"], earlier["code"]) is not None
        start["mixed_versions"] = unlike or bool(earlier.get("mixed_versions"))
    return start


def _require_a_cell_alike(workspace: Workspace, run: Run, start: dict[str, Any], options: Options) -> None:
    for other in workspace.matrix.runs([run.experiment.name]):
        _require_alike(start, read_json(workspace.places(other).summary), str(other), options)


def _require_alike(start: dict[str, Any], other: dict[str, Any], name: str, options: Options) -> None:
    if not other or options.mix_versions:
        return
    unlike = difference(start["code"], other["code"])
    if unlike is None and start["settings_digest"] != other["settings_digest"]:
        unlike = "the experiment's settings"
    if unlike is not None:
        raise ConfigurationError(
            "run",
            f"{start['experiment']}/seed{start['seed']}",
            f"{name} was run with other code or settings: {unlike}",
            "Check out the code it was run with, or delete its summary and folder, or add --mix-versions",
        )


def _train(run: Run, places: Places, lock: RunLock, options: Options) -> int:
    """Start the training, which resumes by itself, and wait for its end; returns its exit status."""
    command = [
        *options.training,
        *run.experiment.settings,
        f"run.seed={run.seed}",
        f"run.dir={places.folder}",
        "trainer.resume_mode=auto",
    ]
    return _run_logged(command, places, lock)


def _evaluate(workspace: Workspace, run: Run, places: Places, lock: RunLock, options: Options) -> int:
    """Play the last policy where the matrix says; 0 when that is done or not asked for, else the exit status.

    The command goes on where an earlier one was broken off, and a finished one starts nothing.
    """
    config = compose_experiment(run.experiment).config
    words = workspace.matrix.final_evaluation.get(config["env"]["name"])
    if words is None:
        return 0
    where = (f"model={places.folder}", f"platform={config['platform']['name']}", f"out={places.final_evaluation}")
    return _run_logged([*options.evaluation, *where, *words], places, lock)


def _run_logged(command: Sequence[str], places: Places, lock: RunLock) -> int:
    """The exit status of a command that inherits the run's lock and writes to its log."""
    with places.log.open("ab") as log:
        log.write((shlex.join(command) + "\n").encode())
        log.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(lock.descriptor,)
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            _stop(process)
            raise


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that the terminal may have told to end; tell it where it has not."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_STOPPING_SECONDS)
    process.terminate()  # heard in the background of a shell, too, and by a training that ends already, ignored
    process.wait()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C, and Ctrl-C also works in the background of a shell."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
