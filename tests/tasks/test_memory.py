"""Arenas as the C library counts them, each a heap of malloc_info(3); pages as the system does."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys, threading
from tasks.memory import return_fragments, share_one_arena

libc = ctypes.CDLL(None)
libc.fmemopen.restype = ctypes.c_void_p
if sys.argv[1] == "shared":
    share_one_arena()
together = threading.Barrier(4)

def take():
    together.wait()
    bytearray(5_000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
return_fragments()
text = ctypes.create_string_buffer(1 << 16)
libc.fmemopen.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
file = libc.fmemopen(text, len(text), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(text.value.count(b"<heap nr="))
"""


def _arenas(kind: str, **more: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", SCRIPT, kind]
    said = subprocess.run(command, env=environment | more, capture_output=True, check=True)
    return int(said.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's arenas")
def test_threads_share_one_arena() -> None:
    assert _arenas("shared") == 1
    assert _arenas("own") == 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's arenas")
def test_what_the_environment_says_stands() -> None:
    assert _arenas("shared", MALLOC_ARENA_MAX="3") == 3
    assert _arenas("own", MALLOC_ARENA_MAX="1") == 1


PAGES = """
import resource, sys
from pathlib import Path
from tasks.memory import pages_kept

PIECE = 64 << 20  # bytes

def faults():  # pages that the system makes, for each of ten pieces that come and go
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * PIECE
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

b"x" * PIECE
found = [faults()]
with pages_kept():
    with pages_kept():
        b"x" * PIECE
    found.append(faults())
    held = resident()
print(*found, faults(), (held - resident()) / PIECE)
"""


def _paged(**more: str) -> list[float]:
    command = [sys.executable, "-c", PAGES]
    said = subprocess.run(command, env=os.environ | more, capture_output=True, check=True)
    return [float(word) for word in said.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's pages")
def test_pages_are_kept_in_the_block_and_go_back_after_it() -> None:
    a_piece = (64 << 20) / resource.getpagesize()
    before, within, after, returned = _paged()
    assert before >= a_piece  # each piece comes from the system
    assert within < 0.2 * a_piece  # the first alone
    assert after >= a_piece
    assert returned > 0.9  # pieces


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's pages")
def test_what_the_environment_says_of_pages_stands() -> None:
    _, within, _, returned = _paged(MALLOC_MMAP_MAX_="65536")
    assert within >= (64 << 20) / resource.getpagesize()
    assert returned < 0.1
