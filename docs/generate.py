# ruff: noqa: INP001 - a script
"""Writes docs/reference and the JSON Schema of relay.yaml from the code; `--check` fails where they are stale."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from flask import Flask
from typer.main import get_command

from relay import app as application
from relay import catalogue
from relay.alerts import Receiver
from relay.buffer import keys
from relay.cli.look import kind_of
from relay.cli.main import app
from relay.config import Settings, SourceSettings
from relay.kinds import kinds
from relay.web.gauges import DECLARED
from relay.web.openapi import describe
from worker.jobs import DESTINATIONS

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Made by `make docs` from the code; edit that instead. -->\n\n"


def settings() -> str:
    """Every setting, with default and help."""
    lines = [f"{NOTE}# Settings", "", "`relay.yaml`, or `RELAY_<NAME>` in the environment.", ""]
    lines += ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = "" if default in ({}, (), None) or "Secret" in type(default).__name__ else f"`{default}`"
        lines.append(f"| `{name}` | {shown} | {field.description} |")
    lines += ["", "## A source's block", "", "| setting | what it does |", "|---|---|"]
    lines += [f"| `{n}` | {f.description} |" for n, f in SourceSettings.model_fields.items()]
    lines += ["", "## One of `alerts`", "", "| setting | what it does |", "|---|---|"]
    lines += [f"| `{n}` | {f.description} |" for n, f in Receiver.model_fields.items()]
    return "\n".join(lines) + "\n"


def sources() -> str:
    """Every kind: those with a file, the recipes, and what is described in relay.yaml."""
    found = [kind_of(name) for name in kinds()]
    lines = [f"{NOTE}# Sources", ""]
    lines += ["What `kind` may say in a source's block; `relay sources --json` prints the same as data.", ""]
    parts = {
        "source": ("Kinds with a file", "Written and tested for this sender alone, `relay/sources/<kind>.py`."),
        "recipe": (
            "Recipes",
            (
                "Settings of a [described source](../howto/custom-sender.md) that ship, "
                "`relay/recipes/<kind>.yaml`, made after the sender's documentation. Your own settings lie over "
                "them: see [recipes](../howto/recipes.md)."
            ),
        ),
        "custom": ("Any other sender", "Is [described in relay.yaml](../howto/custom-sender.md), `kind: custom`."),
    }
    for support, (title, about) in parts.items():
        lines += [f"## {title}", "", about, ""]
        for kind in found:
            if kind["support"] == support != "custom":
                lines += _source(kind)
    return "\n".join(lines)


def _source(kind: dict[str, Any]) -> list[str]:
    lines = [
        f"### {kind['kind']}",
        "",
        f"{kind['title']} ({kind['family']}); [its documentation]({kind['docs']}).",
        "",
    ]
    lines += [f"{number}. {step}" for number, step in enumerate(kind["setup"], 1)]
    lines += ["", f"* verified by {kind['scheme']}"]
    lines += [f"* proof: {kind['proof']}"] if kind["support"] == "source" else []
    for name, setting in kind["settings"].items():
        default = "" if setting["default"] in (None, "", (), []) else f" (default: `{setting['default']}`)"
        lines += [f"* setting `{name}`: {setting['help']}{default}"]
    lines += [f"* deletes: {kind['deletes']}"] if kind["deletes"] else []
    lines += [f"* limit: {limit}" for limit in kind["limits"]]
    lines += ["", "| table | key | rows are ordered by | columns |", "|---|---|---|---|"]
    for name, table in kind["tables"].items():
        types: dict[str, list[str]] = {}
        for column, type_ in table["columns"].items():
            types.setdefault(type_, []).append(f"`{column}`")
        columns = "; ".join(f"{type_}: {', '.join(names)}" for type_, names in types.items())
        whole = f" (whole sets, by {', '.join(table['parent'])})" if table["parent"] else ""
        cells = (f"`{name}`{whole}", ", ".join(f"`{column}`" for column in table["key"]), table["clock"], columns)
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"]
    return [*lines, ""]


def destinations() -> str:
    """Every destination with its settings."""
    lines = [f"{NOTE}# Destinations", ""]
    for name in catalogue.names(DESTINATIONS):
        cls = catalogue.load(DESTINATIONS, name).destination
        lines += [f"## {name}", "", (cls.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| setting | default | what it does |", "|---|---|---|"]
        for field_name, field in cls.Settings.model_fields.items():
            default = "required" if field.is_required() else f"`{field.get_default()}`"
            lines.append(f"| `{field.alias or field_name}` | {default} | {field.description or ''} |")
        lines += [""]
    return "\n".join(lines)


def commands() -> str:
    """Every command with its help."""
    lines = [f"{NOTE}# Commands", ""]
    _command(get_command(app), "relay", lines)
    return "\n".join(lines)


def _command(command: Any, name: str, lines: list[str]) -> None:
    inner = getattr(command, "commands", None)
    if inner:
        for part, found in sorted(inner.items()):
            _command(found, f"{name} {part}", lines)
        return
    arguments = [(p.name or "").upper().rstrip("_") for p in command.params if p.param_type_name == "argument"]
    lines += [f"## {' '.join([name, *arguments])}", "", command.help or "", ""]
    options = [p for p in command.params if p.param_type_name == "option"]
    lines += [f"* `{'`, `'.join(p.opts)}`: {getattr(p, 'help', '') or ''}" for p in options] + [""]


def redis_keys() -> str:
    """The key layout, as the module that owns it says it."""
    return f"{NOTE}# Redis keys\n\n```\n{(keys.__doc__ or '').strip()}\n```\n"


def metrics() -> str:
    """Every metric of `GET /metrics`."""
    lines = [f"{NOTE}# Metrics", ""]
    lines += ["`GET /metrics`, for Prometheus: [how to scrape it](../howto/monitor.md). Names end in units.", ""]
    lines += ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for one in DECLARED:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.about} |")
    return "\n".join(lines) + "\n"


def schema() -> str:
    """JSON Schema of relay.yaml, destinations included."""
    found = Settings.model_json_schema(by_alias=True)
    kinds = {n: catalogue.load(DESTINATIONS, n).destination.Settings for n in catalogue.names(DESTINATIONS)}
    variants = []
    for name, model in kinds.items():
        one = model.model_json_schema(by_alias=True)
        one["properties"]["kind"] = {"const": name}
        found.setdefault("$defs", {}).update(one.pop("$defs", {}))  # where its references look for them
        variants.append(one)
    found["properties"]["destinations"]["additionalProperties"] = {"oneOf": variants}
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def openapi() -> str:
    """All that is served, as `GET /openapi.json` describes it."""
    served = Flask("relay", static_folder=None)
    application.serve(served)
    return json.dumps(describe(served), indent=1, ensure_ascii=False) + "\n"


def pages() -> dict[Path, str]:
    """Every generated file."""
    return {
        REFERENCE / "settings.md": settings(),
        REFERENCE / "sources.md": sources(),
        REFERENCE / "destinations.md": destinations(),
        REFERENCE / "commands.md": commands(),
        REFERENCE / "redis-keys.md": redis_keys(),
        REFERENCE / "metrics.md": metrics(),
        REFERENCE / "openapi.json": openapi(),
        ROOT / "relay" / "relay.schema.json": schema(),
    }


def main() -> int:
    """Write, or check."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: make docs\n")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pages()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
