"""The command: python -m actfocus_verl.report."""

import subprocess
import sys

import pytest

from actfocus_verl.report import main
from actfocus_verl.reporting.run_folder import RunFolder
from actfocus_verl.reporting.summary import success_summary


def test_one_run(run_path, capsys):
    with (run_path / "metrics.jsonl").open("a") as file:
        file.write('{"st')
    assert main([f"run={run_path}"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{run_path / 'report.html'}\n{success_summary(RunFolder.open(run_path))}\n"
    figure = run_path / "figures" / "success.png"
    assert output.err == (
        f"figure: {figure}\nnote: {run_path}: metrics.jsonl: line 3, the last one, is cut short and was left out\n"
    )
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert (run_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_two_runs_and_a_file_of_one_s_own(run_path, tmp_path, capsys):
    assert main([f"run={run_path}", f"other={run_path}"]) == 0
    page, *lines = capsys.readouterr().out.splitlines()
    assert page == str(run_path / "comparison.html")
    assert [line.startswith(f"{run_path}: success: ") for line in lines] == [True, True]
    page = tmp_path / "new" / "page.html"
    assert main([f"run={run_path}", f"out={page}", "episodes=0"]) == 0
    assert page.exists()


def test_a_run_without_an_evaluation_has_a_page(run_path, capsys):
    (run_path / "evaluations.jsonl").unlink()
    assert main([f"run={run_path}"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{run_path / 'report.html'}\n"
    assert f"note: {run_path}: no evaluation yet, so no success.png" in output.err
    assert not (run_path / "figures").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["other=b"], "error: run=None: is required. Add run=<path>"),
        (["run="], "error: run=None: is required."),
        (["folder"], "error: argument='folder': must be key=value"),
        (["run=RUN", "colour=red"], "error: colour='red': is not a known key. Known: run, other, out, episodes"),
        (["run=no/such/folder"], "error: run='no/such/folder': is not a folder"),
        (["run=RUN", "other=no/such"], "error: run='no/such': is not a folder"),
        (["run=RUN/.."], "error: run='RUN/..': is not a run's folder"),
        (["run=RUN", "episodes=-1"], "error: episodes=-1: must be an integer >= 0. Write for example episodes=1000"),
        (["run=RUN", "episodes=many"], "error: episodes='many': must be an integer >= 0."),
        (["run=RUN", "out=RUN"], "error: out='RUN': cannot be written (Is a directory)"),
        (["run=[1]"], "error: run=[1]: must be a path. Write for example run=<path>"),
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
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{run_path / 'report.html'}\nsuccess: ")
