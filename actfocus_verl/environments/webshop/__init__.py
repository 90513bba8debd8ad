"""WebShop: find, configure and buy the product that an instruction asks for. See README.md in this folder."""

from actfocus_verl.environments.webshop.world import WebShop

__all__ = ["WebShop"]
