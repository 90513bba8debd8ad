"""Draw docs/rooms.svg from the import rules of pyproject.toml: python scripts/draw_rooms.py [--check].

A room may import the rooms below it. Rooms of one row do not import each other where the rules say so (`|`).
"""

from __future__ import annotations

import argparse
import sys
import xml.sax.saxutils
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT: Final = Path(__file__).resolve().parents[1]
PICTURE: Final = ROOT / "docs" / "rooms.svg"
FRAMEWORKS: Final = ("verl", "ray", "vllm", "torch")
WIDTH, ROW, BOX, GAP = 960, 64, 44, 10
"""Of the picture, in pixels: its width, the distance of rows, a box's height, the room between boxes."""


def contracts() -> list[dict[str, Any]]:
    """The rules of import-linter."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed: list[dict[str, Any]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return listed


def rows(rules: list[dict[str, Any]]) -> list[list[str]]:
    """The rooms, the highest row first."""
    layers = next(rule["layers"] for rule in rules if rule["type"] == "layers")
    return [layer.replace("|", " ").replace(":", " ").split() for layer in layers]


def kept_out(room: str, rules: list[dict[str, Any]]) -> list[str]:
    """The frameworks that `room` does without, even through what it imports."""
    forbidden = {
        module
        for rule in rules
        if rule["type"] == "forbidden" and f"actfocus_verl.{room}" in rule["source_modules"]
        for module in rule["forbidden_modules"]
    }
    return [name for name in FRAMEWORKS if name in forbidden]


def drawing(rules: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the SVG."""
    layers = rows(rules)
    height = ROW * len(layers) + GAP
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="15" text-anchor="middle">'
    )
    yield "<title>The rooms of actfocus_verl: each may import those below it</title>"
    yield f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    for row, rooms in enumerate(layers):
        width = (WIDTH - GAP * (len(rooms) + 1)) / len(rooms)
        for place, room in enumerate(rooms):
            left, top = GAP + place * (width + GAP), GAP + row * ROW
            without = kept_out(room, rules)
            fill = "#e6f0e4" if without else "#eceff4"
            yield (
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BOX}" rx="6" fill="{fill}" '
                'stroke="#5b6472"/>'
            )
            middle = left + width / 2
            yield f'<text x="{middle:.1f}" y="{top + (19 if without else 27)}">{xml.sax.saxutils.escape(room)}</text>'
            if without:
                small = f'x="{middle:.1f}" y="{top + 36}" font-size="11" fill="#3d5a3a"'
                yield f"<text {small}>no {', '.join(without)}</text>"
    yield "</svg>"


def main() -> int:
    """Write the picture, or with --check say whether it is the one that the rules give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when the picture is an old one"
    )
    arguments = parser.parse_args()
    text = "\n".join(drawing(contracts())) + "\n"
    if not arguments.check:
        PICTURE.write_text(text, encoding="utf-8")
        return 0
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PICTURE.relative_to(ROOT)} is not what pyproject.toml's rules give: run python scripts/draw_rooms.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
