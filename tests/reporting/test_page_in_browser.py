"""The page in a real headless Chromium, opened from disk as a reader opens it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

from actfocus_verl.reporting.html_page import build_page  # noqa: E402
from actfocus_verl.reporting.run_folder import RunFolder  # noqa: E402
from tests.helpers import pages  # noqa: E402
from tests.helpers.run_folders import HOSTILE, multiply, write_run  # noqa: E402

CHROMIUM = pages.find_chromium()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: scripts/install_chromium.sh (or name one in ACTFOCUS_CHROMIUM)"
    ),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs by name."""
    folder = tmp_path_factory.mktemp("runs")
    written = {"a": write_run(folder / "a"), "b": write_run(folder / "b", alpha=1.0, seed=1)}
    for name in ("many", "old"):
        written[name] = shutil.copytree(written["a"], folder / name)
    multiply(written["many"], 1000)
    for file in (written["old"] / "rollouts").iterdir():
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for record in records:
            del record["token_texts"], record["prompt_text"], record["final_state"], record["energy"]
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    written["agent"] = shutil.copytree(written["a"], folder / "agent")
    make_conversation(written["agent"] / "rollouts" / "5.jsonl")
    for names in (("a",), ("many",), ("old",), ("agent",), ("a", "b")):
        page = build_page([RunFolder.open(written[name]) for name in names], episodes=1000)
        (folder / f"{'-'.join(names)}.html").write_text(page, encoding="utf-8")
    return written | {"pages": folder}


