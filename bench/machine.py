"""Describes the machine and the software that a run used."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cpu_model() -> str:
    """The processor's name, as the operating system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def vector_extension() -> str:
    """The widest x86 vector extension that the processor announces, where that is known."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return next((f for f in ("avx512bw", "avx2", "sse4_2", "asimd") if f in flags), "unknown")


def package_version(name: str) -> str:
    """The installed version of a package, or "absent"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def usable_cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin_to_one_core() -> None:
    """Keeps this process and every thread it starts later on the last core it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {usable_cores()[-1]})


def load_average() -> str:
    """Mean number of runnable processes over the last minute; above 0, others are at work."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def describe() -> dict[str, str]:
    """Label and value, in the order in which a report prints them."""
    return {
        "processor": cpu_model(),
        "vector extension": vector_extension(),
        "cores": str(os.cpu_count()),
        "cores used": str(len(usable_cores())),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "numpy": package_version("numpy"),
        "numba": package_version("numba"),
        "load average at start": load_average(),
    }
