"""JSON that every parser takes, from one writer."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest

from actfocus_verl.files import append_json, json_text, write_json

PACKAGE = Path(__file__).resolve().parents[1] / "actfocus_verl"
NAN, INF = math.nan, math.inf


def strict(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_not_finite_is_null_wherever_it_stands() -> None:
    content = {"a": NAN, "b": [1.5, -INF, (INF, {"c": NAN})], "d": "NaN", "e": 10**400, "f": True, "g": None}
    assert strict(json_text(content)) == content | {"a": None, "b": [1.5, None, [None, {"c": None}]]}
    assert json_text({"b": 1, "a": NAN}, sort_keys=True, separators=(",", ":")) == '{"a":null,"b":1}'


def test_files_hold_it(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "one.json", {"a": NAN})
    assert strict((tmp_path / "new" / "one.json").read_text()) == {"a": None}
    for value in (1.0, INF):
        append_json(tmp_path / "more" / "lines.jsonl", {"a": value, "b": "ä\u2028"})
    lines = (tmp_path / "more" / "lines.jsonl").read_bytes().splitlines()
    assert [strict(line.decode()) for line in lines] == [{"a": 1.0, "b": "ä\u2028"}, {"a": None, "b": "ä\u2028"}]


def bypasses(tree: ast.AST) -> list[int]:
    """Lines that name json's own writers, as an attribute of whatever or imported from json."""
    found = []
    for node in ast.walk(tree):
        named = isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps", "JSONEncoder", "to_json_string")
        named = named and not (isinstance(node.value, ast.Name) and node.value.id == "pickle")
        imported = isinstance(node, ast.ImportFrom) and node.module in ("json", "simplejson", "orjson")
        if named or imported:
            found.append(node.lineno)
    return found


def test_nothing_else_in_the_package_writes_json() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        for line in bypasses(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert {place.partition(":")[0] for place in found} == {"files.py"}
    assert len(found) == 1


@pytest.mark.parametrize(
    "text", ["import json\njson.dumps(1)", "import json as j\nj.dump(1, f)", "from json import dumps", "w = json.dumps"]
)
def test_the_search_finds_a_bypass(text: str) -> None:
    assert bypasses(ast.parse(text))
