"""Which evaluation of a run was the best so far."""

from __future__ import annotations

import math


class BestMetric:
    """Remembers the best value of one metric and the step it was reached at.

    Args:
        name: The metric, larger is better; with "-" before it, smaller is.

    State (`to_dict`, saved with every checkpoint):
        value: Float or None: the best value so far.
        step: Int or None: where it was reached first.
    """

    def __init__(self, name: str):
        self.name = name
        self.value: float | None = None
        self.step: int | None = None

    def to_dict(self) -> dict:
        """Returns the state as JSON can hold it."""
        return {"name": self.name, "value": self.value, "step": self.step}

    def restore(self, state: dict | None) -> None:
        """Takes over a state; one of another metric says nothing about this one."""
        if state is not None and state["name"] == self.name:
            self.value, self.step = state["value"], state["step"]

    def check_reported(self, names: list[str]) -> None:
        """Raises `ValueError` unless the metric is among those the run reports."""
        if self.name.removeprefix("-") not in names:
            raise ValueError(
                f"`--best_metric` must be one that the run's evaluations report: "
                f"{', '.join(sorted(names))}. Received: {self.name!r}"
            )

    def offer(self, step: int, scalars: dict) -> bool:
        """Returns whether an evaluation is better than all before it.

        Args:
            step: Updates made when it was evaluated.
            scalars: Metric name -> value; `ValueError` if the metric is missing.
        """
        self.check_reported(list(scalars))
        smaller = self.name.startswith("-")
        value = float(scalars[self.name.removeprefix("-")])
        if self.value is None:
            better = not math.isnan(value)
        else:
            better = value < self.value if smaller else value > self.value
        if better:
            self.value, self.step = value, step
        return better
