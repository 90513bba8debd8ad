"""Text to a command: only names and amounts that the recipes know get through to the package."""

from __future__ import annotations

import re

from actfocus_verl.environments.textcraft.recipes import book

MAX_CHARACTERS = 400
_AMOUNT = "([1-9][0-9]{0,2})"
_GET = re.compile(rf"get {_AMOUNT} ([a-z ]+)")
_CRAFT = re.compile(rf"craft (?:{_AMOUNT} )?([a-z ]+?) using ([a-z0-9, ]+)")
_INPUT = re.compile(rf"{_AMOUNT} ([a-z ]+)")


def parse_command(text: str) -> str | None:
    """`get <amount> <item>` or `craft <amount> <item> using <amount> <item>, ...` in its plainest spelling, else None.

    Amounts are 1 to 999, that of the output may be missing. An input that is named twice is no command: the package
    takes it for two items, and fails when it removes the second one.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = " ".join(text.lower().split())
    if found := _GET.fullmatch(text):
        return text if found[2] in book().names else None
    found = _CRAFT.fullmatch(text)
    if not found or found[2] not in book().names:
        return None
    inputs = [_INPUT.fullmatch(part.strip()) for part in found[3].split(",")]
    names = [each[2] for each in inputs if each]
    if len(names) < len(inputs) or len(set(names)) < len(names) or not book().names.issuperset(names):
        return None
    listed = ", ".join(f"{each[1]} {each[2]}" for each in inputs if each)
    return f"craft {found[1] or 1} {found[2]} using {listed}"
