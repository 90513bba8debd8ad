"""The command: python -m actfocus_verl.report."""

import subprocess
import sys

import pytest

from actfocus_verl.report import main


def test_one_run(run_path, capsys):
    with (run_path / "metrics.jsonl").open("a") as file:
        file.write('{"st')
    assert main([f"run={run_path}"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{run_path / 'report.html'}\n"
    assert output.err == f"note: {run_path}: metrics.jsonl: line 3, the last one, is cut short and was left out\n"
    assert (run_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_two_runs_and_a_file_of_one_s_own(run_path, tmp_path, capsys):
    assert main([f"run={run_path}", f"other={run_path}"]) == 0
    assert (run_path / "comparison.html").exists()
    page = tmp_path / "new" / "page.html"
    assert main([f"run={run_path}", f"out={page}", "episodes=0"]) == 0
    assert page.exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["other=b"], "error: run='': one folder is needed. Write run=outputs/<experiment>/<run>"),
        (["run="], "error: run=''"),
        (["folder"], "error: argument='folder': is no key=value"),
        (["run=RUN", "colour=red"], "error: colour='red': is unknown. Choose among run, other, out, episodes"),
        (["run=no/such/folder"], "error: run='no/such/folder': is no folder"),
        (["run=RUN", "other=no/such"], "error: run='no/such': is no folder"),
        (["run=RUN/.."], "error: run='RUN/..': is not a run's folder"),
        (["run=RUN", "episodes=-1"], "error: episodes=-1: is no whole number from 0 on"),
        (["run=RUN", "episodes=many"], "error: episodes='many': is no whole number from 0 on"),
        (["run=RUN", "out=RUN"], "error: out='RUN': cannot be written (Is a directory)"),
        (["run=[1]"], "error: run=[1]: is no path"),
    ],
)
def test_mistakes_are_one_line(run_path, words, message, capsys):
    assert main([word.replace("RUN", str(run_path)) for word in words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(message.replace("RUN", str(run_path)))
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_help(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "run=outputs/quickstart" in capsys.readouterr().out


def test_as_a_module(run_path):
    command = [sys.executable, "-m", "actfocus_verl.report", f"run={run_path}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"{run_path / 'report.html'}\n"), result.stderr
