"""Evaluation of one policy on the boards of one split, without a trainer: `python -m actfocus_verl.evaluate`.

- :mod:`~actfocus_verl.evaluation.arguments`: the command line, and what a run folder fills in.
- :mod:`~actfocus_verl.evaluation.checkpoints`: a run's checkpoint, merged to Hugging Face format once.
- :mod:`~actfocus_verl.evaluation.models`: the model that was named: its files, its tokenizer, its context.
- :mod:`~actfocus_verl.evaluation.sampling`: what an episode asks of a sampler, with a seed a reply.
- :mod:`~actfocus_verl.evaluation.engine`, :mod:`~actfocus_verl.evaluation.server`: the two samplers.
- :mod:`~actfocus_verl.evaluation.episodes`: the episodes of an evaluation, played many at a time.
- :mod:`~actfocus_verl.evaluation.folder`: what is written, and how an evaluation is taken up again.
- :mod:`~actfocus_verl.evaluation.summary`, :mod:`~actfocus_verl.evaluation.display`: its figures, and showing them.
"""
