"""Resolve the GPU environment anew and write requirements/constraints-gpu.txt. Nothing is installed.

python3.11 scripts/lock_gpu.py

On Linux x86_64 with Python 3.11, since pip resolves for the machine it runs on. It reads metadata from its index, and
builds what PyPI has as source only (antlr4-python3-runtime).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "requirements"
TARGET = FOLDER / "constraints-gpu.txt"
SOURCES = ("base.txt", "gpu.txt")

HEADER = """\
# Every version of the GPU environment, so that two installs are the same install (pip's -c):
#   pip install -c requirements/constraints-gpu.txt '.[gpu]'
# What pip {pip} resolved from PyPI for requirements/base.txt and gpu.txt on {system} with Python {python}.
# To renew: python3.11 scripts/lock_gpu.py
# flash-attn is not in the list, since pip cannot resolve it without building it: gpu.txt names its release.
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        sources = [word for name in SOURCES for word in ("-r", str(FOLDER / name))]
        status = subprocess.run([sys.executable, "-m", "pip", "install", *options, *sources], check=False).returncode
        if status:
            return status
        TARGET.write_text(constraints(json.loads(report.read_bytes())), encoding="utf-8")
    print(TARGET)
    return 0


def constraints(report: Mapping[str, Any]) -> str:
    """The text of the file for a report of pip's."""
    machine = report["environment"]
    system = f"{machine['platform_system']} {machine['platform_machine']}"
    header = HEADER.format(pip=report["pip_version"], system=system, python=machine["python_version"])
    packages = (item["metadata"] for item in report["install"])
    pins = sorted((f"{each['name']}=={each['version']}" for each in packages), key=str.lower)
    return header + "".join(f"{pin}\n" for pin in pins)


if __name__ == "__main__":
    sys.exit(main())
