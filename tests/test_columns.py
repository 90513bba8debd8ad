"""The table of columns agrees with what gives them, and says all that its readers need."""

from __future__ import annotations

from actfocus_verl.columns import COLOURED, COLUMNS, OWN_LOOP, PASSED_ON, RECORDED, REFERENCE, given_by, of_turns
from actfocus_verl.credit.signals import LOGIT_SIGNALS


def test_every_signal_of_the_reference_is_in_it() -> None:
    assert set(given_by(REFERENCE, COLUMNS)) == {*LOGIT_SIGNALS, "ref_log_prob"}
    assert {*LOGIT_SIGNALS} <= {*PASSED_ON}


def test_what_loops_give_by_turn_is_of_turns() -> None:
    assert set(given_by(OWN_LOOP, COLUMNS)) == {*of_turns(COLUMNS)} - {"answer_scores"}
    assert of_turns(["energy", "anchors", "nothing"]) == ["anchors"]


def test_what_is_shown_is_recorded_and_of_tokens() -> None:
    assert {column.name for column in COLOURED} <= {*RECORDED}
    assert {COLUMNS[name].per for name in RECORDED} == {"token"}
