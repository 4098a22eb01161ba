"""What the system says of a process's memory; Linux alone says it."""

import pathlib
import re

PROCESS = pathlib.Path("/proc/self")


def resident_mb(field):
    """Returns MB of this process: "VmRSS", held now, or "VmHWM", held at its peak.

    `resource.getrusage` would not do: in a child its peak begins at what the parent
    held.
    """
    status = (PROCESS / "status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / 1024


def forget_peak():
    """Lets the peak begin at what is held now."""
    (PROCESS / "clear_refs").write_text("5")
