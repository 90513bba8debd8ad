"""The shop as the paper's prompts tell it: the information of its system text and of its advice, in our own words."""

from __future__ import annotations

from collections.abc import Iterable

from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.webshop.actions import CLICK, SEARCH, Command

SYSTEM_PROMPT = (
    "You are in an online shop. Buy a product that comes close to what the task describes: search, look through the "
    "results, open one product, choose its options such as size and color, and buy it.\n"
    "Take only actions that the present page lists: search[words] or click[element].\n"
    "For example, the task asks for a lamp and a 12x12 rug, both woven by hand. The first action is then "
    "search[lamp 12x12 rug woven by hand], and an answer is written as <answer>search[wool blanket]</answer>."
)


def advice(limits: Limits) -> str:
    """What every turn repeats. The paper's prompts name one action more than there are."""
    return "\n".join(
        (
            f"Buy something within {limits.max_actions_per_episode + 1} actions; it need not fit in every detail.",
            "Leave details like size and color out of the search words.",
            "Search twice at most.",
            "Better a product that is close enough, bought in time, than a search for a perfect one.",
            "A product on this page comes before the next page.",
            "Hardly ever take click[next >] a third time, nor click[< prev] unless an earlier page surely has the "
            "product.",
            "With fewer than 3 actions left, buy the first product that this page shows.",
            "Where options match, click the size, then the color, each by itself, and then click[buy now]; with a "
            "single action left, click[buy now] at once. Leave click[description] alone.",
        )
    )


def choices(elements: Iterable[str], *, may_search: bool) -> str:
    """Every action that the page offers."""
    clicks = [str(Command(CLICK, element.lower())) for element in elements]
    return f"Choose one of: {', '.join([f'{SEARCH}[words]'] * may_search + clicks)}."
