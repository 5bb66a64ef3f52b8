"""Every page of the console, found as a person finds it: by links, and by buttons that ask before they act.

New pages are found by themselves, and are then held to what the others are held to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from playwright.sync_api import Error, Page, Response

_HOME: Final = "/console/"
#: No crawl is longer than this.
_MOST: Final = 120
#: What no link leads to: the search in the archive, and a page that is not there.
_BESIDES: Final = (f"{_HOME}events/?in=archive", f"{_HOME}nowhere")
#: Forms after which one is nobody, or somebody: the rest of the pages could not be seen.
_PASSED_BY: Final = ("/logout", "/login")
_LINKS: Final = "links => links.map(link => link.href)"
_BUTTONS: Final = """buttons => buttons.map(button => [
    button.form.getAttribute("action"), button.getAttribute("name") || "", button.getAttribute("value") || ""
])"""


@dataclass(frozen=True)
class Place:
    """A page by its address, or the one that follows on pressing a form's button there.

    Args:
        name: for people and file names. path: of the address. button: action of the form, name and value.
    """

    name: str
    path: str
    button: tuple[str, str, str] | None = None

    def go(self, page: Page) -> Response | None:
        """Go there; the answer to the page's own request."""
        answer = _open(page, self.path)
        if self.button is None:
            return answer
        action, name, value = self.button
        chosen = f'[name="{name}"][value="{value}"]' if name else ""
        with page.expect_navigation() as after:
            page.locator(f'main form[method="post"][action="{action}"] button{chosen}').first.click()
        return after.value


def _open(page: Page, path: str) -> Response | None:
    """Go to an address; a page that waited for something may just be loading itself again, which wins."""
    try:
        return page.goto(path)
    except Error as error:
        if "ERR_ABORTED" not in error.message:
            raise
    return page.goto(path)


def places(page: Page, alike: int = 3) -> list[Place]:
    """All of them, beginning with the overview, and so many of one shape (two sources). Who looks is logged in."""
    found: list[Place] = []
    names: Counter[str] = Counter()
    for path, button in _every(page, alike):
        name = _name(path, button)
        names[name] += 1
        found.append(Place(f"{name}-{names[name]}" if names[name] > 1 else name, path, button))
    return found


def _every(page: Page, most_alike: int) -> Iterator[tuple[str, tuple[str, str, str] | None]]:
    todo, seen, alike = [_HOME, *_BESIDES], {_HOME, *_BESIDES}, Counter[tuple[object, ...]]()
    for path in todo:
        _open(page, path)
        yield path, None
        links: list[str] = page.locator("a[href]").evaluate_all(_LINKS)
        for link in links:
            at = urlsplit(link)
            next_ = at.path + (f"?{at.query}" if at.query else "")
            ours = f"{at.scheme}://{at.netloc}" == page.url.split(_HOME)[0] and at.path.startswith(_HOME)
            alike[_shape(next_)] += ours and next_ not in seen
            if ours and next_ not in seen and alike[_shape(next_)] <= most_alike and len(seen) < _MOST:
                todo.append(next_)
            seen.add(next_)
        buttons: list[list[str]] = page.locator('main form[method="post"] button').evaluate_all(_BUTTONS)
        for action, name, value in buttons:
            shape = (*_shape(urlsplit(action).path), name, value)
            if not any(word in action for word in _PASSED_BY) and shape not in alike:
                alike[shape] += 1
                yield path, (action, name, value)


def _shape(path: str) -> tuple[object, ...]:
    """What pages of one sort have in common: the first folder, the depth, and what is asked."""
    at = urlsplit(path)
    parts = at.path.removeprefix(_HOME).split("/")
    return parts[0], len(parts), bool(parts[-1]), *sorted(name for name, _ in parse_qsl(at.query))


def _name(path: str, button: tuple[str, str, str] | None) -> str:
    at = urlsplit(path)
    parts = [part for part in at.path.removeprefix(_HOME).split("/") if part]
    asked = [value for name, value in parse_qsl(at.query) if name == "in"]
    acts = [*button[0].removeprefix(_HOME).strip("/").split("/")[1:], button[2]] if button else []
    acts = acts if not button or any(acts) else ["sent"]
    words = [word for word in [*(parts or ["overview"]), *asked, *acts] if word and not _is_number(word)]
    return re.sub(r"[^a-z0-9_]+", "-", quote("-".join(dict.fromkeys(words))).lower()).strip("-")


def _is_number(word: str) -> bool:
    """Whether a part of an address names one of many: it would change from run to run."""
    return bool(re.fullmatch(r"\d+|[0-9a-f]{16,}", word))
