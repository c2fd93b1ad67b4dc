"""`lorikeet top`. Heavy imports happen inside the command."""

from typing import Annotated

import typer


def top(
    url: Annotated[
        str, typer.Option(help="The server.", envvar="OPENAI_BASE_URL")
    ] = "http://127.0.0.1:8000/v1",
    api_key: Annotated[
        str,
        typer.Option(
            help="An admin's key, where the server has keys.",
            envvar="OPENAI_API_KEY",
            show_envvar=True,
        ),
    ] = "",
    metrics_url: Annotated[
        str,
        typer.Option(
            help="Where its metrics are, if on a port of their own (serve --metrics-port).",
            metavar="URL",
        ),
    ] = "",
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")
    ] = 2.0,
    window: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Seconds that rates and latencies are taken over."),
    ] = 10.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one picture after one interval.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for programs: without --once a line a look.")
    ] = False,
) -> None:
    """Watch a running server: models, tokens/s, TTFT, queue, slots, tenants, training jobs.

    q or Ctrl-C ends it. What the server does not tell is a dash. A server that is away is asked
    again until it is back.

    [bold]Examples[/]

      lorikeet top

      lorikeet top --url http://10.0.0.5:8000 --interval 5

      lorikeet top --once --json | jq '.models[] | {model, state, ttft: .traffic.ttft_p95_seconds}'
    """
    import asyncio

    from rich.console import Console

    from registry import UsageError
    from registry.terminal import print_json
    from serve.top import watch
    from serve.top.screen import screen
    from serve.top.source import Source

    console = Console(highlight=False)
    if not (once or as_json or console.is_terminal):
        raise UsageError(
            "there is no terminal to draw on", remedy="say --once, or --json for a line a look"
        )

    async def run() -> None:
        async with Source(url, api_key, metrics_url) as source:
            if once:
                frame = await watch.once(source, interval)
                if as_json:
                    print_json(frame.as_dict())
                else:
                    console.print(screen(frame, console.width))
            elif as_json:
                await watch.lines(watch.Watch(source, window), interval, typer.echo)
            else:
                await watch.live(watch.Watch(source, window), interval, console)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
