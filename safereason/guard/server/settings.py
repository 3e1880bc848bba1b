"""What a server is told: how far it goes, whom it answers, and how it puts findings."""

from dataclasses import dataclass, field

from safereason.guard.server.hosts import Hosts
from safereason.guard.server.keys import Keys
from safereason.guard.server.mapping import Mapping


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and what may wait."""

    max_batch: int = 16
    """Questions judged together."""
    max_wait: float = 0.005
    """Seconds that the first question of a batch waits for others."""
    max_queue: int = 256
    """Questions that may wait to be judged; more are refused with 429."""
    max_inputs: int = 64
    """Texts of one moderation request, or parts of its text."""
    max_turns: int = 64
    """Turns of one conversation."""
    max_chars: int = 32_768
    """Characters of one question, all of its turns together."""
    max_body: int = 1_048_576
    """Bytes of a request's body."""
    timeout: float = 60.0
    """Seconds that a body may take to arrive, and as many again for the verdicts."""
    header_timeout: float = 10.0
    """Seconds that a connection may take until the head of a request is there."""
    max_connections: int = 512
    """Connections that are open at a time."""


@dataclass(frozen=True)
class Settings:
    """All that a server is told."""

    model: str | None = None
    """What answers call the guard; None takes its own name, which may be a path."""
    mapping: Mapping | None = None
    """From the policy's categories to the Moderation API's; None takes the one for the guard's policy."""
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    """Keys that callers show; none at all lets everybody in."""
    hosts: Hosts = field(default_factory=Hosts)
    """Names that callers call the server by."""
    threshold: float | None = None
    """Probability of `unsafe` from which a text is flagged, in place of the guard's own label."""
    flag_unparsed: bool = False
    """Whether the Moderation API flags a text without a verdict, in place of refusing it."""
    ask_again: bool = True
    """Whether a question without a verdict is asked once more, with the next seed."""
    seed: int = 0
    """Seed of the verdicts: the same text gets the same one."""
    log_prompts: bool = False
    """Whether questions and findings are written to stderr."""
