"""The report: its numbers against ones worked by hand, its bytes against themselves, the paper's against the files."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reproduction.matrix import Comparison, Experiment, Matrix, Sweep, read_matrix
from actfocus_verl.reproduction.report import cells, tables, write_report
from actfocus_verl.reproduction.report.checklist import checklist_table
from actfocus_verl.reproduction.report.document import Heading, Table, Text, to_html, to_markdown
from actfocus_verl.reproduction.report.overview import overview_table

UNIFORM = Experiment("small/uniform", "uniform", paper=("frozen_lake_3b_grpo_uniform", "frozen_lake_0.5b_grpo_uniform"))
ACTFOCUS = Experiment("small/actfocus", "ActFocus")
STEPS = 8
ROOT = Path(__file__).resolve().parents[2]


def summary(experiment: Experiment, seed: int, successes: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """A run of 8 steps with evaluations on 100 episodes."""
    evaluations = [
        {"step": 4 * place, "env": "frozen_lake", "preset": "clean", "split": "evaluation", "episodes": 100}
        | {
            "successes": count,
            "rate": count / 100,
            "mean_return": count / 50,
            "temperature": 0.5,
            "valid_action_rate": 1.0,
        }
        for place, count in enumerate(successes)
    ]
    credit = {"name": "uniform", "placebo": False} if experiment is UNIFORM else {"name": "actfocus", "alpha": 0.1}
    settings = {
        "env": {"name": "frozen_lake", "preset": "clean", "train_size": 10},
        "algorithm_name": "grpo",
        "credit": credit,
        "filter": {"name": "none", "ratio": 1.0},
        "platform.name": "cpu",
        "data.train_batch_size": 8,
        "actor_rollout_ref.rollout.n": 8,
        "trainer.total_training_steps": STEPS,
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": 4,
    }
    return {
        "format": 1,
        "experiment": experiment.name,
        "seed": seed,
        "code": {"source": "s", "commit": "c0ffee", "packages": {"verl": "0.9.1"}},
        "mixed_versions": False,
        "settings_digest": experiment.name,
        "machine": {"cores": 2, "processor": "x86_64", "memory_gb": 23.5},
        "cost": {"seconds": 1800.0, "starts": 1, "starts_without_end": 0},
        "settings": settings,
        "policy": {"name": "tiny", "parameters": 1_050_000},
        "evaluations": evaluations,
        "metrics": {
            "step": list(range(1, STEPS + 1)),
            "response_tokens/reasoning": [80.0, 60.0, 1.0, 1.0, 1.0, 1.0, 50.0, 30.0],
            "response_length/min": [10.0] * STEPS,
            "response_length/mean": [20.0] * STEPS,
            "response_length/max": [30.0] * STEPS,
            "timing_s/step": [2.0] * STEPS if experiment is UNIFORM else [3.0] * STEPS,
            "perf/total_num_tokens": [1000] * STEPS,
        },
    } | changes


# Final: uniform 30, 40, 50; ActFocus 42, 44, 46. Peak of ActFocus' first run is 60.
SUMMARIES = [
    *(summary(UNIFORM, seed, (20, 25, final)) for seed, final in enumerate((30, 40, 50))),
    summary(ACTFOCUS, 0, (20, 60, 42)),
    summary(ACTFOCUS, 1, (20, 30, 44)),
    summary(ACTFOCUS, 2, (20, 30, 46)),
]
SWEEP = Sweep("alpha", "credit.alpha", {"ActFocus": ("small/actfocus",)}, choose_best=True)
MATRIX = Matrix(
    "mine",
    (0, 1, 2),
    {"FrozenLake": (UNIFORM, ACTFOCUS)},
    comparisons=(Comparison("small/actfocus", "small/uniform", "does it help"),),
    sweeps=(SWEEP,),
)


@pytest.fixture
def both() -> dict[str, cells.Cell]:
    return cells.cells_of(MATRIX, SUMMARIES)


def row(table: Table, name: str) -> dict[str, str]:
    (found,) = [line for line in table.rows if line[0] == name]
    return dict(zip(table.columns, found, strict=True))


def test_a_final_evaluation_stands_beside_the_runs_own() -> None:
    """Only where a run had one: reports of matrices without it keep their columns."""
    success = {"rate": 0.25, "low": 0.2, "high": 0.305, "interval": "Wilson"}
    played = {"preset": "clean", "episodes": 512, "boards": 512, "success": success}
    matrix = Matrix("trial", (0, 1), {"all": (UNIFORM, ACTFOCUS)})
    plain, other = summary(UNIFORM, 0, (20, 30)), summary(ACTFOCUS, 0, (20, 40), final_evaluation=played)
    found = list(cells.cells_of(matrix, [plain, other]).values())
    table = tables.success_table(found)
    assert table.columns[3:5] == ["final", "final elsewhere"]
    assert [row[3:5] for row in table.rows] == [["30.0", "–"], ["40.0", "25.0"]]
    table = tables.runs_table(found)
    assert [row[3] for row in table.rows] == ["–", "25.0 [20.0, 30.5], clean, 512"]
    without = list(cells.cells_of(matrix, [plain]).values())
    assert "final elsewhere" not in tables.success_table(without).columns


class TestSuccess:
    def test_over_seeds(self, both: dict[str, cells.Cell]) -> None:
        """30, 40, 50: mean 40, s = 10, t(2) = 4.302653, half = 24.8414; 18, 0, 0: mean 6, s = 10.3923, half 25.816."""
        table = tables.success_table(list(both.values()))
        uniform, actfocus = row(table, "uniform"), row(table, "ActFocus")
        assert uniform["final"] == "40.0 [15.2, 64.8]"
        assert uniform["before"] == "20.0"  # all equal: nothing is known of the spread
        assert uniform["return"] == "0.40 to 0.80 [0.30, 1.30]"
        assert uniform["peak to final"] == "0.0"
        assert actfocus["final"] == "44.0 [39.0, 49.0]"
        assert actfocus["peak to final"] == "6.0 [-19.8, 31.8]"
        assert uniform["last gain"] == "15.0 [-9.8, 39.8]"  # 5, 15, 25
        assert actfocus["seeds"] == "3"

    def test_the_paper_s_numbers_stand_beside(self, both: dict[str, cells.Cell]) -> None:
        table = tables.success_table(list(both.values()))
        assert row(table, "uniform")[table.columns[-1]] == "3B 12.5 (26.2), 0.5B – (23.8)"
        assert row(table, "ActFocus")[table.columns[-1]] == "–"
        assert "another model" in table.columns[-1]

    def test_each_run(self, both: dict[str, cells.Cell]) -> None:
        """Wilson for 30 of 100: (0.3 + 0.01920730 ± 1.959964 sqrt(0.0021 + 0.0000960365)) / 1.0384146."""
        first, *_ = tables.runs_table([both["small/uniform"]]).rows
        assert first == ["uniform", "0", "30.0 [21.9, 39.6]", "100", "30.0", "yes"]
        stable = [line[-1] for line in tables.runs_table([both["small/actfocus"]]).rows]
        assert stable == ["no", "yes", "yes"]  # 60 to 42; the others end at their peak

    def test_episodes_that_share_boards_are_told(self) -> None:
        run = summary(UNIFORM, 0, (20, 30))
        run["evaluations"][-1]["boards"] = 25
        both = cells.cells_of(MATRIX, [run])
        assert tables.runs_table([both["small/uniform"]]).rows[0][3] == "100 on 25 boards"

    def test_a_run_whose_replies_broke_is_not_stable(self) -> None:
        run = summary(UNIFORM, 0, (20, 30))
        run["evaluations"][-1]["valid_action_rate"] = 0.89
        assert not cells.is_stable(run)


def test_differences_are_paired_by_seed(both: dict[str, cells.Cell]) -> None:
    """12, 4, -4: mean 4, s = 8, half = 4.302653 * 8 / sqrt(3) = 19.873; two above, one below: p = 1."""
    table = tables.comparison_table(MATRIX.comparisons, both, {"small/actfocus": "FrozenLake"})
    ((name, *rest),) = table.rows
    assert name == "FrozenLake: ActFocus minus uniform (does it help)"
    assert rest == ["3", "+12.0, +4.0, -4.0", "4.0 [-15.9, 23.9]", "1.00"]


def test_a_question_asked_twice_is_answered_over_settings() -> None:
    """12, 4, -4, 2, 4: mean 3.6, s = 5.7271, half = 2.776445 * s / sqrt(5) = 7.111; one of five below: p = 12 / 32."""
    third = Experiment("small/third", "third")
    runs = [*SUMMARIES, *(summary(third, seed, (20, 40)) for seed in (0, 1))]
    all_cells = cells.cells_of(Matrix("mine", (0, 1, 2), {"all": (UNIFORM, ACTFOCUS, third)}), runs)
    again = Comparison("small/actfocus", "small/third", "does it help")
    alone = Comparison("small/third", "small/uniform", "asked once")
    table = tables.pooled_table([*MATRIX.comparisons, alone, again], all_cells)
    assert table is not None
    assert table.rows == [["does it help", "2", "5", "4", "3.6 [-3.5, 10.7]", "0.375"]]
    assert tables.pooled_table([*MATRIX.comparisons, alone], all_cells) is None


class TestOverview:
    """Cells of two worlds: final 30, 40, 50 against 42, 44, 46, and 20, 40 against 40, 40."""

    LAKE = Matrix("lake", (0, 1, 2), {"Lake": (UNIFORM, ACTFOCUS)}, comparisons=MATRIX.comparisons)
    OTHER = (Experiment("small/o", "uniform"), Experiment("small/p", "ActFocus"), Experiment("small/q", "alone"))

    def table(self, *questions: str) -> list[list[str]]:
        sections = {"Lake": (UNIFORM, ACTFOCUS), "Other": self.OTHER}
        comparisons = (
            Comparison("small/actfocus", "small/uniform", questions[0]),
            Comparison("small/p", "small/o", questions[1]),
        )
        matrix = Matrix("m", (0, 1, 2), sections, comparisons=comparisons)
        finals = zip((*self.OTHER, *self.OTHER), (0, 0, 0, 1, 1, 1), (20, 40, 90, 40, 40, 90), strict=True)
        runs = [*SUMMARIES, *(summary(cell, seed, (10, final)) for cell, seed, final in finals)]
        return [list(line) for line in overview_table([(matrix, cells.cells_of(matrix, runs))]).rows]

    def test_a_section_alone(self, both: dict[str, cells.Cell]) -> None:
        table = overview_table([(self.LAKE, both)])
        assert table.columns == ["setting", "uniform", "ActFocus", "ActFocus minus uniform"]
        assert table.rows == [["Lake", "40.0 [15.2, 64.8]", "44.0 [39.0, 49.0]", "4.0 [-15.9, 23.9]"]]

    def test_settings_that_ask_the_same_stand_together(self) -> None:
        """12, 4, -4, 20, 0: mean 6.4, s = 9.6333, half = 2.776445 * s / sqrt(5) = 11.961; 3 of 4 signs: p = 10 / 16."""
        lake, other, together = self.table("does it help", "does it help")
        assert lake[0] == "Lake"
        assert other == ["Other", "30.0 [-97.1, 157.1]", "40.0", "10.0 [-117.1, 137.1]"]
        assert together == ["2 settings of m together", "", "", "6.4 [-5.6, 18.4], 3 of 5 above 0, p 0.625"]

    def test_other_questions_do_not(self) -> None:
        assert [line[0] for line in self.table("does it help", "does it help here")] == ["Lake", "Other"]

    def test_a_cell_that_is_compared_with_none_is_no_column(self) -> None:
        assert all(len(line) == 4 for line in self.table("a", "b"))


def test_a_seed_that_one_arm_lacks_is_no_pair() -> None:
    both = cells.cells_of(MATRIX, [SUMMARIES[0], SUMMARIES[2], SUMMARIES[5]])
    assert tables.paired(both["small/actfocus"], both["small/uniform"]) == [pytest.approx(-0.04)]


def test_arms_at_their_best() -> None:
    sweep = Sweep("t", "lr", {"a": ("small/1", "small/2"), "b": ("small/3",)})
    experiments = tuple(Experiment(name, name) for name in ("small/1", "small/2", "small/3"))
    runs = []
    for experiment, lr, finals in zip(experiments, (1.0, 2.0, 3.0), ((30, 40), (45, 35), (41, 51)), strict=True):
        for seed, final in enumerate(finals):
            run = summary(experiment, seed, (20, final))
            run["settings"]["lr"] = lr
            runs.append(run)
    matrix = Matrix("m", (0, 1), {"s": experiments})
    first, second = tables.best_table(sweep, cells.cells_of(matrix, runs)).rows
    assert first[:2] == ["a", "2"]
    # 41 - 45 and 51 - 35: mean 6, s = 14.1421, t(1) = 12.7062, half = 127.06
    assert second == ["b", "3", "46.0 [-17.5, 109.5]", "2", "-4.0, +16.0", "6.0 [-121.1, 133.1]", "1.00"]
    assert [line[1] for line in tables.sweep_table(sweep, cells.cells_of(matrix, runs)).rows] == ["1", "2", "3"]
    # chosen by seed 1, whose 40 is above 35, and compared in seed 0: 41 - 30
    apart = Sweep("t", "lr", sweep.arms, choose_seeds=(1,))
    first, second = tables.best_table(apart, cells.cells_of(matrix, runs)).rows
    assert first[:3] == ["a", "1", "30.0"]
    assert second[2:5] == ["41.0", "1", "+11.0"]
    unfinished = [run for run in runs if run["seed"] == 0]
    assert [line[1] for line in tables.best_table(apart, cells.cells_of(matrix, unfinished)).rows] == ["–", "–"]


def test_lengths_are_of_the_first_and_the_last_quarter(both: dict[str, cells.Cell]) -> None:
    line = row(tables.length_table([both["small/uniform"]]), "uniform")
    assert line["reasoning"] == "70 to 40"
    assert line["action"] == "–"
    assert line["shortest, mean, longest trained, last quarter"] == "10, 20, 30"


def test_costs(both: dict[str, cells.Cell]) -> None:
    line = row(tables.cost_table([both["small/uniform"]]), "uniform")
    assert (line["minutes a run"], line["GPU-hours"], line["core-hours"]) == ("30.0", "0.0", "3.0")
    assert (line["seconds a step (median)"], line["million tokens trained"]) == ("2.0", "0.01")
    on_gpus = summary(UNIFORM, 0, (1,))
    on_gpus["settings"]["platform.name"] = "gpu"
    assert tables.accelerator_hours(on_gpus) == 2.0


def test_overhead(both: dict[str, cells.Cell]) -> None:
    ((_, training, step),) = tables.overhead_table(MATRIX.comparisons, both, {"small/actfocus": "FrozenLake"}).rows
    assert (training, step) == ("–", "1.50")  # these summaries have no seconds of the phases


def test_the_checklist_answers_all_items() -> None:
    table = checklist_table(SUMMARIES)
    assert len(table.rows) == 14
    answers = {item.partition(".")[0]: answer for item, answer in table.rows}
    assert answers["1"] == "tiny, 1.05 million parameters"
    assert answers["5"] == "grpo with uniform weights, frozen_lake"
    assert answers["6"] == "the same steps, groups and episodes for every weighting: frozen_lake, grpo"
    assert answers["9"] == "0.0 GPU-hours, 6.0 CPU core-hours"
    assert answers["12"].startswith("3 seeds a cell")
    assert answers["14"] == "frozen_lake: 10 to 30 tokens"
    assert "–" not in answers.values()


def test_an_unequal_budget_is_told() -> None:
    other = summary(ACTFOCUS, 0, (1,))
    other["settings"]["trainer.total_training_steps"] = 9
    answers = dict(checklist_table([SUMMARIES[0], other]).rows)
    assert answers["6. baseline at the same compute"] == "; not the same: frozen_lake, grpo"


class TestFiles:
    def test_equal_summaries_give_equal_bytes(self, tmp_path: Path) -> None:
        again = [json.loads(json.dumps(each)) for each in reversed(SUMMARIES)]
        one = write_report(MATRIX, SUMMARIES, tmp_path / "one", html=True)
        two = write_report(MATRIX, again, tmp_path / "two", html=True)
        assert [path.name for path in one] == ["report.md", "report.html", "frozenlake.png", "alpha.png"]
        for ours, theirs in zip(one, two, strict=True):
            assert ours.read_bytes() == theirs.read_bytes()

    def test_another_number_gives_other_bytes(self, tmp_path: Path) -> None:
        one = write_report(MATRIX, SUMMARIES, tmp_path / "one")
        two = write_report(MATRIX, [*SUMMARIES[:-1], summary(ACTFOCUS, 2, (20, 30, 47))], tmp_path / "two")
        for ours, theirs in zip(one, two, strict=True):
            assert ours.read_bytes() != theirs.read_bytes()

    def test_a_figure_tells_no_version_and_no_date(self, tmp_path: Path) -> None:
        picture = write_report(MATRIX, SUMMARIES, tmp_path)[1].read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert b"Software" not in picture
        assert b"tEXt" not in picture

    def test_what_is_missing_or_mixed_is_told(self, tmp_path: Path) -> None:
        mixed = summary(ACTFOCUS, 1, (20, 30), code={"source": "other", "commit": "beef", "packages": {}})
        text = write_report(MATRIX, [*SUMMARIES[:4], mixed], tmp_path)[0].read_text()
        assert "5 of 6 runs are finished." in text
        assert "Not finished: small/actfocus (seed 2)." in text
        assert "Runs of different code or settings are mixed in: small/actfocus." in text

    def test_other_starting_weights_are_told(self, tmp_path: Path) -> None:
        policies = [{"policy": {"name": "tiny", "weights": weights}} for weights in ("1", "1", "2")]
        runs = [each | policy for each, policy in zip(SUMMARIES[:3], policies, strict=True)]
        text = write_report(MATRIX, runs, tmp_path)[0].read_text()
        last = f"{runs[2]['experiment']} (seed {runs[2]['seed']})"
        assert f"Started from other weights of tiny than the runs before them: {last}." in text

    def test_a_section_without_a_run(self, tmp_path: Path) -> None:
        matrix = Matrix("m", (0,), {"a": (UNIFORM,), "b": (ACTFOCUS,)})
        text = write_report(matrix, SUMMARIES[:1], tmp_path)[0].read_text()
        assert "## b\n\nNo run is finished." in text

    def test_no_run_at_all_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="matrix='mine': has no finished run"):
            write_report(MATRIX, [], tmp_path)


class TestDocument:
    BLOCKS = (Heading(1, "A & B"), Text("<b>"), Table(["x", "y"], [["a|b", "1 < 2"]]))

    def test_markdown(self) -> None:
        assert to_markdown(self.BLOCKS) == "# A & B\n\n<b>\n\n| x | y |\n| --- | ---: |\n| a\\|b | 1 < 2 |\n"

    def test_html_is_escaped_and_balanced(self) -> None:
        page = to_html(self.BLOCKS, {})
        assert "<h1>A &amp; B</h1>" in page
        assert "<p>&lt;b&gt;</p>" in page
        assert "http" not in page
        open_tags: list[str] = []

        class Balance(HTMLParser):
            def handle_starttag(self, tag: str, attrs: object) -> None:
                if tag != "meta":
                    open_tags.append(tag)

            def handle_endtag(self, tag: str) -> None:
                assert open_tags.pop() == tag

        Balance().feed(page)
        assert open_tags == []


class TestThePapersNumbers:
    """The data file against the headers of recipes/paper, which were written from the paper on their own."""

    CELLS = tables.paper()["cells"]

    def test_there_is_a_number_for_every_cell(self) -> None:
        names = read_matrix(ROOT / "recipes" / "matrices" / "paper.yaml").experiments
        assert {f"paper/{name}" for name in self.CELLS} == set(names)

    @pytest.mark.parametrize(
        ("script", "key", "number"),
        [
            ("table2", "final", 16),
            ("table5", "peak", 32),
            ("table6", "final", 8),
            ("fig7", "final", 8),
            ("fig8", "final", 7),
        ],
    )
    def test_the_script_of_a_table_says_the_same(self, script: str, key: str, number: int) -> None:
        text = (ROOT / "recipes" / "paper" / f"{script}.sh").read_text()
        found: dict[str, float] = {}
        for name, *numbers in re.findall(r"^#   (\w[\w.]+) +(\d+\.\d)(?: +(\d+\.\d))?$", text, re.MULTILINE):
            uniform, actfocus = numbers
            cells = {f"{name}_uniform": uniform, f"{name}_actfocus": actfocus} if actfocus else {name: uniform}
            found |= {cell: float(value) for cell, value in cells.items()}
        assert len(found) == number
        assert found == {cell: self.CELLS[cell][key] for cell in found}

    def test_the_claimed_mean_gains(self) -> None:
        """The text: +17.0 over the ten columns of Table 2, +34.6 over the five of Table 6."""
        gains: dict[str, list[float]] = {"ppo": [], "grpo": []}
        for name, numbers in self.CELLS.items():
            if name.endswith("_actfocus") and "final" in numbers:
                base = self.CELLS[name.replace("_actfocus", "_uniform")]
                for key in ("final", "purchase_final"):
                    if key in numbers:
                        gains["ppo" if "_ppo_" in name else "grpo"].append(numbers[key] - base[key])
        assert [len(each) for each in gains.values()] == [10, 5]
        assert sum(gains["ppo"]) / 10 == pytest.approx(17.0, abs=0.05)
        assert sum(gains["grpo"]) / 5 == pytest.approx(34.6, abs=0.05)
