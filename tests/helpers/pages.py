"""Reading a run's page in a browser: what is shown, in which colours, and how well it is read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
"""Chromium's own sandbox needs a user other than root, or rights that containers lack; the pages are ours."""

ENOUGH: Final = 4.5
"""Contrast of text that WCAG 2 asks for (level AA)."""

# Each element with text of its own that is shown, and the contrast of that text with what is painted behind it.
CONTRASTS: Final = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return [r, g, b];
      if (alpha !== 0) throw new Error(`half transparent: ${at.className}`);
    }
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*:not(svg *, script, noscript, .skip)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const colours = [parse(getComputedStyle(element).color).slice(0, 3), behind(element)];
    const [high, low] = colours.map(luminance).sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), `${element.className}: ${element.textContent.slice(0, 20)}`]);
  }
  return found;
}"""

BACKGROUNDS: Final = "elements => elements.map((element) => getComputedStyle(element).backgroundColor)"

# Of the element that has the focus: its outline, its accessible name, and what it is.
FOCUSED: Final = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const name = element.getAttribute("aria-label") || element.labels?.[0]?.textContent || element.textContent;
  const kind = element.tagName + (element.id || element.getAttribute("role") || element.value);
  return [style.outlineStyle + style.outlineWidth, name.trim(), kind];
}"""


def find_chromium() -> str | None:
    """Path of a Chromium on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("ACTFOCUS_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def records(run: Path) -> list[dict[str, Any]]:
    """The sampled episodes as the run folder has them, in the order of steps."""
    files = sorted((run / "rollouts").iterdir(), key=lambda file: int(file.stem))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def background(page: Any, selector: str) -> str:
    return str(page.locator(selector).evaluate_all(BACKGROUNDS)[0])


def figure(page: Any, title: str) -> Any:
    return page.locator(f"figure:has(svg[aria-label^='{title},'])")


def heading(page: Any) -> str:
    return str(page.locator(".heading h2").first.inner_text())


def count(page: Any) -> str:
    return str(page.locator(".count").first.inner_text())
