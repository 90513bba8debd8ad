"""The command line of a diagnosis."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actfocus_verl.arguments import option
from actfocus_verl.errors import ConfigurationError


@dataclass(frozen=True)
class Arguments:
    """The keys of the command line. None: not given."""

    run: Path | None = option("a run's folder: its rollouts/<step>.jsonl are read", None)
    evaluation: Path | None = option("instead of a run, the folder of an evaluation with rollouts=true", None)
    energy: bool = option(
        "of an evaluation: compute the energy of its tokens, one forward pass of the model per episode", True
    )
    out: Path | None = option("folder for diagnosis.json and energy.png; default: <run or evaluation>/diagnose", None)
    step: int | None = option("only the episodes of this training step; default: all steps together", None, low=1)
    tokens: int = option("tokens per role whose gradients are computed, one backward pass each", 100, low=0)
    model: str | None = option(
        "model's folder or Hugging Face id for energy and gradients; default: the run's latest checkpoint, or the "
        "model that was evaluated",
        None,
    )
    checkpoint: int | None = option("training step of the run's checkpoint; default: the latest", None, low=1)
    device: str = option("device of the model, like cuda", "cpu")
    seed: int = option("random seed of the token sample", 0, low=0)

    def __post_init__(self) -> None:
        if self.run is None and self.evaluation is None:
            raise ConfigurationError("run", None, "is required", "Add run=<path>, or evaluation=<path>")
        if self.evaluation is not None:
            for key in ("run", "step"):
                if (value := getattr(self, key)) is not None:
                    raise ConfigurationError(key, str(value), "is not for an evaluation", f"Leave {key} out")

    @property
    def source(self) -> Path:
        """The folder that is diagnosed."""
        chosen = self.run if self.evaluation is None else self.evaluation
        assert chosen is not None, "__post_init__ refuses that"
        return chosen

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.source / "diagnose" if self.out is None else self.out

    @property
    def asks_for_a_model(self) -> bool:
        """Whether one was named, so that it must exist."""
        return self.model is not None or self.checkpoint is not None

    def to_json(self) -> dict[str, Any]:
        """As written to diagnosis.json."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
