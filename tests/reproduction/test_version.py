"""The version of the code: what changes it, and how a difference is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from actfocus_verl.reproduction.version import current_version, difference, source_digest


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in (
        "credit/a.py",
        "environments/words.json",
        "reporting/b.py",
        "reproduction/c.py",
        "environments/README.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("credit/a.py", True),
        ("credit/new.py", True),
        ("environments/words.json", True),
        ("environments/README.md", False),
        ("reporting/b.py", False),
        ("reproduction/report/new.py", False),
        ("evaluate.py", False),
    ],
)
def test_what_a_run_can_import_counts(package: Path, name: str, counts: bool) -> None:
    before = source_digest(package)
    path = package / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("2")
    assert (source_digest(package) != before) is counts


def test_moving_text_between_files_counts(package: Path) -> None:
    before = source_digest(package)
    (package / "credit/a.py").rename(package / "credit/b.py")
    assert source_digest(package) != before


def test_differences_are_named() -> None:
    one = current_version().to_json()
    assert difference(one, one) is None
    assert difference(one, one | {"commit": "another"}) is None
    assert difference(one, one | {"source": "f" * 24, "commit": "0123456789ab-dirty"}).endswith(
        "0123456789-dirty, digest ffffffff)"
    )
    other = one | {"packages": one["packages"] | {"verl": "0.9.9", "new": "1"}}
    assert difference(one, other) == f"new None and 1, verl {one['packages']['verl']} and 0.9.9"
