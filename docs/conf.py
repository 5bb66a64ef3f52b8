# ruff: noqa: INP001 - Sphinx executes this file; it is in no package
"""How `make site` builds the documentation: every page as it stands in the repository, any doubt an error.

The source folder is the repository itself, so that a link is right on the site where it is right in the
repository, from README.md into docs/ and back. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
from typing import Final

from sphinx.application import Sphinx

from relay import __version__

project = "rowhook"
author = "the rowhook maintainers"
version = release = __version__
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/**/*.md", "bench/README.md"]
exclude_patterns = [".*", "build", "dist", "node_modules", "**/__pycache__", "tests", "relay", "worker"]

# Headings are link targets, named as GitHub names them; a link that leads nowhere is an error.
myst_heading_anchors = 4
nitpicky = True
suppress_warnings: list[str] = []
linkcheck_timeout = 20
linkcheck_anchors = False
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|[a-z.]*\.?example\.(com|org))"]

html_theme = "furo"
html_title = f"rowhook {release}"
html_extra_path = ["site/index.html"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
# Listings are shells, YAML and plain output: without a language nothing is guessed.
highlight_language = "none"

#: Pages whose lists of links are the navigation; all but the first list what lies beneath them.
_CONTENTS: Final = (root_doc, "docs/decisions/index")
#: Fifty pages that a list of their own leads to; in the navigation of each page they would take half of the build.
_LISTED: Final = "docs/reference/sources/"
_CAPTION: Final = re.compile(r"^## (.+)$")
_ENTRY: Final = re.compile(r"\[([^]]+)\]\(([^)#:]+)\.md\)")


def contents(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Make the navigation of a page's own lists: on the first page each heading is a part of it.

    So the lists stand in the Markdown once, readable there too, and a page that none of them names is an error.
    """
    if docname.startswith(_LISTED):
        source[0] = f"---\norphan: true\n---\n{source[0]}"
    if docname not in _CONTENTS:
        return
    top = docname == root_doc
    tree = [] if top else ["```{toctree}", ":hidden:", ""]
    for line in source[0].splitlines():
        if top and (caption := _CAPTION.match(line)):
            tree += [*(["```"] if tree else []), "```{toctree}", ":hidden:", f":caption: {caption[1]}", ""]
        else:
            tree += [
                f"{title} <{page}>" for title, page in _ENTRY.findall(line) if top or not page.startswith("..")
            ]
    source[0] += "\n".join(["", "", *tree, "```", ""])


def setup(app: Sphinx) -> None:
    """Sphinx's hook."""
    app.connect("source-read", contents)
