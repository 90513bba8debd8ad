"""The published reward, each term and each case of the type worked by hand."""

from __future__ import annotations

import pytest

from actfocus_verl.environments.webshop.catalogue import FULL, SHORT
from actfocus_verl.environments.webshop.reward import has_attribute, purchase_score, type_reward
from tests.environments.webshop.shops import SHOE, goal, product

RED_9 = {"color": "red", "size": "9"}


# Two attributes, two options and the price: five things to match.
@pytest.mark.parametrize(
    ("bought", "chosen", "expected"),
    [
        (SHOE, RED_9, 1.0),
        (SHOE, {"color": "red"}, 4 / 5),
        (SHOE, {}, 3 / 5),
        (SHOE, {"color": "blue", "size": "8"}, 3 / 5),
        (SHOE, {"color": "9", "size": "red"}, 3 / 5),  # a value counts for its own option only
        (product(price=31), RED_9, 4 / 5),
        (product(price=30), RED_9, 1.0),  # the bound itself may be paid
        (product(attributes=("vegan",)), RED_9, 4 / 5),
        (product(attributes=(), price=99), {}, 0.0),
        (product(name="shoe", attributes=()), RED_9, 3 / 5),  # one of two nouns: the type counts whole
        (product(name="table lamp"), RED_9, 0.0),  # no noun in common: nothing counts
    ],
)
def test_each_thing_asked_for_is_an_equal_share(bought, chosen, expected):
    assert purchase_score(goal(), bought, chosen, SHORT) == pytest.approx(expected)


def test_a_goal_without_options_is_met_whatever_is_chosen():
    # two attributes and the price
    wish = goal(options=())
    assert purchase_score(wish, SHOE, {"color": "blue"}, SHORT) == 1.0
    assert purchase_score(wish, product(price=99), {}, SHORT) == pytest.approx(2 / 3)


def named(nouns: str, category: tuple[str, str, str] = ("a", "b", "c")):
    """A product whose full title has these nouns: the first is its type, which is its query too."""
    name, *uses = nouns.split()
    return product(name=name, uses=tuple(uses), category=category)


# The share of the wanted nouns that the bought title has, and r_type by the published rule.
@pytest.mark.parametrize(
    ("wanted", "bought", "category", "expected"),
    [
        ("n1 n2 n3 n4", "x1 x2 x3 x4", ("x", "y", "z"), 0.0),  # 0 / 4
        ("n1 n2 n3 n4", "x1 x2 x3 x4", ("a", "b", "z"), 0.0),  # 0 / 4: an agreeing category does not help
        ("n1 n2 n3 n4 n5 n6 n7 n8 n9 n10 n11", "x1 n2", ("x", "y", "z"), 0.1),  # 1 / 11 = 0.091
        ("n1 n2 n3 n4 n5 n6 n7 n8 n9 n10 n11", "x1 n2", ("a", "b", "z"), 0.1),  # nor does it here
        ("n1 n2 n3 n4 n5 n6 n7 n8 n9 n10 n11", "n1 x2", ("x", "y", "z"), 0.1),  # nor an agreeing query
        ("n1 n2 n3 n4 n5 n6 n7 n8 n9 n10", "x1 n2", ("x", "y", "z"), 0.5),  # 1 / 10 is not below 0.1
        ("n1 n2 n3 n4 n5", "x1 n2", ("x", "y", "z"), 0.5),  # 1 / 5 is not above 0.2
        ("n1 n2 n3 n4 n5", "x1 n2", ("a", "y", "z"), 0.5),  # one level of the category is not enough
        ("n1 n2 n3 n4 n5", "x1 n2", ("a", "b", "z"), 1.0),  # two levels are
        ("n1 n2 n3 n4 n5", "n1 x2", ("x", "y", "z"), 1.0),  # the query agrees
        ("n1 n2 n3 n4", "x1 n2", ("x", "y", "z"), 1.0),  # 1 / 4 is above 0.2
        ("n1 n2 n3 n4", "n1 n2 n3 n4 x5 x6", ("x", "y", "z"), 1.0),
    ],
)
def test_the_type_by_the_published_rule(wanted, bought, category, expected):
    other = named(bought, category)
    assert type_reward(named(wanted), other, FULL) == expected
    wish = goal(named(wanted))
    assert purchase_score(wish, other, {"color": "red"}, FULL) == pytest.approx(expected * 4 / 5)


def test_short_titles_have_the_nouns_of_the_type_only():
    wanted, other = named("shoe gym park city work"), named("lamp gym park city work")
    assert type_reward(wanted, other, SHORT) == 0.0
    assert type_reward(wanted, other, FULL) == 1.0


@pytest.mark.parametrize(
    ("attribute", "found"),
    [
        ("vegan", True),
        ("light weight", True),  # the description names it
        ("shoe", True),
        ("gym", True),  # a bullet: for gym or park or city
        ("weight light", False),
        ("slip vegan", False),  # two bullets are not one phrase
        ("hoe", False),  # a part of a word is no word
        ("fleece lined", False),
    ],
)
def test_an_attribute_counts_when_it_is_listed_or_named(attribute, found):
    assert has_attribute(SHOE, attribute) is found
