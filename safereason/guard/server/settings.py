"""Settings of a server: its limits, its callers, and the form of its verdicts."""

from dataclasses import dataclass, field

from safereason.guard.server.hosts import Hosts
from safereason.guard.server.keys import Keys
from safereason.guard.server.mapping import Mapping


@dataclass(frozen=True)
class Limits:
    """Limits of requests, of the queue and of connections."""

    max_batch: int = 16
    """Most questions that are judged together."""
    # Short beside a verdict, which takes hundreds of milliseconds.
    max_wait: float = 0.005
    """Seconds that the first question of a batch waits for others."""
    max_queue: int = 256
    """Most questions that may wait to be judged; more are refused with 429."""
    max_inputs: int = 64
    """Most texts of one moderation request, or parts of its text."""
    max_turns: int = 64
    """Most turns of one conversation."""
    # About 8000 tokens of English, which fits the context of common guards.
    max_chars: int = 32_768
    """Most characters of one question, all of its turns together."""
    max_body: int = 1_048_576
    """Most bytes of a request's body."""
    timeout: float = 60.0
    """Seconds for a body to arrive, and again for its verdicts."""
    # Shorter than `timeout`: a connection without a request takes room and does no work.
    header_timeout: float = 10.0
    """Seconds for the head of a request to arrive."""
    max_connections: int = 512
    """Most connections that are open at a time."""


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server."""

    model: str | None = None
    """The guard's name in answers; None for its own name, which may be a path."""
    mapping: Mapping | None = None
    """Mapping of the policy's categories to the Moderation API's; None for the table of the guard's policy."""
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    """Accepted API keys; without any, every caller is accepted."""
    hosts: Hosts = field(default_factory=Hosts)
    """Host names that the server answers to."""
    threshold: float | None = None
    """Probability of `unsafe` from which a text is flagged; None for the guard's own label."""
    flag_unparsed: bool = False
    """Whether the Moderation API flags a text without a verdict; otherwise it refuses the request."""
    retry_unparsed: bool = True
    """Whether a question without a verdict is judged once more, with the next seed."""
    seed: int = 0
    """Seed of the sampling; the same text always gets the same verdict."""
    log_prompts: bool = False
    """Whether questions and verdicts are written to stderr."""
