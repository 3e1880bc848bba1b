"""Questions that wait together are judged together, by one thread that alone asks the guard."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from safereason.console import say
from safereason.errors import InputError
from safereason.guard.base import Finding, OnFinding
from safereason.guard.policy import Policy
from safereason.guard.prompt import Question

Judge = Callable[[Policy, Sequence[Question], OnFinding], None]
"""Judges questions under a policy and gives each finding to the callback."""


class QueueFull(Exception):
    """As many questions wait as may."""


class Closing(Exception):
    """No more questions are taken."""


class GuardFailed(Exception):
    """The guard broke down over a question."""


@dataclass
class _Job:
    question: Question
    policy: Policy
    future: "Future[Finding]" = field(default_factory=Future)


class Batcher:
    """A queue before a guard."""

    def __init__(
        self,
        judge: Judge,
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        on_batch: Callable[[int], None],
    ) -> None:
        """Puts a queue before a guard; `start` opens it.

        Args:
            judge: The guard.
            max_batch: Questions judged together.
            max_wait: Seconds that the first of them waits for others.
            max_queue: Questions that may wait.
            on_batch: Told the size of each batch as it begins.
        """
        self._judge = judge
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._open = False
        self._worker = self._thread()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether a question would be taken."""
        return self._open and self._worker.is_alive() and len(self._waiting) < self._max_queue

    @property
    def busy(self) -> bool:
        """Whether its thread is still there."""
        return self._worker.is_alive()

    def start(self) -> None:
        """Begins to take and to judge questions."""
        self._open, self._worker = True, self._thread()
        self._worker.start()

    def stop(self, patience: float) -> None:
        """Takes no more questions and waits, for so many seconds at most, until those that wait are judged."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join(patience)

    def submit(self, questions: Sequence[Question], policy: Policy) -> list["Future[Finding]"]:
        """Queues questions, all of them or none; a future that is cancelled while it waits costs nothing.

        Raises:
            QueueFull: There is no room for them now.
            Closing: The server is about to end.
        """
        jobs = [_Job(question, policy) for question in questions]
        with self._changed:
            if not self._open:
                raise Closing
            if len(self._waiting) + len(jobs) > self._max_queue:
                self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
            if len(self._waiting) + len(jobs) > self._max_queue:
                raise QueueFull
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def _thread(self) -> threading.Thread:
        # A daemon, so that a batch that never ends does not keep the program from ending.
        return threading.Thread(target=self._work, name="guard", daemon=True)

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            for policy in dict.fromkeys(job.policy for job in batch):
                together = [job for job in batch if job.policy == policy]
                self._on_batch(len(together))
                self._settle(policy, together)

    def _take(self) -> list[_Job] | None:
        """The next batch; None once it is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            self._changed.wait_for(lambda: len(self._waiting) >= self._max_batch or not self._open, self._max_wait)
            if not self._waiting and not self._open:
                return None
            batch: list[_Job] = []
            while self._waiting and len(batch) < self._max_batch:
                job = self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():
                    batch.append(job)
            return batch

    def _settle(self, policy: Policy, jobs: Sequence[_Job]) -> None:
        """Answers every job, whatever the guard does."""
        try:
            self._judge(policy, [job.question for job in jobs], lambda i, finding: jobs[i].future.set_result(finding))
            error: Exception = GuardFailed("the guard gave no finding")
        except Exception as raised:
            error = raised
        left = [job for job in jobs if not job.future.done()]
        if len(jobs) > 1 and not isinstance(error, InputError):  # one question may have brought down its neighbours
            for job in left:
                self._settle(policy, [job])
        elif left:
            say(f"the guard failed: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}")
            for job in left:
                job.future.set_exception(GuardFailed())
