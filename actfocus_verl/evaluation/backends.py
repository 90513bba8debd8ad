"""What samples replies on this machine: vLLM, or transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from actfocus_verl.evaluation.arguments import VLLM, Arguments
from actfocus_verl.evaluation.engine import LocalEngine, no_processes_left
from actfocus_verl.evaluation.models import ModelFiles
from actfocus_verl.evaluation.sampling import Sampler


@contextmanager
def local_sampler(
    model: ModelFiles, arguments: Arguments, *, max_context_tokens: int, console: Console
) -> Iterator[Sampler]:
    """The sampler that `arguments.backend` names, ended with the block.

    Raises ConfigurationError for a model or device that cannot be used, EvaluationError when the sampler fails.
    """
    console.print(f"starting {_CALLED[arguments.backend]}")
    temperature, end_of_turn_id = float(arguments.temperature), model.codec.end_of_turn_id
    if arguments.backend == VLLM:
        with (
            no_processes_left(),
            LocalEngine(
                model.path,
                platform=arguments.platform,
                max_context_tokens=max_context_tokens,
                temperature=temperature,
                end_of_turn_id=end_of_turn_id,
                overrides=arguments.engine,
            ) as engine,
        ):
            yield engine
        return
    from actfocus_verl.evaluation.transformers_engine import TransformersSampler, load_for_sampling

    loaded = load_for_sampling(model.path, arguments.platform)
    yield TransformersSampler(
        loaded, temperature=temperature, end_of_turn_id=end_of_turn_id, rows=arguments.concurrency
    )


_CALLED: Final = {VLLM: "vLLM", "transformers": "transformers"}
