"""The model as the run will use it: its folder, its chat template, and whether an episode fits its context."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig, AutoTokenizer

from actfocus_verl.config import has_world, template_options, world_overrides
from actfocus_verl.environments import make_world, world_config
from actfocus_verl.errors import ConfigurationError, first_line
from actfocus_verl.hub import HUB_ID, UNREADABLE
from actfocus_verl.preflight.machine import warn_of_logits
from actfocus_verl.rollout import ChatCodec, Episode, TokenDecoder
from actfocus_verl.rollout.templates import MODEL_KEY

logger = logging.getLogger(__name__)

_Made = TypeVar("_Made")

PATH: Final = "actor_rollout_ref.model.path"

_REMOTE: Final = re.compile(r"[a-z0-9]+://")
_PARTS: Final = {
    "config.json": ("config.json",),
    "weights": ("*.safetensors", "*.bin"),
    "tokenizer": ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model"),
}
"""Parts of a model folder, each under one of these names."""
_SAMPLED_BOARDS: Final = 256
"""Boards of each split whose first prompt is measured."""
_UNBOUNDED: Final = 1 << 30
_BUCKET: Final = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"


def check_model(config: DictConfig) -> None:
    """Raise ConfigurationError unless the model can be loaded and its context fits a turn of the world, if any.

    Reads the tokenizer and the model's config.json, not its weights; a Hugging Face id is looked up, or taken from the
    cache. Logs a warning where the rollout's log-probs may differ from the actor's. A remote path (`hdfs://...`), which
    verl copies itself, is not looked into.
    """
    model = config.actor_rollout_ref.model
    _require_folder_or_id(model)
    if _REMOTE.match(model.path):
        return
    network, tokenizer = _load(AutoConfig, "config.json", model), _load(AutoTokenizer, "tokenizer", model)
    if model.custom_chat_template is not None:
        tokenizer.chat_template = model.custom_chat_template
    _require_one_architecture(model.path, network)
    _compare_vocabulary(model.path, _text_part(network).vocab_size, len(tokenizer))
    warn_of_logits(config, _text_part(network).vocab_size)
    _require_positions(config, _text_part(network).max_position_embeddings)
    _require_bucket(config, _text_part(network))
    if has_world(config):
        env = config.env
        opening = world_config(env.name, preset=env.preset, **world_overrides(env)).limits().opening
        codec = _made(lambda read: ChatCodec(read, opening, **template_options(config.data)), model.path, tokenizer)
        if codec.no_system is not None:
            logger.warning(
                "%s=%s: %s. So the world's rules go at the start of the first user message; another template can be "
                "set as actor_rollout_ref.model.custom_chat_template.",
                *(PATH, model.path, codec.no_system),
            )
        _require_room_for_a_turn(config, codec)
    else:
        _made(TokenDecoder, model.path, tokenizer)


def _require_folder_or_id(model: DictConfig) -> None:
    path = model.path
    if not isinstance(path, str) or not path:
        raise ConfigurationError(PATH, path, "no model is chosen", "Set model.path to a folder or a Hugging Face id")
    folder = Path(path)
    if folder.is_dir():
        for part, names in _PARTS.items():
            if part == "tokenizer" and model.tokenizer_path:
                continue
            if not any(True for name in names for _ in folder.glob(name)):
                raise ConfigurationError(
                    PATH, path, f"the folder has no {part} ({', '.join(names)})", "Use a complete Hugging Face folder"
                )
    elif folder.exists() or not (HUB_ID.match(path) or _REMOTE.match(path)):
        raise ConfigurationError(
            PATH,
            path,
            "is neither a folder nor a Hugging Face id (organisation/name)",
            "Correct model.path; a ~ is not expanded, write $HOME",
        )


def _load(factory: Any, what: str, model: DictConfig) -> Any:
    own_path = model.tokenizer_path if factory is AutoTokenizer else model.hf_config_path
    try:
        return factory.from_pretrained(own_path or model.path, trust_remote_code=model.trust_remote_code)
    except UNREADABLE as error:
        problem = f"its {what} cannot be loaded ({first_line(error)})"
        raise ConfigurationError(PATH, model.path, problem, "Check the name, the network, or the folder") from error


def _text_part(network: Any) -> Any:
    """The configuration of the language model inside a model of several parts."""
    return network.get_text_config()


def _require_one_architecture(path: str, network: Any) -> None:
    architectures = network.architectures or []
    if len(architectures) != 1:
        raise ConfigurationError(
            PATH,
            path,
            f"config.json lists the architectures {architectures}, and verl needs exactly one",
            'Set "architectures" in config.json to one name, such as ["Qwen2ForCausalLM"]',
        )


def _compare_vocabulary(path: str, rows: int, tokens: int) -> None:
    if rows < tokens:
        raise ConfigurationError(
            PATH,
            path,
            f"its tokenizer has {tokens} tokens but its embedding only {rows} rows",
            "Use the model's own tokenizer",
        )
    if rows > tokens:
        # verl masks them in vLLM alone: its probabilities are normalised over `tokens`, the actor's over `rows`.
        logger.warning(
            "%s=%s: the model has %d output rows and its tokenizer %d tokens. The rollout never samples the other %d, "
            "the actor includes them: log-probs differ by their share of the probability, about 0 for a trained model "
            "and ln(%d/%d) = %.3f nats per token for random weights (metric rollout_corr/kl).",
            *(PATH, path, rows, tokens, rows - tokens, rows, tokens, math.log(rows / tokens)),
        )


def _require_positions(config: DictConfig, positions: int) -> None:
    wanted = config.data.max_prompt_length + config.data.max_response_length
    server = config.actor_rollout_ref.rollout.max_model_len
    if server is not None and server > positions:
        raise ConfigurationError(
            "actor_rollout_ref.rollout.max_model_len",
            server,
            f"the model has {positions} positions (max_position_embeddings)",
            f"Lower it to at most {positions}",
        )
    if wanted > positions:
        raise ConfigurationError(
            "data.max_response_length",
            config.data.max_response_length,
            f"with data.max_prompt_length={config.data.max_prompt_length} an episode may have {wanted} tokens, and "
            f"the model has {positions} positions (max_position_embeddings)",
            f"Lower them to {positions} together",
        )


def _require_bucket(config: DictConfig, network: Any) -> None:
    """verl sends vLLM each weight whole, in one bucket, and looks at its size when all models are loaded."""
    processes = config.trainer.n_gpus_per_node * config.trainer.nnodes
    whole = config.actor_rollout_ref.actor.fsdp_config.model_dtype in ("fp32", "float32")
    # what several processes hold is gathered as bfloat16, what one holds is sent as it is
    width = 4 if whole and processes == 1 else 2
    needed = -(-network.vocab_size * network.hidden_size * width >> 20)
    bucket = OmegaConf.select(config, _BUCKET)
    if bucket < needed:
        raise ConfigurationError(
            _BUCKET,
            bucket,
            f"a weight must fit, and the embedding ({network.vocab_size} x {network.hidden_size}) takes {needed} MB",
            f"Raise it to at least {needed}",
        )


def _made(kind: Callable[[Any], _Made], path: str, tokenizer: Any) -> _Made:
    try:
        return kind(tokenizer)
    except ConfigurationError as error:
        if error.key != MODEL_KEY:
            raise
        raise ConfigurationError(PATH, path, error.problem, error.remedy) from error


def _require_room_for_a_turn(config: DictConfig, codec: ChatCodec) -> None:
    """The longest first prompt fits its share of the context, and a whole reply the rest."""
    data = config.data
    prompt, reply = _first_turn(config, codec)
    numbers = (
        f"too short for one turn: the first prompt has {prompt} tokens and a reply up to {reply} "
        f"(env.max_turn_tokens), {prompt + reply} in all; there is room for "
        f"data.max_prompt_length={data.max_prompt_length} and data.max_response_length={data.max_response_length}"
    )
    if prompt > data.max_prompt_length:
        raise ConfigurationError(
            "data.max_prompt_length", data.max_prompt_length, numbers, f"Raise it to at least {prompt}"
        )
    if reply > data.max_response_length:
        raise ConfigurationError(
            "data.max_response_length",
            data.max_response_length,
            numbers,
            f"Raise it to at least {reply}, or lower env.max_turn_tokens",
        )


def _first_turn(config: DictConfig, codec: ChatCodec) -> tuple[int, int]:
    """Tokens of the longest first prompt among some boards of each split, and of the longest reply."""
    env = config.env
    prompt = reply = 0
    for split, size in (("train", env.train_size), ("evaluation", env.evaluation_size)):
        for index in range(min(size, _SAMPLED_BOARDS)):
            world = make_world(env.name, preset=env.preset, split=split, index=index, **world_overrides(env))
            prompt = max(prompt, len(Episode(world, codec, max_context_tokens=_UNBOUNDED).start()))
            reply = world.limits.max_turn_tokens
    return prompt, reply
