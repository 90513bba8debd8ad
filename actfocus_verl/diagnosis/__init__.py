"""The paper's diagnostic on a run's folder: where reward variance and the gradient are among the tokens.

- :mod:`~actfocus_verl.diagnosis.samples`: the episodes a run kept, as tensors per step.
- :mod:`~actfocus_verl.diagnosis.correlations`: mean energy of a prompt group against the spread of its returns.
- :mod:`~actfocus_verl.diagnosis.tokens`: every response token with its value under each weighting; shares by role.
- :mod:`~actfocus_verl.diagnosis.gradients`: exact gradient norms of sampled tokens.
- :mod:`~actfocus_verl.diagnosis.figures`, :mod:`~actfocus_verl.diagnosis.display`: scatter plots, tables.

``python -m actfocus_verl.diagnose run=<folder>`` is the command.
"""
