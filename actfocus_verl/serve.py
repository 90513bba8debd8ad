"""Serve a model through vLLM's OpenAI-compatible server, set up as it is for training and evaluation.

    python -m actfocus_verl.serve <model> --port 8000

model is a folder with a Hugging Face model, such as `actfocus_verl.export` writes, or a Hugging Face id. Every other
word is an option of `vllm serve`, and wins over ours. Where there is a GPU this is `vllm serve` itself. On a CPU that
command does not start (the CPU build is a package of another name), and its defaults end on seeded requests.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actfocus_verl.evaluation.engine import engine_arguments, platform_environment


def options(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Engine arguments as words of vLLM's command line."""
    for key, value in arguments.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}={value}"


def command_line(words: Sequence[str]) -> list[str]:
    """The words of `vllm serve` on a CPU: the model, this platform's options, then the user's, which win.

    The longest context is `--max-model-len`, by default that of the model's config.json.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--max-model-len", "--max_model_len", type=int)
    context = parser.parse_known_args(list(words))[0].max_model_len or _positions(words[0])
    return [words[0], *options(engine_arguments("cpu", context, {})), *words[1:]]


def _positions(model: str) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(model).get_text_config().max_position_embeddings)


def main(words: Sequence[str]) -> None:
    """Serve until interrupted, through vLLM's own command and with its messages."""
    import torch

    words = list(words)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(__doc__ or "")
        return
    if not torch.cuda.is_available():
        from actfocus_verl.platforms import vllm_metadata

        os.environ.update(platform_environment("cpu"))
        vllm_metadata.install()
        words = command_line(words)
    from vllm.entrypoints.cli.main import main as vllm

    from actfocus_verl.launch.compiled import compile_cache, remove_cut_short

    remove_cut_short(compile_cache())
    sys.argv = ["vllm", "serve", *words]
    vllm()


if __name__ == "__main__":
    main(sys.argv[1:])
