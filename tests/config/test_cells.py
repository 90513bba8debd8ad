"""Every cell of the matrices, expanded: its settings are those that cells.json has, key by key.

cells.json was written by commit e360c49, where each cell was a file: `experiments` has what all cells of an experiment
share, `cells` what is a cell's own, both resolved, of the keys that those files set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.reproduction.matrix import Experiment, read_matrix
from actfocus_verl.train import VERL_CONFIG_VARIABLE, verl_config_folder
from tests.config.conftest import compose_config

ROOT = Path(__file__).resolve().parents[2]
BEFORE = json.loads(Path(__file__).with_name("cells.json").read_text(encoding="utf-8"))
MATRICES = {file.stem: read_matrix(file).experiments for file in sorted((ROOT / "recipes" / "matrices").glob("*.yaml"))}
CELLS = (
    MATRICES["paper"] | MATRICES["pilot"] | MATRICES["small"] | {"quickstart": Experiment("quickstart", "quickstart")}
)


def expected(name: str) -> dict[str, Any]:
    shared = max((each for each in BEFORE["experiments"] if name.startswith(each)), key=len)
    return BEFORE["experiments"][shared] | BEFORE["cells"][name]


def selected(config: DictConfig, keys: Sequence[str]) -> dict[str, Any]:
    values = {key: OmegaConf.select(config, key, throw_on_missing=True) for key in keys}
    return {key: OmegaConf.to_container(each) if OmegaConf.is_config(each) else each for key, each in values.items()}


@pytest.fixture(scope="module")
def part_of_verl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compared keys of verl's configuration alone: all of it costs a second for every cell."""
    with initialize_config_dir(str(verl_config_folder()), version_base=None):
        whole = compose("ppo_trainer")
    part = OmegaConf.create()
    for key in sorted({key for name in BEFORE["cells"] for key in expected(name)}):
        above, _, last = key.rpartition(".")
        section = OmegaConf.select(whole, above) if above else whole
        if section is not None and last in section:
            OmegaConf.update(part, key, section[last], force_add=True)
    folder = tmp_path_factory.mktemp("verl")
    (folder / "ppo_trainer.yaml").write_text(OmegaConf.to_yaml(part))
    return folder


def test_every_cell_of_before_is_one_now_and_no_other() -> None:
    assert sorted(CELLS) == sorted(BEFORE["cells"])


@pytest.mark.parametrize("name", BEFORE["cells"])
def test_a_cell_s_settings_are_what_they_were(name: str, part_of_verl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERL_CONFIG_VARIABLE, str(part_of_verl))
    with initialize_config_module("actfocus_verl_configs", version_base=None):
        config = compose("train", overrides=list(CELLS[name].settings))
    found = selected(config, list(expected(name)))
    assert json.dumps(found) == json.dumps(expected(name))  # so that 1 is not 1.0, nor true


@pytest.mark.parametrize("name", ["paper/webshop_3b_grpo_uniform", "small/sudoku_ppo_placebo"])
def test_verl_s_own_files_change_none_of_it(name: str) -> None:
    found = selected(compose_config(*CELLS[name].settings), list(expected(name)))
    assert json.dumps(found) == json.dumps(expected(name))


def test_the_page_s_rewrites_are_the_cells_settings() -> None:
    page = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `experiment=([\w./]+)` \| `(experiment=[^`]+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 5
    for name, words in rows:
        assert {*words.split()} == {each for each in CELLS[name].settings if not each.startswith("run.name=")}
