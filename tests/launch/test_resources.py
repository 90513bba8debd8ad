"""What a run asks of Ray, counted by hand, and the error when a cluster has less."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.resources import check_resources, demanded
from tests.config.conftest import compose_config


def configuration(nodes: int = 1, slots: int = 1, storage_units: int = 1, cpus: int | None = 64) -> DictConfig:
    return OmegaConf.create(
        {
            "trainer": {"nnodes": nodes, "n_gpus_per_node": slots},
            "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": storage_units}}},
            "ray_kwargs": {"ray_init": {"num_cpus": cpus}},
        }
    )


@pytest.mark.parametrize(
    ("config", "cpus", "gpus"),
    [
        (configuration(), 6, 1),  # controller 1 + storage 1 + slot 3 + free 1
        (configuration(slots=2), 9, 2),  # 1 + 1 + 2 x 3 + 1
        (configuration(slots=4, storage_units=8), 22, 4),  # 1 + 8 + 4 x 3 + 1
        (configuration(nodes=2, slots=8, storage_units=8), 58, 16),  # 1 + 8 + 16 x 3 + 1
    ],
)
def test_demand_is_counted(config: DictConfig, cpus: float, gpus: float) -> None:
    assert demanded(config) == {"CPU": cpus, "GPU": gpus}


def test_the_composed_configuration_has_the_keys_that_are_read() -> None:
    config = compose_config()
    assert demanded(config) == {"CPU": 6, "GPU": 1}
    check_resources(config, {"CPU": config.ray_kwargs.ray_init.num_cpus, "GPU": config.ray_kwargs.ray_init.num_gpus})


def test_exactly_enough_is_enough() -> None:
    check_resources(configuration(), {"CPU": 6.0, "GPU": 1.0, "memory": 1e9})


def test_too_few_cpus_are_named_with_their_key_and_remedy() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_resources(configuration(cpus=2), {"CPU": 2.0, "GPU": 1.0})
    assert str(caught.value) == (
        "ray_kwargs.ray_init.num_cpus=2: the run asks Ray for 6 CPU, the cluster has 2. Set "
        "ray_kwargs.ray_init.num_cpus to at least that (the CPUs are logical and may exceed the real ones), or lower "
        "transfer_queue.backend.SimpleStorage.num_data_storage_units"
    )


def test_too_few_gpus_are_named_with_their_key_and_remedy() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_resources(configuration(slots=4), {"CPU": 64.0})
    assert str(caught.value) == (
        "trainer.n_gpus_per_node=4: the run asks Ray for 4 GPU, the cluster has 0. Lower trainer.n_gpus_per_node or "
        "trainer.nnodes, or raise ray_kwargs.ray_init.num_gpus on a CPU machine"
    )


def test_a_cluster_without_a_number_of_cpus_in_the_configuration_is_named_too() -> None:
    """On a GPU machine num_cpus is null: Ray counts the cores."""
    with pytest.raises(ConfigurationError, match=r"^ray_kwargs\.ray_init\.num_cpus=None: .* 22 CPU, .* has 16\."):
        check_resources(configuration(slots=4, storage_units=8, cpus=None), {"CPU": 16.0, "GPU": 4.0})
