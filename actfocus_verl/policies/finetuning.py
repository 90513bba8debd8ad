"""Supervised fine-tuning of a pretrained model on conversations, with transformers' Trainer: the cold start.

The order of the conversations is a function of the seed alone, so that a training that was interrupted goes on with
the same batches.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from actfocus_verl.environments.splits import seeded_generator
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import write_json
from actfocus_verl.policies.training import Example

LORA_ALPHA: Final = 2
"""LoRA's scale: its alpha over its rank."""

_IGNORED: Final = -100
_WARM_UP: Final = 0.1
"""Share of the training in which the learning rate rises."""
_SORTED_BATCHES: Final = 8
"""Batches whose conversations are sorted by length together, for little padding."""
_STATE_FILE: Final = "trainer_state.json"
"""What the Trainer writes last into a checkpoint."""
_SECONDS_FILE: Final = "seconds.json"


@dataclass(frozen=True)
class FineTuning:
    """How a model is trained.

    steps: updates of batch_size conversations each. lora_rank: of an adapter on all linear layers but the head; 0
    trains all weights. packing: a batch is one row without padding, its positions starting over with each conversation.
    bf16: autocast, the weights staying float32. minutes: after so much training, resumed starts included, it stops;
    the learning rate then falls to 0 with the time as well as with the steps, whichever is further. save_minutes:
    between checkpoints.
    """

    steps: int
    batch_size: int
    learning_rate: float
    lora_rank: int = 0
    packing: bool = False
    bf16: bool = False
    minutes: float | None = None
    save_minutes: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What a training did, resumed starts included. tokens: those read, without padding; loss: the last logged one."""

    steps: int
    seconds: float
    tokens: int
    loss: float | None
    stopped_by_time: bool


def ordered_batches(lengths: Sequence[int], tuning: FineTuning) -> list[int]:
    """Numbers of conversations in the order of training: steps * batch_size, every one once before any again.

    Within an epoch they are shuffled, and sorted by length among a few batches, which are then shuffled.
    """
    rng = seeded_generator("cold start", tuning.seed)
    wanted, size = tuning.steps * tuning.batch_size, tuning.batch_size
    order: list[int] = []
    while len(order) < wanted:
        epoch = rng.permutation(len(lengths)).tolist()
        chunk = size * _SORTED_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(epoch), chunk):
            part = sorted(epoch[start : start + chunk], key=lambda number: lengths[number])
            batches += [part[first : first + size] for first in range(0, len(part), size)]
        order += [number for batch in rng.permutation(len(batches)).tolist() for number in batches[batch]]
    return order[:wanted]


def add_adapter(model: Any, rank: int) -> Any:
    """The model with a LoRA adapter of this rank. Raises ConfigurationError where peft is missing."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        remedy = "Install it: python -m pip install peft"
        raise ConfigurationError("lora_rank", rank, "needs the package peft", remedy) from error
    return get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=LORA_ALPHA * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def fine_tune(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    tuning: FineTuning,
    folder: Path,
    stepped: Callable[[int, int], None] = lambda done, total: None,
) -> Trained:
    """Train `model` in place, on its device, from the last whole checkpoint in `folder` if there is one.

    folder: the Trainer's own files. stepped: called with the number of steps done, and of all.
    """
    order = ordered_batches([len(example["input_ids"]) for example in examples], tuning)
    clock = _Clock(folder, tuning, stepped)
    trainer = _Trainer(
        clock,
        model=model,
        args=_arguments(tuning, folder, model.device.type == "cpu"),
        train_dataset=[examples[number] for number in order],  # type: ignore[arg-type]
        data_collator=collator(tokenizer, packing=tuning.packing),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)  # a library does not print
    model.config.use_cache = False  # a cache would hide from the attention where a packed row's conversations start
    checkpoint = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    model.config.use_cache = True  # the folder would say so to everybody
    model.eval()
    steps = trainer.state.global_step
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        steps=steps,
        seconds=round(clock.seconds, 2),
        tokens=sum(len(examples[number]["input_ids"]) for number in order[: steps * tuning.batch_size]),
        loss=float(losses[-1]) if losses else None,
        stopped_by_time=steps < tuning.steps,
    )


def collator(tokenizer: Any, *, packing: bool) -> Any:
    """What makes a batch of examples: a padded one, or one row whose position_ids start over.

    The attention of transformers then keeps the conversations apart, provided that there is no cache and no mask.
    """
    if packing:
        return DataCollatorWithFlattening(return_position_ids=True)
    return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=_IGNORED)


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that is whole; what a kill left of later ones is removed."""
    whole: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        if (path / _STATE_FILE).is_file() and (path / _SECONDS_FILE).is_file():
            whole[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    return whole[max(whole)] if whole else None


class _Clock(TrainerCallback):
    """Counts the seconds of training: stops it at its limit, has checkpoints written, and says how far it is."""

    def __init__(self, folder: Path, tuning: FineTuning, stepped: Callable[[int, int], None]) -> None:
        self._folder = folder
        self._limit = math.inf if tuning.minutes is None else 60 * tuning.minutes
        self._every = 60 * tuning.save_minutes
        self._stepped = stepped
        self._before = 0.0
        """Seconds of earlier starts."""
        self._started: float | None = None
        self._saved = 0.0

    @property
    def seconds(self) -> float:
        """Of training, with those of earlier starts up to the checkpoint that is resumed."""
        return self._before + (time.perf_counter() - self._started if self._started is not None else 0.0)

    @property
    def share(self) -> float:
        """Of the time limit; 0 without one."""
        return min(1.0, self.seconds / self._limit) if self._limit > 0 else 1.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = last_checkpoint(self._folder)
        if checkpoint is not None:
            self._before = json.loads((checkpoint / _SECONDS_FILE).read_bytes())["seconds"]
        self._started = time.perf_counter()
        self._saved = self.seconds
        self._stepped(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stepped(state.global_step, state.max_steps)
        control.should_training_stop |= self.seconds >= self._limit
        if self.seconds - self._saved >= self._every or control.should_training_stop:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved = self.seconds
        write_json(self._folder / f"checkpoint-{state.global_step}" / _SECONDS_FILE, {"seconds": self.seconds})


class _Trainer(Trainer):
    """The learning rate falls with the steps, or with the time where that is further."""

    lr_scheduler: Any

    def __init__(self, clock: _Clock, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._clock = clock

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:

            def factor(step: int) -> float:
                share = max((step + 1) / (num_training_steps + 1), self._clock.share)
                return min(share / _WARM_UP, (1 - share) / (1 - _WARM_UP))

            assert optimizer is not None or self.optimizer is not None, "made before, as transformers does"
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler


def _arguments(tuning: FineTuning, folder: Path, use_cpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=use_cpu,
        bf16=tuning.bf16,
        seed=tuning.seed,
        data_seed=tuning.seed,
        num_train_epochs=1,  # the list of examples holds every one as often as it is read
        per_device_train_batch_size=tuning.batch_size,
        train_sampling_strategy="sequential",
        learning_rate=tuning.learning_rate,
        weight_decay=0.0,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        save_strategy="no",  # the clock asks for it
        save_total_limit=2,
        logging_steps=5,
        logging_first_step=True,
        log_level="error",
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
