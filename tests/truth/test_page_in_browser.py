"""The page of a measurement in a real headless Chromium, opened from disk as a reader opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

from actfocus_verl.truth.command import main  # noqa: E402
from tests.helpers import pages  # noqa: E402
from tests.truth.made_up import LookupEngine  # noqa: E402

CHROMIUM = pages.find_chromium()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: scripts/install_chromium.sh (or name one in ACTFOCUS_CHROMIUM)"
    ),
]


def test_tables_lines_and_replies(words: Callable[..., list[str]], engine: type[LookupEngine], tmp_path: Path) -> None:
    assert main(words("boards=8", "continuations=2", "max_turns=2", "slip=0.2", "tokens=true", "token_segments=2")) == 0
    url = (tmp_path / "out" / "truth.html").as_uri()
    problems: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=pages.ARGUMENTS)
        page = browser.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: request.url == url or problems.append(request.url))
        page.goto(url)
        assert page.title() == "tests.truth.made_up:Coin/default/train: where the return is decided"
        titles = page.locator("#figures h2").all_inner_texts()
        shares, checks = "Shares of the return's variance", "Checks"
        assert titles == [shares, checks, "Shares by turn", "Single tokens", "By stratum", "Measurement"]
        assert page.locator("#figures table").first.locator("tbody tr").count() == 4
        assert "too narrow under about ten boards" in page.locator(".note").first.inner_text()
        first = page.locator("#shown section.card").first
        assert page.locator("#shown svg.path").count() == 12
        assert first.locator("svg.path .step").count() == 8
        assert first.locator("svg.path circle").count() == 9
        first.locator("summary").click()
        assert "<answer>" in first.locator(".token.role-action").first.inner_text()
        assert first.locator(".change").count() == 8
        page.locator("#theme").click()
        assert page.locator("html").get_attribute("data-theme") == "dark"
        browser.close()
    assert problems == []
