"""SLURM's daemons on the two nodes, from Debian's packages: nothing of the machine's own configuration is used."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from tests.cluster.nodes import ADDRESSES, NAMES, Nodes, wait_until

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
_CONFIGURATION = """
ClusterName=actfocus
SlurmctldHost={head}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=60
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(absent)} not installed: bash scripts/install_slurm.sh" if absent else None


class Slurm:
    """slurmctld on the first node, slurmd on both, and one munged for both. `Nodes.remove` ends them."""

    def __init__(self, nodes: Nodes, folder: Path, cpus: int = 2) -> None:
        self._nodes = nodes
        self._folder = folder
        self._cpus = cpus
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        folder = self._folder
        (folder / "state").mkdir()
        for name in NAMES:
            (folder / f"spool-{name}").mkdir()
        lines = [
            f"NodeName={name} NodeAddr={address} NodeHostname={name} CoresPerSocket={self._cpus} State=UNKNOWN"
            for name, address in zip(NAMES, ADDRESSES, strict=True)
        ]
        (folder / "slurm.conf").write_text(
            _CONFIGURATION.format(head=NAMES[0], address=ADDRESSES[0], folder=folder, nodes="\n".join(lines))
        )
        # `ip netns exec` mounts a /sys without cgroups, which slurmd would otherwise look for.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        folder.chmod(0o755)
        munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}"]
        munged += [f"--{kind}-file={folder}/munged.{kind}" for kind in ("pid", "seed", "log")]
        self._nodes.start(NAMES[0], munged, folder / "munged.out")
        wait_until((folder / "munge.socket").exists, "munge socket", 20, folder / "munged.out")
        self._nodes.start(NAMES[0], ["slurmctld", "-D"], folder / "slurmctld.out", **self.variables)
        for name in NAMES:
            self._nodes.start(name, ["slurmd", "-D"], folder / f"slurmd-{name}.out", **self.variables)
        wait_until(lambda: self._idle() == len(NAMES), "two idle nodes", 60, folder / "slurmctld.log")

    def _idle(self) -> int:
        try:
            states = self.call("sinfo", "-h", "-N", "-o", "%T").split()
        except AssertionError:  # the controller does not answer yet
            return 0
        return states.count("idle")

    def call(self, *words: str) -> str:
        return self._nodes.call(NAMES[0], *words, **self.variables)

    def job(self, identity: str) -> dict[str, str]:
        """What `scontrol` knows of a job: JobState, Restarts, NodeList, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", identity)))

    def start_requeued(self, identity: str) -> None:
        """Start a requeued job now; SLURM lets it wait two minutes.

        Not before its first attempt has left the nodes, nor in the second in which it was killed there: a node would
        take the new start for the killed one, and the job fails with "Job credential revoked".
        """
        wait_until(lambda: self.job(identity)["JobState"] == "PENDING", "end of the first attempt", 90)
        time.sleep(2)
        self.call("scontrol", "update", f"JobId={identity}", "StartTime=now")
