"""Bodies of stand-ins for the programs that recipes/cluster/slurm.sh calls, in a job on gpu-1 and gpu-2.

The first node has the address 0.0.0.0, which leads to this machine, where only its loopback listens.
"""

from __future__ import annotations

import sys
from typing import Final

PROGRAMS: Final = {
    "scontrol": '[[ "$1 $2" != "show hostnames" ]] || printf "gpu-1\\ngpu-2\\n"',
    "getent": 'echo "0.0.0.0 STREAM gpu-1"',
    "ray": f"""
port="$(sed 's/.*--port=//; s/ .*//' <<<"$*")"
[[ "$*" != *--head* ]] || exec {sys.executable} -m http.server "$port" --bind 127.0.0.1
exec sleep 60""",
    "srun": "exec sleep 60",
}
