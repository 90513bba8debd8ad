"""What a buyer is asked for: an instruction in words, made from one product."""

from __future__ import annotations

from dataclasses import dataclass

from actfocus_verl.environments.splits import stable_hash
from actfocus_verl.environments.webshop.catalogue import Product

_OPENERS = ("Find me", "I need", "I want", "Please get me")


@dataclass(frozen=True)
class Goal:
    """A wish. product: the one it is made from, which satisfies it; any other that does is as good.

    attributes: in the order of the product. options: (name, value) in the order of the product. bound: dollars that
    may be paid at most.
    """

    product: Product
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    bound: int

    @property
    def canonical(self) -> str:
        """The goal's name: equal exactly for equal goals."""
        options = ",".join(f"{name}={value}" for name, value in self.options)
        return f"webshop/{self.product.key}/{','.join(self.attributes)}/{options}/{self.bound}"

    @property
    def instruction(self) -> str:
        """The wish in words: a function of the goal."""
        name = self.product.name
        article = "" if name.endswith("s") else "an " if name[0] in "aeiou" else "a "
        options = (f"{option} {value}" for option, value in self.options)
        wishes = ", ".join((name, *self.attributes, *options, f"at most ${self.bound}."))
        return f"{_OPENERS[stable_hash(self.canonical) % len(_OPENERS)]} {article}{wishes}"

    @property
    def query(self) -> str:
        """Search words that find it: type and attributes, as the instruction writes them."""
        return ", ".join((self.product.name, *self.attributes))
