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
        self.value = None
        self.step = None

    def to_dict(self) -> dict:
        """Returns the state as JSON can hold it."""
        return {"name": self.name, "value": self.value, "step": self.step}

    def restore(self, state: dict | None) -> None:
        """Takes over a state; one of another metric says nothing about this one."""
        if state is not None and state["name"] == self.name:
            self.value, self.step = state["value"], state["step"]

    def check_evaluated(self, names: list[str]) -> None:
        """Raises `ValueError` unless the metric is of one of these evaluations.

        Args:
            names: What stands before the slash in the names of their metrics.
        """
        evaluation = self.name.lstrip("-").partition("/")[0]
        if evaluation not in names:
            raise ValueError(
                "`--best_metric` must be of an evaluation of the run, such as "
                f"{names[0]}/accuracy; it has: {', '.join(names)}. "
                f"Received: {self.name!r}"
            )

    def offer(self, step: int, scalars: dict) -> bool:
        """Returns whether an evaluation is better than all before it.

        Args:
            step: Int: updates made when it was evaluated.
            scalars: Metric name -> value, what the evaluation reports.

        Raises:
            ValueError: The metric is not among them.
        """
        smaller = self.name.startswith("-")
        name = self.name[1:] if smaller else self.name
        if name not in scalars:
            raise ValueError(
                f"`--best_metric` must be one that the evaluation reports: "
                f"{', '.join(sorted(scalars))}. Received: {name!r}"
            )
        value = float(scalars[name])
        if self.value is None:
            better = not math.isnan(value)
        else:
            better = value < self.value if smaller else value > self.value
        if better:
            self.value, self.step = value, step
        return better
