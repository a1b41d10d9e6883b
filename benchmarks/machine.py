"""What a benchmark notes about where it ran: cores, memory, processor and versions, never a host or user name."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from finetune.runs import describe_environment, now


def describe_machine() -> dict[str, Any]:
    """Date, versions, git revision, and the machine in words."""
    gibibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    words = f"{os.cpu_count()} cores, {gibibytes:.0f} GiB memory, {_processor()}, {platform.system()}"
    return {"date": now(), "machine": words, **describe_environment()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
