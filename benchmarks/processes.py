"""The processes that a benchmark measures."""

import os
from pathlib import Path


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
