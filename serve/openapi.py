"""`describe(app)`: the server's OpenAPI document, made from its routes and its request models.

The routes read raw bodies and answer with what the engine made, so what FastAPI finds out by
itself is completed here: bodies, answers, errors and the API key.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from registry.finetuning.objects import FINE_TUNE
from registry.finetuning.request import JobRequest
from serve.request_models import ChatRequest, CompletionRequest

Schema = dict[str, Any]

ERRORS = {
    400: "The request is wrong and will stay wrong.",
    401: "No API key, or one that is unknown, revoked or expired.",
    403: "The API key may not do this.",
    404: "No such thing, or not for this key.",
    409: "What was to be changed is not as it was expected.",
    413: "The body or the headers are too large.",
    429: "The key's limits, or its share of the queue, are used up.",
    503: "Not now; try again.",
}
ADMIN = (400, 401, 403, 404, 413, 503)
SCORE = "/admin/score"
FILES = "/v1/files"
JOBS = "/v1/fine_tuning/jobs"
TENANTS = (400, 401, 403, 413, 503)
STATUS: dict[tuple[str, str], tuple[int, ...]] = {
    ("/v1/chat/completions", "post"): (400, 401, 404, 413, 429, 503),
    ("/v1/completions", "post"): (400, 401, 404, 413, 429, 503),
    (SCORE, "post"): (*ADMIN, 429),
    ("/v1/models", "get"): (400, 401, 413, 503),
    ("/v1/models/{model}", "get"): (400, 401, 404, 413, 503),
    ("/v1/models/{model}", "delete"): (*TENANTS, 404),
    (FILES, "post"): (*TENANTS, 429),
    (FILES, "get"): TENANTS,
    (JOBS, "post"): (*TENANTS, 404),
    (JOBS, "get"): TENANTS,
    ("/admin/adapters/{name}/promote", "post"): (*ADMIN, 409),
    ("/metrics", "get"): (401, 403, 413, 503),
    ("/openapi.json", "get"): (401, 413, 503),
    ("/health", "get"): (413,),
    ("/ready", "get"): (413,),
}
"""The errors that each may answer with.

