"""All threads share two heaps, where the C library lets them."""

import subprocess
import sys

import pytest

from stt_core.memory import share_heaps

PROGRAM = """
import ctypes, sys, threading
from stt_core.memory import share_heaps
if sys.argv[1] == "shared":
    assert share_heaps()
libc = ctypes.CDLL("libc.so.6")
meeting = threading.Barrier(7)

def work():
    libc.malloc(50_000)
    meeting.wait()
    meeting.wait()

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
meeting.wait()
libc.malloc_stats()
meeting.wait()
"""


@pytest.mark.skipif(not share_heaps(), reason="there is no glibc")
def test_threads_share_two_heaps() -> None:
    heaps = {}
    for mode in ("stock", "shared"):
        answer = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, timeout=60, check=True
        )
        heaps[mode] = answer.stderr.count("Arena ")

    assert heaps["shared"] <= 2 < heaps["stock"]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_elsewhere_nothing_happens(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)

    assert not share_heaps()
