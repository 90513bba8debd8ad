"""Credit: what each token of a trajectory is worth. Pure torch; imports nothing else of ours but the errors.

- :mod:`~actfocus_verl.credit.tokens`: the role of a token (no torch).
- :mod:`~actfocus_verl.credit.signals`: numbers per token taken from the model's own logits (energy).
- :mod:`~actfocus_verl.credit.weighting`: how the gradient is spread over the tokens (uniform, ActFocus).
- :mod:`~actfocus_verl.credit.registry`: weightings by name, and from a line of YAML.
- :mod:`~actfocus_verl.credit.diagnostics`: what the weights did, as flat metrics.

This file imports none of them: the rollout room needs the roles in processes that must not pay for importing torch.
"""
