"""TextWorldExpress: eight text games. See README.md in this folder."""

from actfocus_verl.environments.textworld_express.world import TextWorldExpress

__all__ = ["TextWorldExpress"]
