"""Figures and charts of the export API: queries that the relay's owner wrote down, for their results to be read.

GET reads and POST creates, but figures are also exported and described with GET, as consumers do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypedDict

from flask import Response, request, send_file
from msgspec import Meta
from werkzeug.exceptions import NotFound

from relay.buffer.exports import Question
from relay.served import SavedQuery
from relay.web import counter
from relay.web.counter import FAILED, NOT_FOUND, ExportRefusal, Number, answer, desk, given, key
from relay.web.declared import FORM, JSON, Answer, declares, told

bp = counter.blueprint("figures")
_CSV: Final = "text/csv"


class Figure(TypedDict):
    """A saved query."""

    id: int
    name: str
    presentationType: str
    ownerEmail: str


class Figures(TypedDict):
    """All figures that a key may see, by their number."""

    figureExports: dict[str, Figure]


class Charts(TypedDict):
    """All charts that a key may see, by their number."""

    chartExports: dict[str, Figure]


class FigureForm(TypedDict, total=False):
    """How the data are to come."""

    format: Annotated[Literal["", "csv", "json"], Meta(description="`csv` where none is given, or an empty one.")]
    includeColumnHeaders: Annotated[
        str, Meta(description="`1`, `true` or `yes`: names of columns as the first line of CSV; else without.")
    ]


class FigureHeaders(TypedDict, total=False):
    """The same in a header, as old clients send it."""

    format: Literal["", "csv", "json"]


class FigureData(TypedDict):
    """The rows of a saved query."""

    name: str
    columns: list[str]
    data: list[dict[str, Any]]


_EXPORTED: Final[Mapping[int, Answer]] = {
    200: Answer("The data.", {_CSV: bytes, JSON: FigureData}),
    400: told("There is no such format.", ExportRefusal),
}


@declares(counter.operation({200: told("The figures.", Figures)}))
def list_figures() -> Response:
    """The saved figures."""
    return answer(Figures(figureExports=_listed("figure")))


@declares(counter.operation({200: told("The charts.", Charts)}))
def list_charts() -> Response:
    """The saved charts."""
    return answer(Charts(chartExports=_listed("chart")))


@declares(counter.operation({200: told("What is known of it.", Figure), **NOT_FOUND}))
def describe(kind: str, fid: Number) -> Response:
    """What a saved query is."""
    name = _name(kind, fid)
    return answer(_figure(int(fid), name, _saved(kind)[name]))


@declares(
    counter.operation(
        {**_EXPORTED, **NOT_FOUND, **FAILED},
        takes={FORM: FigureForm},
        needs_body=False,
        query=FigureForm,
        headers=FigureHeaders,
    )
)
def export(kind: str, fid: Number) -> Response:
    """The data of a saved query.

    `format` and `includeColumnHeaders` are fields of a form or of the query.
    """
    name = _name(kind, fid)
    places = (request.form, request.args, request.headers)
    forms = [found.lower() for place in places if (found := place.get("format"))] or ["csv"]
    if not {"csv", "json"}.issuperset(forms):
        return counter.refusal(400, "bad request", "format is csv or json")
    form = forms[0]
    headers = given("includeColumnHeaders").lower() in {"1", "true", "yes"}
    file: str | None = desk().ask(Question(kind, name=name, format=form, headers=headers))
    if file is None:
        raise NotFound(f"there is no such {kind}")
    path: Path = desk().folder / file
    if not path.exists():
        raise counter.unshared()
    opened = path.open("rb")
    path.unlink(missing_ok=True)  # what is open is read to its end all the same
    return send_file(
        opened,
        JSON if form == "json" else _CSV,
        as_attachment=form == "csv",
        download_name=f"{counter.safe(name)}.{form}",
    )


_LISTS: Final[Mapping[str, Callable[[], Response]]] = {"figure": list_figures, "chart": list_charts}
for _kind, _list in _LISTS.items():
    bp.add_url_rule(f"/{_kind}", f"{_kind}_list", _list, methods=["GET"])
    for _word, _view in (("export", export), ("info", describe)):
        bp.add_url_rule(
            f"/{_kind}/<fid>/{_word}", f"{_kind}_{_word}", _view, methods=["GET", "POST"], defaults={"kind": _kind}
        )


def _listed(kind: str) -> dict[str, Figure]:
    saved = _saved(kind)
    numbers = desk().numbers.of(kind, saved)
    return {str(numbers[name]): _figure(numbers[name], name, query) for name, query in saved.items()}


def _figure(id_: int, name: str, query: SavedQuery) -> Figure:
    return Figure(id=id_, name=name, presentationType=query.presentation, ownerEmail=query.owner)


def _saved(kind: str) -> dict[str, SavedQuery]:
    """Saved queries; a key that is bound to tables sees none, since they may read any."""
    return {} if key().tables else dict(desk().config.settings.saved(kind))


def _name(kind: str, fid: str) -> str:
    found = counter.number(fid)
    name = desk().numbers.name(kind, found) if found else None
    if name is None or name not in _saved(kind):
        raise NotFound(f"there is no such {kind}")
    return name
