"""The driver's benchmark: every estimator and weighting that we have is in it, and each runs on its batch."""

import pytest

from actfocus_verl.credit.estimation import ESTIMATORS
from actfocus_verl.credit.registry import known_weightings
from tests.helpers.scripts import SCRIPTS, load_script


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))  # it imports its neighbours
        yield load_script("benchmark_methods")


def test_every_method_has_a_row(script):
    known = {f"estimator {name}" for name in ESTIMATORS.known()} | {f"credit {name}" for name in known_weightings()}
    assert known <= set(script.METHODS)


def test_each_runs(script):
    columns = script.make_batch(32, 512)
    for name, method in script.METHODS.items():
        assert method(columns) is not None, name
