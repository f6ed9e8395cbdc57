"""Counted by the C library itself: malloc_info(3) describes each arena as a heap of its own."""

from __future__ import annotations

import os
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
