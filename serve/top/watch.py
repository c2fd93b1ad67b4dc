"""Looking again and again: live on a terminal until somebody quits, or as lines for programs."""

import asyncio
import json
import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from rich.console import Console
from rich.live import Live

from serve.top.errors import ServerAway
from serve.top.frame import Frame
from serve.top.scrape import Scrape
from serve.top.screen import screen
from serve.top.source import Source

KEYS = "q quits"


class Watch:
    """Frames whose rates are over the last `window` seconds, or the last two looks if longer."""

    def __init__(self, source: Source, window: float) -> None:
        self._source = source
        self._window = window
        self._scrapes: deque[Scrape] = deque()
        self._last = Frame(source.url, datetime.now(UTC))

    async def look(self) -> Frame:
        """What there is now; a server that is away gives what was known last, and why.

        Raises: NotShown.
        """
        try:
            return await self.see()
        except ServerAway as error:
            self._scrapes.clear()  # who comes back counts from 0
            return self._last.gone(error.message)

    async def see(self) -> Frame:
        """The same of a server that has to be there. Raises: ServerAway, NotShown."""
        look = await self._source.look()
        while len(self._scrapes) > 1 and look.scrape.at - self._scrapes[1].at >= self._window:
            self._scrapes.popleft()
        before = self._scrapes[0] if self._scrapes else None
        self._scrapes.append(look.scrape)
        self._last = Frame.of(self._source.url, look, before)
        return self._last


async def once(source: Source, interval: float) -> Frame:
    """The frame after one interval. Raises: ServerAway, NotShown."""
    watch = Watch(source, interval)
    await watch.see()
    await asyncio.sleep(interval)
    return await watch.see()


async def lines(watch: Watch, interval: float, write: Callable[[str], object]) -> None:
    """A JSON object a line, for ever, from the first that has rates. Raises: NotShown."""
    while True:
        frame = await watch.look()
        if frame.seconds is not None or frame.away is not None:
            write(json.dumps(frame.as_dict(), ensure_ascii=False))
        await asyncio.sleep(interval)


async def live(watch: Watch, interval: float, console: Console) -> None:
    """Pictures on a screen of their own until q is pressed, SIGTERM or Ctrl-C.

    The terminal is left as it was, however this ends. Raises: NotShown.
    """

    async def looks(picture: Live) -> None:
        while True:
            frame = await watch.look()
            width, height = console.size
            picture.update(screen(frame, width, height, KEYS), refresh=True)
            await asyncio.sleep(interval)

    with (
        _quit_key(sys.stdin) as pressed,
        Live(console=console, screen=True, auto_refresh=False) as picture,
    ):
        tasks = {asyncio.create_task(looks(picture)), asyncio.create_task(pressed.wait())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _quit_key(keyboard: TextIO) -> Iterator[asyncio.Event]:
    """Set by q, by the end of the input and by SIGTERM; keys are read as they are pressed."""
    pressed, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, pressed.set)
    if not keyboard.isatty():
        yield pressed
        return
    number = keyboard.fileno()
    before = termios.tcgetattr(number)

    def read() -> None:
        try:
            typed = os.read(number, 1024)
        except OSError:  # the terminal is gone
            typed = b""
        if not typed or b"q" in typed.lower():
            loop.remove_reader(number)
            pressed.set()

    tty.setcbreak(number)
    loop.add_reader(number, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSAFLUSH, before)
