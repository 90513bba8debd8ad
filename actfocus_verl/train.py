"""`python -m actfocus_verl.train`: compose the configuration, check it, and hand over to verl's own runner.

    python -m actfocus_verl.train env=frozen_lake algorithm=grpo credit=actfocus model=tiny platform=cpu

Everything that can be known beforehand is checked before Ray starts. While the run lasts, a watchdog ends it when a
part of it dies; however it ends, no process of it survives.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from actfocus_verl.command import EXIT_INTERRUPTED, EXIT_LOST_NODE
from actfocus_verl.errors import FREE_SPACE, ConfigurationError, no_space_behind, one_line
from actfocus_verl.launch.claim import FolderClaim
from actfocus_verl.launch.quiet import driver_output, quiet_libraries, quiet_vllm
from actfocus_verl.launch.runner_end import RUNNER_NAME, ExitAtOnce, end_runner
from actfocus_verl.preflight.overrides import check_overrides, expand_agent
from actfocus_verl.run_files import RUN_FILE

if TYPE_CHECKING:
    from actfocus_verl.launch.cluster import Cluster, NodeNames
    from actfocus_verl.launch.record import RunRecord
    from actfocus_verl.launch.watchdog import Watchdog

VERL_CONFIG_VARIABLE = "ACTFOCUS_VERL_CONFIG"
LOG_FILE = "train.log"
_BEGAN = time.monotonic()
_NOT_JOINED = (
    "Check RAY_ADDRESS and ray_kwargs.ray_init.address. Where Ray was started with a token (ray start does, once its "
    "machine has one), set the environment variable RAY_AUTH_MODE=token and have the same ~/.ray/auth_token here"
)


class RunFailed(RuntimeError):  # noqa: N818  (an outcome, not a mistake in a call)
    """A run that ended without finishing; the message names the cause."""


class LostNode(RunFailed):
    """A run that lost a node, or a part on another node."""


def verl_config_folder() -> Path:
    """Return verl's Hydra folder without importing verl, which would fix its platform too early."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise RunFailed("verl is not installed: pip install 'actfocus_verl[cpu]' (or [gpu])")
    return Path(spec.origin).parent / "trainer" / "config"


def prepare(config: DictConfig, console: Console, claims: contextlib.ExitStack) -> DictConfig:
    """Check and complete the configuration: absolute run folder, environment variables, the tiny policy.

    claims: receives the claims of the folders that the run writes to, released at its end.

    Raises:
        ConfigurationError: every problem that is detectable before Ray starts.
    """
    from actfocus_verl.launch.compiled import compile_cache, remove_cut_short
    from actfocus_verl.preflight.derived import fill_derived  # not above: --help and Tab need not wait for torch
    from actfocus_verl.preflight.machine import check_machine
    from actfocus_verl.preflight.output import check_output
    from actfocus_verl.preflight.settings import check_config

    with open_dict(config):
        config.run.dir = str(Path(config.run.dir).absolute())
        fill_derived(config)
    check_config(config)
    check_machine(config)
    run_folder, checkpoints = Path(config.run.dir), Path(config.trainer.default_local_dir)
    claims.enter_context(FolderClaim("run.dir", run_folder))
    _make_model(config, console)  # before the folder is compared: config.yaml has the path of what was made
    check_output(config)
    if not checkpoints.samefile(run_folder):
        claims.enter_context(FolderClaim("trainer.default_local_dir", checkpoints))
    _set_environment(config)
    if config.get("tiny_policy") and config.model.path is None:
        config.model.path = str(_tiny_policy(config, console))
    # they import transformers and verl, which read what was just set
    from actfocus_verl.preflight.model import check_model
    from actfocus_verl.preflight.registered import check_registered

    check_model(config)
    check_registered(config)
    remove_cut_short(compile_cache())  # a kill may have left some, which vLLM would die of
    return config


