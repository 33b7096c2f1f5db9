"""CPU seconds of this process and its descendants, from Linux' /proc."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path


def cpu_seconds() -> Counter[str]:
    """Return the CPU seconds so far: driver, workers and Ray's own processes ("other")."""
    parents, names, ticks = {}, {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = path.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        pid, fields = int(path.parent.name), tail.split()
        names[pid], parents[pid] = head.partition("(")[2], int(fields[1])
        ticks[pid] = int(fields[11]) + int(fields[12])
    here, spent = os.getpid(), Counter[str]()
    for pid, count in ticks.items():
        at = pid
        while at and at != here:
            at = parents.get(at, 0)
        if at == here:
            worker = names[pid].startswith("ray::Worker")
            kind = "driver" if pid == here else "workers" if worker else "other"
            spent[kind] += count
    return Counter({kind: count / os.sysconf("SC_CLK_TCK") for kind, count in spent.items()})
