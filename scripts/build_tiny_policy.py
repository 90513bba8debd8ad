"""Build the tiny policy of the CPU platform, or find it in the cache, and say what it can do.

python scripts/build_tiny_policy.py --coupling coupled
python scripts/build_tiny_policy.py --set hidden_size=256 --set heads=8
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rich.console import Console

from actfocus_verl.errors import ConfigurationError
from actfocus_verl.launch.progress import StageProgress
from actfocus_verl.policies import TinyPolicyConfig, ensure_tiny_policy
from actfocus_verl.run_files import TINY_POLICY_FILE

DEFAULT_CACHE = Path(__file__).resolve().parents[1] / ".cache" / "tiny_policy"


def main() -> int:
    arguments = _parse()
    try:
        config = TinyPolicyConfig(**_settings(arguments))
        with StageProgress("tiny policy", Console(stderr=True)) as progress:
            folder = ensure_tiny_policy(config, arguments.cache, progress)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    print(_summary(json.loads((folder / TINY_POLICY_FILE).read_text(encoding="utf-8"))))
    print(folder)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder of the built policies")
    for name in ("env", "preset", "coupling", "seed"):
        parser.add_argument(f"--{name}", help=f"default: {getattr(TinyPolicyConfig, name)}")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any TinyPolicyConfig field")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The given settings, each converted to the type of its field's default."""
    given = {name: getattr(arguments, name) for name in ("env", "preset", "coupling", "seed")}
    given |= dict(item.partition("=")[::2] for item in arguments.set)
    # `float | None` takes a float: None is said by leaving the field out
    known = {name: (get_args(hint) or (hint,))[0] for name, hint in get_type_hints(TinyPolicyConfig).items()}
    settings = {}
    for name, text in given.items():
        if name not in known:
            raise ConfigurationError("--set", name, "unknown field", f"Use one of: {', '.join(known)}")
        if text is not None:
            settings[name] = _convert(name, text, known[name])
    return settings


def _convert(name: str, text: str, kind: type) -> object:
    try:
        return kind(text)
    except ValueError as error:
        wanted = kind.__name__
        raise ConfigurationError(f"tiny.{name}", text, f"no {wanted}", f"Give a value of type {wanted}") from error


def _summary(report: dict) -> str:
    lines = [f"parameters {report['parameters']:,}, vocabulary {report['vocabulary']}, seconds {report['seconds']}"]
    play = report.get("evaluation")
    if play:
        low, high = play["interval"]
        lines.append(
            f"success {play['success_rate']:.3f} [{low:.3f}, {high:.3f}] on {play['episodes']} evaluation boards; "
            f"well-formed turns {play['well_formed_rate']:.3f}; reasoning tokens {play['reasoning_share']:.3f}; "
            f"tokens an episode {play['prompt_tokens'] + play['response_tokens']:.0f}, most {play['longest_episode']}"
        )
        lines.append("true statements: " + ", ".join(f"{share:.2f}" for share in play["grounding"]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
