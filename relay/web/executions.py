"""Document imports and their executions as clients are told of them, and what their API declares of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

from msgspec import Meta

from relay.buffer.executions import CANCELED, FAILED, PENDING, RUNNING, SUCCEEDED, Execution, Import
from relay.dialects.documents import CONTENT_TYPES, CSV, MOST_NAME, NDJSON, PRIORITIES, TARGETS
from relay.web.declared import JSON, Answer, Operation, later, told

FORM: Final = "multipart/form-data"
_TAG: Final = "Document imports"
Id = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,14}$", description="A number that the relay gave.")]
Datamart = Annotated[
    str,
    Meta(pattern=r"^[1-9][0-9]{0,8}$", description="The datamart: the key's client.", examples=["1502"]),
]
_DocumentType = Annotated[str, Meta(extra_json_schema={"enum": list(TARGETS)})]
_MimeType = Annotated[str, Meta(extra_json_schema={"enum": [NDJSON, CSV]}, description="CSV: USER_SEGMENT only.")]
_Priority = Annotated[str, Meta(extra_json_schema={"enum": list(PRIORITIES)})]
_Encoding = Annotated[str, Meta(extra_json_schema={"enum": ["utf-8"]})]
_Name = Annotated[str, Meta(min_length=1, max_length=MOST_NAME)]
_Moment = Annotated[int | None, Meta(description="Milliseconds since 1970.")]
_Count = Annotated[int, Meta(ge=0)]


# --- what is sent -------------------------------------------------------------------------------------


class ImportDefined(TypedDict):
    """A document import as its client defines it."""

    document_type: _DocumentType
    mime_type: _MimeType
    name: _Name
    encoding: NotRequired[_Encoding]
    priority: NotRequired[_Priority]


class ImportChanged(TypedDict, total=False):
    """What of it is to be changed."""

    document_type: _DocumentType
    mime_type: _MimeType
    name: _Name
    encoding: _Encoding
    priority: _Priority


class Action(TypedDict):
    """What is to become of an execution."""

    action: Literal["CANCEL"]


class DocumentForm(TypedDict):
    """A document in a form."""

    file: Annotated[Any, Meta(description="The document.")]
    type: NotRequired[Annotated[str, Meta(extra_json_schema={"enum": list(CONTENT_TYPES)})]]


class PageWanted(TypedDict, total=False):
    """Which part of a list."""

    first_result: Annotated[int, Meta(ge=0, description="From which one on, 0 where none is given.")]
    max_results: Annotated[int, Meta(ge=0, description="How many, 10 where none is given, 500 at most.")]


class ImportsWanted(PageWanted, total=False):
    """Which imports."""

    keywords: Annotated[str, Meta(description="Text that their names contain.")]


class FileWanted(TypedDict):
    """Which file."""

    uri: Annotated[str, Meta(description="An execution's `error_file_uri`.")]


# --- what is told -------------------------------------------------------------------------------------


class ImportTold(TypedDict):
    """A document import."""

    id: str
    datafarm_key: str
    datamart_id: str
    document_type: _DocumentType
    mime_type: _MimeType
    encoding: str
    name: str
    priority: _Priority


class Parameters(TypedDict):
    """What an execution works on."""

    datamart_id: int
    document_import_id: int
    mime_type: _MimeType
    document_type: _DocumentType
    input_file_name: str
    file_uri: None
    number_of_lines: _Count
    segment_id: None


class Result(TypedDict):
    """What became of a document."""

    total_success: _Count
    total_failure: _Count
    input_file_name: str
    input_file_uri: None
    error_file_uri: str | None
    possible_issue_on_identifiers: bool
    top_identifiers: dict[str, Any]


class Failure(TypedDict):
    """Why an execution failed."""

    message: str


class ExecutionTold(TypedDict):
    """An execution: a document, and how far it is."""

    parameters: Parameters | None
    result: Result | None
    error: Failure | None
    id: str
    status: Annotated[str, Meta(extra_json_schema={"enum": [PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED]})]
    creation_date: _Moment
    start_date: _Moment
    duration: Annotated[int | None, Meta(description="In milliseconds.")]
    end_date: NotRequired[_Moment]
    organisation_id: str
    user_id: None
    cancel_status: Annotated[str | None, Meta(description="REQUESTED, CANCELED or null.")]
    debug: None
    is_retryable: bool
    permalink_uri: str
    num_tasks: _Count | None
    completed_tasks: _Count | None
    erroneous_tasks: _Count | None
    retry_count: int
    job_type: str
    import_mode: str
    import_type: None


class Done(TypedDict):
    """It went well."""

    status: Literal["ok"]


class ImportAnswer(Done):
    """One import."""

    data: ImportTold


class ExecutionAnswer(Done):
    """One execution."""

    data: ExecutionTold


class Page(Done):
    """Which part of a list it is."""

    count: _Count
    total: _Count
    first_result: _Count
    max_results: _Count


class ImportPage(Page):
    """Imports, newest first."""

    data: list[ImportTold]


class ExecutionPage(Page):
    """Executions, newest first."""

    data: list[ExecutionTold]


class DocumentRefusal(TypedDict):
    """What is wrong."""

    status: Literal["error"]
    error: str
    error_id: str


_REFUSALS: Final[Mapping[int, Answer]] = {
    400: told("Something of it is wrong.", DocumentRefusal),
    401: told("The token opens nothing here.", DocumentRefusal),
    404: told("There is no such thing.", DocumentRefusal),
    429: told("Too many wrong tokens came from there.", DocumentRefusal),
    503: later("It cannot be answered or stored now.", DocumentRefusal),
}
_BODY_REFUSALS: Final[Mapping[int, Answer]] = {
    413: told("The body is too large; a document has 100 MB at most.", DocumentRefusal),
    415: told("The body's encoding is not supported.", DocumentRefusal),
}


def operation(shape: Any, why: str, *, query: Any = None) -> Operation:
    """What a handler declares that takes no body."""
    return Operation(_TAG, {**_REFUSALS, 200: told(why, shape)}, "datamartToken", query=query)


def taking(shape: Any, why: str, takes: Mapping[str, Any]) -> Operation:
    """What a handler declares that takes one."""
    return Operation(_TAG, {**_REFUSALS, **_BODY_REFUSALS, 200: told(why, shape)}, "datamartToken", takes)


#: Bodies of a request: JSON, and a document as it is or in a form.
DEFINED: Final[Mapping[str, Any]] = {JSON: ImportDefined}
CHANGED: Final[Mapping[str, Any]] = {JSON: ImportChanged}
ACTION: Final[Mapping[str, Any]] = {JSON: Action}
DOCUMENT: Final[Mapping[str, Any]] = {**dict.fromkeys(CONTENT_TYPES, bytes), FORM: DocumentForm}
ERROR_FILE: Final = Operation(
    _TAG,
    {**_REFUSALS, 200: Answer("One JSON object a line.", {"application/x-ndjson": bytes})},
    "fileToken",
    query=FileWanted,
)


# --- an import and an execution in these words --------------------------------------------------------


def import_told(one: Import) -> ImportTold:
    """An import."""
    return {
        "id": str(one.id),
        "datafarm_key": "DF_RELAY",
        "datamart_id": str(one.client),
        "document_type": one.document_type,
        "mime_type": one.mime_type,
        "encoding": one.encoding,
        "name": one.name,
        "priority": one.priority,
    }


def execution_told(run: Execution) -> ExecutionTold:
    """An execution."""
    done = run.completed + run.erroneous
    over = not run.open
    started = run.started_ms or None
    ended = run.ended_ms or None
    found: ExecutionTold = {
        "parameters": None if run.status == PENDING else _parameters(run),
        "result": _result(run) if over else None,
        "error": {"message": run.why} if run.status == FAILED else None,
        "id": str(run.id),
        "status": run.status,
        "creation_date": run.created_ms,
        "start_date": started,
        "duration": ended - started if ended and started else None,
        "organisation_id": str(run.client),
        "user_id": None,
        "cancel_status": run.cancel or None,
        "debug": None,
        "is_retryable": False,
        "permalink_uri": f"datamarts/{run.client}/document_imports/{run.import_id}/executions/{run.id}",
        "num_tasks": None if run.status == PENDING else done if over else max(run.lines, done),
        "completed_tasks": None if run.status == PENDING else run.completed,
        "erroneous_tasks": None if run.status == PENDING else run.erroneous,
        "retry_count": 0,
        "job_type": "DOCUMENT_IMPORT",
        "import_mode": "MANUAL_FILE",
        "import_type": None,
    }
    if over:
        found["end_date"] = ended
    return found


def _parameters(run: Execution) -> Parameters:
    done = run.completed + run.erroneous
    return {
        "datamart_id": run.client,
        "document_import_id": run.import_id,
        "mime_type": run.mime_type,
        "document_type": run.document_type,
        "input_file_name": run.file_name,
        "file_uri": None,  # a document is not kept once its rows are out
        "number_of_lines": max(run.lines, done) if run.open else done,
        "segment_id": None,
    }


def _result(run: Execution) -> Result:
    errors = f"mics://data_file/datamarts/{run.client}/executions/{run.id}/errors"
    return {
        "total_success": run.completed,
        "total_failure": run.erroneous,
        "input_file_name": run.file_name,
        "input_file_uri": None,
        "error_file_uri": errors if run.error_bytes else None,
        "possible_issue_on_identifiers": False,
        "top_identifiers": {},
    }
