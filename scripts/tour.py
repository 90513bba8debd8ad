# %% [markdown]
# # A tour of a run's folder
#
# Every JSON file a run writes, read with nothing but the standard library and NumPy. Run it as a script,
# `python scripts/tour.py outputs/quickstart`, or cell by cell: editors that know `# %%` open it as a notebook.

# %%
import json
import sys
from pathlib import Path

import numpy as np

RUN = Path(sys.argv[1] if len(sys.argv) == 2 else "outputs/quickstart")
ROLES = ("environment", "reasoning", "action", "format")  # the numbers in the column token_roles
if not (RUN / "run.json").is_file():
    sys.exit(f"{RUN} is not the folder of a run: bash recipes/quickstart.sh makes outputs/quickstart")


def read_lines(path: Path) -> list[dict]:
    """One object per line; a run that has not evaluated yet has no evaluations.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def title(text: str) -> None:
    print(f"\n== {text}")


# %% [markdown]
# `run.json` says what ran: versions, commit, machine, and for each start its command and how it ended. `config.yaml`
# beside it is the whole configuration, resolved.

# %%
info = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
title("run.json")
for start in info["starts"]:
    print(f"{start['exit_reason']}: {' '.join(start['command'])}")
print({name: info["versions"].get(name) for name in ("actfocus_verl", "verl", "torch")})

# %% [markdown]
# `evaluations.jsonl`: success on held-out boards, with its 95 % interval.

# %%
title("evaluations.jsonl")
for line in read_lines(RUN / "evaluations.jsonl"):
    interval = f"[{line['ci_low']:.3f}, {line['ci_high']:.3f}]"
    print(f"step {line['step']:>3}: {line['rate']:.3f} {interval}, {line['episodes']} boards")

# %% [markdown]
# `metrics.jsonl`: one flat object per step. Names with a slash are verl's or ours: `credit/` says what the token
# weighting did, `filter/` which prompt groups trained, `response_tokens/` how many tokens of each role an episode has.

# %%
title("metrics.jsonl")
metrics = read_lines(RUN / "metrics.jsonl")
for name in (
    "episode/success_rate",
    "episode/valid_action_rate",
    "response_tokens/reasoning",
    "response_tokens/action",
    "credit/mean_weight/reasoning",
    "credit/mean_weight/action",
    "actor/grad_norm",
):
    values = [line[name] for line in metrics if name in line]
    if values:
        print(f"{name:<30} first {values[0]:8.4f}  last {values[-1]:8.4f}")

# %% [markdown]
# `rollouts/<step>.jsonl`: some trajectories. Every column below has one entry per token of the response; tokens of role
# 0 are the environment's, and nothing is trained on them.

# %%
title("rollouts/")
steps = sorted(int(path.stem) for path in (RUN / "rollouts").glob("*.jsonl"))
episodes = [episode for step in steps for episode in read_lines(RUN / "rollouts" / f"{step}.jsonl")]
print(f"{len(episodes)} trajectories of the steps {steps}")
for number, role in enumerate(ROLES):
    weights = [
        weight
        for episode in episodes
        for weight, found in zip(episode["token_weights"], episode["token_roles"], strict=True)
        if found == number
    ]
    if weights:
        print(f"{role:<12} {len(weights):>6} tokens, mean weight {np.mean(weights):.3f}")

# %% [markdown]
# One trajectory, token by token: what it said, and what each token weighed in the loss. The energy is the reference's,
# -logsumexp of its logits at that position.

# %%
title("one turn")
if episodes:
    episode = episodes[-1]
    print(episode["texts"][0]["state"])
    for place in np.flatnonzero(np.array(episode["turn_ids"]) == 0):
        energy = f"{episode['energy'][place]:8.2f}" if episode.get("energy") else ""
        role = ROLES[episode["token_roles"][place]]
        print(f"{episode['token_texts'][place]!r:<16} {role:<10} weight {episode['token_weights'][place]:.3f} {energy}")
    print(f"the episode ended by {episode['stop_reason']}, with return {episode['return']:g}")
