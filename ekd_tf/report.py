"""Makes a page of a run from what it left: `python -m ekd_tf.report WORKDIR`."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys

from ekd_tf.files.outputs import make_folder
from ekd_tf.run import command
from ekd_tf.run.settings import setting


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """The flags of the command."""

    output: str | None = setting(
        None, "Folder for report.html. Default: the workdir itself."
    )


def main(settings: ReportSettings, folders: list[str]) -> None:
    """Writes report.html of the workdir given."""
    if len(folders) != 1:
        raise ValueError(f"Give one workdir. Received: {' '.join(folders) or 'none'}")
    from ekd_tf.page import run_content
    from ekd_tf.page import write_page
    from ekd_tf.run.workdir import Workdir

    workdir = Workdir(folders[0], create=False)
    content = run_content(workdir.path)
    run = workdir.read_run()
    words = run["starts"][-1]["command"][1:]
    facts = {
        "Command": shlex.join(["python", "-m", "ekd_tf.train", *words]),
        "Started": ", ".join(start["time"] for start in run["starts"]),
    }
    output = make_folder("output", settings.output or folders[0])
    title = pathlib.Path(folders[0]).resolve().name
    sys.stdout.write(f"Written to {write_page(output, title, facts, content)}\n")


def run() -> None:
    """Entry point of the console script."""
    command.run(main, "ekd_tf.report", ReportSettings, takes_arguments=True)


if __name__ == "__main__":
    run()
