"""The action grammar: `search[words]` and `click[element]`. Any text may come; it is read in linear time.

Where replies are read leniently, they are read as the original shop does: every text is a command, if only NOTHING.
"""

from __future__ import annotations

from typing import NamedTuple

from actfocus_verl.environments.webshop.search import tokenise

SEARCH, CLICK = "search", "click"
MAX_ACTION_LENGTH = 200
"""Characters of one action; a longer text is none."""


class Command(NamedTuple):
    """verb: SEARCH or CLICK. argument: what stands in the brackets, lower case, single spaces, no brackets."""

    verb: str
    argument: str

    def __str__(self) -> str:
        return f"{self.verb}[{self.argument}]"


NOTHING = Command("", "")
"""What the original shop makes of any other text: an action without an effect."""


def parse_original(text: str) -> Command:
    """The command that the original shop reads in a text's first line, whatever follows it; else NOTHING.

    The verb stands in lower case before the last opening bracket that has something in it.
    """
    line = text.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 1))
    verb, argument = line[:start], line[start + 1 : end].lower()
    return Command(verb, argument) if start > 0 and verb in (SEARCH, CLICK) else NOTHING


def parse_command(text: str) -> Command | None:
    """The command that `text` is, in any case, or None. A search holds at least one word and nothing but words."""
    verb, bracket, rest = text.strip()[: MAX_ACTION_LENGTH + 1].lower().partition("[")
    if not bracket or len(verb) + 1 + len(rest) > MAX_ACTION_LENGTH or not rest.endswith("]"):
        return None
    argument = rest[:-1]
    if "[" in argument or "]" in argument:
        return None
    argument = " ".join(tokenise(argument) if verb == SEARCH else argument.split())
    return Command(verb, argument) if verb in (SEARCH, CLICK) and argument else None
