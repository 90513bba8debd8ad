"""A row is a board index."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.integration.dataset import BoardDataset

CONFIG = OmegaConf.create({"boards": {"env": "frozen_lake", "preset": "clean", "train_size": 10, "evaluation_size": 4}})


def test_a_row_names_a_board_and_holds_no_prompt() -> None:
    row = BoardDataset("train", CONFIG)[7]
    assert (row["index"], row["split"], row["agent_name"]) == (7, "train", "actfocus")
    assert row["data_source"] == "frozen_lake/clean/train"
    assert row["raw_prompt"] == []


@pytest.mark.parametrize(
    ("files", "max_samples", "size"),
    [("train", -1, 10), (["evaluation"], -1, 4), ("test", -1, 4), ("train", 3, 3), ("evaluation", 9, 4)],
)
def test_sizes(files: object, max_samples: int, size: int) -> None:
    assert len(BoardDataset(files, CONFIG, max_samples=max_samples)) == size


def test_verls_other_arguments_are_taken() -> None:
    assert len(BoardDataset(data_files="train", config=CONFIG, tokenizer=None, processor=None)) == 10


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'dev'.*evaluation.*test.*train"):
        BoardDataset("dev", CONFIG)
