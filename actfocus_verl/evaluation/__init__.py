"""Evaluation of one policy on the boards of one split, without a trainer: `python -m actfocus_verl.evaluate`.

- :mod:`~actfocus_verl.evaluation.arguments`: the command line, and what a run folder fills in.
- :mod:`~actfocus_verl.evaluation.checkpoints`: a run's checkpoint, merged to Hugging Face format once.
- :mod:`~actfocus_verl.evaluation.models`: the model to evaluate: its files, tokenizer and context.
- :mod:`~actfocus_verl.evaluation.sampling`: sampling requests, with one seed per reply.
- :mod:`~actfocus_verl.evaluation.engine`, :mod:`~actfocus_verl.evaluation.server`: the two samplers.
- :mod:`~actfocus_verl.evaluation.episodes`: the episodes of an evaluation, played concurrently.
- :mod:`~actfocus_verl.evaluation.folder`: output files, and resuming an evaluation.
- :mod:`~actfocus_verl.evaluation.summary`, :mod:`~actfocus_verl.evaluation.display`: its metrics, and their display.
"""
