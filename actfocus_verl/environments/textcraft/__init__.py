"""TextCraft: craft an item of Minecraft from its real recipes. See README.md in this folder."""

from actfocus_verl.environments.textcraft.world import TextCraft

__all__ = ["TextCraft"]
