"""What every page is held to: WCAG AA as far as axe-core can tell, nothing cut off, no scrolling sideways."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

#: Of the repository's `build/`, which git ignores.
PICTURES: Final = Path(__file__).parents[2] / "build" / "screenshots"
#: Pixels of a picture; a list of all sources on a phone is longer than anybody looks at.
_HIGHEST: Final = 6_000
_RULES: Final = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
_AXE: Final = Axe()
#: Sentences about elements that reach out of the window, or whose words reach out of them.
_CUT: Final = """() => {
  const found = [], root = document.documentElement;
  const name = el => `<${el.tagName.toLowerCase()} class="${el.className}"> ${el.textContent.trim().slice(0, 40)}`;
  const clipped = el => { for (; el; el = el.parentElement)
    if (getComputedStyle(el).clipPath !== "none" || el.classList.contains("skip")) return true; return false; };
  if (root.scrollWidth > root.clientWidth)
    found.push(`the page is ${root.scrollWidth} wide in a window of ${root.clientWidth}`);
  for (const el of document.body.querySelectorAll("*")) {
    const box = el.getBoundingClientRect(), style = getComputedStyle(el);
    if (!box.width || !box.height || clipped(el)) continue;
    if (box.right > root.clientWidth + 1 || box.left < -1) found.push(`outside: ${name(el)}`);
    else if (["INPUT", "SELECT", "TEXTAREA"].includes(el.tagName) || style.display === "inline") continue;
    else if (el.scrollWidth > el.clientWidth + 1 && (style.overflowX !== "visible" ||
      [...el.childNodes].some(node => node.nodeType === 3 && node.data.trim()))) found.push(`cut: ${name(el)}`);
  }
  return found.slice(0, 5);
}"""


def violations(page: Page) -> list[str]:
    """A sentence for each rule that axe-core finds broken, with the elements."""
    response: dict[str, Any] = _AXE.run(page, options=_RULES).response
    assert response["passes"], "axe has looked at something"
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: "
        + "; ".join(f"{node['html'][:120]} {_why(node)}" for node in rule["nodes"][:3])
        for rule in response["violations"]
    ]


def _why(node: dict[str, Any]) -> str:
    return " ".join(check["message"] for check in [*node["any"], *node["all"], *node["none"]])[:160]


def cut(page: Page) -> list[str]:
    """What is cut off, or makes the page scroll sideways."""
    found: list[str] = page.evaluate(_CUT)
    return found


def picture(page: Page, name: str, mode: str, folder: Path = PICTURES) -> None:
    """Keep a picture of a page, as in a window that is high enough for it, if any is."""
    folder.mkdir(parents=True, exist_ok=True)
    window = page.viewport_size
    assert window is not None
    height: int = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": window["width"], "height": min(max(height, window["height"]), _HIGHEST)})
    page.screenshot(path=folder / f"{name}.{mode}.png", animations="disabled", timeout=60_000)
    page.set_viewport_size(window)
