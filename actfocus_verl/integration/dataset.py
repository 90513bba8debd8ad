"""The datasets: rows are board indices, or the tasks of the user's agent.

No prompt text of a board is stored; the world renders it when the episode starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from torch.utils.data import Dataset

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.gateway.tasks import read_tasks

AGENT_NAME = "actfocus"
FORKED_AGENT_NAME = "actfocus_forked"
GATEWAY_AGENT_NAME = "actfocus_gateway"

TASK = "task"
"""Column with the row of a file of tasks."""


class BoardDataset(Dataset):  # type: ignore[type-arg]
    """Boards 0..n-1 of one split of one world, for verl's `data.custom_cls`.

    verl builds it from `data.train_files` or `data.val_files`, which hold here the name of a split instead of a path,
    and from `data.boards`: {env, preset, train_size, evaluation_size, train_loop}. Boards of another split than `train`
    are always played from the beginning.
    """

    def __init__(self, data_files: Any, config: DictConfig, max_samples: int = -1, **_: Any) -> None:
        self.split = data_files if isinstance(data_files, str) else str(data_files[0])
        boards = config.boards
        sizes = {"train": boards.train_size, "evaluation": boards.evaluation_size, "test": boards.evaluation_size}
        if self.split not in sizes:
            raise ConfigurationError("data.*_files", self.split, "is not a known split", f"Use one of {sorted(sizes)}.")
        self.env, self.preset = boards.env, boards.preset
        self.agent_name = boards.get("train_loop", AGENT_NAME) if self.split == "train" else AGENT_NAME
        self.size = sizes[self.split] if max_samples < 0 else min(max_samples, sizes[self.split])

    def __len__(self) -> int:
        return int(self.size)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "split": self.split,
            "agent_name": self.agent_name,
            "data_source": f"{self.env}/{self.preset}/{self.split}",
            "raw_prompt": [],  # verl counts rows by this column; the world writes the messages
            "reward_model": {"style": "environment", "ground_truth": None},
        }


class TaskDataset(Dataset):  # type: ignore[type-arg]
    """The rows of .jsonl, .json or .parquet files, with whatever columns they have: what the user's agent is given.

    `data_source` names a row's validation metrics, by default the file.
    """

    def __init__(self, data_files: Any, config: DictConfig, max_samples: int = -1, **_: Any) -> None:
        files = list(data_files) if isinstance(data_files, list | ListConfig) else [data_files]
        rows = [(Path(file).stem, row) for file in files for row in read_tasks(Path(file).expanduser())]
        self.rows = rows if max_samples < 0 else rows[:max_samples]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, row = self.rows[index]
        return {
            "index": index,
            TASK: row,
            "agent_name": GATEWAY_AGENT_NAME,
            "data_source": str(row.get("data_source") or source),
            "raw_prompt": [],  # verl counts rows by this column; the agent writes the messages
            "reward_model": {"style": "agent", "ground_truth": None},
        }
