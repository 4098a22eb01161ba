"""What Linux says of the machine and of the memory of a process."""

import datetime
import gc
import os
import pathlib
import platform


def machine():
    """Returns what measurements depend on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in cpuinfo if "model name" in line]
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def resident_mb(field="VmRSS", process="self"):
    """Returns MB (2^20 bytes) of a process.

    `resource.getrusage` would not do: in a child its peak begins at what the parent
    held.

    Args:
        field: "VmRSS", held now, or "VmHWM", held at its peak.
        process: Its number, or "self".

    Raises:
        FileNotFoundError: There is no such process.
        RuntimeError: It is just ending.
    """
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    for line in status.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{process}/status has no {field}.")


def forget_peak():
    """Lets the peak of this process begin at what it holds now, which is returned."""
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return resident_mb()
