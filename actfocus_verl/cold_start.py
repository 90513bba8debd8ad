"""Cold start: supervised fine-tuning of a chat model on a world's scripted play, before reinforcement learning.

    python -m actfocus_verl.cold_start model=smollm2-135m env=frozen_lake out=outputs/cold_start
    python -m actfocus_verl.cold_start model=<folder> env=sokoban coupling=coupled lora_rank=16 out=<folder>

The play is deliberately imperfect, its reasoning in words. The same command resumes what was interrupted. Exit status:
0 finished, 1 failed, 2 a mistake in the command, 130 interrupted. See docs/cold_start.md.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table
from transformers import set_seed

from actfocus_verl import __version__
from actfocus_verl.arguments import help_text, option, read_arguments
from actfocus_verl.command import run_command, start
from actfocus_verl.environments import (
    COUPLINGS,
    ScriptedPlayer,
    known_presets,
    make_world,
    scripted_player,
    world_config,
)
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.models import ModelFiles, find_model, load_policy, read_model
from actfocus_verl.files import write_json
from actfocus_verl.launch.claim import CLAIM_FILE, LOCK_FILE, FolderClaim
from actfocus_verl.launch.progress import StageProgress
from actfocus_verl.launch.record import installed_versions, source_commit
from actfocus_verl.local_models import no_bars
from actfocus_verl.policies.demonstrations import conversation
from actfocus_verl.policies.finetuning import FineTuning, Trained, add_adapter, fine_tune
from actfocus_verl.policies.playing import evaluation_worlds, play_batch, play_statistics
from actfocus_verl.policies.training import Example, supervised_example
from actfocus_verl.rollout import ChatCodec

RESULT_FILE: Final = "cold_start.json"
ADAPTER_FOLDER: Final = "adapter"
WORK_FOLDER: Final = "training"
"""In the output folder until it is finished: what a resumed command goes on from."""
ARGUMENTS_FILE: Final = "arguments.json"

_LONGER: Final = 1.5
"""Room for a reply in the evaluation, over the longest one that was shown."""
_FREE: Final = ("out", "minutes", "save_minutes", "device")
"""Arguments that a resumed command may change."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    model: str = option("chat model: smollm2-135m, a folder, a GGUF file, or a Hugging Face id")
    env: str = option("world whose scripted play is shown")
    out: Path = option("new folder for the model and cold_start.json; the same command resumes")
    preset: str = option("preset of the world; default: the world's first", "")
    coupling: str = option(
        "loose: the action tokens decide; coupled: the reasoning names the move; mixed: in half of the replies",
        "loose",
        choices=COUPLINGS,
    )
    skill: float | None = option(
        "chance that a shown action is the best one; default: the world's, low on purpose", None, low=0.0, high=1.0
    )
    episodes: int = option("demonstrated episodes", 160, low=1)
    epochs: int = option("passes over the episodes", 1, low=1)
    steps: int | None = option("updates; default: as many as the epochs have", None, low=1)
    batch_size: int = option("episodes per update", 4, low=1)
    learning_rate: float | None = option(
        "highest learning rate; default: 5e-4, and 1e-3 for LoRA", None, low=0.0, high=1.0
    )
    lora_rank: int = option("rank of a LoRA adapter; 0 trains all weights", 0, low=0)
    packing: bool = option("batches without padding; of use with a GPU's attention", False)
    dtype: str = option("bfloat16: autocast, the weights staying float32", "float32", choices=("float32", "bfloat16"))
    device: str = option("auto, cpu, cuda or cuda:<number>", "auto")
    minutes: float = option(
        "time limit of the training; the learning rate falls with the time, too", 30.0, low=0.0, high=1e6
    )
    save_minutes: float = option("time between checkpoints", 5.0, low=0.0, high=1e6)
    evaluation_episodes: int = option("episodes played before and after, on evaluation boards; 0: none", 16, low=0)
    temperature: float = option("sampling temperature of the evaluation; 0 is greedy", 1.0, low=0.0, high=100.0)
    seed: int = option("random seed of the demonstrations, the training and the evaluation", 0, low=0)


def cold_start(arguments: Arguments, console: Console) -> Json:
    """Run one cold start, or the rest of it; returns what cold_start.json holds.

    console: for progress. Raises ConfigurationError. A signal leaves the last checkpoint to be resumed.
    """
    plan = _Plan.of(arguments)
    with StageProgress("cold start", console) as progress, FolderClaim("out", arguments.out):
        finished = _open_folder(plan)
        if finished is not None:
            return finished
        return _ColdStart(plan, progress).run()


