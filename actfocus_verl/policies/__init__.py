"""Our policies: the tiny language model that the CPU platform trains, and playing episodes with any model."""

from actfocus_verl.policies.config import TinyPolicyConfig, cache_key
from actfocus_verl.policies.playing import PlayStatistics, play_batch, play_statistics
from actfocus_verl.policies.tiny import build_tiny_policy, ensure_tiny_policy

__all__ = [
    "PlayStatistics",
    "TinyPolicyConfig",
    "build_tiny_policy",
    "cache_key",
    "ensure_tiny_policy",
    "play_batch",
    "play_statistics",
]
