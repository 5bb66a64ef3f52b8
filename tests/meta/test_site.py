"""The documentation's site: built without a doubt, and whole in itself."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]


def build(source: Path, target: Path, builder: str) -> subprocess.CompletedProcess[str]:
    """As `make site` does it."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(ROOT / "docs")]
    command += ["-d", str(target.parent / "doctrees"), "-b", builder, str(source), str(target)]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; every link between pages, to headings and to files of the repository leads somewhere."""
    target = tmp_path_factory.mktemp("site") / "html"
    done = build(ROOT, target, "html")
    assert (done.returncode, done.stderr) == (0, "")
    return target


class _Links(HTMLParser):
    """What a page refers to: `loaded` by a browser as it opens it, `followed` by a reader."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.followed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        found = [given[name] or "" for name in ("src", "srcset", "data", "poster") if name in given]
        if tag == "a":
            self.followed.append(given.get("href") or "")
        elif "href" in given:
            found.append(given["href"] or "")
        self.loaded += found


def pages(site: Path) -> Iterator[tuple[Path, _Links]]:
    for path in sorted(site.rglob("*.html")):
        links = _Links()
        links.feed(path.read_text("utf-8"))
        yield path, links


def test_each_part_of_the_documentation_is_on_the_site(site: Path) -> None:
    for name in ("README", "SECURITY", "docs/quickstart", "docs/reference/sources/shopify", "bench/README"):
        assert (site / f"{name}.html").exists(), name
    assert "docs/index.html" in (site / "index.html").read_text()


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for path, links in pages(site):
        assert [target for target in links.loaded if re.match(r"[a-z+]+:|//", target)] == [], path
    for path in site.rglob("*.css"):
        named = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", path.read_text("utf-8"))
        assert [target for target in named if re.match(r"https?:|//", target)] == [], path


def test_whatever_a_page_names_lies_beside_it_so_that_a_folder_is_enough(site: Path) -> None:
    for path, links in pages(site):
        for target in [*links.loaded, *links.followed]:
            bare = unquote(re.split(r"[?#]", target)[0])
            if bare and not re.match(r"[a-z+]+:|//", bare):
                assert not bare.startswith("/"), (path, target)
                assert (path.parent / bare).exists(), (path, target)


def test_the_site_follows_the_width_and_the_light_of_the_reader(site: Path) -> None:
    page = (site / "docs" / "index.html").read_text("utf-8")
    assert re.search(r'<meta name="viewport" content="width=device-width', page)
    sheets = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert "prefers-color-scheme:dark" in sheets.replace(" ", "")
    assert "prefers-color-scheme" in (site / "_images" / "how-it-works.svg").read_text()


def test_a_link_that_leads_nowhere_and_a_page_that_nothing_names_end_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    links = "* [a](nowhere.md)\n* [b](other.md#nothing)\n* [c](../relay/nothing.py)\n"
    (docs / "index.md").write_text(f"# Index\n\n## Part\n\n* [other](other.md)\n{links}")
    (docs / "other.md").write_text("# Other\n\nText.\n")
    (docs / "unnamed.md").write_text("# Unnamed\n\nText.\n")
    done = build(tmp_path / "source", tmp_path / "out", "dummy")
    assert done.returncode != 0
    for fault in ("nowhere.md", "'nothing'", "nothing.py", "unnamed.md: WARNING: document isn't included"):
        assert fault in done.stderr
