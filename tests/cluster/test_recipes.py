"""recipes/cluster without a cluster: SLURM's and Ray's programs are replaced, and KubeRay's file fits its schema."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from actfocus_verl.command import EXIT_LOST_NODE
from actfocus_verl.launch.claim import JOB_VARIABLE
from actfocus_verl.preflight.overrides import check_overrides
from tests.cluster.schema import RAY_JOB
from tests.helpers.slurm_programs import PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes" / "cluster"
HEALTH = re.compile(r"RAY_health_check_(period_ms|timeout_ms|failure_threshold)\D+(\d+)")
GUARD_SECONDS = 60
JOB = str(os.getpid())
PORT = 20000 + os.getpid() % 10000
NOTICED_SECONDS = 40
"""How soon Ray counts a silent node as lost: the run has 20 s more to end."""


@pytest.mark.parametrize("script", sorted(RECIPES.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    result = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert result.returncode == 2
    assert f"{script.name}: error: no command" in result.stderr


@pytest.mark.parametrize("recipe", ["slurm.sh", "kuberay.yaml"])
def test_a_silent_node_is_noticed_in_time(recipe: str) -> None:
    checks = {name: int(value) for name, value in HEALTH.findall((RECIPES / recipe).read_text())}
    each = (checks["period_ms"] + checks["timeout_ms"]) / 1000
    assert each * checks["failure_threshold"] <= NOTICED_SECONDS


class TestSlurm:
    """The script in a job of two nodes: every program it calls writes its words down."""

    @pytest.fixture
    def job(self, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>{tmp_path}/calls\n{text}\n')
            (programs / name).chmod(0o755)
        started = []

        def begin(*command: str, nodes: int = 2, **variables: str) -> subprocess.Popen[str]:
            given = {"SLURM_JOB_ID": JOB, "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "gpu-[1-2]"}
            given |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "RAY": str(programs / "ray"), **variables}
            started.append(
                subprocess.Popen(
                    ["bash", str(RECIPES / "slurm.sh"), *command],
                    env=os.environ | given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )
            return started[-1]

        yield begin
        for process in started:
            process.kill()
            process.communicate()

    @staticmethod
    def calls(tmp_path: Path) -> list[str]:
        return (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []

    def test_two_nodes_are_one_cluster(self, job: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
        show = f"until grep -q ^srun {tmp_path}/calls; do sleep 0.02; done; "
        show += 'echo "$RAY_ADDRESS $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $ACTFOCUS_JOB $RAY_TMPDIR $1"'
        process = job("bash", "-c", show, "_", "a b; c", RAY_START_OPTIONS="--num-cpus=8 --num-gpus=1")
        text, _ = process.communicate(timeout=GUARD_SECONDS)
        assert process.returncode == 0, text
        assert f"0.0.0.0:{PORT} token 64 slurm-cluster-{JOB} /tmp/ray-{os.getuid()}-{JOB} a b; c" in text
        calls = self.calls(tmp_path)
        options = "--block --disable-usage-stats --num-cpus=8 --num-gpus=1"
        head = f"--head --node-ip-address=0.0.0.0 --port={PORT} --include-dashboard=false"
        assert f"ray start {head} {options}" in calls
        (srun,) = [call for call in calls if call.startswith("srun ")]
        assert "--nodes=1 --ntasks=1 --exclude=gpu-1 " in srun
        assert srun.endswith(f"ray start --address=0.0.0.0:{PORT} {options}")
        assert not [call for call in calls if call.startswith("scontrol requeue")]

    def test_one_node_starts_its_own_ray(self, job: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
        process = job("bash", "-c", 'echo "address=${RAY_ADDRESS:-}"; exit 3', nodes=1)
        text, _ = process.communicate(timeout=GUARD_SECONDS)
        assert (process.returncode, text) == (3, "address=\n")
        assert self.calls(tmp_path) == []

    @pytest.mark.parametrize(("status", "restarts", "again"), [(75, 0, True), (75, 5, False), (1, 0, False)])
    def test_a_lost_node_requeues_the_job(
        self, job: Callable[..., subprocess.Popen[str]], tmp_path: Path, status: int, restarts: int, again: bool
    ) -> None:
        process = job("bash", "-c", f"exit {status}", nodes=1, SLURM_RESTART_COUNT=str(restarts))
        process.communicate(timeout=GUARD_SECONDS)
        assert process.returncode == status
        assert (f"scontrol requeue {JOB}" in self.calls(tmp_path)) is again
        assert f"lost_a_node={EXIT_LOST_NODE}\n" in (RECIPES / "slurm.sh").read_text()

    @pytest.mark.parametrize(("signum", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
    def test_a_signal_ends_the_run_in_order(
        self, job: Callable[..., subprocess.Popen[str]], tmp_path: Path, signum: signal.Signals, again: bool
    ) -> None:
        ready = tmp_path / "ready"
        run = f"trap 'sleep 0.2; echo ended; exit 130' TERM; touch {ready}; while :; do sleep 0.05; done"
        process = job("bash", "-c", run, nodes=1)
        deadline = time.monotonic() + GUARD_SECONDS
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signum)
        text, _ = process.communicate(timeout=GUARD_SECONDS)
        assert process.returncode == 130
        assert text.startswith("ended\n")
        assert (f"scontrol requeue {JOB}" in self.calls(tmp_path)) is again


def test_a_rays_job_keeps_words_and_folder(tmp_path: Path) -> None:
    program = tmp_path / "ray"
    program.write_text('#!/usr/bin/env bash\nprintf "<%s>" "$@" >&2\n')
    program.chmod(0o755)
    words = ["bash", str(RECIPES / "ray.sh"), sys.executable, "-m", "x", "a b=$c"]
    result = subprocess.run(
        words, env=os.environ | {"RAY": str(program)}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"actfocus-\d{8}-\d{6}-\d+\n", result.stdout)
    assert result.stderr.startswith("<job><submit><--no-wait><--entrypoint-num-cpus><1><--submission-id><actfocus-")
    assert result.stderr.endswith(f"<{tmp_path}><{sys.executable}><-m><x><a b=$c>")


class TestKubeRay:
    @pytest.fixture(scope="class")
    def ray_job(self) -> dict[str, Any]:
        return yaml.safe_load((RECIPES / "kuberay.yaml").read_text())

    def test_it_fits_the_schema(self, ray_job: dict[str, Any]) -> None:
        jsonschema.Draft202012Validator.check_schema(RAY_JOB)
        jsonschema.validate(ray_job, RAY_JOB)

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (("spec", "backoffLimits"), 3),
            (("spec", "backoffLimit"), "3"),
            (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 32),
            (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "container"), []),
        ],
    )
    def test_a_mistake_would_be_seen(self, ray_job: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
        changed = copy.deepcopy(ray_job)
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, RAY_JOB)

    def test_its_command_is_one_of_ours(self, ray_job: dict[str, Any]) -> None:
        words = ray_job["spec"]["entrypoint"].split()
        assert words[:3] == ["python", "-m", "actfocus_verl.train"]
        check_overrides(words[3:])
        given = dict(word.split("=", 1) for word in words[3:])
        cluster = ray_job["spec"]["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        assert int(given["trainer.nnodes"]) == 1 + sum(group["replicas"] for group in cluster["workerGroupSpecs"])
        for group in groups:
            spec = group["template"]["spec"]
            (container,) = spec["containers"]
            assert container["resources"]["limits"]["nvidia.com/gpu"] == given["trainer.n_gpus_per_node"]
            assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
            assert given["run.dir"].startswith("/shared/")
        environment = yaml.safe_load(ray_job["spec"]["runtimeEnvYAML"])["env_vars"]
        assert environment == {JOB_VARIABLE: f"kuberay-{ray_job['metadata']['name']}"}
