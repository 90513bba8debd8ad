"""Run a matrix of experiments (recipes/matrices) until all of it is done, and report on it: docs/reproducing.md.

.venv/bin/python scripts/reproduce.py plan recipes/matrices/pilot.yaml
.venv/bin/python scripts/reproduce.py run recipes/matrices/pilot.yaml
.venv/bin/python scripts/reproduce.py status recipes/matrices/pilot.yaml
.venv/bin/python scripts/reproduce.py report recipes/matrices/pilot.yaml
"""

from __future__ import annotations

import sys

from actfocus_verl.reproduction.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
