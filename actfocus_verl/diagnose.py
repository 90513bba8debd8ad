"""Where reward variance and the gradient are among the tokens of a run, from its kept episodes.

    python -m actfocus_verl.diagnose run=outputs/quickstart
    python -m actfocus_verl.diagnose run=outputs/quickstart step=10 checkpoint=10 tokens=300
    python -m actfocus_verl.diagnose run=outputs/quickstart tokens=0

Exit status: 0 finished, 1 failed, 2 a mistake in the command, 130 interrupted. See docs/diagnose.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from actfocus_verl.arguments import help_text, read_arguments
from actfocus_verl.command import run_command, start
from actfocus_verl.diagnosis.arguments import Arguments
from actfocus_verl.diagnosis.correlations import Group, correlations, whole_groups
from actfocus_verl.diagnosis.display import diagnosis_tables, token_progress
from actfocus_verl.diagnosis.figures import plot_energy
from actfocus_verl.diagnosis.gradients import draw_tokens, gradient_norms, load_policy, require_vocabulary
from actfocus_verl.diagnosis.samples import StepSample, read_samples, setting, whole_group_size
from actfocus_verl.diagnosis.tokens import Tokens, flat_tokens, role_shares, token_figures
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.engine import platform_environment
from actfocus_verl.evaluation.models import NamedModel, find_model
from actfocus_verl.files import write_json
from actfocus_verl.launch.claim import FolderClaim
from actfocus_verl.launch.record import installed_versions, source_commit
from actfocus_verl.reporting.run_folder import RunFolder

RESULT_FILE, FIGURE_FILE = "diagnosis.json", "energy.png"

Json = dict[str, Any]


def diagnose(arguments: Arguments, console: Console) -> Json:
    """Diagnose a run and write the files; returns what diagnosis.json holds.

    console: for progress. Raises ConfigurationError, and EvaluationError when a checkpoint cannot be merged.
    """
    run = RunFolder.open(arguments.run)
    with FolderClaim("out", arguments.folder):
        return _diagnose(arguments, run, arguments.folder, console)


def _diagnose(arguments: Arguments, run: RunFolder, folder: Path, console: Console) -> Json:
    samples = read_samples(run, arguments.step)
    notes = list(run.notes)
    tokens = flat_tokens(samples)
    groups = _groups(run, samples, notes)
    found: Json = {
        "run": str(run.path),
        "arguments": arguments.to_json(),
        "commit": source_commit(),
        "versions": installed_versions(),
        "steps": [sample.step for sample in samples],
        "episodes": sum(len(sample.groups) for sample in samples),
        "groups": len(set(tokens.cluster.tolist())),
        "tokens": token_figures(tokens),
        "correlation": correlations(groups) if groups else None,
        "gradient_mass": {name: role_shares(mass, tokens.role, tokens.cluster) for name, mass in tokens.mass.items()},
        "gradient_norms": _norms(arguments, run, samples, tokens, notes, console),
        "prompt_groups": [asdict(group) for group in groups],
    }
    found["notes"] = [*notes, *_notes(run, tokens)]
    (folder / FIGURE_FILE).unlink(missing_ok=True)  # of an earlier diagnosis
    if groups:
        plot_energy(groups, found["correlation"]["pooled"], folder / FIGURE_FILE)
    write_json(folder / RESULT_FILE, found)
    return found


def _groups(run: RunFolder, samples: Sequence[StepSample], notes: list[str]) -> list[Group]:
    """The complete groups of samples with energy; missing ones are noted."""
    with_energy = [sample for sample in samples if "energy" in sample.columns]
    if len(with_energy) < len(samples):
        remedy = "train with credit=actfocus or run.diagnose=true"
        notes.append(f"{len(samples) - len(with_energy)} of {len(samples)} steps kept no energy: {remedy}")
    size = whole_group_size(run, samples)
    groups, cut = whole_groups(with_energy, size)
    if cut:
        remedy = f"set run.rollouts_a_step to a multiple of {size}"
        notes.append(f"{cut} groups were kept only in part and are left out of the correlation: {remedy}")
    return groups


def _norms(
    arguments: Arguments,
    run: RunFolder,
    samples: Sequence[StepSample],
    tokens: Tokens,
    notes: list[str],
    console: Console,
) -> Json | None:
    """Gradient norms of drawn tokens; None if not requested, or without a checkpoint."""
    if arguments.tokens == 0:
        return None
    try:
        named = find_model(arguments.model or str(arguments.run), arguments.checkpoint)
    except ConfigurationError as error:
        if arguments.asks_for_a_model:
            raise
        notes.append(f"no gradient norms: {error}")
        return None
    temperature = float(setting(run, "actor_rollout_ref.rollout.temperature", 1.0))
    drawn = draw_tokens(tokens.role, arguments.tokens, arguments.seed)
    model = load_policy(_weights(named, arguments.device, console), arguments.device)
    require_vocabulary(model, named.name, samples)
    with token_progress(console) as progress:
        task = progress.add_task("gradients", total=len(drawn))
        norms = gradient_norms(model, samples, tokens, drawn, temperature, lambda: progress.advance(task))
    return {"model": named.name, "checkpoint": named.step, "temperature": temperature, **norms}


def _weights(named: NamedModel, device: str, console: Console) -> str:
    if named.checkpoint and not named.checkpoint.is_merged:
        console.print(f"merging the checkpoint of step {named.step}: {named.checkpoint.merged}", soft_wrap=True)
    return named.with_weights(platform_environment("gpu" if device.startswith("cuda") else "cpu"))


def _notes(run: RunFolder, tokens: Tokens) -> list[str]:
    """Notes that a reader of this run's results needs."""
    notes = [f"no gradient mass for {name}: {why}" for name, why in tokens.left_out.items()]
    if not tokens.mass:
        notes.append("no gradient mass: the run kept no advantages")
    if setting(run, "filter.name", "none") not in ("none", "soft_reweight"):
        notes.append(
            f"filter={setting(run, 'filter.name')} dropped groups before they were kept: these are not a "
            "representative sample, and correlations over a selected range differ"
        )
    if setting(run, "credit.name") == "empg":
        notes.append("this run's advantages include EMPG's additive term; every weighting is applied to these")
    return notes


def _read_and_diagnose(words: Sequence[str], console: Console) -> None:
    arguments = read_arguments(Arguments, words)
    Console(highlight=False).print(diagnosis_tables(diagnose(arguments, console)))
    console.print(f"written: {arguments.folder}", soft_wrap=True)


def main(words: Sequence[str]) -> int:
    """Diagnose, show the tables on stdout and the rest on stderr; returns the exit status."""
    return run_command(words, _read_and_diagnose, lambda: help_text(__doc__ or "", Arguments))


if __name__ == "__main__":
    start(main)
