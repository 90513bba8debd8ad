"""ALFRED in text, in rooms of our own making. See README.md in this folder."""

from actfocus_verl.environments.alfred_rooms.world import AlfredRooms

__all__ = ["AlfredRooms"]
