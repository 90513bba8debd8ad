"""vLLM in this evaluation's own processes: token ids in, sampled ids out. No Ray, no trainer, no server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from types import TracebackType
from typing import Any
from uuid import uuid4

import psutil
from omegaconf import OmegaConf
from rich.console import Console

from actfocus_verl.command import STOP_SIGNALS
from actfocus_verl.errors import one_line
from actfocus_verl.evaluation.models import NamedModel
from actfocus_verl.evaluation.sampling import EvaluationError, ReplyRequest
from actfocus_verl.launch.shutdown import end_processes
from actfocus_verl.rollout import Reply

_CPU_KEYS = ("dtype", "enforce_eager", "max_num_seqs")
"""Keys of verl's rollout section that are arguments of vLLM's engine."""
_STEP_TOKENS = 2048
"""Tokens per step of the engine on a CPU: vLLM's default there."""


def platform_environment(platform: str) -> dict[str, str]:
    """The environment variables of a platform, from `configs/platform`."""
    return {key: str(value) for key, value in _platform(platform).platform.env_vars.items()}


def local_weights(named: NamedModel, platform: str, console: Console) -> str:
    """The folder or id that vLLM or transformers loads; a run's checkpoint is merged first, which the console says."""
    if named.checkpoint and not named.checkpoint.is_merged:
        console.print(f"merging the checkpoint of step {named.step}: {named.checkpoint.merged}", soft_wrap=True)
    return named.with_weights(platform_environment(platform))


def engine_arguments(platform: str, max_context_tokens: int, overrides: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of vLLM's engine: on a CPU those a training run has there, on a GPU vLLM's defaults in bfloat16.

    On a CPU chunked prefill is off: after a chunk vLLM 0.28 rewinds the generator of a seeded request, which CPU
    generators cannot do ("CPU Generator does not use offset"), and the engine dies.
    """
    common = {"max_model_len": max_context_tokens, "disable_log_stats": True, "use_tqdm_on_load": False}
    if platform == "gpu":
        return {**common, "dtype": "bfloat16", **overrides}
    rollout = _platform(platform).actor_rollout_ref.rollout
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(_STEP_TOKENS, max_context_tokens)}
    chosen = {key: rollout[key] for key in _CPU_KEYS}
    return {**common, **whole_prompts, **chosen, **rollout.engine_kwargs.vllm, **overrides}


def _platform(name: str) -> Any:
    return OmegaConf.create((files("actfocus_verl_configs") / "platform" / f"{name}.yaml").read_text(encoding="utf-8"))


@contextmanager
def no_processes_left() -> Iterator[None]:
    """Always end the processes that were started inside: an interrupted start leaves some behind.

    While it does, signals are ignored. Python's own resource tracker is left alone: it ends with this process.
    """
    here = psutil.Process()
    before = set(here.children(recursive=True))
    try:
        yield
    finally:
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
        left = [each for each in here.children(recursive=True) if each not in before and not _is_tracker(each)]
        if left:
            end_processes(left)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:  # ended in this moment
        return True


class LocalEngine:
    """A `Sampler` on vLLM's AsyncLLM; a context manager that ends the engine's processes.

    Raises EvaluationError when the engine does not start, with vLLM's reason, or dies.
    """

    def __init__(
        self,
        model: str,
        *,
        platform: str,
        max_context_tokens: int,
        temperature: float,
        end_of_turn_id: int,
        overrides: Mapping[str, object],
    ) -> None:
        self._temperature = temperature
        self._stop_token_ids = [end_of_turn_id]
        self._engine = _start(
            platform,
            {"model": model, **engine_arguments(platform, max_context_tokens, overrides)},
        )

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._engine.shutdown()

    async def sample(self, request: ReplyRequest) -> Reply:
        """See `Sampler`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        sampling = SamplingParams(
            temperature=self._temperature,
            seed=request.seed,
            max_tokens=request.max_new_tokens,
            stop_token_ids=self._stop_token_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            stream = self._engine.generate({"prompt_token_ids": request.prompt_ids}, sampling, uuid4().hex)
            reply = [output async for output in stream][-1].outputs[0]
        except (EngineDeadError, EngineGenerateError) as error:
            raise EvaluationError(f"vLLM's engine failed: {one_line(error)}") from error
        return Reply(list(reply.token_ids), finish_reason=str(reply.finish_reason))


def _start(platform: str, arguments: dict[str, Any]) -> Any:
    os.environ.update(platform_environment(platform))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    if platform == "cpu":
        from actfocus_verl.platforms import vllm_metadata

        vllm_metadata.install()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from actfocus_verl.launch.compiled import compile_cache, remove_cut_short

    remove_cut_short(compile_cache())
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except Exception as error:  # whatever vLLM raises for a model, an argument or a machine it cannot use
        raise EvaluationError(f"vLLM's engine did not start: {one_line(error, 500)}") from error
