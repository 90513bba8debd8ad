"""Which tests a marker expression reaches: those of clusters make network namespaces as root, so only where asked."""

from __future__ import annotations

import pytest

from tests import conftest

pytest_plugins = ["pytester"]

TESTS = """
import pytest
@pytest.mark.cluster
def test_cluster(): ...
@pytest.mark.cluster
@pytest.mark.nightly
def test_nightly_cluster(): ...
@pytest.mark.nightly
def test_nightly(): ...
def test_unit(): ...
"""


@pytest.mark.parametrize(
    ("asked", "reached"),
    [
        ("", ["test_nightly", "test_unit"]),
        ("not nightly and not e2e", ["test_unit"]),
        ("nightly", ["test_nightly_cluster", "test_nightly"]),
        ("cluster", ["test_cluster", "test_nightly_cluster"]),
        ("(e2e or cluster) and not nightly", ["test_cluster"]),
    ],
)
def test_clusters_are_tested_where_asked(pytester: pytest.Pytester, asked: str, reached: list[str]) -> None:
    class OurCollection:
        pytest_collection_modifyitems = staticmethod(conftest.pytest_collection_modifyitems)

    pytester.makeini("[pytest]\nmarkers =\n    cluster:\n    nightly:\n    e2e:\n")
    pytester.makepyfile(TESTS)
    passed, _, _ = pytester.inline_run("-m", asked, plugins=[OurCollection()]).listoutcomes()
    assert [report.nodeid.rpartition("::")[2] for report in passed] == reached
