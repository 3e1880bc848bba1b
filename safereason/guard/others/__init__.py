"""Guards of other publishers, each named `name:MODEL`, and the Moderation API; `GUARDS` holds them by name."""

from collections.abc import Callable
from dataclasses import dataclass

from safereason.engines.spec import ModelSpec
from safereason.guard.base import Guard
from safereason.guard.others.aegis import open_aegis
from safereason.guard.others.base import GuardOptions, PromptedGuard
from safereason.guard.others.guard_reasoner import open_guard_reasoner
from safereason.guard.others.llama_guard import open_llama_guard
from safereason.guard.others.nemoguard import open_nemoguard
from safereason.guard.others.shield_gemma import open_shield_gemma
from safereason.guard.others.wildguard import open_wildguard
from safereason.registry import Registry

__all__ = ["GUARDS", "GuardEntry", "GuardOptions", "PromptedGuard"]


@dataclass(frozen=True)
class GuardEntry:
    """The registry entry of one guard."""

    name: str
    summary: str
    """Prompt and policy in one line, for listings."""
    model: str
    """Example of a model that the guard is published as."""
    open: Callable[[ModelSpec, GuardOptions], Guard]
    """Opens it with the model that is named after the colon."""
    takes: tuple[str, ...] = ()
    """The options that it takes, of `policy` and `template`."""
    is_api: bool = False
    """Whether it is an API whose server knows models by names of its own: `model` is then the one that is asked where
    none is named."""


def _open_moderation(model: ModelSpec, options: GuardOptions) -> Guard:
    # The client of the API takes long to import, and listings have no use for it.
    from safereason.guard.others.moderation import ModerationGuard

    return ModerationGuard(model.name, base_url=options.base_url)


# Aegis and NemoGuard are published as adapters. Each is merged into its base model first, hence `FOLDER`.
GUARDS: Registry[GuardEntry] = Registry(
    "guard",
    GuardEntry,
    (
        GuardEntry(
            "moderation",
            "a Moderation API: OpenAI's, or any server that speaks it",
            "omni-moderation-latest",
            _open_moderation,
            is_api=True,
        ),
        GuardEntry(
            "llama-guard",
            "Llama Guard 3 and 4, with the policy of their own chat template",
            "meta-llama/Llama-Guard-3-8B",
            open_llama_guard,
        ),
        GuardEntry(
            "shield-gemma",
            "ShieldGemma, with a prompt for each category of a policy",
            "google/shieldgemma-2b",
            open_shield_gemma,
            ("policy",),
        ),
        GuardEntry(
            "wildguard",
            "WildGuard, with the prompt of its package or of --template",
            "allenai/wildguard",
            open_wildguard,
            ("template",),
        ),
        GuardEntry(
            "guard-reasoner",
            "GuardReasoner, with the prompt of --template",
            "yueliu1999/GuardReasoner-8B",
            open_guard_reasoner,
            ("template",),
        ),
        GuardEntry(
            "aegis",
            "Aegis 1.0, with the prompt of judgezoo or of --template",
            "FOLDER",
            open_aegis,
            ("template",),
        ),
        GuardEntry(
            "nemoguard",
            "NemoGuard Content Safety (Aegis 2.0), with the prompt of --template",
            "FOLDER",
            open_nemoguard,
            ("template",),
        ),
    ),
)
