"""The page as text: its data come back whole and can never become markup, and it loads nothing."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from actfocus_verl.reporting.html_page import SCRIPTS, build_page, config_differences, safe_json
from actfocus_verl.reporting.run_folder import RunFolder

HOSTILE = '</script><script>alert(1)</script><!-- <![CDATA[ ]]> &amp; \u2028\u2029 \ud800 \x00 {{style}} \\ " é'


class Page(HTMLParser):
    """The page's elements, and the text inside its scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.open = attributes.get("id", tag) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open:
            self.texts[self.open] = self.texts.get(self.open, "") + data


@pytest.fixture
def hostile_run(run_path, write):
    records = [{"responses": [5], "token_texts": [HOSTILE], "token_roles": [1], "stop_reason": HOSTILE}]
    write(run_path / "rollouts" / "9.jsonl", records)
    (run_path / "rollouts" / "10.jsonl").unlink()
    (run_path / "run.json").write_text(json.dumps({"exit_reason": HOSTILE}))
    return RunFolder.open(run_path)


@pytest.mark.parametrize("value", [HOSTILE, {HOSTILE: [HOSTILE, None, 1.5]}])
def test_json_in_a_script_element(value):
    text = safe_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(value):
    assert safe_json([value, 1.5]) == "[null,1.5]"


def test_hostile_text_comes_back_whole_and_adds_no_element(run_path, hostile_run):
    page = Page(build_page([hostile_run], episodes=10))
    (run_path / "rollouts" / "9.jsonl").unlink()
    (run_path / "run.json").write_text("{}")
    harmless = Page(build_page([RunFolder.open(run_path)], episodes=10))
    episode = ("script", {"type": "application/json", "id": "episode-0-0"})
    assert [tag for tag, _ in page.elements if (tag, _) != episode] == [tag for tag, _ in harmless.elements]
    assert page.elements.count(episode) == 1

    data = json.loads(page.texts["page-data"])
    assert data["runs"][0]["episodes"][0]["stop"] == HOSTILE
    assert ["exit", HOSTILE] in data["runs"][0]["facts"]
    assert json.loads(page.texts["episode-0-0"])["tokens"] == [HOSTILE]
    page_text = build_page([hostile_run], episodes=10)
    page_text.encode()  # a lone surrogate could not be written


def test_nothing_is_loaded_and_only_the_page_s_own_script_may_run(hostile_run):
    page = Page(build_page([hostile_run], episodes=10))
    loading = {"src", "srcset", "data", "action", "poster", "background", "manifest"}
    for tag, attributes in page.elements:
        assert not loading & set(attributes), tag
        assert tag not in ("link", "iframe", "object", "base")
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")

    def digest(name):
        return f"'sha256-{base64.b64encode(hashlib.sha256(page.texts[name].encode()).digest()).decode()}'"

    assert policy == f"default-src 'none'; style-src {digest('style')}; script-src {digest('script')}"


def test_the_page_s_parts_are_whole(hostile_run):
    page = build_page([hostile_run], episodes=10)
    assert not re.search(r"\{\{\w+\}\}", page.replace("{{style}}", ""))  # only the hostile text has one
    parts = resources.files("actfocus_verl.reporting").joinpath("page").iterdir()
    assert sorted(part.name for part in parts) == sorted([*SCRIPTS, "page.css", "page.html"])


def test_one_run(run_path):
    data = json.loads(Page(build_page([RunFolder.open(run_path)], episodes=10)).texts["page-data"])
    assert [run["name"] for run in data["runs"]] == ["quickstart/seed-0"]
    assert data["runs"][0]["sampled"] == 3
    assert ["credit", "name actfocus, alpha 0.1"] in data["runs"][0]["facts"]
    assert data["differences"] == []
    assert data["panels"][0]["title"] == "Success"


def test_notes_of_a_killed_run_are_on_the_page(run_path):
    with (run_path / "metrics.jsonl").open("a") as file:
        file.write('{"st')
    data = json.loads(Page(build_page([RunFolder.open(run_path)], episodes=10)).texts["page-data"])
    assert data["runs"][0]["notes"] == ["metrics.jsonl: line 3, the last one, is cut short and was left out"]


def test_two_runs_and_how_their_settings_differ(run_path, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("credit: {name: actfocus, alpha: 1.0}\nseed: 3\n")
    page = Page(build_page([RunFolder.open(run_path), RunFolder.open(other)], episodes=2))
    data = json.loads(page.texts["page-data"])
    assert [(len(run["episodes"]), run["sampled"]) for run in data["runs"]] == [(2, 3), (0, 0)]
    assert data["differences"] == [["credit.alpha", "0.1", "1.0"], ["seed", "(not set)", "3"]]
    assert {"episode-0-0", "episode-0-1"} == {name for name in page.texts if name.startswith("episode")}


def test_differences_by_hand():
    first = {"a": {"b": 1, "c": None}, "d": [1, 2], "e": {}}
    second = {"a": {"b": 2, "c": None}, "d": [1, 3], "f": "x"}
    assert config_differences(first, second) == [
        ("a.b", "1", "2"),
        ("d", "[1, 2]", "[1, 3]"),
        ("e", "{}", "(not set)"),
        ("f", "(not set)", "x"),
    ]