@dataclass(frozen=True)
class _Plan:
    """The arguments, checked and complete: what a demonstration is made from, and the place of the training."""

    arguments: Arguments
    env: str
    preset: str
    coupling: str
    seed: int
    skill: float
    device: str

    @classmethod
    def of(cls, arguments: Arguments) -> _Plan:
        player = _player(arguments.env)
        preset = arguments.preset or known_presets(arguments.env)[0]
        skill = player.taught_skill(arguments.coupling) if arguments.skill is None else arguments.skill
        make_world(arguments.env, preset=preset, split="train", index=0, episode_seed=0)  # refuses what is wrong
        device = arguments.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(arguments, arguments.env, preset, arguments.coupling, arguments.seed, skill, device)

    @property
    def tuning(self) -> FineTuning:
        given = self.arguments
        steps = given.steps or math.ceil(given.epochs * given.episodes / given.batch_size)
        return FineTuning(
            steps=steps,
            batch_size=given.batch_size,
            learning_rate=given.learning_rate or (1e-3 if given.lora_rank else 5e-4),
            lora_rank=given.lora_rank,
            packing=given.packing,
            bf16=given.dtype == "bfloat16",
            minutes=given.minutes,
            save_minutes=given.save_minutes,
            seed=given.seed,
        )

    def to_json(self) -> Json:
        """The arguments with their defaults."""
        own = {**asdict(self.arguments), "learning_rate": self.tuning.learning_rate, "out": str(self.arguments.out)}
        own |= {"preset": self.preset, "skill": self.skill, "device": self.device}
        return own


def _player(env: str) -> ScriptedPlayer:
    try:
        return scripted_player(env)
    except ConfigurationError as error:
        if error.remedy.startswith("Choose a model"):  # that of the tiny policy
            problem, remedy = "has no scripted play to learn from", "Give the world a script, or name another world"
            raise ConfigurationError("env", env, problem, remedy) from error
        raise ConfigurationError("env", env, error.problem, error.remedy) from error


def _open_folder(plan: _Plan) -> Json | None:
    """The result of the same command if it is there. Raises ConfigurationError for a folder of anything else."""
    out, wanted = plan.arguments.out, plan.to_json()
    result, started = _read(out / RESULT_FILE), _read(out / WORK_FOLDER / ARGUMENTS_FILE)
    earlier = result["arguments"] if result is not None else started
    if earlier is None:
        if any(path.name not in (CLAIM_FILE, LOCK_FILE) for path in out.iterdir()):
            raise ConfigurationError("out", str(out), "is not empty", "Name a new folder")
        write_json(out / WORK_FOLDER / ARGUMENTS_FILE, wanted)
        return None
    for name, value in wanted.items():
        if name not in _FREE and earlier.get(name) != value:
            problem = f"the folder holds a cold start with {name}={earlier.get(name)}"
            raise ConfigurationError(name, value, problem, f"Write {name}={earlier.get(name)}, or name a new folder")
    return result


def _read(path: Path) -> Json | None:
    try:
        content: Json = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content


