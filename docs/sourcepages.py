# ruff: noqa: INP001 - a part of the script beside it
"""The list of all kinds of senders, and a page for each: how to connect it, and what becomes of what it sends."""

from __future__ import annotations

import re
from typing import Any

from relay import recipes
from relay.cli.look import kind_of
from relay.kinds import kinds, vendor_of

#: Schemes under which the relay has nothing to sign with.
_PUBLIC_KEYS = re.compile(r"rsa-|ecdsa-|ed25519|JWT")
_PARTS = {
    "source": ("Kinds with a file", "Written and tested for this sender alone, `relay/sources/<kind>.py`."),
    "recipe": ("Recipes", "Settings that ship, `relay/recipes/<kind>.yaml`: see [recipes](../howto/recipes.md)."),
    "custom": ("Any other sender", "Is [described in relay.yaml](../howto/custom-sender.md), `kind: custom`."),
}
_AT_THE_SENDER = """```

At the sender, where *this URL* is `https://<your address>/hooks/<name of the source>`:
"""
_THEN = """
Then `relay check` names what is missing. [What all kinds share](../../howto/connect-a-vendor.md) has the rest of
the way: the public address, the first delivery, and what was before it.
"""
_SIGNED = "A signed sample goes the whole way:"
_UNSIGNED = "Only the sender can sign, so a sample is taken by a demo source alone (`relay up`, no `relay.yaml`):"
_IF_REFUSED = """Where deliveries are answered 401: [what to do](../../howto/signatures.md). A secret is changed
without a gap by [having both](../../howto/rotate-a-secret.md)."""


def index() -> list[str]:
    """Every kind in a line, by what stands behind it."""
    found = [kind_of(name) for name in kinds()]
    lines = ["# Sources", "", "What `kind` may say in a source's block; each has a page of its own. "]
    lines[-1] += "`relay sources --json` prints the same as data."
    for support, (title, about) in _PARTS.items():
        lines += ["", f"## {title}", "", about]
        told = [kind for kind in found if kind["support"] == support]
        if told and support != "custom":
            lines += ["", "| kind | sender | what it is | tables |", "|---|---|---|---|"]
            lines += [
                f"| [{kind['kind']}](sources/{kind['kind']}.md) | {kind['title']} | {kind['family']} | "
                f"{_code(kind['tables'])} |"
                for kind in told
            ]
    return lines


def pages() -> dict[str, list[str]]:
    """The page of each kind that is not described in relay.yaml, by its name."""
    return {name: _page(kind) for name in kinds() if (kind := kind_of(name))["support"] != "custom"}


def _page(kind: dict[str, Any]) -> list[str]:
    name, vendor = kind["kind"], vendor_of(kind["kind"], {})
    lines = [f"# Connect {kind['title']}", ""]
    lines += [f"`kind: {name}`, {kind['family']}. The sender's own words: [documentation]({kind['docs']})."]
    lines += ["", "## Set it up", "", "In `relay.yaml`, with a name of your choice for the source:", ""]
    lines += ["```yaml", "sources:", f"  {name}:", f"    kind: {name}"]
    lines += [f'    secrets: ["${{{name.upper()}_SECRET}}"]']
    if "url" in kind["scheme"]:  # it is signed too
        lines += [f"    public_url: https://hooks.example.com/hooks/{name}   # as it is pasted at the sender"]
    lines += [_AT_THE_SENDER, *(f"{number}. {step}" for number, step in enumerate(kind["setup"], 1)), _THEN]
    lines += [_UNSIGNED if _PUBLIC_KEYS.search(kind["scheme"]) else _SIGNED, "", "```sh"]
    lines += [f"relay send {name} {next(iter(vendor.samples), '')}".rstrip(), "```", "", _IF_REFUSED]
    lines += ["", "## What is verified", "", f"* {kind['scheme']}"]
    lines += [f"* proof: {kind['proof']}"] if kind["support"] == "source" else []
    lines += ["", *_settings(kind), *_tables(kind), *_traps(kind, vendor)]
    lines += ["## Events", "", f"Mapped: {_code(kind['types'])}. ", ""] if kind["types"] else []
    lines += ["Events of other types are counted as ignored, and shown by [`relay drift`](../../howto/drift.md)."]
    return lines


def _settings(kind: dict[str, Any]) -> list[str]:
    if not kind["settings"]:
        return []
    lines = ["## Settings of its own", "", "| setting | default | what it does |", "|---|---|---|"]
    for name, setting in kind["settings"].items():
        default = "" if setting["default"] in (None, "", (), []) else f"`{setting['default']}`"
        help_ = f"{setting['help']} A secret." if setting["secret"] else setting["help"]
        lines += [_row(f"`{name}`", default, help_)]
    return [*lines, ""]


def _tables(kind: dict[str, Any]) -> list[str]:
    lines = ["## Tables", "", "Each begins with the source's name: `<source>_<table>`.", ""]
    lines += ["| table | key | rows are ordered by | columns |", "|---|---|---|---|"]
    for name, table in kind["tables"].items():
        types: dict[str, list[str]] = {}
        for column, type_ in table["columns"].items():
            types.setdefault(type_, []).append(column)
        columns = "; ".join(f"{type_}: {_code(names)}" for type_, names in types.items())
        whole = f" (whole sets, by {', '.join(table['parent'])})" if table["parent"] else ""
        lines += [_row(f"`{name}`{whole}", _code(table["key"]), table["clock"], columns)]
    return [*lines, ""]


def _traps(kind: dict[str, Any], vendor: Any) -> list[str]:
    lines = [f"* Deletes: {kind['deletes']}"] if kind["deletes"] else []
    lines += [f"* {limit}" for limit in kind["limits"]]
    if vendor.fragile:
        lines += [
            (
                "* It gives up soon: what is not taken within hours is lost. A share of the buffer is "
                "[kept for it](../../explanation/bounds.md)."
            )
        ]
    if vendor.hydrations:
        named = _code(dict.fromkeys(name for name, _ in vendor.hydrations))
        lines += [f"* Thin events ({named}): the object is [fetched](../../howto/hydration.md) with a token."]
    if kind["kind"] in recipes.names():
        lines += ["* It is a [recipe](../../howto/recipes.md): nobody else's code bears out how it is verified."]
    return ["## Traps", "", *lines, ""] if lines else []


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
