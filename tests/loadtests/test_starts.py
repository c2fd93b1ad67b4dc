"""Starting a server, weighing it, and reading its list page by page."""

import sys
from pathlib import Path

import pytest

from loadtests.servers import OURS, STOCK, ServerPlan
from loadtests.starts import OURS_MANY, PAGE, Start, measure_start, table, verdicts

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

NAMES = [f"m-{n:04}" for n in range(250)]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = urlsplit(self.path)
        query = parse_qs(asked.query)
        names = [n for n in NAMES if n > query.get("after", [""])[0]]
        page = names[: int(query.get("limit", ["1000"])[0])]
        body = {"data": [{"id": n} for n in page], "has_more": len(page) < len(names)}
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def start(server: str, seconds: float, mib: float, pages: tuple[float, ...] = ()) -> Start:
    return Start(server, seconds, mib, 1, 0.2, pages[:1], pages[1:])


def test_the_last_start_of_each_server_counts() -> None:
    starts = [start(STOCK, 90, 500), start(OURS, 80, 400), start(STOCK, 40, 500)]
    starts.append(start(OURS, 24, 400))
    (ready,) = verdicts(starts)
    assert ready.value == pytest.approx(0.6)
    assert ready.kept is True
    assert table(starts).row_count == 4


def test_many_adapters_are_judged_by_none() -> None:
    pages = (0.3, *(0.02,) * 30)
    starts = [start(OURS, 24, 400), start(OURS_MANY, 25.5, 520, pages)]
    seconds, memory, page, slowest, whole = verdicts(starts)
    assert seconds.value == pytest.approx(1.5)
    assert seconds.kept is True
    assert memory.value == pytest.approx(120)
    assert memory.kept is False
    assert page.value == pytest.approx(20)
    assert page.kept is True
    assert (slowest.value, whole.value) == (pytest.approx(300), pytest.approx(200))


def test_one_server_alone_is_not_judged() -> None:
    assert verdicts([start(OURS, 24, 400)]) == []
    assert verdicts([start(STOCK, 24, 400), start(OURS_MANY, 24, 400, (0.1, 0.1))]) == []


@pytest.mark.parametrize("pages", [True, False])
def test_a_start_is_timed_and_the_list_read(pages: bool, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    plan = ServerPlan(OURS_MANY, (sys.executable, str(script)), "/ready")
    measured = measure_start(plan, tmp_path / "server.log", pages=pages)
    assert 0 < measured.seconds < 10
    assert 5 < measured.resident_mib < 500
    assert measured.models == 250
    a_pass = -(-250 // PAGE) if pages else 0
    assert (len(measured.first_pass), len(measured.pages)) == (a_pass, 2 * a_pass)
