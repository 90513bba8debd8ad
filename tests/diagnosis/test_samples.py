"""Episodes read back from a run's folder, and folders that hold none or damaged ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.diagnosis.samples import read_samples, setting, whole_group_size
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.run_folder import RunFolder
from tests.diagnosis.conftest import EPISODES, records, write_rollouts


def test_columns_are_those_of_the_file(run: Path) -> None:
    first, second = read_samples(RunFolder.open(run))
    assert (first.step, second.step) == (2, 4)
    for sample in (first, second):
        for row, episode in enumerate(records(sample.step)):
            length = len(episode["responses"])
            for name, column in sample.columns.items():
                found, expected = column[row].tolist(), episode[name]
                assert found[:length] == pytest.approx(expected, rel=1e-7, nan_ok=True)  # float32
                assert found[length:] == [0] * (len(found) - length)
            assert sample.prompts[row] == episode["prompt_ids"]
            assert (sample.returns[row], sample.groups[row]) == (episode["return"], episode["group"])
    assert first.group_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_one_step(run: Path) -> None:
    assert [sample.step for sample in read_samples(RunFolder.open(run), 4)] == [4]
    with pytest.raises(ConfigurationError, match=r"step=3: .* keeps no episodes of it. Choose one of: 2, 4"):
        read_samples(RunFolder.open(run), 3)


def test_a_column_that_not_all_episodes_have_is_none(run: Path) -> None:
    episodes = records(2)
    del episodes[5]["energy"]
    write_rollouts(run, 2, episodes)
    first, second = read_samples(RunFolder.open(run))
    assert "energy" not in first.columns
    assert "energy" in second.columns


def test_a_masked_token_is_one_of_the_environment(run: Path, rewrite: Callable[..., None]) -> None:
    def mask_first(episode: dict[str, Any]) -> None:
        episode["response_mask"][0] = 0
        episode["energy"][0] = math.nan

    rewrite(2, mask_first)
    assert read_samples(RunFolder.open(run))[0].columns["token_roles"][:, 0].tolist() == [0] * 12


def test_a_run_that_kept_nothing(run: Path) -> None:
    for file in (run / "rollouts").iterdir():
        file.unlink()
    with pytest.raises(ConfigurationError, match=r"kept no episodes. Train with run.rollouts_a_step >= 1"):
        read_samples(RunFolder.open(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda episode: episode.pop("token_roles"), "episode 1 lacks token_roles"),
        (lambda episode: episode["energy"].pop(), r"episode 1 has \d+ energy for \d+ tokens"),
        (lambda episode: episode.update({"return": None}), "episode 1 has the return None"),
        (lambda episode: episode.update(responses=3), "episode 1 has a int as responses, not a list"),
        (lambda episode: episode["energy"].__setitem__(0, math.nan), "episode 1 has a energy that is not finite"),
        (lambda episode: episode["token_roles"].__setitem__(0, 9), "token_roles holds values from 0 to 9"),
        (lambda episode: episode["response_mask"].__setitem__(5, 1), "response_mask marks"),
    ],
)
def test_damaged_records(
    run: Path, rewrite: Callable[..., None], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewrite(4, change)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_samples(RunFolder.open(run))
    assert "4.jsonl" in str(caught.value)


def test_the_size_of_a_whole_group(run: Path) -> None:
    folder = RunFolder.open(run)
    assert whole_group_size(folder, read_samples(folder)) == EPISODES
    assert setting(folder, "credit.name") == "actfocus"
    assert setting(folder, "credit.name.more", 1) == 1
    (run / "config.yaml").write_text("credit: {}\n")
    write_rollouts(run, 2, records(2)[:2])
    folder = RunFolder.open(run)
    assert whole_group_size(folder, read_samples(folder, 2)) == 2
