"""A report as a list of blocks, and its two forms: Markdown, and one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Heading:
    """level: 1 for the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Plain text in all cells; the first `words` columns align to the left, the others, numbers, to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Picture:
    """file: its name below the folder of figures. text: what it shows, for who cannot see it."""

    file: str
    text: str


Block = Heading | Text | Table | Picture

FIGURES = "figures"
"""The folder of figures, beside the page."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
td { font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .6rem; text-align: right; vertical-align: top; }
.word { text-align: left; }
img { max-width: 100%; background: #fff; }
"""


def to_markdown(blocks: Sequence[Block]) -> str:
    """The report for a repository's pages; pictures are links into `figures/`."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Picture):
        return f"![{block.text}]({FIGURES}/{block.file})"
    rule = ["---" if place < block.words else "---:" for place in range(len(block.columns))]
    lines = [block.columns, rule, *block.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_html(blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """One page, readable in dark and light, with its pictures inside. pictures: file name -> PNG."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    body = "\n".join(_html(block, pictures) for block in blocks)
    head = (
        f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>'
    )
    return f'<!doctype html>\n<html lang="en">\n{head}\n<style>{_STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n'


def _html(block: Block, pictures: Mapping[str, bytes]) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Picture):
        data = base64.b64encode(pictures[block.file]).decode()
        return f'<img alt="{escape(block.text)}" src="data:image/png;base64,{data}">'
    head = _cells("th", block.columns, block.words)
    rows = "\n".join(f"<tr>{_cells('td', row, block.words)}</tr>" for row in block.rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _cells(tag: str, texts: Sequence[str], words: int) -> str:
    kinds = [f'{tag} class="word"' if place < words else tag for place in range(len(texts))]
    return "".join(f"<{kind}>{escape(text)}</{tag}>" for kind, text in zip(kinds, texts, strict=True))
