"""One self-contained HTML page of a run, or of two: curves, and a browser of the sampled episodes.

The page's parts lie in `page/`; the data are JSON in script elements that no browser runs, one for each episode, so
that an episode is read when it is looked at. A model's text reaches the page as text only: `<` never stands in the
JSON, the scripts write `textContent`, and the page's own policy runs no script but these.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

from actfocus_verl import __version__
from actfocus_verl.files import json_text, timestamp
from actfocus_verl.reporting.curves import panels, run_series
from actfocus_verl.reporting.episodes import ROLE_NAMES, colourings, read_episodes
from actfocus_verl.reporting.run_folder import RunFolder

SCRIPTS: Final[tuple[str, ...]] = ("base.js", "colours.js", "charts.js", "tokens.js", "episodes.js", "main.js")
"""In the order of the page."""

_MISSING: Final = "(not set)"
_FACTS: Final[tuple[tuple[str, str], ...]] = (
    ("world", "env.name"),
    ("preset", "env.preset"),
    ("algorithm", "algorithm_name"),
    ("credit", "credit"),
    ("filter", "filter"),
    ("model", "model.path"),
    ("seed", "run.seed"),
)


def build_page(runs: Sequence[RunFolder], *, episodes: int) -> str:
    """The page as text.

    Args:
        runs: one or two.
        episodes: how many sampled episodes of each run to show at most.

    Raises:
        ConfigurationError: an episode's columns contradict each other, or a file is damaged.
    """
    shown = [read_episodes(run, episodes) for run in runs]
    series = [run_series(run) for run in runs]
    data = {
        "version": __version__,
        "created": timestamp(),
        "roles": ROLE_NAMES,
        "runs": [
            {
                "name": _name(run),
                "facts": _facts(run),
                "notes": list(run.notes),
                "series": run_curves,
                "sampled": total,
                "episodes": [episode.entry for episode in chosen],
            }
            for run, run_curves, (chosen, total) in zip(runs, series, shown, strict=True)
        ],
        "differences": config_differences(runs[0].config, runs[1].config) if len(runs) > 1 else [],
        "panels": panels(series),
        "colourings": colourings(episode for chosen, _ in shown for episode in chosen),
    }
    blocks = {"page-data": data}
    for run, (chosen, _) in enumerate(shown):
        blocks |= {f"episode-{run}-{number}": episode.detail for number, episode in enumerate(chosen)}
    return assemble(page_part("page.html"), [page_part(name) for name in SCRIPTS], page_part("page.css"), blocks)


def safe_json(value: Any) -> str:
    """JSON that is safe in a script element: ASCII, without `<`, `>` and `&`.

    So it holds neither `</script>` nor `<!--`, and U+2028 and lone surrogates are escaped.
    """
    text = json_text(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def config_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The dotted keys in which two configurations differ, with both values; missing keys are marked."""
    left, right = _flat(first), _flat(second)
    keys = dict.fromkeys([*left, *right])
    rows = [(key, left.get(key, _MISSING), right.get(key, _MISSING)) for key in keys]
    return [row for row in rows if row[1] != row[2]]


def page_part(name: str) -> str:
    """The text of a part in `page/`, which other pages may be made of as well."""
    return resources.files("actfocus_verl.reporting").joinpath("page", name).read_text(encoding="utf-8")


def assemble(template: str, scripts: Sequence[str], style: str, blocks: Mapping[str, Any]) -> str:
    """A page of texts: its data in script elements, its style and its scripts in the template's places.

    Args:
        template: with the places `{{policy}}`, `{{style}}`, `{{data}}` and `{{script}}`.
        scripts: in the order in which they run, as one.
        blocks: data by the element's id.
    """
    script = '"use strict";\n' + "\n".join(scripts)
    parts = {
        "policy": f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}",
        "style": style,
        "data": "\n".join(_block(name, value) for name, value in blocks.items()),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _block(name: str, value: Any) -> str:
    return f'<script type="application/json" id="{name}">{safe_json(value)}</script>'


def _digest(text: str) -> str:
    """The source expression by which a Content-Security-Policy allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _name(run: RunFolder) -> str:
    """The folder's own name and the one above it: `<experiment>/<run>`."""
    return "/".join(run.path.resolve().parts[-2:])


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """The key facts of a run: label and value."""
    facts = [(label, _text(_at(run.config, key))) for label, key in _FACTS]
    versions = run.info.get("versions")
    facts += [
        ("steps", _text(run.metrics[-1]["step"]) if run.metrics else "0"),
        ("started", _text(run.info.get("started"))),
        ("ended", _text(run.info.get("ended"))),
        ("exit", _text(run.info.get("exit_reason"))),
        ("commit", _text(run.info.get("commit"))),
        ("versions", _text(versions)),
        ("machine", _text(run.info.get("machine"))),
        ("folder", str(run.path)),
    ]
    return [(label, value) for label, value in facts if value]


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items() if entry is not None)
    return "" if value is None else str(value)


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(config, Mapping) or not config:
        return {prefix: "null" if config is None else str(config)} if prefix else {}
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
