"""What libraries print in the driver's process, kept off the terminal, where the progress bar is."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def driver_output(path: Path, verbose: bool) -> Iterator[None]:
    """Send what verl prints in this process to a file, so that the terminal shows the progress bar only."""
    if verbose:
        yield
        return
    with path.open("a") as file, contextlib.redirect_stdout(file):
        yield


def quiet_libraries() -> None:
    """Keep the libraries' info messages of this process off the terminal; warnings and errors still show."""
    for handler in logging.getLogger().handlers:  # Hydra's, on stdout: verl's loggers tell what they chose
        handler.setLevel(logging.WARNING)
    # Ray warns at every start of a cluster that token authentication is on, which is its default since 2.60.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)


def quiet_vllm() -> None:
    """Keep vLLM's and transformers' messages off the terminal when Ray imports vLLM here, for a server's actor.

    They report that Triton and torchvision are missing, which this process does not need. Only once Ray runs: the
    workers inherit the environment, and their logs are where the cause of an error is looked for.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # where vLLM's logger is configured later
    for name in ("vllm", "transformers"):  # where it was before
        logging.getLogger(name).setLevel(logging.ERROR)
