"""Where the return of an episode is decided: shares of its variance by reasoning, action, format and luck.

    python -m actfocus_verl.truth model=outputs/quickstart out=outputs/truth
    python -m actfocus_verl.truth model=<model> env=frozen_lake boards=16 episodes=8 continuations=8 out=<folder>

Any other key, like max_turns=5, belongs to the world. Ctrl-C keeps every finished episode and boundary. Exit status:
0 finished, 1 failed, 2 a mistake in the command, 130 interrupted. See docs/truth.md.
"""

from __future__ import annotations

import os
from functools import partial

if __name__ == "__main__":
    # Read when torch is imported, as it is below: see `actfocus_verl.evaluate`.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from actfocus_verl.command import start
from actfocus_verl.truth.command import main

if __name__ == "__main__":
    start(partial(main, text=__doc__ or ""))
