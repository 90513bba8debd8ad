"""The run's folder: unwritable, another run's, or with a checkpoint that cannot be loaded."""

from __future__ import annotations

import logging
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.preflight.output import check_output
from tests.config.conftest import changed
from tests.helpers.disk import fill, small_disk

PARTS = ("model", "optim", "extra_state")


@pytest.fixture
def config(default_config: DictConfig, tmp_path: Path) -> DictConfig:
    return changed(default_config, **{"run.dir": str(tmp_path / "run")})


def failure(config: DictConfig) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_output(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(config: DictConfig, step: int, *, world_size: int = 1, roles: tuple[str, ...] = ("actor",)) -> Path:
    """A checkpoint as verl's FSDP workers write it, with next to nothing in it, named by the tracker."""
    checkpoints = Path(config.trainer.default_local_dir)
    folder = checkpoints / f"global_step_{step}"
    for role in roles:
        (folder / role).mkdir(parents=True)
        for part in PARTS:
            for rank in range(world_size):
                torch.save({"x": torch.zeros(64)}, folder / role / f"{part}_world_size_{world_size}_rank_{rank}.pt")
    torch.save({}, folder / "data.pt")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))
    return folder


class TestWritable:
    def test_the_folders_are_made_and_nothing_is_left_in_them(self, config: DictConfig) -> None:
        check_output(config)
        folder = Path(config.run.dir)
        assert [path.name for path in folder.rglob("*")] == ["checkpoints"]

    def test_a_file_in_the_way(self, config: DictConfig) -> None:
        Path(config.run.dir).touch()
        assert failure(config) == (
            f"run.dir={config.run.dir!r}: cannot be written (File exists: {config.run.dir}). Choose another run.dir"
        )

    def test_a_place_where_nothing_can_be_made(self, config: DictConfig) -> None:
        message = failure(changed(config, **{"run.dir": "/proc/actfocus/run"}))
        assert message.startswith("run.dir='/proc/actfocus/run': cannot be written (No such file or directory: /proc/")

    def test_a_folder_that_refuses_files(self, config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        """The test may run as root, whom no permission stops."""

        def refuse(**_: object) -> None:
            raise PermissionError(13, "Permission denied", str(config.run.dir))

        monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
        assert f"cannot be written (Permission denied: {config.run.dir}). Choose another run.dir" in failure(config)

    def test_a_full_disk(self, config: DictConfig, tmp_path: Path) -> None:
        """An empty file still fits on it."""
        with small_disk(tmp_path / "disk") as folder:
            config = changed(config, **{"trainer.default_local_dir": str(folder / "checkpoints")})
            (folder / "checkpoints").mkdir()
            fill(folder)
            assert failure(config) == (
                f"trainer.default_local_dir='{folder}/checkpoints': cannot be written (No space left on device: "
                f"{folder}/checkpoints). Free space on its disk, or choose another trainer.default_local_dir"
            )

    def test_a_checkpoint_folder_elsewhere(self, config: DictConfig, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        message = failure(changed(config, **{"trainer.default_local_dir": str(tmp_path / "file" / "checkpoints")}))
        assert message.startswith("trainer.default_local_dir=")
        assert "cannot be written (Not a directory" in message


class TestCheckpoint:
    def test_a_whole_one_passes(self, config: DictConfig) -> None:
        save(config, 10)
        check_output(config)

    def test_a_whole_one_of_two_processes_and_a_critic_passes(self, config: DictConfig) -> None:
        config = changed(config, **{"critic.enable": True, "trainer.n_gpus_per_node": 2})
        save(config, 10, world_size=2, roles=("actor", "critic"))
        check_output(config)

    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("size", [0, 40, -30])
    def test_a_file_cut_short(self, config: DictConfig, part: str, size: int) -> None:
        save(config, 10)
        folder = save(config, 20)
        file = folder / "actor" / f"{part}_world_size_1_rank_0.pt"
        file.write_bytes(file.read_bytes()[:size])
        message = failure(config)
        assert message == (
            f"trainer.default_local_dir={config.trainer.default_local_dir!r}: the checkpoint to resume from is "
            f"corrupt: {file} is damaged ({file.stat().st_size} bytes, not a complete torch file). Delete {folder} and "
            f"write an earlier step into {folder.parent / 'latest_checkpointed_iteration.txt'} (saved: 10), or set "
            "trainer.resume_mode=disable to start over"
        )

    def test_a_missing_file(self, config: DictConfig) -> None:
        folder = save(config, 10)
        (folder / "actor" / "optim_world_size_1_rank_0.pt").unlink()
        assert "optim_world_size_1_rank_0.pt is missing. Delete" in failure(config)
        assert "(none is saved)" in failure(config)

    def test_a_missing_critic(self, config: DictConfig) -> None:
        save(config, 10)
        message = failure(changed(config, **{"critic.enable": True}))
        assert "critic/model_world_size_1_rank_0.pt is missing" in message

    def test_a_damaged_position_in_the_data(self, config: DictConfig) -> None:
        (save(config, 10) / "data.pt").write_bytes(b"PK")
        assert "data.pt is damaged" in failure(config)

    def test_another_number_of_processes(self, config: DictConfig) -> None:
        folder = save(config, 10, world_size=2)
        assert failure(config) == (
            f"trainer.n_gpus_per_node=1: the checkpoint {folder} was saved by 2 processes, and this run has 1 (nodes "
            "times GPUs). Use the same number, or set trainer.resume_mode=disable"
        )

    @pytest.mark.parametrize("content", ["", "ten", "-1", "1.5"])
    def test_a_tracker_without_a_number(self, config: DictConfig, content: str) -> None:
        folder = save(config, 10)
        (folder.parent / "latest_checkpointed_iteration.txt").write_text(content)
        message = failure(config)
        assert f"latest_checkpointed_iteration.txt holds {content!r}, not a step number. Write a saved step" in message
        assert "(saved: 10), or set trainer.resume_mode=disable to start over" in message

    def test_a_lost_tracker(self, config: DictConfig) -> None:
        """verl would start from scratch, and write over what is there."""
        save(config, 10)
        tracker = save(config, 20).parent / "latest_checkpointed_iteration.txt"
        tracker.unlink()
        assert failure(config) == (
            f"trainer.default_local_dir={str(tracker.parent)!r}: holds checkpoints, but no "
            f"latest_checkpointed_iteration.txt that names the latest. Write a saved step into {tracker} "
            "(saved: 10, 20), or set trainer.resume_mode=disable to start over"
        )

    def test_a_first_checkpoint_cut_short(self, config: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
        """Killed while it was saved: there is nothing to go on from, and nobody to ask."""
        (save(config, 10).parent / "latest_checkpointed_iteration.txt").unlink()
        with caplog.at_level(logging.WARNING):
            check_output(config)
        assert "the checkpoint of step 10" in caplog.text
        assert "was cut short: starting over" in caplog.text

    def test_what_cannot_be_resumed_from_is_not_recommended(self, config: DictConfig) -> None:
        """verl removes the weights of an old checkpoint and leaves its folder."""
        shutil.rmtree(save(config, 10) / "actor")
        (save(config, 20) / "actor" / "optim_world_size_1_rank_0.pt").write_bytes(b"PK")
        save(config, 30)
        folder = save(config, 40)
        (folder / "actor" / "model_world_size_1_rank_0.pt").unlink()
        assert "(saved: 30), or set" in failure(config)

    def test_a_lost_position_in_the_data(self, config: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
        (save(config, 10) / "data.pt").unlink()
        with caplog.at_level(logging.WARNING):
            check_output(config)
        assert "data.pt is missing: the resumed run begins its data from the start again" in caplog.text

    @pytest.mark.parametrize("size", [0, -1])
    def test_episodes_in_flight_cut_short(self, config: DictConfig, size: int) -> None:
        """What an asynchronous schedule had played and not trained on."""
        file = save(config, 10) / "transfer_queue" / "storage_units" / "unit_0.pkl"
        file.parent.mkdir(parents=True)
        file.write_bytes(pickle.dumps({"x": list(range(100))}))
        check_output(config)
        file.write_bytes(file.read_bytes()[:size])
        assert f"{file} is damaged ({file.stat().st_size} bytes, not a complete pickle file)" in failure(config)

    def test_a_tracker_that_names_nothing(self, config: DictConfig) -> None:
        """verl would say so on stdout and start from scratch."""
        folder = save(config, 10)
        (folder.parent / "latest_checkpointed_iteration.txt").write_text("20\n")
        assert "latest_checkpointed_iteration.txt names step 20, but global_step_20 does not exist. " in failure(config)

    def test_disable_looks_at_none(self, config: DictConfig) -> None:
        (save(config, 10) / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"")
        check_output(changed(config, **{"trainer.resume_mode": "disable"}))

    def test_a_given_path(self, config: DictConfig, tmp_path: Path) -> None:
        folder = save(config, 10)
        config = changed(config, **{"trainer.resume_mode": "resume_path", "run.dir": str(tmp_path / "other")})
        check_output(changed(config, **{"trainer.resume_from_path": str(folder)}))
        (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"")
        assert "is corrupt" in failure(changed(config, **{"trainer.resume_from_path": str(folder)}))
        for path in (None, str(folder.parent), str(tmp_path / "global_step_3")):
            message = failure(changed(config, **{"trainer.resume_from_path": path}))
            assert message.startswith(
                f"trainer.resume_from_path={path!r}: is not a checkpoint folder. Give the path of a"
            )

    def test_other_strategies_keep_other_files(self, config: DictConfig) -> None:
        (save(config, 10) / "actor" / "model_world_size_1_rank_0.pt").unlink()
        check_output(changed(config, **{"actor_rollout_ref.actor.strategy": "megatron"}))

    def test_what_is_not_loaded_need_not_be_there(self, config: DictConfig) -> None:
        (save(config, 10) / "actor" / "optim_world_size_1_rank_0.pt").unlink()
        check_output(changed(config, **{"actor_rollout_ref.actor.checkpoint.load_contents": ["model", "extra"]}))


class TestSeveralNodes:
    """Two nodes of two GPUs, each of which keeps what its own processes saved."""

    @pytest.fixture
    def nodes(self, config: DictConfig) -> DictConfig:
        return changed(config, **{"trainer.nnodes": 2, "trainer.n_gpus_per_node": 2})

    def said(self, config: DictConfig, caplog: pytest.LogCaptureFixture) -> list[str]:
        with caplog.at_level(logging.WARNING):
            check_output(config)
        return [record.getMessage() for record in caplog.records]

    def test_a_shared_disk_has_all_of_it(self, nodes: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
        save(nodes, 10, world_size=4)
        assert self.said(nodes, caplog) == []

    @pytest.mark.parametrize("here", [(0, 1), (2, 3), ()])
    def test_what_the_other_node_keeps_is_not_missing(
        self, nodes: DictConfig, caplog: pytest.LogCaptureFixture, here: tuple[int, ...]
    ) -> None:
        folder = save(nodes, 10, world_size=4)
        for part in PARTS:
            for rank in set(range(4)) - set(here):
                (folder / "actor" / f"{part}_world_size_4_rank_{rank}.pt").unlink()
        (message,) = self.said(nodes, caplog)
        missing = min(set(range(4)) - set(here))
        assert message == (
            f"trainer.default_local_dir={folder.parent}: {12 - 3 * len(here)} of the 13 files of global_step_10 are "
            f"not on this machine (the first: actor/model_world_size_4_rank_{missing}.pt). That is fine if each "
            "node keeps its own; otherwise loading will fail, and trainer.resume_mode=disable starts over."
        )

    def test_a_file_cut_short_is_a_warning(self, nodes: DictConfig, caplog: pytest.LogCaptureFixture) -> None:
        folder = save(nodes, 10, world_size=4)
        for name in ("data.pt", "actor/optim_world_size_4_rank_3.pt"):
            (folder / name).write_bytes(b"PK")
        (message,) = self.said(nodes, caplog)
        assert "2 of the 13 files of global_step_10 are not complete torch files here" in message
        assert "elete" not in message
        assert "corrupt" not in message

    def test_another_number_of_processes(self, nodes: DictConfig) -> None:
        """Told by whatever is left of it here."""
        folder = save(nodes, 10, world_size=8)
        for file in folder.rglob("*rank_0.pt"):
            file.unlink()
        assert "was saved by 8 processes, and this run has 4 (nodes times GPUs)" in failure(nodes)

    def test_a_tracker_that_names_nothing(self, nodes: DictConfig) -> None:
        tracker = save(nodes, 10).parent / "latest_checkpointed_iteration.txt"
        tracker.write_text("20")
        assert "names step 20, but global_step_20 does not exist. Write a saved step" in failure(nodes)


class TestRecords:
    @pytest.mark.parametrize("name", ["metrics.jsonl", "local_updates.jsonl", "evaluations.jsonl"])
    @pytest.mark.parametrize("line", ["\0\0\0", '{"loss": 1.0}', '{"step": null}', "[1]", "3"])
    def test_a_damaged_line_is_named(self, config: DictConfig, name: str, line: str) -> None:
        """As after a loss of power. The trainer would meet it once the models are loaded."""
        folder = Path(config.run.dir)
        folder.mkdir()
        (folder / name).write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
        message = failure(config)
        assert message.startswith(f"run.dir='{folder}': line 2 of {folder / name} is damaged (")
        assert message.endswith("). Remove the line, or repair it")

    def test_a_last_line_cut_short_is_no_damage(self, config: DictConfig) -> None:
        Path(config.run.dir).mkdir()
        (Path(config.run.dir) / "metrics.jsonl").write_text('{"step": 1}\n{"st')
        check_output(config)


class TestAnotherRun:
    @pytest.fixture
    def earlier(self, config: DictConfig) -> DictConfig:
        """The configuration of a run whose records are in the folder."""
        folder = Path(config.run.dir)
        folder.mkdir()
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        return config

    def test_the_same_one_may_go_on(self, earlier: DictConfig) -> None:
        """Longer, with more evaluation, and with what is worked out at the start still null."""
        sizes = {"env.train_size": 100, "env.evaluation_size": 64, "trainer.total_training_steps": 80}
        check_output(changed(earlier, **sizes, **{"tiny_policy.cache": "/elsewhere"}))

    def test_the_tiny_policy_s_path_is_not_known_yet(self, earlier: DictConfig) -> None:
        """A run's record holds the path of the built policy; the next start asks for it with null."""
        record = changed(earlier, **{"model.path": "/cache/tiny_policy/key"})
        (Path(earlier.run.dir) / "config.yaml").write_text(OmegaConf.to_yaml(record, resolve=True))
        check_output(earlier)

    @pytest.mark.parametrize(
        ("values", "difference"),
        [
            ({"env.preset": "ragen"}, "env.preset='clean', and this one has 'ragen'"),
            ({"env.size": 5}, "env.size=None, and this one has 5"),
            ({"data.train_files": ["a.jsonl"]}, "data.train_files='train', and this one has ['a.jsonl']"),
            ({"algorithm_name": "ppo"}, "algorithm_name='grpo', and this one has 'ppo'"),
            ({"credit.alpha": 0.3}, "credit.alpha=0.1, and this one has 0.3"),
            ({"filter.ratio": 0.5}, "filter.ratio=1.0, and this one has 0.5"),
            ({"model.path": "org/name"}, "model.path=None, and this one has 'org/name'"),
            ({"tiny_policy.coupling": "coupled"}, "tiny_policy.coupling='loose', and this one has 'coupled'"),
            ({"run.seed": 1}, "env.seed=0, and this one has 1"),
        ],
    )
    def test_another_one_may_not(self, earlier: DictConfig, values: dict[str, object], difference: str) -> None:
        assert failure(changed(earlier, **values)) == (
            f"run.dir={earlier.run.dir!r}: holds a run with {difference}. Choose another run.name, or delete the folder"
        )

    def test_a_start_that_got_nowhere_is_no_run(self, earlier: DictConfig) -> None:
        check_output(earlier)  # which makes the folder of the checkpoints
        (Path(earlier.run.dir) / "metrics.jsonl").unlink()
        check_output(changed(earlier, **{"credit.alpha": 0.3}))
        (Path(earlier.run.dir) / "checkpoints" / "global_step_1").mkdir()
        assert "holds a run with credit.alpha=0.1" in failure(changed(earlier, **{"credit.alpha": 0.3}))

    def test_an_unreadable_configuration(self, earlier: DictConfig) -> None:
        (Path(earlier.run.dir) / "config.yaml").write_text("a: [")
        assert "its config.yaml cannot be read. Choose another run.name" in failure(earlier)
