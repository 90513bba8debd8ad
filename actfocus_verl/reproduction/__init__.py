"""Reproduction: a matrix of experiments and seeds, run until every run is done, and reported on.

- :mod:`~actfocus_verl.reproduction.matrix`: the YAML file that lists cells, seeds and what to compare.
- :mod:`~actfocus_verl.reproduction.composition`: an experiment's configuration before it runs.
- :mod:`~actfocus_verl.reproduction.version`: code and package versions of a run.
- :mod:`~actfocus_verl.reproduction.folders`: a run's files, its lock and its state.
- :mod:`~actfocus_verl.reproduction.summary`: the small JSON kept of a finished run.
- :mod:`~actfocus_verl.reproduction.runner`: runs what is missing; :mod:`~actfocus_verl.reproduction.submission` hands
  it to a Ray cluster or SLURM.
- :mod:`~actfocus_verl.reproduction.cost`: estimated cost of the remaining runs.
- :mod:`~actfocus_verl.reproduction.report`: tables and figures, from the summaries alone.
- :mod:`~actfocus_verl.reproduction.command`: ``actfocus reproduce plan|show|run|status|table|report``.

A *cell* is a file of configs/experiment with overrides, and all its seeds; a *run* is one seed of it.
"""
