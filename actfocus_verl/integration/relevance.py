"""How much each token's embedding moves the logits of the actions after it: one more pass of the actor.

The engine runs it as it runs a log-prob pass, in micro-batches; the gradient ends at the input embeddings, so that no
parameter gets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.utils.padding import response_from_nested

from actfocus_verl.columns import RELEVANCE, TOKEN_ROLES
from actfocus_verl.credit.tokens import TokenRole

CALCULATE_RELEVANCE: Final = "calculate_relevance"
"""The flag by which a batch asks for this pass instead of log-probs, named as verl's `calculate_entropy` is."""


class RelevanceMixin:
    """Gives `relevance` for a batch that asks for it, which needs the column `token_roles`."""

    module: nn.Module

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Callable[..., Any] | None, forward_only: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the parent's outputs, or `relevance` alone: float32, nested (B, j) like `log_probs`.

        It is the norm of the gradient of `sum over ACTION tokens a of (logit_a - mean logit)` with respect to a token's
        input embedding, at the position that predicts the token. Logits, because a copied action has probability 1 and
        log-probs without a gradient. They are not scaled by the temperature.

        Raises ValueError with fused kernels, which never form the logits.
        """
        if not tu.get_non_tensor_data(data=micro_batch, key=CALCULATE_RELEVANCE, default=False):
            return super().forward_step(micro_batch, loss_function, forward_only)  # type: ignore[misc,no-any-return]
        if tu.get_non_tensor_data(data=micro_batch, key="use_fused_kernels", default=False):
            raise ValueError(
                "actor_rollout_ref.model.use_fused_kernels=True: fused kernels never form the logits that the "
                "relevance needs. Set it to False, or choose a credit without it (credit=uniform)."
            )
        micro_batch = micro_batch.to(get_device_id())
        inputs, arguments = self.prepare_model_inputs(micro_batch=micro_batch)  # type: ignore[attr-defined]
        precision = getattr(self, "_autocast_dtype", torch.bfloat16)
        autocast = nullcontext() if precision == torch.float32 else torch.autocast(get_device_name(), dtype=precision)
        with torch.enable_grad(), autocast, _training(self.module), _embeddings_as_leaf(self.module) as leaves:
            logits = self.module(**inputs, use_cache=False).logits
            score = self._score(logits, arguments, micro_batch)
            (gradient,) = torch.autograd.grad(score, leaves)
        norms = gradient.float().norm(dim=-1)  # packed: (1, N); padded: (B, L)
        if "pad_size" in arguments:
            packed = self._gather_and_unpad_packed(norms.squeeze(0), arguments["pad_size"])  # type: ignore[attr-defined]
        else:
            packed = norms[_valid(norms, micro_batch)]
        # token t is predicted at t - 1; what comes to a row's last position is of the next row, and not read
        nested = torch.nested.nested_tensor_from_jagged(packed.roll(-1), micro_batch["input_ids"].offsets())
        return score.detach(), {"model_output": {RELEVANCE: nested}, "loss": 0.0, "metrics": {}}

    def _score(self, logits: Tensor, arguments: dict[str, Any], micro_batch: TensorDict) -> Tensor:
        """The scalar to differentiate; with sequence parallelism, the part of this rank's positions."""
        if isinstance(logits, DTensor):
            logits = logits.full_tensor()
        logits = logits.squeeze(0) if "pad_size" in arguments else logits[_valid(logits, micro_batch)]
        labels = arguments["input_ids_rmpad_rolled"]
        # verl shifts, pads and slices the roles as it does the ids
        roles = micro_batch.copy()
        roles["input_ids"] = _sequence_roles(micro_batch)
        _, of_roles = self.prepare_model_inputs(micro_batch=roles)  # type: ignore[attr-defined]
        action = of_roles["input_ids_rmpad_rolled"] == TokenRole.ACTION
        chosen = logits[action].float()
        return chosen.gather(-1, labels[action].unsqueeze(-1)).sum() - chosen.mean(dim=-1).sum()


def _valid(padded: Tensor, micro_batch: TensorDict) -> Tensor:
    """(B, L), bool: the positions of a padded (B, L, ...) tensor that belong to a row."""
    lengths = micro_batch["input_ids"].offsets().diff()
    return torch.arange(padded.shape[1], device=padded.device) < lengths.unsqueeze(1)


def _sequence_roles(micro_batch: TensorDict) -> Tensor:
    """Roles of whole sequences, nested like `input_ids`: ENVIRONMENT in the prompt and where nothing was sampled."""
    rows = []
    columns = (micro_batch[name].unbind() for name in ("input_ids", "response_mask", TOKEN_ROLES))
    for ids, mask, roles in zip(*columns, strict=True):
        # the roles of a padding row are longer than its response
        response = torch.where(mask.bool(), roles[: len(mask)], int(TokenRole.ENVIRONMENT))
        rows.append(torch.cat([ids.new_zeros(len(ids) - len(mask)), response.to(ids.dtype)]))
    return torch.nested.nested_tensor_from_jagged(torch.cat(rows), micro_batch["input_ids"].offsets())


@contextmanager
def _embeddings_as_leaf(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within it, the model's input embeddings are the start of the graph; they are put into the list."""
    leaves: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = module.get_input_embeddings().register_forward_hook(cut)  # type: ignore[operator]
    try:
        yield leaves
    finally:
        handle.remove()


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """With gradient checkpointing, training mode but for dropout: in evaluation transformers keeps all activations."""
    checkpoints = getattr(module, "is_gradient_checkpointing", False)
    dropout = nn.modules.dropout._DropoutNd
    switched = [each for each in module.modules() if checkpoints and not (each.training or isinstance(each, dropout))]
    for each in switched:
        each.training = True
    try:
        yield
    finally:
        for each in switched:
            each.training = False


def add_relevance(batch: KVBatchMeta, config: Any, compute: Callable[[KVBatchMeta], Any]) -> KVBatchMeta:
    """Have the actor write `relevance` to the rows of a batch; return the batch, which names the column.

    Args:
        config: the whole configuration. The pass takes the update's micro-batches, as it holds activations as well.
        compute: the workers' log-prob pass.
    """
    actor = config.actor_rollout_ref.actor
    asked = {
        CALCULATE_RELEVANCE: True,
        "compute_loss": False,
        "temperature": config.actor_rollout_ref.rollout.temperature,
        "use_dynamic_bsz": actor.use_dynamic_bsz,
        "micro_batch_size_per_gpu": actor.ppo_micro_batch_size_per_gpu,
        "max_token_len_per_gpu": actor.ppo_max_token_len_per_gpu,
    }
    before = dict(batch.extra_info)
    batch.extra_info.update({key: value for key, value in asked.items() if value is not None})
    if batch.fields is not None and TOKEN_ROLES not in batch.fields:  # made on the driver for another agent loop
        batch.fields.append(TOKEN_ROLES)
    compute(batch)
    batch.extra_info = before
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[RELEVANCE, "response_mask"])
    data[RELEVANCE] = response_from_nested(data.pop(RELEVANCE), data["response_mask"])
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data.select(RELEVANCE))
