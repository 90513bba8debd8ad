"""Everything that talks to verl: engine, loss, trainer, agent loop, and the contract naming what is used of it."""
