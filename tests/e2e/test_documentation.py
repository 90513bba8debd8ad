"""README.md and docs/*.md are typed, in reading order, on what the quickstart writes: no block is left out in silence.

Every ```bash block runs as it is printed. CUTS makes work smaller by what it appends to a command, and changes nothing
else; EXCEPTIONS lists the blocks that cannot run here, each with its reason. A block that is neither fails.
"""

from __future__ import annotations

import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.documentation import Block, Workplace, blocks, files_of, pages
from tests.e2e.runs import ROOT, end_session
from tests.helpers.terminal import foreign_lines

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

EXCEPTIONS: Final = {
    "model=smollm2-135m env=frozen_lake": "installs an extra, and fine-tunes a language model for half an hour",
    "gpu_study.py run": "needs an NVIDIA GPU; tests/truth/test_gpu_study.py runs its parts on a CPU",
    "gpu_check.py --out": "needs an NVIDIA GPU; tests/test_gpu_check.py runs its checks on a CPU",
    "server=https://api.example.com": "asks a server that is not there; tests/evaluation/test_user_agent.py starts one",
    "agent.command=": "is a fragment, of an agent in another language; tests/gateway/test_agents.py runs commands",
    "scripts/kill_campaign.py": "takes two hours; test_kill_campaign.py is its short form",
    "scripts/install_slurm.sh": "needs root and installs SLURM",
    "--experiment smollm2": "needs the cold start of recipes/real_model.sh, half an hour",
    "bash scripts/test.sh": "is what runs this test",
    "'.[gpu]'": "needs an NVIDIA GPU",
    "platform=gpu": "needs an NVIDIA GPU and the model hub",
    "recipes/paper/fig2.sh": "needs an NVIDIA GPU and the model hub",
    "OPENAI_API_KEY=": "needs a key of OpenAI's",
    "verl.trainer.main_ppo ...": "is a fragment of the reader's own command, which test_tool_agent.py completes",
}
"""What a block that is not run says, and why it is not."""

TRAINING: Final = (
    "data.train_batch_size=4 actor_rollout_ref.rollout.n=4 env.evaluation_size=16 trainer.total_training_steps=2 "
    "trainer.test_freq=-1 trainer.val_before_train=false"
)
MICRO: Final = "+tiny_policy.episodes=150 +tiny_policy.layers=1 +tiny_policy.evaluation_episodes=0"
"""A policy that has seen little and is built in seconds."""
CUTS: Final = (
    # its last line draws a figure, which takes an evaluation
    (r"recipes/quickstart\.sh env=", f"{TRAINING} {MICRO} env.max_turn_tokens=96 trainer.test_freq=2"),
    (r"actfocus_verl\.train .*--config-dir conf env=", f"{TRAINING} {MICRO} trainer.test_freq=1"),
    (r"actfocus_verl\.train ", TRAINING),
    (r"temperature=1 rollouts=true", "episodes=48"),  # three boards: the fewest that correlate
    (r"actfocus_verl\.evaluate .*repeats=16", "episodes=16 repeats=4"),
    (r"actfocus_verl\.evaluate ", "episodes=8"),
    (r"actfocus_verl\.diagnose (?!.*tokens=0)", "tokens=6"),
    (r"actfocus_verl\.truth ", "boards=4 episodes=2 continuations=2 max_turns=2"),
    (r"environments overlap ", "train=64 evaluation=64"),
    (r"build_tiny_policy\.py", "--set episodes=150 --set layers=1 --set evaluation_episodes=0 --cache outputs/cache"),
    (r"benchmark\.py credit", f"--rounds 1 --folder outputs/benchmark {TRAINING.partition(' env.')[0]}"),
    (r"benchmark_rollout\.py", "--rounds 1 --steps 1"),
    (r"benchmark\.py rollout", "--rounds 1 --folder outputs/benchmark --setting 'as shipped'"),
    (r"agent_curve\.py", "--steps 2 --seeds 0 --out outputs/curve.json"),
    (r"benchmark\w*\.py", "--rounds 1 --folder outputs/benchmark"),
)
"""(what a command matches, what is appended to it): the first that matches."""
SERVER: Final = re.compile(r"actfocus_verl\.serve .*--port (\d+)")
"""A block that goes on for ever: the next ones of its page are typed while it runs."""
SECONDS: Final = 900
"""A generous bound on a block."""

