"""Reproduction: a matrix of experiments and seeds, run until every run is done, and reported on.

- :mod:`~actfocus_verl.reproduction.matrix`: the YAML file that lists cells, seeds and what to compare.
- :mod:`~actfocus_verl.reproduction.composition`: what an experiment's configuration says before it runs.
- :mod:`~actfocus_verl.reproduction.version`: which code and packages a run is of.
- :mod:`~actfocus_verl.reproduction.folders`: where a run's files are, its lock, and how far it is.
- :mod:`~actfocus_verl.reproduction.summary`: the small JSON that is kept of a finished run.
- :mod:`~actfocus_verl.reproduction.runner`: runs what is missing; :mod:`~actfocus_verl.reproduction.submission` hands
  it to a Ray cluster or SLURM.
- :mod:`~actfocus_verl.reproduction.cost`: what the rest would take.
- :mod:`~actfocus_verl.reproduction.report`: tables and figures, from the summaries alone.
- :mod:`~actfocus_verl.reproduction.command`: ``actfocus reproduce plan|show|run|status|table|report``.

A *cell* is a file of configs/experiment with overrides, and all its seeds; a *run* is one seed of it.
"""
