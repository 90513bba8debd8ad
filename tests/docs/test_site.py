"""The documentation's site builds without a warning, and the picture of the rooms is what the import rules give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """A page that the navigation leaves out, a link or an anchor that leads nowhere is a warning, and so an error."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "docs" / "architecture" / "index.html").is_file()


def test_the_picture_of_the_rooms_is_drawn_from_the_import_rules() -> None:
    checked = subprocess.run(
        [sys.executable, "scripts/draw_rooms.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
