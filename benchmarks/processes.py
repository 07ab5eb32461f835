"""The processes that a benchmark measures."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace


def family(pid: int) -> list[int]:
    """A process and its descendants, those alive."""
    try: tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError: return []
    found = [pid]
    for task in tasks:
        try: children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError): continue  # it has ended meanwhile
        for child in children: found += family(int(child))
    return found


def watched(command: list, look: Callable, every: float, limit: float = float("inf"), **how) -> SimpleNamespace:
    """Run a command, with `look(pid, seconds since its start)` called every so many seconds while it lives, and killed where it takes longer than
    the limit: its exit code, `wall` seconds, `cpu` seconds of it and its children (wait4), and what it printed, `out` and `err`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start, ended = time.monotonic(), threading.Event()
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=err, **how)

        def watch():
            while not ended.wait(every):
                look(process.pid, time.monotonic() - start)
                if time.monotonic() - start > limit: process.kill()
        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        wall, process.returncode = time.monotonic() - start, os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        out.seek(0)
        err.seek(0)
        return SimpleNamespace(code=process.returncode, wall=wall, cpu=used.ru_utime + used.ru_stime, out=out.read().decode(errors="replace"),
                               err=err.read().decode(errors="replace"))
