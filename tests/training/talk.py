"""A desk and what it said, for the training tests."""

import time
from collections.abc import Callable

from colors import CPU

from training_service.desk import Desk
from training_service.event import Lineup, Prepared, Report, Trained
from training_service.request import TrainingRequest
from training_service.run import Places
from training_service.slots import Slots


class Talk:
    """A desk and what it said."""

    def __init__(self, slots: Slots, places: Places, clock: Callable[[], float] = time.perf_counter) -> None:
        self.said: list[Report] = []
        self.desk = Desk(slots, places, device=CPU, report=self._hear, clock=clock)

    def _hear(self, report: Report) -> None:
        if not isinstance(report, Lineup):
            self.said.append(report)

    def ready(self, request: TrainingRequest) -> Prepared:
        prepared = self.desk.prepare(request, None)
        assert isinstance(prepared, Prepared), prepared
        return prepared

    def work(self, until: type[Report] | None = None, count: int = 1) -> list[Report]:
        for _ in range(2000):
            if self.desk.is_idle or (until is not None and len(self.of(until)) >= count):
                return self.said
            self.desk.work()
        raise AssertionError(f"expected an end, got {self.said[-3:]}")

    def train(self, request: TrainingRequest) -> Trained:
        """Carry out a run from its order to its end, and whatever else the desk has to do."""
        self.ready(request)
        self.desk.runs.start(request.task_id)
        self.work()
        return self.trained(request)

    def of(self, kind: type[Report]) -> list[Report]:
        return [one for one in self.said if isinstance(one, kind)]

    def trained(self, request: TrainingRequest) -> Trained:
        (found,) = [one for one in self.said if isinstance(one, Trained) and one.task_id == request.task_id]
        return found
