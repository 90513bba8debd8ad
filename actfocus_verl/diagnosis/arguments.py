"""The command line of a diagnosis."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actfocus_verl.arguments import option


@dataclass(frozen=True)
class Arguments:
    """The keys of the command line. None: not given."""

    run: Path = option("a run's folder: its rollouts/<step>.jsonl are read")
    out: Path | None = option("folder for diagnosis.json and energy.png; default: <run>/diagnose", None)
    step: int | None = option("only the episodes of this training step; default: all steps together", None, low=1)
    tokens: int = option("tokens per role whose gradients are computed, one backward pass each", 100, low=0)
    model: str | None = option(
        "model's folder or Hugging Face id for these gradients; default: the run's latest checkpoint", None
    )
    checkpoint: int | None = option("training step of the run's checkpoint; default: the latest", None, low=1)
    device: str = option("device of the model, like cuda", "cpu")
    seed: int = option("random seed of the token sample", 0, low=0)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.run / "diagnose" if self.out is None else self.out

    @property
    def asks_for_a_model(self) -> bool:
        """Whether one was named, so that it must exist."""
        return self.model is not None or self.checkpoint is not None

    def to_json(self) -> dict[str, Any]:
        """As written to diagnosis.json."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
