"""`lorikeet serve` and `lorikeet ask`. Heavy imports happen inside the commands."""

import logging
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve.parallel_options import (
    ExecutorBackend,
    FullySharded,
    PipelineParallel,
    TensorParallel,
)
from serve.replica_options import MaxReplicas, Replicas

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import ErrorDetails

    from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

MODEL, NETWORK, CAPACITY, TRAINING = "Model", "Network", "Capacity", "Training"
OBSERVATION = "Logs, traces and metrics"


def serve(
    context: typer.Context,
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model: smollm2-135m-instruct, a Hugging Face id or a local folder.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    engine: Annotated[
        Literal["vllm", "echo"] | None,
        typer.Option(help="vllm, or echo: no model, for tests.", rich_help_panel=MODEL),
    ] = None,
    quantization: Annotated[
        Literal["none", "nf4"] | None,
        typer.Option(help="nf4 holds the base in 4 bits (bitsandbytes).", rich_help_panel=MODEL),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(
            help="[dim]auto: float32 on a CPU, bfloat16 on a GPU[/]",
            rich_help_panel=MODEL,
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(help="Longest prompt and answer, in tokens.", rich_help_panel=MODEL),
    ] = None,
    tool_call_parser: Annotated[
        str | None,
        typer.Option(help="vLLM's parser of tool calls. [dim]hermes[/]", rich_help_panel=MODEL),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="[dim]127.0.0.1[/]", rich_help_panel=NETWORK)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="0: any free port. [dim]8000[/]", rich_help_panel=NETWORK),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure",
            help="Allow a host that other machines reach without any API key.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    max_loras: Annotated[
        int | None,
        typer.Option(help="Adapters in one batch. [dim]8[/]", rich_help_panel=CAPACITY),
    ] = None,
    max_lora_rank: Annotated[
        int | None,
        typer.Option(help="Largest rank served. [dim]64[/]", rich_help_panel=CAPACITY),
    ] = None,
    max_loaded: Annotated[
        int | None,
        typer.Option(help="Adapters kept loaded. [dim]64[/]", rich_help_panel=CAPACITY),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(help="Sequences generated at once. [dim]32[/]", rich_help_panel=CAPACITY),
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(help="Requests waiting before a 503. [dim]256[/]", rich_help_panel=CAPACITY),
    ] = None,
    max_queue_per_tenant: Annotated[
        int | None,
        typer.Option(help="Of one tenant's, before a 429. [dim]128[/]", rich_help_panel=CAPACITY),
    ] = None,
    queue_seconds: Annotated[
        float | None,
        typer.Option(help="Longest wait for a turn. [dim]120[/]", rich_help_panel=CAPACITY),
    ] = None,
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(help="KV cache on a CPU, in GiB. [dim]1[/]", rich_help_panel=CAPACITY),
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option(help="Share of a GPU's memory. [dim]0.9[/]", rich_help_panel=CAPACITY),
    ] = None,
    tensor_parallel_size: TensorParallel = None,
    pipeline_parallel_size: PipelineParallel = None,
    distributed_executor_backend: ExecutorBackend = None,
    fully_sharded_loras: FullySharded = None,
    replicas: Replicas = None,
    max_replicas: MaxReplicas = None,
    drain_seconds: Annotated[
        int | None,
        typer.Option(
            help="For answers under way on Ctrl-C or SIGTERM. [dim]30[/]", rich_help_panel=NETWORK
        ),
    ] = None,
    with_worker: Annotated[
        bool | None,
        typer.Option(
            "--with-worker",
            help="Run the fine-tuning jobs here too: a lorikeet worker at low priority.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    train_window: Annotated[
        str | None,
        typer.Option(
            help="When it may train: 22:00-06:00, local time. [dim]always[/]",
            metavar="HH:MM-HH:MM",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    fine_tuning: Annotated[
        bool | None,
        typer.Option(
            "--fine-tuning/--no-fine-tuning",
            help="Answer /v1/files and /v1/fine_tuning. [dim]yes[/]",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    log_format: Annotated[
        Literal["human", "json"] | None,
        typer.Option(help="Lines on standard error. [dim]human[/]", rich_help_panel=OBSERVATION),
    ] = None,
    access_log: Annotated[
        bool | None,
        typer.Option(
            "--access-log/--no-access-log",
            help="One line a request. [dim]yes[/]",
            rich_help_panel=OBSERVATION,
        ),
    ] = None,
    log_prompts: Annotated[
        bool | None,
        typer.Option(
            "--log-prompts",
            help="Put what is asked and answered into that line.",
            rich_help_panel=OBSERVATION,
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            help="OpenTelemetry collector for traces, over HTTP: http://127.0.0.1:4318.",
            metavar="URL",
            rich_help_panel=OBSERVATION,
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Serve /metrics on a port of its own, without keys. [dim]--port, with keys[/]",
            rich_help_panel=OBSERVATION,
        ),
    ] = None,
    metrics_adapters: Annotated[
        int | None,
        typer.Option(
            help="Busiest adapters with series of their own. [dim]100[/]",
            rich_help_panel=OBSERVATION,
        ),
    ] = None,
    metrics_tenants: Annotated[
        int | None,
        typer.Option(
            help="Busiest tenants with series of their own. [dim]100[/]",
            rich_help_panel=OBSERVATION,
        ),
    ] = None,
    verbose: Annotated[
        bool | None, typer.Option("--verbose", "-v", help="Show the engine's own log too.")
    ] = None,
) -> None:
    """Serve one base model and every published adapter behind an OpenAI-compatible API.

    An adapter that is published while the server runs is served at the next request.
    Without any API key the server is open, to this machine only; `lorikeet keys create` closes it.
    Each option can be set by the environment too: LORIKEET_SERVE_MAX_LORAS=16.

    [bold]Examples[/]

      lorikeet serve

      lorikeet serve --port 9000 --max-loras 16 --max-lora-rank 32

      lorikeet serve --with-worker --train-window 22:00-06:00

      lorikeet serve --base org/model-70b --tensor-parallel-size 4

      lorikeet serve --replicas 2 --metrics-port 9100

      curl localhost:8000/v1/models
    """
    given = {key: value for key, value in locals().items() if value is not None}
    _run(given, given.pop("context").obj)


def _run(given: dict[str, Any], serve_replicas: "Callable[[ServeSettings], None]") -> None:
    """Serve with the log as it is wanted; where programs read it, there is nothing beside it."""
    from registry import LorikeetError
    from serve import logs

    settings = _settings(given)
    with logs.to_standard_error(settings.log_format, verbose=settings.verbose):
        try:
            (serve_replicas if settings.replicated else _serve)(settings)
        except LorikeetError as error:
            if settings.log_format == "human":
                raise
            logger.critical("%s", error.message, extra=logs.fields(remedy=error.remedy))
            raise typer.Exit(error.exit_code) from error


def _serve(settings: "ServeSettings") -> None:
    """Bind, prepare the base, start the engine, serve; says what it is doing meanwhile."""
    from contextlib import ExitStack

    from rich.console import Console

    from registry import Registry, RegistrySettings, resolve_base
    from serve import logs
    from serve.engine.environment import keep_metrics_here
    from serve.worker_child import WorkerChild, worker_command

    keep_metrics_here()
    from serve.auth import check_reach
    from serve.engine.factory import create_engine
    from serve.server import bind, run

    programs = settings.log_format == "json"
    console = Console(stderr=True, highlight=False, quiet=programs)
    places = RegistrySettings()
    with (
        Registry.open(places) as registry,
        bind(settings.host, settings.port) as listener,
        ExitStack() as stack,
        console.status("Preparing the base model") as status,
    ):
        check_reach(settings, registry.keys)
        metrics = None
        if settings.metrics_port is not None:
            metrics = bind(settings.host, settings.metrics_port, "--metrics-port")
            stack.enter_context(metrics)
        base = resolve_base(settings.base, places, lambda what, _: status.update(what))
        worker = None
        if settings.with_worker:
            command = worker_command(settings, listener)
            worker = WorkerChild(command, logging.getLogger(logs.WORKER).info if programs else None)
        status.update("Loading vLLM" if settings.engine == "vllm" else "Starting")
        engine = create_engine(settings, base, places)
        status.update(f"Starting the engine on {base.id} (half a minute on two cores)")

        def on_ready() -> None:
            status.stop()
            place = f"http://{settings.host}"
            url = f"{place}:{listener.getsockname()[1]}/v1"
            told = f"{place}:{(metrics or listener).getsockname()[1]}/metrics"
            if programs:
                logger.info("serving", extra=logs.fields(base=base.id, url=url, metrics=told))
            console.print(
                f"[green]Serving[/] [bold]{base.id}[/] and its adapters on "
                f"[bold]{url}[/]   (Ctrl-C stops)"
            )
            if metrics is not None:
                console.print(f"Metrics on [bold]{told}[/]")

        run(settings, engine, registry, base, listener, on_ready, worker, metrics)
    console.print("stopped")


def ask(
    model: Annotated[str, typer.Argument(help="The base, NAME, NAME@VERSION or NAME@ALIAS.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask; without it, a chat. '-' reads stdin.")
    ] = None,
    url: Annotated[
        str, typer.Option(help="The server.", envvar="OPENAI_BASE_URL")
    ] = "http://127.0.0.1:8000/v1",
    api_key: Annotated[
        str, typer.Option(help="The key, where the server needs one.", envvar="OPENAI_API_KEY")
    ] = "none",
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0: always the likeliest token.")
    ] = 0.0,
) -> None:
    """Ask a model on a running server; the answer streams to the terminal.

    [bold]Examples[/]

      lorikeet ask opl "Who created the OPL programming language?"

      lorikeet ask titulares@2 < headline.txt

      lorikeet ask smollm2-135m-instruct        (a chat; Ctrl-D ends it)
    """
    from registry import LorikeetError
    from serve.ask import Conversation

    conversation = Conversation(
        url, model, api_key, system=system, max_tokens=max_tokens, temperature=temperature
    )
    stdin = typer.get_text_stream("stdin")
    if prompt == "-" or (prompt is None and not stdin.isatty()):
        prompt = stdin.read().strip()
    if prompt is not None:
        conversation.say(prompt, typer.echo)
        return
    typer.secho(f"{model} on {url}; Ctrl-D ends the chat", dim=True, err=True)
    while True:
        try:
            text = typer.prompt("you", prompt_suffix="> ")
        except typer.Abort:
            typer.echo()
            return
        try:
            conversation.say(text, typer.echo)
        except LorikeetError as error:  # the chat goes on
            typer.secho(error, fg="red", err=True)


def _settings(given: dict[str, Any]) -> "ServeSettings":
    """ServeSettings, or every mistake at once.

    Raises: UsageError.
    """
    from pydantic import ValidationError

    from registry import UsageError
    from serve.settings import ServeSettings

    try:
        return ServeSettings(**given)
    except ValidationError as error:
        lines = [_complaint(problem, given) for problem in error.errors()]
        raise UsageError("; ".join(lines), remedy="see lorikeet serve --help") from error


def _complaint(problem: "ErrorDetails", given: dict[str, Any]) -> str:
    """What is wrong with a flag that was given, else with the environment's variable."""
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    field = str(problem["loc"][0])
    name = f"--{field.replace('_', '-')}" if field in given else _variable(field)
    return f"{name}: {message} (got {problem['input']!r})"


def _variable(field: str) -> str:
    """The environment's; one with another name (OpenTelemetry's own) is told as it is."""
    return field if field.isupper() else f"LORIKEET_SERVE_{field.upper()}"
