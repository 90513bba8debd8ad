"""Where reward variance and the gradient sit among the tokens of a run, or of an evaluation before training.

    python -m actfocus_verl.diagnose run=outputs/quickstart
    python -m actfocus_verl.diagnose run=outputs/quickstart step=10 checkpoint=10 tokens=300
    python -m actfocus_verl.diagnose run=outputs/quickstart tokens=0
    python -m actfocus_verl.diagnose evaluation=<folder of an evaluation with rollouts=true> tokens=0

Exit status: 0 finished, 1 failed, 2 a mistake in the command, 130 interrupted. See docs/diagnose.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console

from actfocus_verl.arguments import help_text, read_arguments
from actfocus_verl.command import run_command, start
from actfocus_verl.diagnosis.arguments import Arguments
from actfocus_verl.diagnosis.correlations import Group, correlations, whole_groups
from actfocus_verl.diagnosis.display import diagnosis_tables, token_progress
from actfocus_verl.diagnosis.evaluations import EnergyFile, EvaluationEpisodes, response_energy
from actfocus_verl.diagnosis.figures import plot_energy
from actfocus_verl.diagnosis.gradients import draw_tokens, gradient_norms, require_vocabulary
from actfocus_verl.diagnosis.influence import influence_figures
from actfocus_verl.diagnosis.samples import Source, run_source
from actfocus_verl.diagnosis.tokens import Tokens, flat_tokens, role_shares, token_figures
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.evaluation.engine import local_weights
from actfocus_verl.evaluation.episodes import EpisodeKey
from actfocus_verl.evaluation.models import NamedModel, find_model, load_policy, weights_digest
from actfocus_verl.files import write_json
from actfocus_verl.launch.claim import FolderClaim
from actfocus_verl.launch.progress import StageProgress
from actfocus_verl.launch.record import installed_versions, source_commit
from actfocus_verl.reporting.run_folder import RunFolder

RESULT_FILE, FIGURE_FILE = "diagnosis.json", "energy.png"

Json = dict[str, Any]


def diagnose(arguments: Arguments, console: Console) -> Json:
    """Diagnose a run or an evaluation and write the files; returns what diagnosis.json holds.

    console: for progress. Raises ConfigurationError, and EvaluationError when a checkpoint cannot be merged.
    """
    if arguments.evaluation is not None:
        return _diagnose_evaluation(arguments, EvaluationEpisodes(arguments.evaluation), console)
    run = RunFolder.open(arguments.source)
    with FolderClaim("out", arguments.folder):
        return _diagnose(arguments, run_source(run, arguments.step), None, list(run.notes), console)


def _diagnose_evaluation(arguments: Arguments, episodes: EvaluationEpisodes, console: Console) -> Json:
    with FolderClaim("out", arguments.folder):
        if not arguments.energy:
            return _diagnose(arguments, episodes.source(None), None, [], console)
        source = episodes.source(None)
        named = _named_model(arguments, source)
        path = _weights(named, arguments.device, console)
        reference = {
            "name": named.name,
            "step": named.step,
            "weights": weights_digest(path) if named.is_folder else None,
        }
        file = EnergyFile(arguments.folder, reference)
        model = load_policy(path, arguments.device)
        require_vocabulary(model, named.name, source.samples)
        energies = _energies(episodes, model, file, console)
        return _diagnose(arguments, episodes.source(energies), model, [], console)


def _named_model(arguments: Arguments, source: Source) -> NamedModel:
    """The model that was asked for, or that of the source."""
    if arguments.asks_for_a_model:
        return find_model(arguments.model or source.model, arguments.checkpoint)
    return find_model(source.model, source.checkpoint)


def _energies(
    episodes: EvaluationEpisodes, model: torch.nn.Module, file: EnergyFile, console: Console
) -> dict[EpisodeKey, list[float]]:
    """Those of the file, and those that are missing in it."""
    missing = [record for record in episodes.records if record.key not in file.energies]
    done = len(episodes.records) - len(missing)
    with StageProgress("diagnosis", console) as progress:
        for number, record in enumerate(missing, start=done):
            progress("energy", number, len(episodes.records))
            assert record.rollout is not None, "EvaluationEpisodes refuses that"
            file.append(record.key, response_energy(model, record.rollout["prompt_ids"], record.rollout["responses"]))
    return file.energies


def _diagnose(
    arguments: Arguments, source: Source, model: torch.nn.Module | None, notes: list[str], console: Console
) -> Json:
    """model: where it is loaded already."""
    folder = arguments.folder
    samples = source.samples
    tokens = flat_tokens(samples)
    groups = _groups(source, notes)
    found: Json = {
        "evaluation" if arguments.evaluation is not None else "run": str(source.path),
        "arguments": arguments.to_json(),
        "commit": source_commit(),
        "versions": installed_versions(),
        "steps": [sample.step for sample in samples],
        "episodes": sum(len(sample.groups) for sample in samples),
        "groups": len(set(tokens.cluster.tolist())),
        "tokens": token_figures(tokens),
        "influence": influence_figures(samples),
        "correlation": correlations(groups) if groups else None,
        "gradient_mass": {name: role_shares(mass, tokens.role, tokens.cluster) for name, mass in tokens.mass.items()},
        "gradient_norms": _norms(arguments, source, model, tokens, notes, console),
        "prompt_groups": [asdict(group) for group in groups],
    }
    found["notes"] = [*notes, *_notes(tokens), *source.remarks]
    (folder / FIGURE_FILE).unlink(missing_ok=True)  # of an earlier diagnosis
    if groups:
        plot_energy(groups, found["correlation"]["pooled"], folder / FIGURE_FILE)
    write_json(folder / RESULT_FILE, found)
    return found


def _groups(source: Source, notes: list[str]) -> list[Group]:
    """The whole groups of samples with energy; what is missing is noted."""
    with_energy = [sample for sample in source.samples if "energy" in sample.columns]
    if len(with_energy) < len(source.samples) and source.energy_remedy is not None:
        without = len(source.samples) - len(with_energy)
        notes.append(f"{without} of {len(source.samples)} steps kept no energy: {source.energy_remedy}")
    groups, cut = whole_groups(with_energy, source.group_size)
    if cut:
        remedy = f"set run.rollouts_a_step to a multiple of {source.group_size}"
        notes.append(f"{cut} groups were kept only in part and are left out of the correlation: {remedy}")
    return groups


def _norms(
    arguments: Arguments,
    source: Source,
    model: torch.nn.Module | None,
    tokens: Tokens,
    notes: list[str],
    console: Console,
) -> Json | None:
    """Gradient norms of drawn tokens; None if not requested, or without a checkpoint."""
    if arguments.tokens == 0:
        return None
    try:
        named = _named_model(arguments, source)
    except ConfigurationError as error:
        if arguments.asks_for_a_model:
            raise
        notes.append(f"no gradient norms: {error}")
        return None
    drawn = draw_tokens(tokens.role, arguments.tokens, arguments.seed)
    if model is None:
        model = load_policy(_weights(named, arguments.device, console), arguments.device)
        require_vocabulary(model, named.name, source.samples)
    with token_progress(console) as progress:
        task = progress.add_task("gradients", total=len(drawn))
        advance = partial(progress.advance, task)
        norms = gradient_norms(model, source.samples, tokens, drawn, source.temperature, advance)
    return {"model": named.name, "checkpoint": named.step, "temperature": source.temperature, **norms}


def _weights(named: NamedModel, device: str, console: Console) -> str:
    return local_weights(named, "gpu" if device.startswith("cuda") else "cpu", console)


def _notes(tokens: Tokens) -> list[str]:
    """Which gradient masses there are none of, and why."""
    notes = [f"no gradient mass for {name}: {why}" for name, why in tokens.left_out.items()]
    if not tokens.mass:
        notes.append("no gradient mass: the run kept no advantages")
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
