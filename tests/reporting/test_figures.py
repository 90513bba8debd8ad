"""The figure of success: what it shows, and that drawing it leaves no global state."""

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.reporting.figures import plot_success
from actfocus_verl.reporting.run_folder import RunFolder


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were created, to look into what they show."""
    figures = []
    original = Figure.__init__

    def recording(self, *args, **kwargs):
        original(self, *args, **kwargs)
        figures.append(self)

    monkeypatch.setattr(Figure, "__init__", recording)
    return figures


def test_success_over_steps(run_path, drawn, tmp_path):
    target = tmp_path / "new" / "success.png"
    assert plot_success(RunFolder.open(run_path), target) == target
    assert target.read_bytes().startswith(b"\x89PNG")

    (axes,) = drawn[0].axes
    assert axes.get_title() == "frozen_lake/clean/test: 512 boards"
    assert axes.get_xlabel() == "training step (one batch of rollouts each)"
    assert axes.get_ylabel() == "success (% of boards)"
    line, (low_caps, high_caps), _ = axes.containers[0]
    assert line.get_xdata().tolist() == [0, 20, 40]
    assert line.get_ydata() == pytest.approx([138 / 512, 180 / 512, 231 / 512])
    assert low_caps.get_ydata() == pytest.approx([0.2333, 0.3115, 0.4086])
    assert high_caps.get_ydata() == pytest.approx([0.3100, 0.3940, 0.4944])
    bottom, top = axes.get_ylim()
    assert bottom == 0.0
    assert 0.4944 < top <= 1.0


def test_a_panel_for_each_curve(run_path, drawn, make_evaluation, write):
    records = [
        make_evaluation(step, 64, (0.4, 0.6), split=split, episodes=128 + step)
        for step in (0, 5)
        for split in ("train", "test")
    ]
    write(run_path / "evaluations.jsonl", records)
    plot_success(RunFolder.open(run_path), run_path / "figures" / "success.png")
    assert [axes.get_title() for axes in drawn[0].axes] == [
        "frozen_lake/clean/train: 128 to 133 boards",
        "frozen_lake/clean/test: 128 to 133 boards",
    ]


@pytest.mark.parametrize(("successes", "ci"), [(0, (1e-17, 0.0074)), (512, (0.9926, 1.0)), (0, (0.0, 0.0))])
def test_rates_at_the_edge_and_a_single_evaluation(run_path, make_evaluation, write, tmp_path, successes, ci):
    write(run_path / "evaluations.jsonl", [make_evaluation(0, successes, ci)])
    assert plot_success(RunFolder.open(run_path), tmp_path / "a.png").exists()


def test_more_curves_than_colours(run_path, make_evaluation, write, drawn):
    write(run_path / "evaluations.jsonl", [make_evaluation(0, 64, (0.1, 0.2), seed=seed) for seed in range(9)])
    plot_success(RunFolder.open(run_path), run_path / "a.svg")
    assert len(drawn[0].axes) == 9


def test_nothing_to_draw(run_path):
    (run_path / "evaluations.jsonl").unlink()
    with pytest.raises(ConfigurationError, match=r"has no evaluation to draw"):
        plot_success(RunFolder.open(run_path), run_path / "a.png")


def test_drawing_does_not_import_pyplot():
    code = "import sys, actfocus_verl.reporting.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
