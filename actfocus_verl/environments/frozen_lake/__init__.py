"""FrozenLake: cross slippery ice to the goal without falling into a hole. See README.md in this folder."""

from actfocus_verl.environments.frozen_lake.world import FrozenLake

__all__ = ["FrozenLake"]