def _set_environment(config: DictConfig) -> None:
    """Set what verl, vLLM and their loggers read from the environment, here and in Ray's workers wherever they are.

    The workers of a Ray that this process starts inherit it; those of a cluster that already runs get it from the
    configuration, with what the user set there last. Such a cluster also knows its own size.
    """
    from actfocus_verl.config import ray_address

    variables = {key: str(value) for key, value in config.platform.env_vars.items()}
    os.environ.update(variables)
    defaults = {"TENSORBOARD_DIR": str(Path(config.run.dir) / "tensorboard")}
    if config.platform.name == "cpu":
        # Ray gives a one-CPU actor one thread; training processes share the machine instead.
        threads = max(1, (os.cpu_count() or 1) // int(config.trainer.n_gpus_per_node))
        defaults["OMP_NUM_THREADS"] = str(threads)
    variables |= {key: os.environ.setdefault(key, value) for key, value in defaults.items()}

    ray_init = config.ray_kwargs.ray_init
    given = OmegaConf.select(ray_init, "runtime_env.env_vars") or {}
    # Ray's own are read when its processes start: they are of no use to a worker
    variables = {key: value for key, value in variables.items() if not key.startswith("RAY_")}
    with open_dict(config):
        OmegaConf.update(ray_init, "runtime_env.env_vars", variables | dict(given), force_add=True)
        if ray_address(config) is not None:
            ray_init.num_cpus = ray_init.num_gpus = None


def _tiny_policy(config: DictConfig, console: Console) -> Path:
    from actfocus_verl.launch.progress import StageProgress
    from actfocus_verl.policies.tiny import TinyPolicyConfig, ensure_tiny_policy

    section: dict[str, Any] = OmegaConf.to_container(config.tiny_policy, resolve=True)  # type: ignore[assignment]
    cache = Path(section.pop("cache")).absolute()
    with StageProgress("tiny policy", console) as progress:
        return ensure_tiny_policy(TinyPolicyConfig(**section), cache, progress)


def _make_model(config: DictConfig, console: Console) -> None:
    """Replace a model's path by the folder that is made of it here first, where it is such a model."""
    from actfocus_verl.launch.progress import StageProgress
    from actfocus_verl.local_models import resolve

    if isinstance(config.model.path, str):
        with StageProgress("model", console) as progress:
            made = resolve(config.model.path, progress)
        if made is not None:
            config.model.path = str(made)


class _SupervisedRunner:
    """verl's task-runner class as `run_ppo` uses it: checks the cluster, places the runner, checks the plugin in it.

    `on_ray` is called with the cluster as soon as this process is connected and the nodes are there; `nodes` takes
    their names.
    """

    def __init__(
        self,
        runner_class: Any,
        config: DictConfig,
        on_ray: Callable[[Cluster], None],
        nodes: NodeNames,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._runner_class = runner_class
        self._config = config
        self._on_ray = on_ray
        self._nodes = nodes
        self._options = options or {}

    def options(self, **options: Any) -> _SupervisedRunner:
        return _SupervisedRunner(self._runner_class, self._config, self._on_ray, self._nodes, self._options | options)

    def remote(self) -> Any:
        import ray

        from actfocus_verl import plugin
        from actfocus_verl.launch import cluster
        from actfocus_verl.launch.resources import check_resources

        signal.signal(signal.SIGTERM, _interrupt)  # ray.init took it, to end the process without a record
        if not self._config.run.verbose:
            quiet_vllm()
        connected = cluster.connected_cluster()
        if connected.joined and connected.nodes < self._config.trainer.nnodes:
            cluster.await_nodes(self._config.trainer.nnodes)
            connected = cluster.connected_cluster()
        self._nodes.note()
        self._on_ray(connected)
        check_resources(self._config, joined=connected.joined)
        if connected.joined:  # else its workers are this machine's and start as this process did
            _require_none("the nodes of the cluster differ", cluster.check_nodes(_local_models(self._config)))
        options = {"name": RUNNER_NAME, "scheduling_strategy": cluster.on_this_node(), **self._options}
        runner = self._runner_class.options(**options).remote()
        _require_registered(ray.get(runner.__ray_call__.remote(plugin.worker_probe())))
        folder = Path(self._config.run.dir)
        unseen = ray.get(runner.__ray_call__.remote(cluster.folder_probe(str(folder / RUN_FILE))))
        _require_none("the run's folder is not shared", cluster.folder_problem(str(folder), unseen))
        return runner


def _local_models(config: DictConfig) -> dict[str, str]:
    """The models that are folders of this machine, by key: training processes and servers on every node read them."""
    keys = ("actor_rollout_ref.model.path", "critic.model.path")
    paths = {key: OmegaConf.select(config, key) for key in keys}
    return {key: str(path) for key, path in paths.items() if path and Path(path).is_absolute()}


def _require_registered(problems: list[str]) -> None:
    _require_none("the plugin is not registered correctly", problems)


def _require_none(what: str, problems: Sequence[str]) -> None:
    if problems:
        raise RunFailed(f"{what}: {'; '.join(problems)}")


def train(
    config: DictConfig,
    console: Console,
    watchdog: Watchdog,
    on_ray: Callable[[Cluster], None] = lambda cluster: None,
    nodes: NodeNames | None = None,
    start_seconds: dict[str, float] | None = None,
) -> None:
    """Run verl on a prepared configuration, watched; raises RunFailed naming the dead part, or verl's own error.

    on_ray: called with the run's Ray cluster once connected. nodes: takes the names of its nodes. start_seconds: takes
    how long each stage of its start was.
    """
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    from actfocus_verl import plugin
    from actfocus_verl.launch.cluster import NodeNames
    from actfocus_verl.launch.progress import ProgressBar
    from actfocus_verl.launch.stages import StartUp

    _require_registered(plugin.verify())
    folder = Path(config.run.dir)
    nodes = nodes or NodeNames()
    start_up = StartUp(config, start_seconds, began=_BEGAN)
    with driver_output(folder / LOG_FILE, config.run.verbose), watchdog:
        try:
            with ProgressBar(folder, config.trainer.total_training_steps, console, start_up):
                run_ppo(config, task_runner_class=_SupervisedRunner(TaskRunnerV1, config, on_ray, nodes))
        except ConnectionError as error:  # Ray's, for a cluster that it was told to join
            raise RunFailed(f"{error}. {_NOT_JOINED}") from error
        except Exception as error:
            death, own = watchdog.death or watchdog.look(), _raised_by_the_run(error)
            mute = death is not None and death.leaves_ray_mute
            lost = [] if own or mute else nodes.lost()
            if lost:
                raise LostNode(f"the cluster lost node {', '.join(lost)}: {death or _cause(error)}") from error
            if not (own or mute):
                death = death or watchdog.look_elsewhere()
            if death is None or (death.may_follow_an_error and own):
                raise
            kind = LostNode if death.pid is None else RunFailed  # no process of this machine: another node's
            raise kind(str(death)) from error


def _raised_by_the_run(error: Exception) -> bool:
    """Whether code of the run raised it, and not Ray for a part that is gone."""
    from ray.exceptions import RayError, RayTaskError

    return isinstance(error, RayTaskError) and not isinstance(error.cause, RayError)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@hydra.main(config_path="pkg://actfocus_verl_configs", config_name="train", version_base=None)
def run(config: DictConfig) -> None:
    """Hydra's entry: prepare, then run while no other process writes to the run's folders."""
    console = Console(stderr=True)
    console.print("checking the configuration")
    if not config.run.verbose:
        quiet_libraries()
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.ExitStack() as claims:
        try:
            config = prepare(config, console, claims)
            record = _begin_record(config)
        except ConfigurationError as error:
            _fail(console, str(error))
        except KeyboardInterrupt:
            console.print("interrupted before the run began")
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:
            full = no_space_behind(error)
            if full is None:
                raise
            _fail(console, f"{one_line(full)}. {FREE_SPACE}, and start the same command again")
        _run(config, record, console)


def _begin_record(config: DictConfig) -> RunRecord:
    """The record of this start, with every value of the world."""
    from actfocus_verl.config import has_world, world_overrides
    from actfocus_verl.environments import world_config
    from actfocus_verl.launch.record import RunRecord

    record = RunRecord(Path(config.run.dir), config)
    if has_world(config):
        env = config.env
        record.note(world=asdict(world_config(env.name, preset=env.preset, **world_overrides(env))))
    return record


def _run(config: DictConfig, record: RunRecord, console: Console) -> None:
    """Train, record how it ended, leave no process behind; exits with an error unless it finished."""
    from actfocus_verl.launch.cluster import NodeNames
    from actfocus_verl.launch.disk import no_space, written_folders
    from actfocus_verl.launch.servers import ServerAddresses
    from actfocus_verl.launch.shutdown import shut_down
    from actfocus_verl.launch.watchdog import Watchdog, ray_log_folder

    nodes, ray_is_mute = NodeNames(), threading.Event()
    start_seconds: dict[str, float] = {}
    end_run = functools.partial(end_runner, ray_is_mute)
    watchdog = Watchdog(end_run, log_folders=[ray_log_folder()], servers=ServerAddresses(), node_at=nodes.at)
    console.print(f"run folder: {config.run.dir}", highlight=False, soft_wrap=True)
    reason, status = "finished", 1
    try:
        on_ray = functools.partial(_note_ray, console, record, watchdog)
        train(config, console, watchdog, on_ray=on_ray, nodes=nodes, start_seconds=start_seconds)
    except KeyboardInterrupt:  # the user's, or the watchdog's
        reason = "interrupted"
        if watchdog.death is not None:
            reason = f"failed: {watchdog.death}"
            status = EXIT_LOST_NODE if watchdog.death.pid is None else 1
    except Exception as error:  # noqa: BLE001  (recorded, shown, and turned into the exit status)
        full = no_space(written_folders(config), error)  # before the end of the processes empties shared memory
        reason = f"failed: {_cause(error)}" + (f"\n{full}" if full else "")
        status = EXIT_LOST_NODE if isinstance(error, LostNode) else 1
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave processes behind
            signal.signal(signum, signal.SIG_IGN)
        mute = ray_is_mute.is_set() or (watchdog.death is not None and watchdog.death.leaves_ray_mute)
        try:
            shut_down(watchdog.processes, ray_is_mute=mute)
        finally:
            _end_record(record, reason, start_seconds, console)
    if reason == "interrupted":
        console.print("interrupted; start the same command again to resume from the last checkpoint")
        sys.exit(EXIT_INTERRUPTED)
    if reason != "finished":
        logs = f"{Path(config.run.dir) / LOG_FILE}, and Ray's in {watchdog.log_folders[0]}"
        again = "\nstart the same command again to resume from the last checkpoint" if status == EXIT_LOST_NODE else ""
        _fail(console, f"{reason}\nlogs: {logs}{again}", status, ExitAtOnce if mute else SystemExit)


def _end_record(record: RunRecord, reason: str, start_seconds: dict[str, float], console: Console) -> None:
    """Record the end; a disk that is full must not hide what the end was."""
    try:
        record.end(reason, start_seconds=start_seconds)
    except OSError as error:
        console.print(f"{RUN_FILE} keeps no end of this run: {error}", highlight=False, markup=False, soft_wrap=True)


def _note_ray(console: Console, record: RunRecord, watchdog: Watchdog, cluster: Cluster) -> None:
    console.print(str(cluster), highlight=False, markup=False, soft_wrap=True)
    record.note(ray=cluster.as_json())
    if cluster.joined:
        watchdog.watch_cluster(cluster.address)


def _cause(error: BaseException) -> str:
    """Return the error's own message; Ray wraps a remote error in the traceback of every process it crossed."""
    cause = getattr(error, "cause", None)
    return f"{type(cause).__name__}: {cause}" if cause is not None else str(error) or type(error).__name__


def _fail(console: Console, message: str, status: int = 1, end: type[SystemExit] = SystemExit) -> None:
    console.print(f"error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise end(status)


def main() -> None:
    """Check the group names on the command line, then let Hydra compose."""
    try:
        sys.argv[1:] = expand_agent(sys.argv[1:])
        check_overrides(sys.argv[1:])
        os.environ.setdefault(VERL_CONFIG_VARIABLE, str(verl_config_folder()))
    except (ConfigurationError, RunFailed) as error:
        _fail(Console(stderr=True), str(error))
    try:
        run()
    except ExitAtOnce as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


if __name__ == "__main__":
    main()
