"""Exact gradient norms of single tokens, which w |A| alone does not give, since tokens' scores differ in norm.

At the policy that sampled (a ratio of 1) the surrogate's term of token t has the gradient

    d/dtheta [ w_t A_t rho_t ] = w_t A_t  d/dtheta log pi(y_t | c_t)

so one backward pass per token gives the norm of its score, || d/dtheta log pi ||, and under every weighting the norm of
its gradient is that times w_t |A_t|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from actfocus_verl.credit.tokens import RESPONSE_ROLES
from actfocus_verl.diagnosis.samples import StepSample
from actfocus_verl.diagnosis.tokens import ROLE_NAMES, FloatArray, IntArray, Tokens, role_means, role_shares
from actfocus_verl.errors import ConfigurationError

SCORE: Final = "score"
"""The row of a table for the norms without a factor."""


def require_vocabulary(model: Any, name: str, samples: Sequence[StepSample]) -> None:
    """Raise ConfigurationError when the episodes have token ids that the model lacks: it is another model."""
    known = model.get_input_embeddings().num_embeddings
    largest = max(
        max(int(sample.columns["responses"].max()), *(max(prompt, default=0) for prompt in sample.prompts))
        for sample in samples
    )
    if largest >= known:
        problem = f"has {known} tokens, but the episodes have token id {largest}"
        raise ConfigurationError("model", name, problem, "Name a model with the run's tokenizer")


def draw_tokens(roles: IntArray, per_role: int, seed: int) -> IntArray:
    """Indices of `per_role` tokens of each role, or of all it has, drawn without replacement; ascending."""
    rng = np.random.default_rng(seed)
    drawn = []
    for role in RESPONSE_ROLES:
        found = np.flatnonzero(roles == role)
        drawn.append(rng.choice(found, size=min(per_role, len(found)), replace=False))
    return np.sort(np.concatenate(drawn))


def score_norms(
    model: torch.nn.Module,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    positions: Sequence[int],
    temperature: float = 1.0,
    done: Callable[[], None] = lambda: None,
) -> tuple[FloatArray, FloatArray]:
    """Norms of d/dtheta log pi(y_t | prompt, y_<t) of some tokens of one episode, and log pi itself.

    theta: every parameter that requires a gradient, shared ones counted once. pi is the softmax of the logits over
    `temperature`. One forward pass per episode and one backward pass per token.

    Args:
        positions: indices in the response, P of them.
        done: called after each token.

    Returns:
        (P,) and (P,), float64.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    length = len(prompt_ids) + max(positions)  # what comes after the last token asked for does not matter
    ids = torch.tensor([*prompt_ids, *response_ids], device=device)
    at = torch.tensor(positions, device=device) + len(prompt_ids)
    logits_PV = model(input_ids=ids[None, :length], use_cache=False, logits_to_keep=at - 1).logits[0]
    log_probs_P = (logits_PV.float() / temperature).log_softmax(dim=-1).gather(1, ids[at, None])[:, 0]
    norms = []
    for number, log_prob in enumerate(log_probs_P, start=1):
        kept = number < len(positions)
        gradients = torch.autograd.grad(log_prob, parameters, retain_graph=kept, allow_unused=True)
        squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
        norms.append(math.sqrt(float(torch.stack(squares).sum())))
        done()
    return np.array(norms), log_probs_P.detach().double().cpu().numpy()


def gradient_norms(
    model: torch.nn.Module,
    samples: Sequence[StepSample],
    tokens: Tokens,
    drawn: IntArray,
    temperature: float = 1.0,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Norms of the drawn tokens' gradients by role.

    `score` has the mean norm of a score, `mean` that times w |A| under each weighting, `share` the shares of the sum of
    these norms over all kept tokens, estimated from those drawn. `log_prob_gap` is the mean distance, in nats, between
    the model's log-probs and those of the policy that sampled: 0 when they are the same; None when the run kept none.
    """
    norms, log_probs = np.empty(len(drawn)), np.empty(len(drawn))
    episodes = np.stack([tokens.sample[drawn], tokens.row[drawn]], axis=1)
    for sample_index, row in np.unique(episodes, axis=0):
        here = np.flatnonzero((episodes == (sample_index, row)).all(axis=1))
        sample, positions = samples[sample_index], tokens.position[drawn[here]].tolist()
        responses = sample.columns["responses"][row].tolist()
        norms[here], log_probs[here] = score_norms(model, sample.prompts[row], responses, positions, temperature, done)
    roles, clusters = tokens.role[drawn], tokens.cluster[drawn]
    stands_for = _tokens_each_stands_for(tokens.role, roles)
    by_weighting = {name: mass[drawn] * norms for name, mass in tokens.mass.items()}
    return {
        "tokens": {
            name: {"drawn": int((roles == role).sum()), "of": int((tokens.role == role).sum())}
            for role, name in zip(RESPONSE_ROLES, ROLE_NAMES, strict=True)
        },
        "score": role_means(norms, roles, clusters),
        "mean": {name: role_means(values, roles, clusters) for name, values in by_weighting.items()},
        "share": {name: role_shares(stands_for * values, roles, clusters) for name, values in by_weighting.items()},
        "log_prob_gap": _log_prob_gap(samples, tokens, drawn, log_probs),
    }


def _tokens_each_stands_for(all_roles: IntArray, drawn_roles: IntArray) -> FloatArray:
    """(n,): number of tokens of the role over the number drawn."""
    counts, drawn = (np.bincount(roles, minlength=max(RESPONSE_ROLES) + 1) for roles in (all_roles, drawn_roles))
    return counts[drawn_roles] / drawn[drawn_roles]


def _log_prob_gap(
    samples: Sequence[StepSample], tokens: Tokens, drawn: IntArray, log_probs: FloatArray
) -> float | None:
    if not all("old_log_probs" in sample.columns for sample in samples):
        return None
    recorded = [
        float(samples[tokens.sample[index]].columns["old_log_probs"][tokens.row[index], tokens.position[index]])
        for index in drawn
    ]
    return float(np.abs(log_probs - recorded).mean())
