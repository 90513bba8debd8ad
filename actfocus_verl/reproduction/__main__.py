"""`python -m actfocus_verl.reproduction plan|show|run|status|table|report <matrix>`: docs/reproducing.md."""

from __future__ import annotations

import sys

from actfocus_verl.reproduction.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
