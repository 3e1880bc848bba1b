"""Batching: questions that wait at the same time are judged together, by the one thread that uses the guard."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from safereason.console import say
from safereason.errors import InputError, one_line
from safereason.guard.base import GuardVerdict, OnVerdict
from safereason.guard.policy import Policy
from safereason.guard.prompt import Question

ClassifyBatch = Callable[[Policy, Sequence[Question], OnVerdict], None]
"""A call of the guard: classifies questions under one policy and gives each verdict to the callback."""


class QueueFull(Exception):
    """The queue has no room for more questions."""


class ServerClosing(Exception):
    """The server takes no more questions."""


class GuardFailed(Exception):
    """The guard raised an error on a question, or gave no verdict on it."""


@dataclass
class _WaitingQuestion:
    question: Question
    policy: Policy
    future: "Future[GuardVerdict]" = field(default_factory=Future)


class Batcher:
    """A queue in front of a guard."""

    def __init__(
        self,
        classify_batch: ClassifyBatch,
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        on_batch: Callable[[int], None],
    ) -> None:
        """A closed queue; `start` opens it.

        Args:
            classify_batch: Calls the guard, from the queue's own thread.
            max_batch: Most questions that are judged together.
            max_wait: Seconds that the first question of a batch waits for others.
            max_queue: Most questions that may wait.
            on_batch: Called with the size of each batch before it is judged.
        """
        self._classify_batch = classify_batch
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._waiting: deque[_WaitingQuestion] = deque()
        self._changed = threading.Condition()
        self._open = False
        self._worker = self._new_thread()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether a question would be accepted."""
        return self._open and self._worker.is_alive() and len(self._waiting) < self._max_queue

    @property
    def busy(self) -> bool:
        """Whether the thread is still running."""
        return self._worker.is_alive()

    def start(self) -> None:
        """Opens the queue and starts the thread."""
        self._open = True
        self._worker = self._new_thread()
        self._worker.start()

    def stop(self, patience: float) -> None:
        """Closes the queue and waits until the questions in it are judged.

        Args:
            patience: Most seconds to wait.
        """
        with self._changed:
            self._open = False
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join(patience)

    def submit(self, questions: Sequence[Question], policy: Policy) -> list["Future[GuardVerdict]"]:
        """Queues questions, all of them or none. A future that is cancelled while it waits is never judged.

        Raises:
            QueueFull: There is no room for them now.
            Closing: The queue is closed.
        """
        jobs = [_WaitingQuestion(question, policy) for question in questions]
        with self._changed:
            if not self._open:
                raise ServerClosing
            # Cancelled jobs are dropped only when their room is needed, so that most calls do not walk the queue.
            if len(self._waiting) + len(jobs) > self._max_queue:
                self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
            if len(self._waiting) + len(jobs) > self._max_queue:
                raise QueueFull
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def _new_thread(self) -> threading.Thread:
        # A daemon, so that a batch that never ends does not keep the program from ending.
        return threading.Thread(target=self._work, name="guard", daemon=True)

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            # The policy is part of the prompt, so a call of the guard takes one policy. A dict keeps their order.
            jobs_by_policy: dict[Policy, list[_WaitingQuestion]] = {}
            for job in batch:
                jobs_by_policy.setdefault(job.policy, []).append(job)
            for policy, jobs in jobs_by_policy.items():
                self._on_batch(len(jobs))
                self._settle(policy, jobs)

    def _next_batch(self) -> list[_WaitingQuestion] | None:
        """The next batch; None once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            # The first question is here. Others get a moment to join it, unless the batch is full already.
            self._changed.wait_for(lambda: len(self._waiting) >= self._max_batch or not self._open, self._max_wait)
            if not self._waiting and not self._open:
                return None
            batch: list[_WaitingQuestion] = []
            while self._waiting and len(batch) < self._max_batch:
                job = self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():
                    batch.append(job)
            return batch

    def _settle(self, policy: Policy, jobs: Sequence[_WaitingQuestion]) -> None:
        """Gives every job a verdict or an error, even if the guard fails."""

        def deliver(index: int, verdict: GuardVerdict) -> None:
            jobs[index].future.set_result(verdict)

        try:
            self._classify_batch(policy, [job.question for job in jobs], deliver)
            error: Exception = GuardFailed("the guard gave no verdict")
        except Exception as raised:
            error = raised
        left = [job for job in jobs if not job.future.done()]
        # One question may have brought down its neighbours, so each is tried alone. An InputError is about the guard
        # itself, such as a server that is down, and would come again for each of them.
        if len(jobs) > 1 and not isinstance(error, InputError):
            for job in left:
                self._settle(policy, [job])
        elif left:
            say(f"the guard failed: {one_line(error)}")
            for job in left:
                job.future.set_exception(GuardFailed())
