"""From a guard's name to a guard."""

from dataclasses import replace

from safereason.engines.open import REMOTE, check_name, model_location, open_engine
from safereason.guard import guide as guides
from safereason.guard import policy as policies
from safereason.guard.guide import Guide
from safereason.guard.reasoning import ReasoningGuard
from safereason.recipe.schema import Sampling


def open_guard(
    spec: str,
    *,
    base_url: str | None = None,
    policy: str | None = None,
    sampling: Sampling | None = None,
    samples: int = 1,
    precision: str = "fp32",
    otherwise: Guide | None = None,
) -> ReasoningGuard:
    """Opens a run of `guard train`, or any model, as a guard that reasons.

    Args:
        spec: A run directory, a folder, `org/name`, or a model behind an engine (`openai/NAME`).
        base_url: Address of the server, for `openai/…`.
        policy: In place of the guard's own: the name of a shipped policy, or a file.
        sampling: In place of the guard's own.
        samples: Verdicts that vote on a question.
        precision: `fp32` or `bf16`, for transformers.
        otherwise: How a model is asked that carries no guide; by default as RSafe's is.

    Raises:
        InputError: The model or the policy is not to be had.
    """
    guide = guide_of(spec, policy=policy, sampling=sampling, otherwise=otherwise)
    return ReasoningGuard(open_engine(spec, base_url=base_url, precision=precision), guide, samples=samples)


def guide_of(
    spec: str, *, policy: str | None = None, sampling: Sampling | None = None, otherwise: Guide | None = None
) -> Guide:
    """How `open_guard` asks a model; nothing heavy is loaded.

    Raises:
        InputError: The model, its `guard.json` or the policy is not to be had.
    """
    chosen = policies.load(policy) if policy else None
    check_name(spec)
    remote = spec.startswith(REMOTE)
    guide = otherwise or guides.default() if remote else guides.of_model(model_location(spec), otherwise)
    return replace(guide, policy=chosen or guide.policy, sampling=sampling or guide.sampling)
