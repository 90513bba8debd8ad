"""Everything that talks to verl: engine, loss, trainer, agent loop, and the contract naming what is used of it."""

import verl  # noqa: F401  (first: it loads the plugin, which has what registers here imported in time)