Other routes in `/admin` have those of ADMIN, others about a file or a job the same.
"""


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | optional}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
MAYBE_OBJECT: Schema = {"type": ["object", "null"]}
MAYBE_COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
USAGE = _object({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
EVENT = _object({"data": TEXT | {"description": "A chunk in JSON, an error, or [DONE]."}})
STATE = _object({"status": TEXT}, base=TEXT, reason=TEXT)


def _answer(kind: str, choice: dict[str, Schema]) -> Schema:
    choice |= {"index": COUNT, "finish_reason": MAYBE_TEXT}
    head = {"id": TEXT, "object": {"const": kind}, "created": COUNT, "model": TEXT}
    return _object({**head, "choices": _list(_object(choice)), "usage": _ref("Usage")})


def _page(of: str) -> Schema:
    return _object(
        {"object": {"const": "list"}, "data": _list(_ref(of)), "has_more": {"type": "boolean"}}
    )


COMPONENTS: dict[str, Schema] = {
    "Error": _object(
        {"error": _object({"message": TEXT, "type": TEXT, "param": MAYBE_TEXT, "code": MAYBE_TEXT})}
    ),
    "Usage": USAGE,
    "ChatCompletion": _answer(
        "chat.completion",
        {"message": _object({"role": {"const": "assistant"}, "content": MAYBE_TEXT})},
    ),
    "Completion": _answer("text_completion", {"text": TEXT}),
    "Model": _object(
        {
            "id": TEXT,
            "object": {"const": "model"},
            "created": COUNT,
            "owned_by": TEXT,
            "root": TEXT,
            "parent": MAYBE_TEXT,
        },
        digest=TEXT,
        aliases=_list(TEXT),
    ),
    "ModelList": _page("Model"),
    "File": _object(
        {
            "id": TEXT,
            "object": {"const": "file"},
            "bytes": COUNT,
            "created_at": COUNT,
            "expires_at": MAYBE_COUNT,
            "filename": TEXT,
            "purpose": TEXT,
            "status": TEXT,
        }
    ),
    "FileList": _page("File"),
    "Job": _object(
        {
            "id": TEXT,
            "object": {"const": "fine_tuning.job"},
            "created_at": COUNT,
            "error": MAYBE_OBJECT,
            "estimated_finish": MAYBE_COUNT,
            "fine_tuned_model": MAYBE_TEXT,
            "finished_at": MAYBE_COUNT,
            "hyperparameters": {"type": "object"},
            "metadata": MAYBE_OBJECT,
            "method": {"type": "object"},
            "model": TEXT,
            "organization_id": TEXT,
            "result_files": _list(TEXT),
            "seed": COUNT,
            "status": TEXT,
            "trained_tokens": MAYBE_COUNT,
            "training_file": TEXT,
            "validation_file": MAYBE_TEXT,
            "lorikeet": {"type": "object"},
        }
    ),
    "JobList": _page("Job"),
    "JobEvent": _object(
        {
            "id": TEXT,
            "object": {"const": "fine_tuning.job.event"},
            "created_at": COUNT,
            "level": TEXT,
            "message": TEXT,
            "type": TEXT,
            "data": {"type": "object"},
        }
    ),
    "JobEventList": _page("JobEvent"),
    "Checkpoint": _object(
        {
            "id": TEXT,
            "object": {"const": "fine_tuning.job.checkpoint"},
            "created_at": COUNT,
            "fine_tuned_model_checkpoint": TEXT,
            "fine_tuning_job_id": TEXT,
            "metrics": {"type": "object"},
            "step_number": COUNT,
        }
    ),
    "CheckpointList": _page("Checkpoint"),
    "Deleted": _object({"id": TEXT, "object": TEXT, "deleted": {"const": True}}),
    "State": STATE,
    "Scores": _object(
        {
            "object": {"const": "score"},
            "model": TEXT,
            "base": TEXT,
            "digest": MAYBE_TEXT,
            "engine": {"type": "object", "additionalProperties": TEXT},
            "data": _list(_object({"logprobs": _list({"type": "number"}), "top": _list(COUNT)})),
        }
    ),
}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _generation(request: str, answer: str) -> Schema:
    whole = _json("The answer, or with `stream: true` its events.", _ref(answer))
    whole["content"]["text/event-stream"] = {"schema": EVENT}
    return {"requestBody": _body("application/json", _ref(request)), "responses": {"200": whole}}


def _body(kind: str, schema: Schema) -> Schema:
    return {"required": True, "content": {kind: {"schema": schema}}}


def _answers(description: str, name: str) -> Schema:
    return {"responses": {"200": _json(description, _ref(name))}}


BINARY = {"type": "string", "format": "binary"}
ADAPTER = {"type": "object", "properties": {"file": _list(BINARY)}}
FILE = _object({"purpose": {"const": FINE_TUNE}, "file": BINARY})
FILTER = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": TEXT, "maxProperties": 16},
}
DESCRIBED: dict[tuple[str, str], Schema] = {
    ("/v1/chat/completions", "post"): _generation("ChatRequest", "ChatCompletion"),
    ("/v1/completions", "post"): _generation("CompletionRequest", "Completion"),
    ("/v1/models", "get"): {"responses": {"200": _json("A page of models.", _ref("ModelList"))}},
    ("/v1/models/{model}", "get"): {"responses": {"200": _json("The model.", _ref("Model"))}},
    ("/health", "get"): {
        "responses": {
            "200": _json("Alive.", _ref("State")),
            "503": _json("Beyond hope.", _ref("State")),
        }
    },
    ("/ready", "get"): {
        "responses": {
            "200": _json("Serves.", _ref("State")),
            "503": _json("Does not serve now.", _ref("State")),
        }
    },
    ("/metrics", "get"): {
        "responses": {
            "200": {
                "description": "Prometheus' text format.",
                "content": {"text/plain": {"schema": TEXT}},
            }
        }
    },
    (SCORE, "post"): {"responses": {"200": _json("A score for each sequence.", _ref("Scores"))}},
    ("/admin/adapters/{name}", "post"): {"requestBody": _body("multipart/form-data", ADAPTER)},
    ("/v1/models/{model}", "delete"): _answers("It is gone.", "Deleted"),
    (FILES, "post"): _answers("The file.", "File")
    | {"requestBody": _body("multipart/form-data", FILE)},
    (FILES, "get"): _answers("A page of files.", "FileList"),
    (f"{FILES}/{{file_id}}", "get"): _answers("The file.", "File"),
    (f"{FILES}/{{file_id}}", "delete"): _answers("It is gone.", "Deleted"),
    (f"{FILES}/{{file_id}}/content", "get"): {
        "responses": {
            "200": {
                "description": "The bytes.",
                "content": {"application/octet-stream": {"schema": BINARY}},
            }
        }
    },
    (JOBS, "post"): _answers("The job.", "Job")
    | {"requestBody": _body("application/json", _ref("JobRequest"))},
    (JOBS, "get"): _answers("A page of jobs.", "JobList"),
    (f"{JOBS}/{{job_id}}", "get"): _answers("The job.", "Job"),
    (f"{JOBS}/{{job_id}}/cancel", "post"): _answers("The job.", "Job"),
    (f"{JOBS}/{{job_id}}/pause", "post"): _answers("The job.", "Job"),
    (f"{JOBS}/{{job_id}}/resume", "post"): _answers("The job.", "Job"),
    (f"{JOBS}/{{job_id}}/events", "get"): _answers("A page of events.", "JobEventList"),
    (f"{JOBS}/{{job_id}}/checkpoints", "get"): _answers("A page of them.", "CheckpointList"),
}
OPEN = ("/health", "/ready")


def describe(app: FastAPI) -> Schema:
    """The OpenAPI document of an application that `create_app` made."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, models = models_json_schema(
        [(kind, "validation") for kind in (ChatRequest, CompletionRequest, JobRequest)],
        ref_template="#/components/schemas/{model}",
    )
    components = document.setdefault("components", {})
    found = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        found.pop(name, None)  # FastAPI's own error, which is never sent
    components["schemas"] = found | COMPONENTS | models["$defs"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}, {}]  # none is needed before the first key is made
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return document


def _complete(path: str, method: str, operation: Schema) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    extra = DESCRIBED.get((path, method), {})
    operation |= {key: value for key, value in extra.items() if key != "responses"}
    responses |= extra.get("responses", {})
    if (path, method) == (JOBS, "get"):
        operation["parameters"].append(FILTER)
    admin = path.startswith("/admin")
    grouped = admin or path.startswith((f"{FILES}/", f"{JOBS}/"))
    for status in STATUS.get((path, method), ADMIN) if grouped else STATUS[path, method]:
        responses.setdefault(str(status), _json(ERRORS[status], _ref("Error")))
    if path in OPEN:
        operation["security"] = []
    elif admin:
        operation["security"] = [{"key": []}]