NIGHTLY: Final = {
    "scripts/benchmark": "takes long and seldom breaks",
    "scripts/build_tiny_policy.py": "is for the benchmark after it",
    "actfocus_verl.train env=frozen_lake": "trains as the quickstart does, and the first command of docs/diagnose.md",
    "recipes/quickstart.sh env=": "is the quickstart of the fixture `real_run` in another world",
    "rollouts=true": "evaluates as the blocks of docs/evaluation.md do; tests/evaluation/test_diagnosis.py reads one",
    "actfocus_verl.truth ": "samples as evaluate does; tests/truth runs the rest with made-up policies",
    "scripts/agent_curve.py": "trains as test_gateway.py does, for a quarter of an hour",
    "schedule=colocate_async": "trains as test_schedules.py does",
    "credit.name=my_signal:": "trains a second weighting of the reader's own",
    "algorithm.adv_estimator=my_estimator:": "trains as the page's first method does",
    "filter.name=my_filter:": "trains as the page's first method does",
}
"""What a block says that `bash scripts/test.sh -m nightly` runs, and why no other run has to."""
BLOCKS: Final = blocks()


def typed(block: Block) -> str:
    """The block, cut to size."""
    return "\n".join(
        " ".join([line, next((more for pattern, more in CUTS if re.search(pattern, line)), "")]).strip()
        for line in block.commands
    )


def exception(block: Block) -> str | None:
    return next((reason for words, reason in EXCEPTIONS.items() if words in block.text), None)


def test_every_exception_is_a_block() -> None:
    for words in (*EXCEPTIONS, *NIGHTLY):
        assert any(words in block.text for block in BLOCKS), words


def test_blocks_are_only_appended_to() -> None:
    for block in BLOCKS:
        for printed, line in zip(block.commands, typed(block).splitlines(), strict=True):
            assert line.startswith(printed)


def test_every_shell_block_is_marked_as_such() -> None:
    """A command in a block of no language would be left out."""
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        for language, content in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if language != "bash":
                assert not re.search(r"^(\$ |bash |\.venv/|python3? -m |pip |vllm )", content, re.MULTILINE), page


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Servers that a page started, by page; those of an earlier page are ended when the next one begins."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    yield running
    for process in running.values():
        end_session(process)


def marked(block: Block) -> Any:
    marks = [pytest.mark.nightly] if any(words in block.text for words in NIGHTLY) else []
    return pytest.param(block, id=block.name, marks=marks)


@pytest.mark.parametrize("block", [marked(block) for block in BLOCKS[1:]])
def test_a_block_works_as_printed(
    block: Block, real_run: Path, workplace: Workplace, servers: dict[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """The first one, the quickstart, is the fixture `real_run`."""
    reason = exception(block)
    if reason is not None:
        pytest.skip(reason)
    for page in [page for page in servers if page != block.page]:
        end_session(servers.pop(page))
    if block.number == 1:
        workplace.write_files_of(block.page)
    log = tmp_path / "terminal"
    process = workplace.start(typed(block), log)
    server = SERVER.search(block.text)
    if server:
        servers[block.page] = process
        wait_for_answer(process, int(server[1]), log)
        return
    try:
        status = process.wait(SECONDS)
    finally:
        end_session(process)
    assert status == 0, f"{typed(block)}\n{log.read_text(errors='replace')[-6000:]}"


def wait_for_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-6000:]
        try:
            if opener.open(f"http://127.0.0.1:{port}/health", timeout=5).status == 200:
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no answer within {SECONDS} s: {log.read_text(errors='replace')[-6000:]}")


def test_the_quickstart_left_what_the_readme_lists(real_run: Path) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## A run's folder")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[\w./<>]+`(?:, )?)+) \|", section, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) >= 7
    for name in names:
        assert list(real_run.glob(name.replace("<step>", "*").rstrip("/"))), f"{real_run} has no {name}"
    assert (real_run / "figures" / "success.png").stat().st_size > 0


def test_the_quickstart_says_nothing_that_is_not_ours(quickstart_terminal: str) -> None:
    said, figure, page, success = quickstart_terminal.rstrip("\n").rsplit("\n", 3)  # the last three: report
    assert foreign_lines(said, "train") == []
    assert figure.startswith("figure: ")
    assert page.endswith("/report.html")
    assert success.startswith("success: ")


def test_pages_show_whole_files() -> None:
    """What `Workplace.write_files_of` writes: the pages that ask for files of the reader's show them."""
    shown = {page: [path for path, _ in files_of(page)] for page in pages()}
    assert {"corridor.py", "measured_corridor.py"} <= set(shown["docs/extending.md"])
    assert "my_credit.py" in shown["docs/extending_credit.md"]
