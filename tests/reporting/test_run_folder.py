"""Reading a run's folder: whole, still going, killed, resumed, damaged."""

import json
import math

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.run_folder import RunFolder


def test_a_whole_run(run_path):
    run = RunFolder.open(str(run_path))
    assert run.path == run_path
    assert run.config == {"credit": {"name": "actfocus", "alpha": 0.1}}
    assert run.info == {"exit_reason": "finished"}
    assert run.metrics[0] == {"step": 1, "a/b": 0.5}
    assert math.isnan(run.metrics[1]["a/b"])
    assert [(e.step, e.successes, e.world) for e in run.evaluations] == [
        (0, 138, "frozen_lake/clean/test"),
        (20, 180, "frozen_lake/clean/test"),
        (40, 231, "frozen_lake/clean/test"),
    ]
    assert run.figures == run_path / "figures"
    assert run.notes == ()


def test_rollouts_of_a_step(run_path):
    run = RunFolder.open(run_path)
    assert run.rollout_steps() == [9, 10]
    assert run.rollouts(9) == [{"text": "a"}, {"text": "b"}]
    assert run.rollouts(10) == [{"text": "é"}]
    with pytest.raises(ConfigurationError, match=r"step=11: .* keeps no episodes of it. Choose one of: 9, 10"):
        run.rollouts(11)


def test_a_run_that_just_started(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    run = RunFolder.open(tmp_path)
    assert (run.info, run.metrics, run.evaluations, run.notes, run.rollout_steps()) == ({}, (), (), (), [])


def test_additional_fields_of_an_evaluation_are_allowed(run_path, make_evaluation, write):
    write(run_path / "evaluations.jsonl", [make_evaluation(0, 1, (0, 1), note="new")])
    assert len(RunFolder.open(run_path).evaluations) == 1


# --- killed and resumed runs


@pytest.mark.parametrize(
    "rest", ['{"step": 60, "env": "fro', '{"step": 60, "env": "é'.encode()[:-1], "\x00\x00\x00", "{"]
)
def test_a_line_cut_short_at_the_end_is_left_out_and_told(run_path, rest):
    with (run_path / "evaluations.jsonl").open("ab") as file:
        file.write(rest.encode() if isinstance(rest, str) else rest)
    run = RunFolder.open(run_path)
    assert [e.step for e in run.evaluations] == [0, 20, 40]
    assert run.notes == ("evaluations.jsonl: line 4, the last one, is cut short and was left out",)


def test_a_whole_last_line_without_newline_counts(run_path):
    with (run_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}')
    run = RunFolder.open(run_path)
    assert [record["step"] for record in run.metrics] == [1, 2, 3]
    assert run.notes == ()


def test_a_damaged_run_json_is_left_out_and_told(run_path):
    (run_path / "run.json").write_text('{"exit_rea')
    run = RunFolder.open(run_path)
    assert run.info == {}
    assert run.notes == ("run.json is damaged and was left out",)


def test_the_last_record_of_a_repeated_step_counts(run_path, make_evaluation, write):
    write(run_path / "metrics.jsonl", [{"step": s, "k": k} for k, s in enumerate([1, 2, 3, 2, 3, 4])])
    first, again = make_evaluation(0, 100, (0.1, 0.3)), make_evaluation(0, 120, (0.2, 0.3))
    write(run_path / "evaluations.jsonl", [first, again])
    run = RunFolder.open(run_path)
    assert run.metrics == ({"step": 1, "k": 0}, {"step": 2, "k": 3}, {"step": 3, "k": 4}, {"step": 4, "k": 5})
    assert [e.successes for e in run.evaluations] == [120]
    assert run.notes == (
        "metrics.jsonl: 2 earlier records of repeated steps (a resumed run) were left out",
        "evaluations.jsonl: 1 earlier records of repeated steps (a resumed run) were left out",
    )


def test_curves_are_named_by_what_tells_them_apart(run_path, make_evaluation, write):
    records = [
        make_evaluation(step, 100, (0.1, 0.3), **changes)
        for step in (10, 0)
        for changes in ({}, {"temperature": 1.0}, {"split": "train"}, {"seed": 7})
    ]
    write(run_path / "evaluations.jsonl", records)
    curves = RunFolder.open(run_path).curves()
    assert {name: [e.step for e in curve] for name, curve in curves.items()} == {
        "frozen_lake/clean/test, temperature 0.5, seed 0": [0, 10],
        "frozen_lake/clean/test, temperature 1, seed 0": [0, 10],
        "frozen_lake/clean/train": [0, 10],
        "frozen_lake/clean/test, temperature 0.5, seed 7": [0, 10],
    }


# --- errors


def test_no_folder(tmp_path):
    with pytest.raises(ConfigurationError, match=r"run='.*nowhere': is not a folder. Name a run's folder"):
        RunFolder.open(tmp_path / "nowhere")


def test_a_folder_of_runs_names_the_runs(run_path):
    with pytest.raises(ConfigurationError, match=r"is not a run's folder, .* Give one of the runs inside it: seed-0"):
        RunFolder.open(run_path.parent)


def test_an_unrelated_folder(tmp_path):
    with pytest.raises(ConfigurationError, match=r"it holds none of config.yaml, .* Give outputs/<experiment>/<run>"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"step": 1}\n{"st\n{"step": 2}\n', r"metrics.jsonl': line 2 is not valid JSON"),
        ('{"step": 1}\n[1]\n', r"metrics.jsonl': line 2 holds a list, not an object"),
        ('{"loss": 1}\n', r"metrics.jsonl': line 1 has no integer 'step'"),
    ],
)
def test_damage_elsewhere_is_an_error_that_names_the_line(run_path, text, message):
    (run_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ConfigurationError, match=message) as error:
        RunFolder.open(run_path)
    assert "\n" not in str(error.value)


def test_an_evaluation_without_a_field(run_path, make_evaluation):
    record = make_evaluation(0, 1, (0, 1))
    del record["rate"], record["seed"]
    (run_path / "evaluations.jsonl").write_text("\n" + json.dumps(record) + "\n")
    with pytest.raises(ConfigurationError, match=r"evaluations.jsonl': line 2 lacks rate, seed"):
        RunFolder.open(run_path)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [\n", "is not valid YAML"), ("- 1\n", "holds a list, not a mapping")]
)
def test_a_damaged_config(run_path, text, message):
    (run_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message) as error:
        RunFolder.open(run_path)
    assert "\n" not in str(error.value)
