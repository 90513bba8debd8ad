"""What a run asks of Ray, counted by hand, and the error when a cluster has less."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.resources import check_resources, demanded
from tests.config.conftest import compose_config


def configuration(
    nodes: int = 1, slots: int = 1, storage_units: int = 1, cpus: int | None = 64, pool: tuple[int, int] | None = None
) -> DictConfig:
    """pool: nodes and slots a node of a reward model's own pool; else the keys have verl's defaults."""
    reward_nodes, reward_slots = pool or (0, 8)
    return OmegaConf.create(
        {
            "reward": {
                "reward_model": {
                    "enable_resource_pool": pool is not None,
                    "nnodes": reward_nodes,
                    "n_gpus_per_node": reward_slots,
                }
            },
            "trainer": {"nnodes": nodes, "n_gpus_per_node": slots},
            "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": storage_units}}},
            "ray_kwargs": {"ray_init": {"num_cpus": cpus}},
        }
    )


def nodes(*amounts: dict[str, float]) -> list[dict[str, Any]]:
    """Entries of `ray.nodes()`, as far as they are read."""
    return [{"Alive": True, "Resources": each} for each in amounts]


@pytest.mark.parametrize(
    ("config", "cpus", "gpus"),
    [
        (configuration(), 6, 1),  # controller 1 + storage 1 + slot 3 + free 1
        (configuration(slots=2), 9, 2),  # 1 + 1 + 2 x 3 + 1
        (configuration(slots=4, storage_units=8), 22, 4),  # 1 + 8 + 4 x 3 + 1
        (configuration(nodes=2, slots=8, storage_units=8), 58, 16),  # 1 + 8 + 16 x 3 + 1
        (configuration(slots=4, pool=(2, 1)), 21, 6),  # 1 + 1 + (4 + 2) x 3 + 1
    ],
)
def test_demand_is_counted(config: DictConfig, cpus: float, gpus: float) -> None:
    assert demanded(config) == {"CPU": cpus, "GPU": gpus}


def test_the_composed_configuration_has_the_keys_that_are_read() -> None:
    config = compose_config()
    assert demanded(config) == {"CPU": 6, "GPU": 1}
    amounts = {"CPU": config.ray_kwargs.ray_init.num_cpus, "GPU": config.ray_kwargs.ray_init.num_gpus}
    check_resources(config, amounts, nodes(amounts))


def test_exactly_enough_is_enough() -> None:
    amounts = {"CPU": 6.0, "GPU": 1.0, "memory": 1e9}
    check_resources(configuration(), amounts, nodes(amounts))


def test_too_few_cpus_are_named_with_their_key_and_remedy() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_resources(configuration(cpus=2), {"CPU": 2.0, "GPU": 1.0})
    assert str(caught.value) == (
        "ray_kwargs.ray_init.num_cpus=2: the run needs 6 CPU, the cluster has 2. Set "
        "ray_kwargs.ray_init.num_cpus to at least that (the CPUs are logical and may exceed the real ones), or lower "
        "transfer_queue.backend.SimpleStorage.num_data_storage_units"
    )


def test_too_few_gpus_are_named_with_their_key_and_remedy() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_resources(configuration(slots=4), {"CPU": 64.0})
    assert str(caught.value) == (
        "trainer.n_gpus_per_node=4: the run needs 4 GPU, the cluster has 0. Lower trainer.n_gpus_per_node or "
        "trainer.nnodes, or raise ray_kwargs.ray_init.num_gpus on a CPU machine"
    )


def test_a_cluster_without_a_number_of_cpus_in_the_configuration_is_named_too() -> None:
    """On a GPU machine num_cpus is null: Ray counts the cores."""
    with pytest.raises(ConfigurationError, match=r"^ray_kwargs\.ray_init\.num_cpus=None: .* 22 CPU, .* has 16\."):
        check_resources(configuration(slots=4, storage_units=8, cpus=None), {"CPU": 16.0, "GPU": 4.0})


def test_a_reward_models_pool_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"needs 6 GPU \(2 of the GPU slots are reward\.reward_model's"):
        check_resources(configuration(slots=4, pool=(2, 1)), {"CPU": 64.0, "GPU": 4.0})


def test_nodes_without_a_cluster_are_told_how_to_start_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_resources(configuration(nodes=2, slots=4), {"CPU": 64.0, "GPU": 4.0})
    assert str(caught.value) == (
        "trainer.n_gpus_per_node=4: the run needs 8 GPU, the cluster has 4. Start Ray on every node (ray start "
        "--head on one, ray start --address=<its address> on the others) and set the environment variable RAY_ADDRESS "
        "or ray_kwargs.ray_init.address to that address, or lower trainer.nnodes"
    )


@pytest.mark.parametrize(
    ("have", "remedy"), [({"CPU": 2.0, "GPU": 1.0}, "ray start --num-cpus"), ({"CPU": 99.0}, "--address")]
)
def test_a_joined_clusters_size_is_no_setting_of_the_run(have: dict[str, float], remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_resources(configuration(), have, joined=True)
    assert remedy in caught.value.remedy
    assert "ray_kwargs" not in caught.value.remedy


def test_enough_in_all_is_not_enough_on_a_node() -> None:
    """verl would wait for ever for a node that has all of a node's slots."""
    config = configuration(nodes=2, slots=4)
    node = {"CPU": 16.0, "GPU": 4.0}
    check_resources(config, {"CPU": 32.0, "GPU": 8.0}, nodes(node, node))
    check_resources(config, {"CPU": 32.0, "GPU": 8.0}, nodes({"CPU": 32.0, "GPU": 8.0}))  # one that is as large as two
    with pytest.raises(ConfigurationError) as caught:
        check_resources(
            config, {"CPU": 32.0, "GPU": 8.0}, nodes(node, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0})
        )
    assert str(caught.value) == (
        "trainer.n_gpus_per_node=4: the run needs 2 nodes (trainer.nnodes) with 4 GPU and 12 CPU each, and the "
        "cluster's nodes have 4 GPU and 16 CPU, 2 GPU and 8 CPU, 2 GPU and 8 CPU. Set trainer.n_gpus_per_node to the "
        "GPUs of one node, and trainer.nnodes to the number of such nodes"
    )
