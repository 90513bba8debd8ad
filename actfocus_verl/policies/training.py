"""Supervised training of a Qwen2-shaped network on demonstrated conversations, with transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import (
    DataCollatorForSeq2Seq,
    GenerationConfig,
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from actfocus_verl.environments import scripted_player
from actfocus_verl.policies.config import TinyPolicyConfig
from actfocus_verl.policies.demonstrations import Message
from actfocus_verl.policies.induction import start_with_induction
from actfocus_verl.rollout import ChatCodec

MAX_POSITIONS = 4096

Example = dict[str, list[int]]

_IGNORED = -100

_INITIALIZER_RANGE = 0.08
"""Four times the usual: a network this narrow starts with nearly uniform attention otherwise, and takes several times
as long to find the place that it is to read."""


def new_model(config: TinyPolicyConfig, tokenizer: Any) -> Qwen2ForCausalLM:
    """A network with random weights, float32, and exactly as many output rows as the tokenizer has tokens.

    verl masks, in vLLM only, every logit beyond the tokenizer's length: further rows would make the two disagree.
    """
    player = scripted_player(config.env)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=MAX_POSITIONS,
            rope_parameters={"rope_type": "default", "rope_theta": player.rope_theta},
            initializer_range=_INITIALIZER_RANGE,
            tie_word_embeddings=True,
            dtype="float32",
            **ids,
        )
    )
    model.generation_config = GenerationConfig(**ids)
    if player.induction and config.layers > 1:
        start_with_induction(model)
    return model


def supervised_example(
    codec: ChatCodec, tokenizer: Any, messages: Sequence[Message], *, pages: bool = False
) -> Example:
    """input_ids and labels of one conversation, its ids being those an episode with these replies would have.

    What the codec opens every reply with is the prompt's.
    Labels are the ids on the assistant's tokens, the end-of-turn token included, and -100 elsewhere; with `pages` they
    are the ids everywhere.
    """
    input_ids = codec.initial_ids(messages[:2])
    labels = [_IGNORED] * len(input_ids)
    for message in messages[2:]:
        if message["role"] == "assistant":
            sampled = message["content"].removeprefix(codec.opening)
            reply = [*tokenizer.encode(sampled, add_special_tokens=False), codec.end_of_turn_id]
            input_ids += reply
            labels += reply
        else:
            between = codec.continuation_ids(message["content"])
            input_ids += between
            labels += [_IGNORED] * len(between)
    return {"input_ids": input_ids, "labels": list(input_ids) if pages else labels}


def train(
    model: Any,
    tokenizer: Any,
    examples: list[Example],
    config: TinyPolicyConfig,
    folder: Path,
    stepped: Callable[[int, int], None],
) -> float:
    """Train `model` in place on the CPU and return the last logged loss.

    folder: for the Trainer's own files. stepped: called with the number of steps done, and of all.
    """
    trainer = Trainer(
        model=model,
        args=_arguments(config, folder),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=_IGNORED),
    )
    trainer.remove_callback(PrinterCallback)  # a library does not print
    trainer.add_callback(_Steps(stepped))
    trainer.train()
    model.config.use_cache = True  # the Trainer switches it off, and the folder would say so to everybody
    model.eval()
    return float([entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1])


class _Steps(TrainerCallback):
    """Passes on how far the training is."""

    def __init__(self, stepped: Callable[[int, int], None]) -> None:
        self._stepped = stepped

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stepped(0, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stepped(state.global_step, state.max_steps)


def _arguments(config: TinyPolicyConfig, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        seed=config.seed,
        data_seed=config.seed,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        train_sampling_strategy="group_by_length",  # little padding
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # below 1: a share of all steps
        adam_beta2=0.98,
        weight_decay=config.weight_decay,
        save_strategy="no",
        logging_steps=25,
        logging_first_step=True,
        log_level="error",
        disable_tqdm=True,
        report_to="none",
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
