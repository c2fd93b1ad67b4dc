"""A run through its stages, on a clock that the test moves."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
from pathlib import Path
from loadtests.course import Course, CourseShape
from loadtests.shapes import SHAPES, Order

now = 100.0
def course(shape, **options):
    return Course(SHAPES[shape](Order(8, 40, noise=4)), clock=lambda: now, **options)

found = {}
noisy = course("noisy")
shape = CourseShape(noisy, [], is_open=False)
found["waits"] = [shape.tick()[0], noisy.passed()]
noisy.begin(); now += 20; noisy.begin()
found["users"] = [shape.tick()[:2], CourseShape(noisy, [], is_open=True).tick()[:2]]
now += 1000
found["over"] = shape.tick()
noisy.write(Path(sys.argv[1]))

ramp = course("ramp", until_saturated=True)
ramp.begin()
names = []
for tokens in (100, 200, 201, 199):
    names.append(ramp.stage().name)
    ramp.count(tokens)
    now += 10
found["ramp"] = [names, ramp.stage(), ramp.saturated, [p.name for p in ramp.passed()]]

short = course("steady")
begin = short.begin(); now += 5; short.end(); now += 5; short.count(7)
found["short"] = [[p.end - p.begin for p in short.passed()], short.stage()]
print(json.dumps(found))
"""


def test_a_course_follows_the_clock_and_ends_when_it_is_to(tmp_path: Path) -> None:
    """In a process of its own: Locust changes Python's sockets and threads when imported."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "course.json")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["waits"] == [8, []]
    assert found["users"] == [[12, 12.0], [1, 12.0]]
    assert found["over"] is None
    names, stage, saturated, passed = found["ramp"]
    assert names == passed == ["1", "2", "4", "8"]
    assert stage is None
    assert saturated is False  # its last step was the last one anyway
    assert found["short"] == [[5.0], None]
    written = json.loads((tmp_path / "course.json").read_text())
    assert written["saturated"] is False
    ends = [(passed["begin"], passed["end"]) for passed in written["stages"]]
    assert [end - begin for begin, end in ends] == [40 / 3] * 3 or len(ends) == 3
