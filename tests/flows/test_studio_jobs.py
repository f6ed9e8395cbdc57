"""What a job's folder says, damaged files in it, and which job is the newest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.studio_jobs import Job, jobs
from tasks.errors import TrainingError
from tasks.studiojob import PROCESS, note_process

ENDED = 2**22 + 1  # above the greatest process number of Linux


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[1]", b"null", b'["1", 2, 3]', b""])
def test_what_is_damaged_is_said_in_two_lines(tmp_path: Path, content: bytes):
    folder = tmp_path / "jobs" / "a-20260101-000000"
    history = folder / "runs" / "a-20260101-000001" / "history.jsonl"
    history.parent.mkdir(parents=True)
    for path in (folder / PROCESS, folder / "result.json", folder / "log.txt"):
        path.write_bytes(content)
    history.write_bytes(content or b"{}")
    (job,) = jobs(tmp_path)
    assert (job.state, job.result()["error"]["exit_code"]) == ("failed", 8)
    job.stop()
    assert job.log() in (content.decode(errors="replace"), "")
    with pytest.raises(TrainingError) as caught:
        job.epochs()
    problem, _ = str(caught.value).splitlines()
    assert problem.startswith(f"{history} cannot be read: ")


def test_the_newest_is_first_whatever_the_dates_of_its_files(tmp_path: Path):
    names = [
        *("odd", "b-20260101-000000", "a-20260101-000000-2", "a-20260101-000000-10"),
        *("a-20270101-000000-20260101-000001", "a-20260102-000000"),
    ]
    for age, name in enumerate(names):
        note_process(tmp_path / "jobs" / name, ENDED)
        os.utime(tmp_path / "jobs" / name / PROCESS, (10**9 - age,) * 2)
    assert [job.name for job in jobs(tmp_path)] == names[::-1]
    assert Job(tmp_path / "jobs" / "odd").epochs() == []
