"""The reporting checklist of the survey arXiv 2604.09459 (Table 11), filled in from the summaries.

Its text counts 9 required items and 5 recommended ones, its marks 10 and 4: all 14 are answered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from actfocus_verl.credit.estimation import Traits, traits_of
from actfocus_verl.credit.registry import WEIGHTINGS, is_path, known_weightings
from actfocus_verl.reproduction.report import cells as of
from actfocus_verl.reproduction.report.document import Table
from actfocus_verl.reproduction.report.numbers import NONE
from actfocus_verl.reproduction.report.tables import accelerator_hours, core_hours
from actfocus_verl.reproduction.summary import Summary

_BASELINES: Final = ("grpo", "ppo")
"""Algorithms whose uniform weights the survey counts as a baseline at the level of the episode."""
_VERLS_NAMES: Final = {"ppo": "gae"}
"""Names of the `algorithm` group whose estimator verl calls otherwise."""


def checklist_table(runs: Sequence[Summary]) -> Table:
    """The 14 items, each with what the summaries say of it; a dash where they say nothing."""
    rows = [[f"{number}. {item}", answer(runs) or NONE] for number, (item, answer) in enumerate(_ITEMS, start=1)]
    return Table(["asked for", "answer"], rows, words=2)


def _models(runs: Sequence[Summary]) -> str:
    def describe(run: Summary) -> str:
        policy = run["policy"]
        size = f", {policy['parameters'] / 1e6:.2f} million parameters" if "parameters" in policy else ""
        return f"{policy.get('name', NONE)}{size}"

    return _listed(describe(run) for run in runs)


def _training_data(runs: Sequence[Summary]) -> str:
    def describe(run: Summary) -> str:
        env, name = run["settings"]["env"], run["settings"]["filter"]["name"]
        kept = f"{name}, ratio {run['settings']['filter']['ratio']:g}" if name == "reward_variance" else name
        return f"{env['name']}/{env['preset']}/train, {env['train_size']} boards, groups filtered by {kept}"

    return _listed(describe(run) for run in runs)


def _granularity(runs: Sequence[Summary]) -> str:
    names = dict.fromkeys(run["settings"]["algorithm_name"] for run in runs)
    weighted = dict.fromkeys(_credit(run) for run in runs if _weighs(run))
    advantages = _listed(f"{name}: {_traits(name).granularity or NONE}" for name in names)
    return f"advantages: {advantages}; weights: {_listed(f'{name}: {_granularity_of(name)}' for name in weighted)}"


def _methodology(runs: Sequence[Summary]) -> str:
    families = (
        f"{name}: {_traits(name).family or NONE}" for name in (run["settings"]["algorithm_name"] for run in runs)
    )
    weighted = "; token weights: information-theoretic" if any(map(_weighs, runs)) else ""
    return _listed(families) + weighted


def _baseline(runs: Sequence[Summary]) -> str:
    found = [run for run in runs if run["settings"]["algorithm_name"] in _BASELINES and not _weighs(run)]
    return _listed(f"{run['settings']['algorithm_name']} with uniform weights, {_world(run)}" for run in found)


def _compute(runs: Sequence[Summary]) -> str:
    """Whether all weightings of one world and algorithm played and trained the same number of episodes."""
    budgets: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    for run in runs:
        settings = run["settings"]
        keys = ("data.train_batch_size", "actor_rollout_ref.rollout.n", "trainer.total_training_steps")
        budget = (*(settings[key] for key in keys), settings["filter"].get("ratio"))
        budgets.setdefault((_world(run), settings["algorithm_name"]), set()).add(budget)
    same = [f"{world}, {algorithm}" for (world, algorithm), found in budgets.items() if len(found) == 1]
    other = [f"{world}, {algorithm}" for (world, algorithm), found in budgets.items() if len(found) > 1]
    text = f"the same steps, groups and episodes for every weighting: {_listed(same)}" if same else ""
    return text + (f"; not the same: {_listed(other)}" if other else "")


def _benchmarks(runs: Sequence[Summary]) -> str:
    return _listed(
        f"{each['env']}/{each['preset']}/{each['split']}, {each['episodes']} episodes"
        for run in runs
        for each in run["evaluations"][-1:]
    )


def _metric_definition(runs: Sequence[Summary]) -> str:
    temperatures = {each["temperature"] for run in runs for each in run["evaluations"]}
    at = ", ".join(f"{value:g}" for value in sorted(temperatures))
    return f"share of episodes that end in the world's success (its README), at temperature {at}; final: last step"


def _hours(runs: Sequence[Summary]) -> str:
    gpu, cores = sum(map(accelerator_hours, runs)), sum(map(core_hours, runs))
    lost = sum(run["cost"]["starts_without_end"] for run in runs)
    more = f"; {lost} starts were killed, and their time is not in it" if lost else ""
    return f"{gpu:.1f} GPU-hours, {cores:.1f} CPU core-hours{more}"


def _lengths(runs: Sequence[Summary]) -> str:
    return _by_world(runs, "mean", "mean")


def _ablation(runs: Sequence[Summary]) -> str:
    placebo = [f"placebo, {_world(run)}" for run in runs if run["settings"]["credit"].get("placebo")]
    return _listed([*placebo, *(f"uniform, {_world(run)}" for run in runs if not _weighs(run))])


def _variance(runs: Sequence[Summary]) -> str:
    counts: dict[str, int] = {}
    for run in runs:
        counts[run["experiment"]] = counts.get(run["experiment"], 0) + 1
    seeds = " to ".join(map(str, sorted({min(counts.values()), max(counts.values())})))
    return f"{seeds} seeds a cell, 95 % t intervals over seeds, Wilson's per run"


def _overhead(runs: Sequence[Summary]) -> str:
    return (
        "the section Overhead, seconds a trained token against the uniform weights"
        if any(of.metric(run, "timing_s/step") for run in runs)
        else ""
    )


def _distribution(runs: Sequence[Summary]) -> str:
    return _by_world(runs, "min", "max")


_ITEMS: Final[tuple[tuple[str, Callable[[Sequence[Summary]], str]], ...]] = (
    ("base model: name, size, version", _models),
    ("training data: source, size, filter", _training_data),
    ("granularity of credit", _granularity),
    ("family of the method", _methodology),
    ("an episode-level baseline on the same model", _baseline),
    ("baseline at the same compute", _compute),
    ("benchmarks and splits", _benchmarks),
    ("definition of the metric", _metric_definition),
    ("total GPU-hours", _hours),
    ("mean trajectory length, last quarter of training", _lengths),
    ("ablation of the credit component", _ablation),
    ("variance: seeds or intervals", _variance),
    ("overhead of the credit component", _overhead),
    ("distribution of trajectory lengths, last quarter", _distribution),
)


def _traits(algorithm: str) -> Traits:
    """What is said of a run's estimator; of one by path nothing, for the report does not import the user's code."""
    name = _VERLS_NAMES.get(algorithm, algorithm)
    return Traits() if is_path(name) else traits_of(name)


def _granularity_of(weighting: str) -> str:
    known = weighting in known_weightings()
    return (WEIGHTINGS.get(weighting).granularity if known else "") or NONE


def _credit(run: Summary) -> str:
    return str(run["settings"]["credit"]["name"])


def _weighs(run: Summary) -> bool:
    return _credit(run) != "uniform"


def _world(run: Summary) -> str:
    return str(run["settings"]["env"]["name"])


def _late(run: Summary, name: str) -> float | None:
    found = of.early_and_late(run, f"response_length/{name}")
    return None if found is None else found[1]


def _by_world(runs: Sequence[Summary], shortest: str, longest: str) -> str:
    """Of every world, the least and the most that its runs have in the last quarter of the steps."""
    texts = []
    for world in dict.fromkeys(map(_world, runs)):
        own = [run for run in runs if _world(run) == world]
        low, high = ([_late(run, name) for run in own] for name in (shortest, longest))
        lows, highs = ([value for value in values if value is not None] for values in (low, high))
        if lows and highs:
            texts.append(f"{world}: {min(lows):.0f} to {max(highs):.0f} tokens")
    return "; ".join(texts)


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
