"""Guards of other publishers, each named `name:MODEL`; `GUARDS` maps a name to what opens it."""

from collections.abc import Callable
from dataclasses import dataclass

from safereason.engines.base import Engine
from safereason.errors import InputError
from safereason.guard.others.aegis import open_aegis
from safereason.guard.others.base import Kind, Options, PromptedGuard
from safereason.guard.others.guard_reasoner import open_guard_reasoner
from safereason.guard.others.llama_guard import open_llama_guard
from safereason.guard.others.nemoguard import open_nemoguard
from safereason.guard.others.shield_gemma import open_shield_gemma
from safereason.guard.others.wildguard import open_wildguard

__all__ = ["GUARDS", "Known", "Options", "PromptedGuard", "open_other"]


@dataclass(frozen=True)
class Known:
    """A guard that can be named."""

    about: str
    """One line for a listing."""
    model: str
    """A model of it."""
    open: Callable[[str, Options], tuple[Engine, Kind]]
    takes: tuple[str, ...] = ()
    """Which of `policy` and `template` it takes."""


GUARDS: dict[str, Known] = {
    "llama-guard": Known(
        "Llama Guard 3 and 4, with the policy of their own chat template",
        "meta-llama/Llama-Guard-3-8B",
        open_llama_guard,
    ),
    "shield-gemma": Known(
        "ShieldGemma, asked once for each category of a policy",
        "google/shieldgemma-2b",
        open_shield_gemma,
        ("policy",),
    ),
    "wildguard": Known(
        "WildGuard, with the prompt of its package or of --template",
        "allenai/wildguard",
        open_wildguard,
        ("template",),
    ),
    "guard-reasoner": Known(
        "GuardReasoner, with the prompt of --template",
        "yueliu1999/GuardReasoner-8B",
        open_guard_reasoner,
        ("template",),
    ),
    "aegis": Known(
        "Aegis 1.0, with the prompt of judgezoo or of --template",
        "FOLDER",
        open_aegis,
        ("template",),
    ),
    "nemoguard": Known(
        "NemoGuard Content Safety (Aegis 2.0), with the prompt of --template",
        "FOLDER",
        open_nemoguard,
        ("template",),
    ),
}


def open_other(name: str, model: str, options: Options) -> PromptedGuard:
    """Opens the guard `name:MODEL`.

    Args:
        name: A key of `GUARDS`.
        model: As an engine is named.
        options: How; what the guard does not take must be None.

    Raises:
        InputError: No model is named, an option is not the guard's, or the guard is not to be had.
    """
    known = GUARDS[name]
    if not model:
        raise InputError(f"{name}: name its model after a colon, such as {name}:{known.model}")
    for option in ("policy", "template"):
        if getattr(options, option) is not None and option not in known.takes:
            raise InputError(f"{name}: takes no --{option}; leave it out")
    engine, kind = known.open(model, options)
    return PromptedGuard(f"{name}:{model}", engine, kind)