def make_conversation(file: Path) -> None:
    """The first two episodes of a step become the chains of one conversation of a user's agent."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for output, record in enumerate(lines[:2]):
        del record["texts"], record["final_state"], record["turn_rewards"]
        record |= {"group": "task", "session": 3, "output": output, "turn_calls": [[["add", f'{{"a": {output}}}']]]}
    file.write_text("".join(json.dumps(record) + "\n" for record in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def browser(runs: dict[str, Path]) -> Iterator[Any]:
    """After `runs`, which plays episodes: Playwright keeps an event loop running in this thread."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=pages.ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, runs: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Open a page by name from disk; at the end, nothing may have gone wrong in it or been asked of a network."""
    problems: list[str] = []
    contexts = []

    def open_(name: str, scheme: str = "light", view: str = "episodes") -> Any:
        context = browser.new_context(color_scheme=scheme, viewport={"width": 1400, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        url = (runs["pages"] / f"{name}.html").as_uri()
        page.on("request", lambda request: request.url.startswith(url) or problems.append(f"request: {request.url}"))
        page.goto(f"{url}#view-{view}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def test_curves_are_drawn_and_read_off(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("a", view="curves")
    titles = page.locator("figcaption").all_inner_texts()
    assert {"Success", "Return", "Response length by role", "Valid turns", "Entropy of the policy"} < set(titles)
    assert {"KL divergence", "Mean weight by role", "Energy by role: median, 10th to 90th percentile"} < set(titles)
    for drawn in page.locator(".curve").evaluate_all("paths => paths.map((path) => path.getAttribute('d'))"):
        assert drawn.startswith("M")
        assert "NaN" not in drawn
    success = pages.figure(page, "Success").locator("svg")
    assert "frozen_lake/clean/evaluation from 0.25 at step 0 to 0.75 at 10" in success.get_attribute("aria-label")
    success.focus()
    page.keyboard.press("ArrowRight")
    first = pages.figure(page, "Success").locator("output")
    # step 0: 2 of 8 boards; the interval is Wilson's
    assert first.all_inner_texts()[:2] == ["step 0", "0.25 [0.07148, 0.5907]"]
    assert page.title() == f"{runs['a'].parent.name}/a: run report"


def test_any_metric_can_be_added(open_page: Callable[..., Any]) -> None:
    page = open_page("a", view="curves")
    charts = page.locator("figure").count()
    page.fill("#metric", "stop/failure")
    page.keyboard.press("Enter")
    assert page.locator("figure").count() == charts + 1
    assert page.locator("figcaption").first.inner_text() == "stop/failure"
    before = pages.figure(page, "Success").locator(".curve").last.get_attribute("d")
    page.locator("#smoothing").fill("0.9")
    assert pages.figure(page, "Success").locator(".curve").last.get_attribute("d") != before


def test_enter_on_a_chart_shows_the_episodes_of_that_step(open_page: Callable[..., Any]) -> None:
    page = open_page("a", view="curves")
    pages.figure(page, "Entropy of the policy").locator("svg").focus()
    page.keyboard.press("ArrowLeft")  # from the end: step 10
    page.keyboard.press("Enter")
    assert pages.count(page) == "8 of 16 episodes"
    assert pages.heading(page) == "Step 10, episode 1"


def test_tokens_are_the_recorded_ones_each_by_its_role(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("a")
    tokens = page.locator(".turns .token").evaluate_all(
        "spans => spans.map((span) => [span.textContent, span.className])"
    )
    record = pages.records(runs["a"])[0]
    names = ("environment", "reasoning", "action", "format")
    assert [text for text, _ in tokens] == record["token_texts"]
    for (_, classes), role in zip(tokens, record["token_roles"], strict=True):
        assert f"role-{names[role]}" in classes.split()
    states = page.locator(".turn .state pre").all_text_contents()
    assert states == [text["state"] for text in record["texts"]] + [record["final_state"]]
    assert page.locator("details.prompt pre").text_content() == record["prompt_text"]


def test_the_chains_of_a_conversation_are_side_by_side(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("agent")
    shown = page.locator(".chains .episode")
    records = pages.records(runs["agent"])
    for chain in (0, 1):
        assert shown.nth(chain).locator(".token").all_text_contents() == records[chain]["token_texts"]
        assert shown.nth(chain).locator(".calls").all_inner_texts()[0] == f'add {{"a": {chain}}}'
        assert f"{chain + 1} of 2" in shown.nth(chain).locator(".heading").inner_text()
    boxes = [shown.nth(chain).bounding_box() for chain in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    page.locator(".list [role=option]").nth(1).click()  # the other chain: the same two, in the same order
    assert shown.count() == 2
    assert "1 of 2" in shown.nth(0).locator(".heading").inner_text()
    page.check("input[value=energy]")
    colours = [set(shown.nth(chain).locator(".token").evaluate_all(pages.BACKGROUNDS)) for chain in (0, 1)]
    assert min(map(len, colours)) > 2
    page.locator(".list [role=option]").nth(2).click()
    assert shown.count() == 1


def test_colours_follow_the_chosen_colouring(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("a")
    record = pages.records(runs["a"])[0]
    seen = {}
    for key in ("roles", "token_weights", "energy", "advantages"):
        page.check(f"input[value={key}]")
        seen[key] = tuple(page.locator(".turns .token").evaluate_all(pages.BACKGROUNDS))
    assert len(set(seen.values())) == 4
    assert len(set(seen["advantages"])) == 2  # one advantage in the whole episode, and none between the turns
    shades = page.evaluate("colours => colours.map((c) => luminance(c.match(/[\\d.]+/g).map(Number)))", seen["energy"])
    rows = zip(record["energy"], shades, record["token_roles"], strict=True)
    ordered = [shade for _, shade in sorted((energy, shade) for energy, shade, role in rows if role)]
    assert ordered == sorted(ordered, reverse=True)  # on white, the higher the energy the darker
    assert ordered[0] > 2 * ordered[-1]
    assert "advantage" in page.locator(".legend").first.get_attribute("aria-label")


@pytest.mark.parametrize(
    ("field", "value", "keep"),
    [
        ("#stop", "max_turns", lambda r: r["stop_reason"] == "max_turns"),
        ("#return-from", "0.9", lambda r: r["return"] >= 0.9),
        ("#return-to", "0.5", lambda r: r["return"] <= 0.5),
        ("#tokens-from", "100", lambda r: sum(r["response_mask"]) >= 100),
        ("#step-to", "7", lambda r: r["step"] <= 7),
        ("#search", "TWO STEPS", lambda r: "two steps" in "".join(r["token_texts"]).lower()),
        ("#search", "</script><script>", lambda r: "</script><script>" in "".join(r["token_texts"])),
        ("#search", "holes: (0, 1)", lambda r: "Holes: (0, 1)" in r["texts"][0]["state"]),
        ("#search", "no such words", lambda r: False),
    ],
)
def test_filters_keep_what_they_say(
    open_page: Callable[..., Any], runs: dict[str, Path], field: str, value: str, keep: Callable[[Any], bool]
) -> None:
    page = open_page("a")
    kept = [record for record in pages.records(runs["a"]) if keep(record)]
    assert len(kept) < 16
    if field == "#stop":
        page.select_option(field, value)
    else:
        page.fill(field, value)
    assert pages.count(page) == f"{len(kept)} of 16 episodes"
    assert page.locator("[role=option]").count() == len(kept)
    if kept:
        assert page.locator(".turns .token").all_text_contents() == kept[0]["token_texts"]
    else:
        assert page.locator(".episode").inner_text() == "No episode passes the filters."
    page.click("#reset")
    assert pages.count(page) == "16 of 16 episodes"


def test_what_was_searched_for_is_outlined(open_page: Callable[..., Any]) -> None:
    page = open_page("a")
    page.fill("#search", "the goal is")
    assert "The goal is" in "".join(page.locator(".turns .hit").all_text_contents())
    page.fill("#search", "")
    assert page.locator(".turns .hit").count() == 0


def test_orders(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("a")
    page.select_option("#order", "worst")
    # text_content, for the list lays out (and inner_text reads) only what has scrolled into view
    assert page.locator(".row", has_text="return").first.text_content().startswith("return 0")
    page.select_option("#order", "longest")
    longest = max(sum(record["response_mask"]) for record in pages.records(runs["a"]))
    assert f"{longest} tokens" in page.locator("[role=option]").first.text_content()


def test_the_keyboard_does_it_all(open_page: Callable[..., Any]) -> None:
    page = open_page("a", view="curves")
    press = page.keyboard.press
    press("2")
    assert pages.heading(page) == "Step 5, episode 1"
    for key, episode in (("j", 2), ("ArrowDown", 3), ("k", 2), ("ArrowUp", 1), ("k", 1)):
        press(key)
        assert pages.heading(page) == f"Step 5, episode {episode}"
    press("End")
    assert pages.heading(page) == "Step 10, episode 8"
    press("Home")
    press("ArrowLeft")  # from the end of this episode, which is shorter than the one shown before
    assert page.locator(".turns .current").text_content() == "<|im_end|>"
    press("k")
    press("/")
    page.keyboard.type("jjt")  # letters in a field are letters
    assert page.locator("#search").input_value() == "jjt"
    press("Escape")
    assert (page.locator("#search").input_value(), pages.count(page)) == ("jjt", "0 of 16 episodes")
    press("x")
    assert pages.count(page) == "16 of 16 episodes"
    press("ArrowRight")
    assert page.locator(".inspector").inner_text().replace("\n", " ").startswith('token "<')
    press("c")
    assert page.locator("input[value=token_weights]").is_checked()
    press("C")
    assert page.locator("input[value=roles]").is_checked()
    press("?")
    assert page.locator("dialog").is_visible()
    press("j")  # not behind an open dialog
    press("Escape")
    assert not page.locator("dialog").is_visible()
    assert pages.heading(page) == "Step 5, episode 1"
    before = pages.background(page, "body")
    press("t")
    assert pages.background(page, "body") != before


def test_the_focus_is_visible_and_everything_has_a_name(open_page: Callable[..., Any]) -> None:
    page = open_page("a-b")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        style, name, kind = page.evaluate(pages.FOCUSED)
        if kind.startswith("BODY"):
            break
        seen.add(kind)
        assert style == "solid2px", kind
        assert name, kind
    assert {"INPUTsearch", "SELECTstop", "ULlistbox", "DIVregion", "BUTTONtheme", "BUTTONtab-episodes"} <= seen


def test_the_chosen_option_is_announced(open_page: Callable[..., Any]) -> None:
    page = open_page("a")
    page.keyboard.press("j")
    chosen = page.locator("[role=option][aria-selected=true]")
    assert chosen.count() == 1
    assert page.locator("[role=listbox]").get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    assert (chosen.get_attribute("aria-posinset"), chosen.get_attribute("aria-setsize")) == ("2", "16")


def test_hostile_text_is_inert_and_whole(open_page: Callable[..., Any]) -> None:
    page = open_page("a")
    page.fill("#search", "window.hacked")
    assert pages.count(page) == "4 of 16 episodes"
    assert HOSTILE in "".join(page.locator(".turns .token").all_text_contents())
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, .episode script, .episode svg, iframe").count() == 0
    assert page.evaluate("[...document.scripts].filter((s) => s.type !== 'application/json').length") == 1


def test_the_page_s_policy_stops_every_other_script(browser: Any, runs: dict[str, Path]) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((runs["pages"] / "a.html").as_uri())
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 2'}))")
    assert page.evaluate("window.hacked") is None
    assert "Content Security Policy" in said[0]
    page.close()


def test_a_thousand_episodes(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("many")
    assert pages.count(page) == "1,000 of 1,000 episodes"
    shown = page.locator(".token[data-index]").count()
    assert shown == len(pages.records(runs["many"])[0]["responses"])  # one episode's tokens and no other's
    page.keyboard.press("End")
    assert "return 999" in page.locator(".heading").inner_text().replace("\n", " ")
    page.fill("#search", "two steps")
    assert pages.count(page) == "250 of 1,000 episodes"
    page.fill("#return-from", "990")
    kept = [r for r in pages.records(runs["many"]) if r["return"] >= 990 and "two steps" in "".join(r["token_texts"])]
    assert pages.count(page) == f"{len(kept)} of 1,000 episodes"


def test_a_run_without_token_texts(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("old")
    record = pages.records(runs["old"])[0]
    assert "recorded no token texts" in page.locator(".note").inner_text()
    assert page.locator(".whole").all_text_contents() == [text["reply"] for text in record["texts"]]
    assert page.locator(".turns .token").all_text_contents() == [f"{id_} " for id_ in record["responses"]]
    assert page.locator("input[name=colouring]").count() == 3  # no energy


def test_two_runs_side_by_side(open_page: Callable[..., Any], runs: dict[str, Path]) -> None:
    page = open_page("a-b")
    assert page.locator(".pane").count() == 2
    page.keyboard.press("End")
    page.keyboard.press("b")
    left, right = (page.locator(".pane").nth(number) for number in (0, 1))
    assert left.locator(".state pre").first.inner_text() == right.locator(".state pre").first.inner_text()
    assert left.locator(".heading h2").inner_text() == "Step 10, episode 8"
    assert right.locator(".heading h2").inner_text().startswith("Step 10")
    page.keyboard.press("o")
    page.keyboard.press("Home")
    assert right.locator(".heading h2").inner_text() == "Step 5, episode 1"
    assert left.locator(".heading h2").inner_text() == "Step 10, episode 8"
    page.keyboard.press("3")
    assert page.locator("tbody tr", has_text="credit.alpha").locator("td").all_inner_texts() == [
        "credit.alpha",
        "0.1",
        "1.0",
    ]
    page.keyboard.press("1")
    assert pages.figure(page, "Entropy of the policy").locator(".line").count() == 2
    assert pages.figure(page, "Entropy of the policy").locator(".line.dashed").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(open_page: Callable[..., Any], scheme: str) -> None:
    page = open_page("a-b", scheme)
    page.fill("#search", "window.hacked")
    views = [("2", key) for key in ("roles", "token_weights", "energy", "advantages")] + [("1", None), ("3", None)]
    for view, key in views:
        page.keyboard.press("Escape")
        page.keyboard.press(view)
        if key:
            page.check(f"input[value={key}]")
        found = page.evaluate(pages.CONTRASTS)
        assert len(found) > 20
        assert min(found)[0] >= pages.ENOUGH, min(found)
    luminances = page.evaluate("theme.isDark() ? 'dark' : 'light'")
    assert luminances == scheme


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_apart_without_hue(open_page: Callable[..., Any], scheme: str) -> None:
    """The ramps rise or fall in lightness alone, and roles differ in more than colour."""
    page = open_page("a", scheme)
    ramp = page.evaluate(f"RAMPS.sequential.{scheme}.map((colour) => luminance(channels(colour)))")
    assert ramp == sorted(ramp, reverse=scheme == "light")
    low, middle, high = page.evaluate(f"[0, 2, 4].map((i) => channels(RAMPS.diverging.{scheme}[i]))")
    assert low[2] > low[0] + 60  # blue below zero
    assert high[0] > high[2] + 60  # orange above: a pair that red-green and blue-yellow blindness both leave apart
    assert max(middle) - min(middle) < 20  # grey at zero
    looks = page.evaluate(
        """() => ["reasoning", "action", "format"].map((role) => {
          const style = getComputedStyle(document.querySelector(`.turns .role-${role}`));
          return [style.fontWeight, style.borderBottomStyle, style.borderBottomColor === "rgba(0, 0, 0, 0)"].join(" ");
        })"""
    )
    assert len(set(looks)) == 3
