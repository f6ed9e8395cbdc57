"""Which worker takes which tests, and when: file by file, the long files of few tests first.

pytest-xdist hands out files by their number of tests, the many first. A file of three tests that
last minutes would come last, and one worker alone would run it while the other has nothing to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xdist.scheduler import LoadFileScheduling

TESTS = Path(__file__).parent
DEPLOYMENTS = "tests/flows/deployments"
SITE = "site"  # files that use the fixture of this name: one server and worker for all of them
FAR = "far"  # files that share one tracking server
TOGETHER = {
    f"{folder}/test_{name}.py": unit
    for folder, unit, names in (
        (DEPLOYMENTS, SITE, ("kubernetes", "operate", "retrain", "transfer", "watch")),
        ("tests/tasks/register", FAR, ("delivery", "locks", "task", "tracking")),
    )
    for name in names
}
# those of fewer than ten tests that last longer than 20 s, and leave nothing for others to find
LONG = (
    "tests/flows/test_real_input.py",
    f"{DEPLOYMENTS}/test_compose.py",
    FAR,
    "tests/flows/test_server.py",
    f"{DEPLOYMENTS}/test_auth.py",
    "tests/flows/test_pages.py",
    "tests/tasks/register/test_journal.py",
    "tests/tasks/register/test_auth.py",
    "tests/tasks/register/test_serving.py",
)
for file in {*TOGETHER, *LONG} - {FAR}:
    assert (TESTS.parent / file).is_file(), f"{file} is gone: take it out of {__file__}"


class LongFilesFirst(LoadFileScheduling):
    """Hand out whole files: those of one server together, the site first, then the long ones."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)

    def _assign_work_unit(self, node: Any) -> None:
        first = next((unit for unit in (SITE, *LONG) if unit in self.workqueue), None)
        if first is not None:
            self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)
