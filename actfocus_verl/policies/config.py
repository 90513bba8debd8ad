"""A tiny policy's configuration, and its cache key."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, Final

from actfocus_verl.checks import require_choice, require_integer, require_number
from actfocus_verl.environments import COUPLINGS, known_presets, scripted_player
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.files import json_text
from actfocus_verl.policies.demonstrations import conversation
from actfocus_verl.policies.tokenizer import BPE_TOKENS, CHAT_TEMPLATE

FORMAT_VERSION: Final = 1
"""Increase it whenever the same config and demonstrations give a different folder than before."""

HEAD_DIMENSIONS: Final = (32, 64)
"""Head dimensions that vLLM's attention kernel for CPUs supports."""

_FINGERPRINT_EPISODES = 4


@dataclass(frozen=True)
class TinyPolicyConfig:
    """A tiny policy: the world it is trained on, how, and its size.

    env, preset: the world; its training boards are played. coupling: see `environments.scripted`.
    seed: of demonstrations, initial weights and order of training.
    skill: of the scripted player; low on purpose, so that reinforcement learning can improve on it.
    episodes: demonstrated, each seen `epochs` times. None: the world's own value, also for `batch_size` and
    `learning_rate`.
    vocab_size: maximum size of the tokenizer's vocabulary.
    hidden_size, layers, heads, intermediate_size: of the Qwen2-shaped network.
    batch_size (episodes), learning_rate, weight_decay: of its supervised training.
    evaluation_episodes: played on evaluation boards after the build, for `tiny_policy.json`; may be 0.
    """

    env: str = "frozen_lake"
    preset: str = "clean"
    coupling: str = "loose"
    seed: int = 0
    skill: float | None = None
    episodes: int | None = None
    epochs: int = 1
    vocab_size: int = 1024
    hidden_size: int = 160
    layers: int = 3
    heads: int = 5
    intermediate_size: int = 448
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.01
    evaluation_episodes: int = 256

    def __post_init__(self) -> None:
        scripted_player(self.env)
        require_choice("tiny.preset", self.preset, choices=known_presets(self.env))
        require_choice("tiny.coupling", self.coupling, choices=COUPLINGS)
        require_integer("tiny.seed", self.seed, low=0)
        for name in ("skill", "learning_rate"):
            if getattr(self, name) is not None:
                require_number(f"tiny.{name}", getattr(self, name), low=0.0, high=1.0)
        for name in ("episodes", "batch_size"):
            if getattr(self, name) is not None:
                require_integer(f"tiny.{name}", getattr(self, name), low=1)
        for name in ("epochs", "hidden_size", "layers", "heads", "intermediate_size"):
            require_integer(f"tiny.{name}", getattr(self, name), low=1)
        require_integer("tiny.vocab_size", self.vocab_size, low=BPE_TOKENS)
        require_integer("tiny.evaluation_episodes", self.evaluation_episodes, low=0)
        require_number("tiny.weight_decay", self.weight_decay, low=0.0, high=1.0)
        self._require_head_dimension()

    def resolved(self) -> TinyPolicyConfig:
        """The same policy with the world's own values in place of None."""
        player = scripted_player(self.env)
        own: dict[str, Any] = {
            "skill": player.taught_skill(self.coupling),
            "episodes": player.episodes,
            "batch_size": player.batch_size,
            "learning_rate": player.learning_rate,
        }
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})

    def _require_head_dimension(self) -> None:
        if self.hidden_size not in [self.heads * dimension for dimension in HEAD_DIMENSIONS]:
            raise ConfigurationError(
                "tiny.hidden_size",
                self.hidden_size,
                f"with tiny.heads={self.heads} a head has {self.hidden_size / self.heads:g} dimensions, but vLLM's CPU "
                f"kernel supports {' or '.join(map(str, HEAD_DIMENSIONS))}",
                f"Use {' or '.join(str(self.heads * dimension) for dimension in HEAD_DIMENSIONS)}",
            )


def cache_key(config: TinyPolicyConfig) -> str:
    """A readable, stable folder name for `config`.

    It covers every field, the format version, the chat template, how the world's player is taught and, through a few
    demonstrated episodes, the words of the prompts and of the player: when those change, the policy is rebuilt.
    """
    config = config.resolved()
    demonstrations = [conversation(config, episode) for episode in range(_FINGERPRINT_EPISODES)]
    player = scripted_player(config.env)
    taught = [player.copied, player.learn_pages, player.rope_theta, *(["induction"] if player.induction else [])]
    content = json_text([FORMAT_VERSION, asdict(config), CHAT_TEMPLATE, taught, demonstrations], sort_keys=True)
    env = config.env.replace(":", ".")  # of a world named by the path of its class
    return f"{env}-{config.preset}-{config.coupling}-{blake2b(content.encode(), digest_size=6).hexdigest()}"
