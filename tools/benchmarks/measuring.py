"""How the benchmarks measure: in turns, in processes of their own, memory and time."""

import datetime
import gc
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np

_MARK = "result="


def take_turns(cases, turns, warm_up=1):
    """Calls each case once a turn, as a busy machine still tells ratios.

    Returns name -> array of what the case returned in each turn but those to warm up.
    """
    names, seen = list(cases), {name: [] for name in cases}
    for turn in range(warm_up + turns):
        # Each goes first in turn.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seen[name].append(cases[name]())
    return {name: np.array(rows[warm_up:]) for name, rows in seen.items()}


def clocked(function, *arguments):
    """Returns milliseconds of a call: by the clock, and CPU time of the process."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return 1e3 * wall, 1e3 * cpu


def spread(values, digits=1):
    """Returns median, least and largest in words."""
    middle, least, most = np.median(values), np.min(values), np.max(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f}..{most:,.{digits}f})"


def beside_first(times, images):
    """Returns a table of what `clocked` says of cases, and the first one's share."""
    from ekd_tf.evaluation import format_table

    first, rows = next(iter(times.values())), []
    for name, turns in times.items():
        wall, cpu = np.median(turns, axis=0) / images
        wall_ratio, cpu_ratio = np.median(first / turns, axis=0)
        numbers = f"{cpu:.3f}", f"{wall:.3f}", f"{cpu_ratio:.2f}", f"{wall_ratio:.2f}"
        rows.append([name, *numbers])
    header = "case", "CPU ms / image", "wall ms / image", "floor / case, CPU", "wall"
    return format_table(rows, header)


def apart(*arguments):
    """Returns what this program gives to `tell` in a new process, with flags added.

    TensorFlow keeps what it has freed and is set up once.
    """
    command = [sys.executable, *sys.argv, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line[len(_MARK) :])
    raise RuntimeError(f"{command} failed:\n{done.stderr[-3000:]}")


def tell(result):
    """Hands a result to the process that called `apart`."""
    print(_MARK + json.dumps(result), flush=True)


def write_json(path, about, results):
    """Writes all measurements to a file where one was asked for."""
    if path:
        report = json.dumps({"machine": about, "results": results}, indent=1)
        pathlib.Path(path).write_text(report + "\n", encoding="utf-8")


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


def resident_mb(field="VmRSS"):
    """Returns MB (2^20 bytes) this process holds now, of "VmHWM" held at its peak.

    `resource.getrusage` would not do: in a child its peak begins at what the parent
    held.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    (words,) = [line.split() for line in status.splitlines() if field + ":" in line]
    return int(words[1]) / 1024


def forget_peak():
    """Lets the peak of this process begin at what it holds now, which is returned."""
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return resident_mb()
