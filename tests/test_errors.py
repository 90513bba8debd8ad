"""What another package raised, quoted on one line."""

from __future__ import annotations

from actfocus_verl.errors import first_line, one_line


def test_a_message_of_several_lines():
    error = ValueError("\nno such file\n  in the folder\n")
    assert first_line(error) == "no such file"
    assert one_line(error) == "no such file in the folder"
    assert one_line(error, most=7) == "no such"


def test_an_error_without_a_message_is_named_by_its_type():
    assert first_line(MemoryError()) == one_line(MemoryError(" \n")) == one_line(MemoryError(), most=3) == "MemoryError"
