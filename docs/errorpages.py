# ruff: noqa: INP001 - a part of the script beside it
"""The page of every error answer, reason and exit code; what the code does not say of them is in errors.yaml."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from relay.cli.main import app

_HERE = Path(__file__).resolve().parent
_REFUSED = 400
_INTRO = """# Errors

What is answered, logged and exited with where something is wrong, and what to do. An error is answered in the
words of the API that was called; a webhook's is one JSON object:

```json
{"error": "the request could not be authenticated"}
```
"""


def errors(described: dict[str, Any]) -> list[str]:
    """The page."""
    told: dict[str, Any] = yaml.safe_load((_HERE / "errors.yaml").read_text())
    _complete({reason for group in told["groups"] for reason in group["reasons"]}, set(_reasons()), "reason")
    lines = [_INTRO, *_answers(told, described)]
    for group in told["groups"]:
        lines += ["", f"## {group['title']}", "", group["about"], ""]
        lines += ["| reason | what is wrong | what to do |", "|---|---|---|"]
        lines += [f"| `{reason}` | {wrong} | {do} |" for reason, (wrong, do) in sorted(group["reasons"].items())]
    return [*lines, "", *_exits(told)]


def _answers(told: dict[str, Any], described: dict[str, Any]) -> list[str]:
    shared = described["components"]["responses"]
    # A wrong method is answered by the framework itself, at every address.
    found: dict[str, dict[str, set[str]]] = {"405": {"the address has no such method": {"everywhere"}}}
    for methods in described["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= _REFUSED:
                    named = shared.get(answer.get("$ref", "").rpartition("/")[2], answer)
                    words = found.setdefault(status, {})
                    words.setdefault(named["description"].rstrip("."), set()).add(operation["tags"][0])
    _complete(set(told["answers"]), set(found), "answer")
    lines = ["## Answers", "", "| status | who answers so, and why | what to do |", "|---|---|---|"]
    for status, words in sorted(found.items()):
        why = "; ".join(f"{', '.join(sorted(tags))}: {text}" for text, tags in sorted(words.items()))
        lines += [f"| {status} | {why} | {told['answers'][status]} |"]
    return lines


def _exits(told: dict[str, Any]) -> list[str]:
    lines = ["## Exit codes", "", "| code | meaning | what to do |", "|---|---|---|"]
    lines += [f"| {code} | {meaning} | {do} |" for code, (meaning, do) in told["exits"].items()]
    lines += ["", "| command | exits with 1 |", "|---|---|"]
    for name, about in _commands(get_command(app), "relay"):
        if said := re.search(r"exit 1 (where [^.]+)", about, re.IGNORECASE):
            lines += [f"| `{name}` | {said[1]} |"]
    return lines


def _commands(command: Any, name: str) -> Iterator[tuple[str, str]]:
    for part, found in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(found, f"{name} {part}")
    if not getattr(command, "commands", None):
        yield name, " ".join((command.help or "").split())


def _reasons() -> Iterator[str]:
    """Every constant reason that the code raises an error with, or gives to a class of errors."""
    for path in sorted([*_HERE.parent.glob("relay/**/*.py"), *_HERE.parent.glob("worker/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            values: list[ast.expr | None] = []
            if isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            elif isinstance(node, ast.ClassDef):
                values = [s.value for s in node.body if isinstance(s, ast.Assign) and _names(s) == ["reason"]]
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def _names(assignment: ast.Assign) -> list[str]:
    return [target.id for target in assignment.targets if isinstance(target, ast.Name)]


def _complete(told: set[str], found: set[str], what: str) -> None:
    if told != found:
        missing, gone = sorted(found - told), sorted(told - found)
        sys.exit(f"docs/errors.yaml, {what}: to be explained {missing}, no longer in the code {gone}")
