"""A vLLM engine on a CPU with our worker extension: how far its log-probs are from the weights it was last given.

    python -m tests.helpers.vllm_gap <model folder>

Prints a JSON object {group of weights: largest gap in nat after a sync in which that group changed}. A process of its
own, because vLLM reads the packing switch once, and keeps its distributed state for ever.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

GROUPS = {
    "norm": ("norm",),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("mlp",),
    "embedding and tied head": ("embed",),
    "everything": ("",),
}
PROMPT_TOKENS, NEW_TOKENS = 40, 20


def main(folder: Path) -> None:
    import verl  # noqa: F401  (loads the plugin, which makes vLLM importable on a CPU)
    from transformers import AutoModelForCausalLM
    from vllm import LLM

    engine = LLM(
        str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        kv_cache_memory_bytes=1 << 28,
        distributed_executor_backend="uni",
        worker_extension_cls="actfocus_verl.platforms.vllm_cpu.CPUWorkerExtension",
    )
    actor = AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.randint(10, actor.config.vocab_size, (PROMPT_TOKENS,), generator=torch.Generator().manual_seed(0))
    gaps = {"before": _gap(engine, actor, prompt)}
    torch.manual_seed(1)
    for group, marks in GROUPS.items():
        for name, weight in actor.named_parameters():
            if any(mark in name for mark in marks):
                weight.data.add_(torch.randn_like(weight) * weight.data.std().clamp(min=0.05) * 0.3)
        # What verl sends: every parameter once, a tied head under its embedding's name.
        weights = [(name, weight.data.clone()) for name, weight in actor.named_parameters()]
        engine.collective_rpc("_load", args=(weights, None))
        engine.reset_prefix_cache()
        gaps[group] = _gap(engine, actor, prompt)
    sys.stdout.write("\n" + json.dumps(gaps) + "\n")


def _gap(engine: Any, actor: Any, prompt: torch.Tensor) -> float:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=1.0, max_tokens=NEW_TOKENS, logprobs=0, ignore_eos=True)
    output = engine.generate([{"prompt_token_ids": prompt.tolist()}], sampling, use_tqdm=False)[0].outputs[0]
    sampled = torch.tensor(list(output.token_ids))
    theirs = torch.tensor([entry[int(token)].logprob for token, entry in zip(sampled, output.logprobs, strict=True)])
    with torch.no_grad():
        logits = actor(torch.cat([prompt, sampled])[None]).logits[0, PROMPT_TOKENS - 1 : -1]
    ours = logits.log_softmax(-1).gather(1, sampled[:, None]).squeeze(1)
    return float((ours - theirs).abs().max())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