class _ColdStart:
    """The stages of one cold start, and the seconds each took in this start of the command."""

    def __init__(self, plan: _Plan, progress: StageProgress) -> None:
        self._plan = plan
        self._progress = progress
        self._work = plan.arguments.out / WORK_FOLDER
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def run(self) -> Json:
        plan, given = self._plan, self._plan.arguments
        named = find_model(given.model, None, self._progress)
        if named.checkpoint is not None:
            problem = "is a run's folder"
            raise ConfigurationError("model", given.model, problem, "Export its checkpoint first: actfocus export")
        opening = world_config(plan.env, preset=plan.preset).limits().opening
        files = read_model(named.name, opening=opening)
        model, tokenizer = load_policy(files.path, plan.device), _tokenizer(files)
        self._lap("model")
        examples, longest = self._examples(files.codec, tokenizer, files.positions)
        self._lap("demonstrations")
        before = self._evaluation(model, tokenizer, longest, "before")
        set_seed(given.seed)  # of the adapter's first weights
        if given.lora_rank:
            model = add_adapter(model, given.lora_rank)
        trained = fine_tune(model, tokenizer, examples, plan.tuning, self._work, partial(self._progress, "training"))
        self._lap("training")
        model = self._save(model, tokenizer)
        after = self._evaluation(model, tokenizer, longest, "after")
        return self._finish(model, examples, trained, {"before": before, "after": after})

    def _examples(self, codec: ChatCodec, tokenizer: Any, positions: int | None) -> tuple[list[Example], int]:
        """The conversations as ids, cut at the model's context, and the tokens of the longest reply."""
        examples, longest, total = [], 0, self._plan.arguments.episodes
        for episode in range(total):
            self._progress("playing demonstrations", episode, total)
            messages = conversation(self._plan, episode)
            replies = (each["content"] for each in messages if each["role"] == "assistant")
            longest = max(longest, *(len(codec.text_ids(text)) for text in replies))
            example = supervised_example(codec, tokenizer, messages)
            examples.append({name: ids[:positions] for name, ids in example.items()})
        return examples, longest

    def _evaluation(self, model: Any, tokenizer: Any, longest: int, when: str) -> Json | None:
        """Play the evaluation boards; what an earlier start played is read."""
        count, file = self._plan.arguments.evaluation_episodes, self._work / f"{when}.json"
        if not count:
            return None
        played = _read(file)
        if played is None:
            plan, given = self._plan, self._plan.arguments
            limit = world_config(plan.env, preset=plan.preset).limits().max_turn_tokens
            room = min(math.ceil(_LONGER * longest), limit)
            ended = partial(self._progress, f"evaluating {when}")
            trajectories = play_batch(
                model,
                tokenizer,
                evaluation_worlds(plan.env, plan.preset, count, max_turn_tokens=room),
                temperature=given.temperature,
                seed=given.seed,
                ended=ended,
            )
            played = asdict(play_statistics(trajectories))
            write_json(file, played)
        self._lap(f"evaluation_{when}")
        return played

    def _save(self, model: Any, tokenizer: Any) -> Any:
        """Write the adapter, if there is one, and the whole model; returns the latter."""
        out = self._plan.arguments.out
        with no_bars():
            if self._plan.arguments.lora_rank:
                model.save_pretrained(out / ADAPTER_FOLDER)
                model = model.merge_and_unload()
            model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        self._lap("saving")
        return model

    def _finish(self, model: Any, examples: list[Example], trained: Trained, played: Json) -> Json:
        lengths = [len(example["input_ids"]) for example in examples]
        taught = sum(sum(label >= 0 for label in example["labels"]) for example in examples)
        result = {
            "arguments": self._plan.to_json(),
            "version": __version__,
            "commit": source_commit(),
            "versions": installed_versions(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "tokens_per_episode": sum(lengths) / len(lengths),
            "taught_tokens_per_episode": taught / len(lengths),
            "training": {**asdict(trained), "tokens_per_second": trained.tokens / max(trained.seconds, 1e-9)},
            **played,
            "seconds": self._seconds,
            "threads": torch.get_num_threads(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # Linux counts KiB
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        }
        write_json(self._plan.arguments.out / RESULT_FILE, result)
        shutil.rmtree(self._work)
        return result

    def _lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage] = round(now - self._last, 2)
        self._last = now


def _tokenizer(files: ModelFiles) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(files.path)
    if tokenizer.pad_token_id is None:  # masked wherever it stands
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(files.codec.end_of_turn_id)
    return tokenizer


def result_table(result: Json) -> Table:
    """The play before and after, as a table."""
    table = Table("figure", "before", "after", box=None, pad_edge=False)
    played = [result["before"], result["after"]]
    if None not in played:
        table.add_row("well-formed turns", *(f"{each['well_formed_rate']:.3f}" for each in played))
        table.add_row("success rate", *(_with_interval(each) for each in played))
        table.add_row("mean return", *(f"{each['mean_return']:.3f}" for each in played))
        table.add_row("episodes", *(str(each["episodes"]) for each in played))
    return table


def _with_interval(played: Json) -> str:
    low, high = played["interval"]
    return f"{played['success_rate']:.3f} [{low:.3f}, {high:.3f}]"


def _start_and_show(words: Sequence[str], console: Console) -> None:
    arguments = read_arguments(Arguments, words)
    result = cold_start(arguments, console)
    training = result["training"]
    Console(highlight=False).print(result_table(result))
    console.print(
        f"{training['steps']} steps in {training['seconds'] / 60:.1f} minutes, "
        f"{training['tokens_per_second']:.0f} tokens/s; all {sum(result['seconds'].values()) / 60:.1f} minutes",
        soft_wrap=True,
    )
    console.print(f"written: {arguments.out}", soft_wrap=True)


def main(words: Sequence[str]) -> int:
    """Cold-start, with the play before and after on stdout and the rest on stderr; returns the exit status."""
    goes_on = "interrupted; run the same command again to resume"
    return run_command(words, _start_and_show, lambda: help_text(__doc__ or "", Arguments), interrupted=goes_on)


if __name__ == "__main__":
    start(main)
