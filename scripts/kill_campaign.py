"""Kill a random process of a run at a random moment, resume it, and check what became of both. Writes one line a kill.

    .venv/bin/python scripts/kill_campaign.py --kills 30 --out results/reliability/kills.jsonl
    .venv/bin/python scripts/kill_campaign.py --table results/reliability/kills.jsonl

The schedules take turns. What kill k strikes, and when (so many seconds after so many steps were recorded), is drawn
from the seed and k; where the run or its victim has ended by then, it is drawn anew. Kills that the file has are not
repeated. After SIGKILL to one process the run must end within 60 seconds, name the part that died (the driver's own end
needs no name), and leave no process behind; the same command must then go on from the last checkpoint to the last step,
every step recorded once. With `schedule=sync`, the boards of every step must be those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs as the tests start them

from actfocus_verl.launch.watchdog import ESSENTIAL  # noqa: E402
from actfocus_verl.reporting.run_folder import RunFolder  # noqa: E402
from tests.e2e.runs import END_SECONDS, Run  # noqa: E402

STEPS: Final = 4
SCHEDULES: Final = {
    "sync": (),
    "colocate_async": ("trainer.v1.colocate_async.num_warmup_batches=1",),
    "separate_async": (),
}
DRIVER: Final = "driver"
VICTIMS: Final = (
    *(DRIVER, "gcs_server", "raylet", "TaskRunner", "WorkerDict", "vLLMHttpServer", "VLLM::EngineCore"),
    *("AgentLoopWorker", "TransferQueueController"),
)
START_SECONDS: Final = 30.0
"""A kill before the first step falls so long after its victim is first seen: the start-up and the first step."""
STEP_SECONDS: Final = 5.0
"""A later kill falls so long after a step was recorded: a checkpoint, the weights' way to the server, the next step."""
WORDS: Final = (
    *("credit=actfocus", f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1"),
    *("run.rollouts_every=1", "run.rollouts_a_step=64"),
)


def boards(folder: Path) -> dict[int, list[str]]:
    """The first messages of each step's episodes, in an order of their own."""
    found = {}
    for step in range(1, STEPS + 1):
        rows = (folder / "rollouts" / f"{step}.jsonl").read_text().splitlines()
        found[step] = sorted(json.loads(row)["prompt_text"] for row in rows)
    return found


@dataclass(frozen=True)
class Moment:
    """What is killed, and when: `delay` seconds after `step` steps were recorded and the victim is there."""

    victim: str
    step: int
    delay: float

    @classmethod
    def drawn(cls, seed: str) -> Moment:
        rng = random.Random(seed)
        step = rng.randrange(STEPS)
        return cls(rng.choice(VICTIMS), step, round(rng.uniform(0, STEP_SECONDS if step else START_SECONDS), 1))

    def strike(self, run: Run) -> bool:
        """Kill the victim; False if the run or the victim has ended by then."""

        def find() -> psutil.Process | None:
            return psutil.Process(run.process.pid) if self.victim == DRIVER else run.find(self.victim)

        # the driver is there at once: it is struck from the moment Ray is
        run.wait_until(lambda: run.find("raylet") if self.victim == DRIVER else find(), self.victim)
        while run.steps() < self.step and run.process.poll() is None:
            run.look()
            time.sleep(0.2)
        process = find() if run.ended(self.delay) is None else None
        if process is None:
            return False
        process.send_signal(signal.SIGKILL)
        return True


def kill_once(
    folder: Path, schedule: str, moment: Moment, undisturbed: Callable[[], Any] | None = None
) -> dict[str, Any] | None:
    """One kill and what followed, None if it came too late; `problems` is empty when all is as it should be.

    undisturbed: the boards of a run that nobody disturbs, if these are to be compared.
    """
    words = (*WORDS, f"schedule={schedule}", *SCHEDULES[schedule])
    line: dict[str, Any] = {"schedule": schedule, **asdict(moment)}
    run = Run(folder, *words)
    try:
        if not moment.strike(run):
            return None
        seconds = run.ended(END_SECONDS)
        if run.process.returncode == 0 and run.steps() == STEPS:  # it had done its last step
            return None
        line |= {"seconds": seconds and round(seconds, 1), "status": run.process.returncode, "recorded": run.steps()}
        problems = [] if seconds is None else [f"left behind: {title[:80]}" for title in run.left_by_a_kill()]
    finally:
        run.close()
    if seconds is None:
        problems.append(f"had not ended after {END_SECONDS} s")
    elif moment.victim != DRIVER and ESSENTIAL[moment.victim] not in run.terminal:
        problems.append(f"the part that died was not named: {run.terminal[-500:]}")
    problems += resume(folder, words, undisturbed)
    return line | {"problems": problems}


def resume(folder: Path, words: Sequence[str], undisturbed: Callable[[], Any] | None) -> list[str]:
    """Start the same command again, and return what is wrong with the end that it comes to."""
    run = Run(folder, *words)
    try:
        if run.ended(900) is None or run.process.returncode != 0:
            return [f"the resumed run ended with status {run.process.returncode}: {run.terminal[-500:]}"]
    finally:
        run.close()
    steps = [metrics["step"] for metrics in RunFolder.open(folder).metrics]
    if steps != list(range(1, STEPS + 1)):
        return [f"recorded steps {steps}"]
    if undisturbed is not None and boards(folder) != undisturbed():
        return ["the boards are not those of an undisturbed run"]
    return []


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: by schedule, the kills, the slowest end, and the problems."""
    rows = ["| schedule | kills | parts | slowest end, seconds | problems |", "|---|---|---|---|---|"]
    for schedule in SCHEDULES:
        struck = [line for line in lines if line["schedule"] == schedule]
        if struck:
            slowest = max((line["seconds"] or float("inf") for line in struck), default=0.0)
            parts = len({line["victim"] for line in struck})
            named = [f"kill {line['kill']}: {text.partition(': ')[0]}" for line in struck for text in line["problems"]]
            problems = "; ".join(named) or "none"
            rows.append(f"| `{schedule}` | {len(struck)} | {parts} | {slowest:.0f} | {problems} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "kills.jsonl")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file, and kill nothing")
    given = parser.parse_args()
    if given.table:
        print(table([json.loads(text) for text in given.table.read_text().splitlines()]), end="")
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    done = {json.loads(text)["kill"] for text in given.out.read_text().splitlines()} if given.out.exists() else set()
    known: dict[int, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:

        def undisturbed() -> dict[int, list[str]]:
            if not known:
                run = Run(Path(temporary) / "undisturbed", *WORDS)
                try:
                    assert run.wait(1200) == 0, run.terminal[-2000:]
                finally:
                    run.close()
                known.update(boards(run.folder))
            return known

        for kill in sorted(set(range(given.kills)) - done):
            schedule = list(SCHEDULES)[kill % len(SCHEDULES)]
            line: dict[str, Any] | None = None
            attempts = itertools.count()
            while line is None:
                attempt = next(attempts)
                moment = Moment.drawn(f"{given.seed}/{kill}/{attempt}")
                folder, compared = Path(temporary) / f"{kill}.{attempt}", undisturbed if schedule == "sync" else None
                line = kill_once(folder, schedule, moment, compared)
            line = {"kill": kill, "attempt": attempt, **line}
            with given.out.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
