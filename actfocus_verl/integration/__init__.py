"""Everything that talks to verl: engine, loss, trainer, agent loop, and the contract naming what is used of it."""

import verl  # noqa: F401  (first: it loads the plugin, which imports every module here in an order that works)
