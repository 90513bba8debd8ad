"""Slow, independent implementations of the weightings' formulas.

They work on plain Python floats (float64), nested as rows of tokens, with one loop over the tokens and no tensor
arithmetic.
"""

import math

ENVIRONMENT, REASONING, ACTION, FORMAT = range(4)


def actfocus(signal, roles, *, alpha=0.1, beta=0.5, format_weight=None, eps=1e-8):
    """Eq. 5 on nested lists (rows of tokens)."""
    energies = [
        e for e_row, r_row in zip(signal, roles, strict=True) for e, r in zip(e_row, r_row, strict=True) if r == ACTION
    ]
    mean = math.fsum(energies) / len(energies) if energies else 0.0
    variance = math.fsum((e - mean) ** 2 for e in energies) / len(energies) if energies else 0.0
    sigma = math.sqrt(variance + eps)
    weights = []
    for e_row, r_row in zip(signal, roles, strict=True):
        weights.append([])
        for e, r in zip(e_row, r_row, strict=True):
            if r == ENVIRONMENT:
                weight = 0.0
            elif r == REASONING:
                weight = alpha
            elif r == FORMAT:
                weight = alpha if format_weight is None else format_weight
            else:
                weight = 1.0 + beta / (1.0 + math.exp(-(e - mean) / sigma))
            weights[-1].append(weight)
    return weights


def hindsight(advantages, old, after, roles, *, lam, clip, every):
    """The formula of SERL token by token; every: of RLSD."""
    weights = []
    for i, row in enumerate(roles):
        weights.append([])
        for t, role in enumerate(row):
            weight = 0.0 if role == ENVIRONMENT else 1.0
            if role == ACTION or (every and role != ENVIRONMENT):
                shift = after[i][t] - old[i][t]
                signed = shift if advantages[i][t] > 0 else -shift if advantages[i][t] < 0 else 0.0
                weight = (1.0 - lam) + lam * min(max(math.exp(signed), 1.0 - clip), 1.0 + clip)
            weights[-1].append(weight)
    return weights


def entropy_quantile(entropy, roles, *, fraction):
    """Rank every sampled token by counting those above it; ties with the last rank that is kept are kept."""
    sampled = [(i, t) for i, row in enumerate(roles) for t, role in enumerate(row) if role != ENVIRONMENT]
    kept = math.ceil(round(fraction * len(sampled), 6))
    weights = [[0.0] * len(row) for row in roles]
    for i, t in sampled:
        above = sum(entropy[a][b] > entropy[i][t] for a, b in sampled)
        weights[i][t] = 1.0 if above < kept else 0.0
    return weights


def influence(entropy, roles, turn_ids, tokens, groups):
    """Both entropies of the first answers, and 1 minus their quotient; every group needs two answers."""
    answers, sums = {}, {}
    for i, row in enumerate(roles):
        places = [t for t, role in enumerate(row) if role == ACTION and turn_ids[i][t] == 0]
        answers.setdefault(groups[i], []).append(tuple(tokens[i][t] for t in places))
        sums.setdefault(groups[i], []).append(math.fsum(entropy[i][t] for t in places))
    unconditional = []
    for given in answers.values():
        shares = [given.count(answer) / len(given) for answer in set(given)]
        unconditional.append(-math.fsum(p * math.log(p) for p in shares) + (len(shares) - 1) / (2 * len(given)))
    answer = math.fsum(unconditional) / len(unconditional)
    given_reasoning = math.fsum(math.fsum(group) / len(group) for group in sums.values()) / len(sums)
    return answer, given_reasoning, 1 - given_reasoning / answer


def influence_weights(share, roles, *, floor=0.1, format_weight=1.0):
    """The share on reasoning, at least the floor."""
    of_role = {ENVIRONMENT: 0.0, REASONING: min(max(share, floor), 1.0), ACTION: 1.0, FORMAT: format_weight}
    return [[of_role[role] for role in row] for row in roles]


def turn_means(column, roles, turn_ids):
    """The mean of a column over each turn's sampled tokens, by (row, turn)."""
    tokens = {}
    for i, row in enumerate(roles):
        for t, role in enumerate(row):
            if role != ENVIRONMENT:
                tokens.setdefault((i, turn_ids[i][t]), []).append(column[i][t])
    return {key: math.fsum(values) / len(values) for key, values in tokens.items()}


def relative_scale(entropies, strength, eps=0.0):
    """Relative entropy of each turn among those given, and exp(-strength * it) divided by its mean over them."""
    low, high = min(entropies.values()), max(entropies.values())
    relative = {key: (value - low) / (high - low + eps) if high > low else 0.0 for key, value in entropies.items()}
    mean = math.fsum(math.exp(-strength * value) for value in relative.values()) / len(relative)
    return relative, {key: math.exp(-strength * value) / mean for key, value in relative.items()}


def aem(entropy, roles, turn_ids, groups, *, lam=1.0, gate=0.1):
    """AEM's factor of each token; ``groups`` holds one label a row."""
    entropies = turn_means(entropy, roles, turn_ids)
    alpha = {}
    for label in set(groups):
        mine = {key: value for key, value in entropies.items() if groups[key[0]] == label}
        if mine and max(mine.values()) - min(mine.values()) >= gate:
            alpha |= relative_scale(mine, lam)[1]
        else:
            alpha |= dict.fromkeys(mine, 1.0)
    return _spread(alpha, roles, turn_ids)


def empg(advantages, entropy, roles, turn_ids, *, k=1.0, k_future=1.0, zeta=0.1, center=True):
    """EMPG's factor of each token, and its whole modified advantage."""
    relative, scale = relative_scale(turn_means(entropy, roles, turn_ids), k, eps=1e-8)
    bonus = {}
    for row, turn in relative:
        later = [other for other_row, other in relative if other_row == row and other > turn]
        bonus[row, turn] = zeta * math.exp(-k_future * relative[row, min(later)]) if later else 0.0
    base = turn_means(advantages, roles, turn_ids)
    mean = math.fsum(base[key] * scale[key] + bonus[key] for key in base) / len(base) if center else 0.0
    modified = [
        [
            advantages[i][t] * scale[i, turn_ids[i][t]] + bonus[i, turn_ids[i][t]] - mean
            if role != ENVIRONMENT
            else 0.0
            for t, role in enumerate(row)
        ]
        for i, row in enumerate(roles)
    ]
    return _spread(scale, roles, turn_ids), modified


def _spread(by_turn, roles, turn_ids):
    return [
        [by_turn[i, turn_ids[i][t]] if role != ENVIRONMENT else 0.0 for t, role in enumerate(row)]
        for i, row in enumerate(roles)
    ]


def normalize(weights, roles, groups):
    """Mean 1 over the response tokens of every group of rows; ``groups`` holds one label a row."""
    result = []
    for row, label in enumerate(groups):
        members = [i for i, other in enumerate(groups) if other == label]
        pairs = [(w, r) for i in members for w, r in zip(weights[i], roles[i], strict=True) if r != ENVIRONMENT]
        total = math.fsum(w for w, _ in pairs)
        result.append(
            [
                w * len(pairs) / total if r != ENVIRONMENT and total > 0 else 0.0
                for w, r in zip(weights[row], roles[row], strict=True)
            ]
        )
    return result
