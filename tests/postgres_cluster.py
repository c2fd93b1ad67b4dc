"""A PostgreSQL server for the tests: its own cluster in a temporary folder, on a socket there.

Debian's binaries (`apt-get install postgresql`) are enough; no service is asked, no port is taken.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from registry.database import Database
from registry.tables import Table

SETTINGS = {
    "fsync": "off",  # it has to survive its own death, not the machine's
    "full_page_writes": "off",
    "listen_addresses": "",
    "shared_buffers": "32MB",
    "timezone": "Asia/Kathmandu",  # where nobody's times come out right by chance
}
REUSED = "reused"


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, of version 15 or later; None where there is none."""
    found = [
        (int(folder.parent.name), folder)
        for folder in Path("/usr/lib/postgresql").glob("*/bin")
        if folder.parent.name.isdigit() and (folder / "initdb").exists()
    ]
    return max(found)[1] if found and max(found)[0] >= 15 else None


class Postgres:
    """The server. It dies with the process that started it."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="lorikeet-pg-"))
        self._user = ["setpriv", "--pdeathsig=INT"]
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            self._user += [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self._names = (f"t{number}" for number in itertools.count())
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self._run("initdb", "--no-sync", "--auth=trust", "--username=lorikeet",
                      "--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu",
                      "--icu-locale=en-US")  # fmt: skip
            self.start()
            self.execute(f"CREATE DATABASE {REUSED} TEMPLATE template0")
            database = Database(self.url(REUSED))
            database.prepare()
            database.close()
        except BaseException:
            self.end()
            raise

    def url(self, name: str) -> str:
        """What LORIKEET_DATABASE_URL has to be for that database."""
        return f"postgresql://lorikeet@/{name}?host={self._folder}"

    def create(self) -> str:
        """The URL of a new database without any tables."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop what `create` made, also while connections to it are open."""
        name = url.partition("@/")[2].partition("?")[0]
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def fresh(self) -> str:
        """The URL of a database whose tables are empty: one for all tests, that takes 10 ms."""
        self.disconnect()
        tables = [table.name for table in reversed(Table.metadata.sorted_tables)]
        self.execute(";".join(f"DELETE FROM {table}" for table in tables), REUSED)
        return self.url(REUSED)

    def disconnect(self) -> None:
        """End every connection to any database, as an administrator would."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

    def execute(self, statement: str, name: str = "postgres") -> list[Any]:
        """Run a statement, or several between semicolons; the rows of the only one."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = SETTINGS | {"unix_socket_directories": str(self._folder)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._user, self._programs / "postgres", "-D", self._data, *options],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is pytest's
            )
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if self._server.poll() is not None:
                    raise RuntimeError((self._folder / "log").read_text()) from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: every transaction that is open is lost."""
        assert self._server is not None
        self._server.send_signal(how)
        self._server.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend it with all its connections, as a machine that hangs would be."""
        assert self._server is not None
        server = psutil.Process(self._server.pid)
        server.suspend()
        every = [*server.children(), server]  # each is the leader of a group of its own
        try:
            for process in every:
                process.suspend()
            yield
        finally:
            for process in every:
                process.resume()

    @property
    def running(self) -> bool:
        """Whether it runs, or could go on."""
        return self._server is not None and self._server.poll() is None

    def end(self) -> None:
        """Stop it and remove all of it."""
        if self.running:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, self._programs / program, "-D", self._data, *arguments]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)
