"""Reporting: reads run folders and writes statistics, figures and summaries. Imports none of the other rooms.

- :mod:`~actfocus_verl.reporting.run_folder`: the reader of ``outputs/<experiment>/<run>/``.
- :mod:`~actfocus_verl.reporting.statistics`: intervals.
- :mod:`~actfocus_verl.reporting.figures`: success over steps.
- :mod:`~actfocus_verl.reporting.summary`: the line a run ends with.

``python -m actfocus_verl.reporting run=<folder>`` draws the figure and prints the line.
"""
