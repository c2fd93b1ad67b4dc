"""Which tests run beside which: a process of pytest-xdist takes a file, or a group, at a time."""

from pathlib import PurePath

from xdist.scheduler import LoadFileScheduling

RAY = (
    "tests/deploy/test_ray_serve.py",
    "tests/deploy/test_replicas_command.py",
    "tests/train/test_ray_train.py",
)
"""A cluster is a dozen processes: one at a time."""
LOAD = ("tests/loadtests/",)
"""Two loads at once would measure each other."""
LONGEST = (
    *RAY,
    "tests/e2e/test_titulares.py",
    *LOAD,
    "tests/test_readme.py",
    "tests/train/runs/test_resume.py",
    "tests/e2e/test_resume.py",
    "tests/train/worker/test_training.py",
    "tests/e2e/test_planner_peak.py",
    "tests/serve/test_openapi.py",
)
"""They begin first, so that in the end no process has a long one while the others have none."""


class Turns(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """As `--dist loadfile`, but for what uses the machine as a whole."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        for group in (RAY, LOAD):
            if file.startswith(group):
                return group[0]
        return file


def place(file: PurePath) -> int:
    """Of a test file, relative to the project, in the order of the run."""
    named = (n for n, longest in enumerate(LONGEST) if file.as_posix().startswith(longest))
    return next(named, len(LONGEST))
