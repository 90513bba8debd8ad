"""Credit: what each token of a trajectory is worth. Pure torch; of this package it imports top-level modules only.

- :mod:`~actfocus_verl.credit.tokens`: the role of a token (no torch).
- :mod:`~actfocus_verl.credit.signals`: per-token values from a model's logits (energy and related signals).
- :mod:`~actfocus_verl.credit.weighting`: how the gradient is spread over the tokens (uniform, ActFocus, action only).
- :mod:`~actfocus_verl.credit.entropy_weighting`: the same, from the policy's entropy (entropy quantile, AEM, EMPG).
- :mod:`~actfocus_verl.credit.influence`: the same, from how much the reasoning decides the answer.
- :mod:`~actfocus_verl.credit.estimators`: turn-level advantages.
- :mod:`~actfocus_verl.credit.information_gain`: the same, from information gain about a known answer (IGPO, A2TGPO).
- :mod:`~actfocus_verl.credit.turns`: means over a turn's tokens, and back.
- :mod:`~actfocus_verl.credit.placebo`: any weighting's weights, shuffled within the roles.
- :mod:`~actfocus_verl.credit.registry`: weightings by name, and from a line of YAML.
- :mod:`~actfocus_verl.credit.diagnostics`: what the weights did, as flat metrics.

This file imports none of them: the rollout room needs the roles in processes that must not pay for importing torch.
"""
