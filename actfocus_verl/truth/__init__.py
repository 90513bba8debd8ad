"""Where the return of an episode is decided, by continuations: `actfocus truth`, docs/truth.md.

- :mod:`~actfocus_verl.truth.arguments`: the command line.
- :mod:`~actfocus_verl.truth.segments`: the boundaries of an episode, each a stopping time, and what lies between them.
- :mod:`~actfocus_verl.truth.continuations`: plays an episode, and plays on from a boundary in the replayed world.
- :mod:`~actfocus_verl.truth.samples`: what was sampled, in a file that an interrupted measurement goes on from.
- :mod:`~actfocus_verl.truth.decomposition`: shares of the return's variance from the continuations: NumPy alone.
- :mod:`~actfocus_verl.truth.tokens`, :mod:`~actfocus_verl.truth.token_stage`: single tokens of drawn segments.
- :mod:`~actfocus_verl.truth.checks`: which of its figures are checks, and what has to be said of them.
- :mod:`~actfocus_verl.truth.display`, :mod:`~actfocus_verl.truth.figures`: the result as tables and as a figure.
- :mod:`~actfocus_verl.truth.html_page`: its page, with single episodes.
- :mod:`~actfocus_verl.truth.command`: all of it together.
"""
