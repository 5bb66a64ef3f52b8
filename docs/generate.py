# ruff: noqa: INP001 - a script
"""Writes docs/reference and the JSON Schema of relay.yaml from the code; `--check` fails where they are stale."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import errorpages
import sourcepages
from flask import Flask
from pydantic import BaseModel
from typer.main import get_command

from relay import app as application
from relay import catalogue
from relay.alerts import Receiver
from relay.buffer import keys
from relay.cli.main import app
from relay.config import ClientSettings, Settings, SourceSettings, TableRules
from relay.served import SavedQuery
from relay.web.gauges import DECLARED
from relay.web.openapi import describe
from worker.jobs import DESTINATIONS

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
_HTTP = """# HTTP

Every address that is served, as `GET /openapi.json` describes it in full, with bodies, parameters and headers
([the file](openapi.json)). What an error means: [errors](errors.md).

The console's pages under `/console/` are for people, and may change."""
NOTE = "<!-- Made by `make docs` from the code; edit that instead. -->\n\n"


def page(lines: list[str]) -> str:
    """Lines as a generated page."""
    return NOTE + "\n".join(lines).rstrip() + "\n"


def settings() -> str:
    """Every setting, with default and help."""
    lines = [f"{NOTE}# Settings", "", "`relay.yaml`, or `RELAY_<NAME>` in the environment.", ""]
    lines += ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = "" if default in ({}, (), None) or "Secret" in type(default).__name__ else f"`{default}`"
        lines.append(f"| `{name}` | {shown} | {field.description} |")
    blocks: dict[str, type[BaseModel]] = {
        "A source's block": SourceSettings,
        "A client's block": ClientSettings,
        "One of `alerts`": Receiver,
        "Rules of redaction": TableRules,
        "A figure or a chart": SavedQuery,
    }
    for title, block in blocks.items():
        lines += ["", f"## {title}", "", "| setting | what it does |", "|---|---|"]
        lines += [f"| `{n}` | {f.description} |" for n, f in block.model_fields.items()]
    return "\n".join(lines) + "\n"


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


def logs() -> str:
    """Every line that is ever logged, by name."""
    found: dict[str, list[ast.Call]] = {}
    where: dict[str, set[str]] = {}
    for path in sorted([*ROOT.glob("relay/**/*.py"), *ROOT.glob("worker/**/*.py")]):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = _logged(call)
            if name:
                found.setdefault(name, []).append(call)
                where.setdefault(name, set()).add(path.parts[len(ROOT.parts)])
    lines = [f"{NOTE}# Lines of the log", ""]
    lines += ["What each means and how to follow an event: [logs and traces](../howto/logs-and-traces.md).", ""]
    lines += ["| event | level | of | keys of its own |", "|---|---|---|---|"]
    for name, calls in sorted(found.items()):
        levels = sorted({level for call in calls for level in _levels(call)})
        keys = dict.fromkeys(k.arg for call in calls for k in call.keywords if k.arg and k.arg != "exc_info")
        cells = (f"`{name}`", ", ".join(levels), ", ".join(sorted(where[name])), ", ".join(f"`{k}`" for k in keys))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _levels(call: ast.Call) -> set[str]:
    """The levels at which a call may log."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name != "log":
        return {"error" if name == "exception" else name}
    named = [node for node in ast.walk(call.args[0]) if isinstance(node, ast.Attribute)]
    return {node.attr.lower() for node in named if ast.unparse(node.value) == "logging"}


#: How many arguments stand before the event's name.
_LEVELS = {"debug": 0, "info": 0, "warning": 0, "error": 0, "exception": 0, "critical": 0, "log": 1}


def _logged(call: ast.Call) -> str:
    """The event that a call logs, if it does: a constant that stands first, or behind the level."""
    func = call.func
    if not isinstance(func, ast.Attribute) or func.attr not in _LEVELS or len(call.args) <= _LEVELS[func.attr]:
        return ""
    name = call.args[_LEVELS[func.attr]]
    ours = ast.unparse(func.value).lstrip("_").startswith(("log", "telemetry.logger"))
    return name.value if ours and isinstance(name, ast.Constant) and isinstance(name.value, str) else ""


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


def http(described: dict[str, Any]) -> str:
    """Every address that is served, by the API that it belongs to."""
    lines = [_HTTP]
    rows: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            opened = ", ".join(name for one in operation["security"] for name in one)
            answers = ", ".join(operation["responses"])
            cells = (f"`{method.upper()} {path}`", operation["summary"], opened, answers)
            rows.setdefault(operation["tags"][0], []).append(f"| {' | '.join(cells)} |")
    for tag, found in sorted(rows.items()):
        lines += ["", f"## {tag}", "", "| address | does | opened by | answers |", "|---|---|---|---|", *found]
    return page(lines)


def pages() -> dict[Path, str]:
    """Every generated file."""
    served = openapi()
    return {
        REFERENCE / "settings.md": settings(),
        REFERENCE / "sources.md": page(sourcepages.index()),
        **{REFERENCE / "sources" / f"{kind}.md": page(lines) for kind, lines in sourcepages.pages().items()},
        REFERENCE / "errors.md": page(errorpages.errors(json.loads(served))),
        REFERENCE / "destinations.md": destinations(),
        REFERENCE / "commands.md": commands(),
        REFERENCE / "redis-keys.md": redis_keys(),
        REFERENCE / "metrics.md": metrics(),
        REFERENCE / "openapi.json": served,
        REFERENCE / "http.md": http(json.loads(served)),
        REFERENCE / "logs.md": logs(),
        ROOT / "relay" / "relay.schema.json": schema(),
    }


def main() -> int:
    """Write, or check."""
    made = pages()
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    gone = [path for path in (REFERENCE / "sources").glob("*.md") if path not in made]
    if "--check" in sys.argv:
        for path in [*stale, *gone]:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: make docs\n")
        return 1 if stale or gone else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path])
    for path in gone:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
