"""Decoding into tensors that stay where they are, which a CUDA graph can replay.

Launched one by one, the kernels of a decoding step of a small model take the host ten times as long as the GPU. A graph
launches all of them at once. It needs equal addresses at every step, so the cache has its final size from the start,
and no row leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

Choose = Callable[[Tensor, Tensor], Tensor]
"""From the logits (B, V) and the number of the step (1,) to the tokens (B,)."""

_CHECKED_EVERY: Final = 8
"""Steps between looks at which rows have ended: a look waits for all that was launched."""
_WARM_UP: Final = 2
"""Steps before the capture, in which libraries allocate what they keep."""


@torch.inference_mode()
def decode(
    model: Any, ids: Tensor, mask: Tensor, choose: Choose, ended: Callable[[Tensor], bool], length: int
) -> Tensor:
    """(B, length), int64: the sampled tokens; -1 after the last step that was taken.

    ids, mask: (B, L), the contexts padded on the left, and 1 where there is one. ended: whether the tokens sampled so
    far, (B, length), are enough. On a CUDA device all steps but the first ones are replays of one graph.
    """
    decoding = _Decoding(model, ids, mask, choose, length)
    replay = None
    for step in range(1, length):
        if ids.is_cuda and replay is None and step > _WARM_UP and step + 1 < length:
            replay = decoding.captured()
        (replay or decoding.step)()
        if step % _CHECKED_EVERY == 0 and ended(decoding.sampled):
            break
    return decoding.sampled


class _Decoding:
    """The state of a batch; `step` advances all of it in place."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, choose: Choose, length: int) -> None:
        from transformers import StaticCache

        rows, width = ids.shape
        self._model, self._choose = model, choose
        self._cache = StaticCache(config=model.config, max_cache_len=width + length)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.sampled = ids.new_full((rows, length), -1)
        self._number = ids.new_zeros(1)  # of the step
        self._place = ids.new_full((1,), width)  # in the cache, of the token that is read next
        self._position = positions[:, -1:] + 1
        self._seen = torch.zeros((rows, 1, 1, width + length), dtype=torch.bool, device=ids.device)
        self._seen[:, 0, 0, :width] = mask.bool()
        self._tokens = ids.new_zeros((rows, 1))
        self._keep(output.logits[:, -1])

    def _keep(self, logits: Tensor) -> None:
        self._tokens.copy_(self._choose(logits, self._number)[:, None])
        self.sampled.index_copy_(1, self._number, self._tokens)
        self._number.add_(1)

    def step(self) -> None:
        """Read the last tokens, and sample the next ones."""
        self._seen.index_fill_(3, self._place, True)
        output = self._model(
            input_ids=self._tokens,
            attention_mask=self._seen,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._place.add_(1)
        self._position.add_(1)
        self._keep(output.logits[:, -1])

    def captured(self) -> Callable[[], None]:
        """`step` as a graph. Capturing executes nothing."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self.step()
        replay: Callable[[], None] = graph.replay
        return replay
