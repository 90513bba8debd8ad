"""What a reply is sampled with: verl's parameters, and what our agent loops add to them."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any, Final

from omegaconf import OmegaConf

from actfocus_verl.integration.half_chosen import MODE, TRAINER_PREFIX

_ENGINE: Final = "actor_rollout_ref.rollout.name"


class _OfTheServer:
    """An object that only the server's process can import: pickled here, it is the object itself there."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return pkgutil.resolve_name, (self._path,)


_FINAL_ONLY: Final = _OfTheServer("vllm.sampling_params:RequestOutputKind.FINAL_ONLY")


def reply_sampling(params: Mapping[str, Any], ends: Iterable[int], config: Any) -> dict[str, Any]:
    """verl's sampling parameters for a reply that also ends at the tokens `ends`.

    Left alone, vLLM decodes every token and wakes whoever waits with all there is of the reply so far; verl reads the
    ids of the last output. So it is asked for ids, in one piece.

    Not in one piece where an update of the weights may abort replies (the asynchronous schedules): by a request's first
    output verl's server knows that it has reached the engine, and waits for that before it aborts.

    Args:
        params: of verl's agent loop, or with a caller's changes.
        ends: token ids.
        config: the run's. An engine other than vLLM gets nothing of the above.
    """
    found = {**params, "stop_token_ids": sorted({*(params.get("stop_token_ids") or ()), *ends})}
    if OmegaConf.select(config, _ENGINE) == "vllm":
        found["detokenize"] = bool(params.get("stop"))  # a text to stop at is found in the decoded one
        if is_synchronous(config):
            found["output_kind"] = _FINAL_ONLY
    return found


def is_synchronous(config: Any) -> bool:
    """Whether all replies of a step have ended before the weights are updated: verl's `sync` trainer, and ours."""
    return str(OmegaConf.select(config, MODE)).removeprefix(TRAINER_PREFIX).startswith("sync")
