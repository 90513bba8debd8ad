"""Reporting: reads run folders and writes statistics, figures and summaries. Imports none of the other rooms.

- :mod:`~actfocus_verl.reporting.run_folder`: the reader of ``outputs/<experiment>/<run>/``.
- :mod:`~actfocus_verl.reporting.statistics`: intervals.
- :mod:`~actfocus_verl.reporting.figures`: success over steps.
- :mod:`~actfocus_verl.reporting.summary`: the one-line result of a run.
- :mod:`~actfocus_verl.reporting.curves`, :mod:`~actfocus_verl.reporting.episodes`: what a run's page shows.
- :mod:`~actfocus_verl.reporting.html_page`: the page.

``python -m actfocus_verl.report`` writes page and figure, and prints the line.
"""
