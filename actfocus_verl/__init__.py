"""ActFocus for verl: reinforcement learning of multi-turn LLM agents with token-level credit.

This module must not import verl: verl imports the plugin while it is itself being imported.
"""

__version__ = "0.2.0"
