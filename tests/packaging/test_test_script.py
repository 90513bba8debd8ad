"""scripts/test.sh and .ci/run: lints come first and stop the run, arguments reach pytest, whose line is the last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.packaging.conftest import ScriptTree, write_program


@pytest.fixture
def ready(scripts: ScriptTree) -> ScriptTree:
    """A tree whose fake .venv is up to date."""
    assert scripts.run().returncode == 0
    write_program(scripts.venv / "bin" / "lint-imports", "#!/usr/bin/env bash\nexit ${FAKE_LINT_IMPORTS:-0}\n")
    return scripts


@pytest.mark.parametrize("script", ["scripts/test.sh", ".ci/run"])
def test_the_last_line_is_pytests(ready: ScriptTree, script: str) -> None:
    result = ready.run(script)

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "1 passed in 0.01s"
    assert [call for call in ready.calls() if call.startswith(("-m ruff", "-m mypy", "-m pytest"))] == [
        "-m ruff check .",
        "-m mypy",
        "-m pytest -n 2 --dist loadfile -m not e2e and not nightly",
        "-m pytest -m e2e and not nightly",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_clusters_are_among_the_whole_runs_where_slurm_is_installed(ready: ScriptTree) -> None:
    write_program(ready.root / "bin" / "slurmctld", "#!/usr/bin/env bash\n")
    ready.run("scripts/test.sh", PATH=f"{ready.root / 'bin'}:{ready.env['PATH']}")
    assert ready.calls()[-1] == "-m pytest -m (e2e or cluster) and not nightly"


def test_arguments_go_to_pytest(ready: ScriptTree) -> None:
    ready.run("scripts/test.sh", "-m", "not e2e")
    assert ready.calls()[-1] == "-m pytest -m not e2e"


@pytest.mark.parametrize(("variable", "lint"), [("FAKE_RUFF", "ruff"), ("FAKE_LINT_IMPORTS", "import-linter")])
def test_a_failing_lint_fails_the_run_before_the_tests(ready: ScriptTree, variable: str, lint: str) -> None:
    result = ready.run("scripts/test.sh", **{variable: "1"})

    assert result.returncode == 1
    assert result.stderr == f"test.sh: error: {lint} failed: fix the errors above; the tests have not run\n"
    assert not any(call.startswith("-m pytest") for call in ready.calls())
    assert any(call == "-m mypy" for call in ready.calls())


def test_a_failing_bootstrap_ends_the_run(scripts: ScriptTree) -> None:
    assert scripts.run("scripts/test.sh", FAKE_VERSION="3.9.1").returncode == 1
    assert not any(call.startswith("-m") for call in scripts.calls())


def test_ci_goes_on_without_a_browser_and_java(ready: ScriptTree) -> None:
    result = ready.run(".ci/run")  # no apt-get on the PATH
    assert result.returncode == 0
    assert "install_chromium.sh: apt-get not found: install chromium manually\n" in result.stderr
    assert "the tests in a browser will be skipped\n" in result.stdout
    assert "install_java.sh: apt-get not found: install default-jre-headless manually\n" in result.stderr
    assert "the tests of textworld_express will be skipped\n" in result.stdout
    assert any(call.endswith("--no-deps -r requirements/ci.txt") for call in ready.calls())


@pytest.mark.parametrize(
    ("script", "program", "package"),
    [("install_chromium.sh", "chromium", "chromium"), ("install_java.sh", "java", "default-jre-headless")],
)
@pytest.mark.parametrize("root", [True, False])
def test_debians_package_is_installed_by_root_where_the_program_is_missing(
    scripts: ScriptTree, script: str, program: str, package: str, root: bool
) -> None:
    programs = Path(scripts.env["PATH"])
    log = programs / "apt-calls"
    (programs / "id").unlink()
    write_program(programs / "id", f"#!/usr/bin/env bash\necho {0 if root else 1000}\n")
    write_program(programs / "apt-get", f'#!/usr/bin/env bash\necho "$*" >>{log}\n')
    result = scripts.run(f"scripts/{script}")
    calls = log.read_text().splitlines() if log.exists() else []
    assert result.returncode == (0 if root else 1)
    if root:
        assert [call.split()[-1] for call in calls] == ["update", package]
        assert " install " in calls[1]
    else:
        assert calls == []
        assert f"{script}: root is required: have an administrator run 'apt-get install {package}'" in result.stderr

    write_program(programs / program, "#!/usr/bin/env bash\n")
    assert scripts.run(f"scripts/{script}").returncode == 0
    assert (log.read_text().splitlines() if log.exists() else []) == calls
