"""Opening of guards: those that reason over a policy, and those of other publishers."""

from dataclasses import replace

from safereason.engines.open import open_engine, precision_here
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard import policy as policies
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.others import GUARDS, GuardOptions, PromptedGuard
from safereason.guard.reasoning import ReasoningGuard
from safereason.recipe.schema import Precision, Sampling


def open_guard(
    spec: str,
    *,
    base_url: str | None = None,
    policy: str | None = None,
    sampling: Sampling | None = None,
    samples: int = 1,
    precision: Precision = "fp32",
    otherwise: GuardPrompt | None = None,
) -> ReasoningGuard:
    """A run of `guard train`, or any other model, as a guard that reasons.

    Args:
        spec: A run directory, a folder, `org/name`, or a model behind an engine (`openai/NAME`).
        base_url: Address of the server, for `openai/…`.
        policy: Name of a shipped policy or a file, used instead of the guard's own.
        sampling: Used instead of the guard's own.
        samples: Number of verdicts that vote on a question.
        precision: `fp32` or `bf16`, for transformers.
        otherwise: Prompt for a model without a prompt of its own; by default RSafe's.

    Raises:
        InputError: The model or the policy cannot be opened.
    """
    # The prompt comes first: reading it takes milliseconds, and loading the weights can take minutes.
    guard_prompt = guard_prompt_of(spec, policy=policy, sampling=sampling, otherwise=otherwise)
    return open_with_prompt(spec, guard_prompt, base_url=base_url, samples=samples, precision=precision)


def open_with_prompt(
    spec: str,
    guard_prompt: GuardPrompt,
    *,
    base_url: str | None = None,
    samples: int = 1,
    precision: Precision | None = None,
) -> ReasoningGuard:
    """A model as a guard that reasons, with a prompt that is read already; other arguments as of `open_guard`.

    Without a precision it is bf16 on a GPU that has it, and fp32 elsewhere.

    Raises:
        InputError: The model cannot be opened.
        StageFailed: It does not fit in memory.
    """
    model = ModelSpec.parse(spec)
    # A server decides for itself, and torch need not be imported for it.
    if precision is None and model.is_remote:
        precision = "fp32"
    engine = open_engine(model, base_url=base_url, precision=precision or precision_here())
    return ReasoningGuard(engine, guard_prompt, samples=samples)


def guard_prompt_of(
    spec: str, *, policy: str | None = None, sampling: Sampling | None = None, otherwise: GuardPrompt | None = None
) -> GuardPrompt:
    """The prompt that `open_guard` gives to a model; no weights are loaded.

    Raises:
        InputError: The model, its `guard.json` or the policy cannot be read.
    """
    own_policy = policies.load(policy) if policy else None
    model = ModelSpec.parse(spec)
    model.check()
    if model.is_remote:
        # A server does not hand out the files beside its weights.
        guard_prompt = otherwise or guard_prompts.default()
    else:
        guard_prompt = guard_prompts.of_model(model.location, otherwise)
    # The model's own prompt stays, and only what the caller gave replaces a part of it.
    return replace(guard_prompt, policy=own_policy or guard_prompt.policy, sampling=sampling or guard_prompt.sampling)


def open_other(name: str, model: str, options: GuardOptions) -> PromptedGuard:
    """The guard `name:MODEL`.

    Args:
        name: A name that `GUARDS` finds.
        model: A model, named as for an engine.
        options: GuardOptions of the guard; those that it does not take must be None.

    Raises:
        InputError: No model is named, the guard does not take an option, or it cannot be opened.
    """
    entry = GUARDS.find(name)
    if not model:
        raise InputError(f"{name}: name its model after a colon, such as {name}:{entry.model}")
    # An option without effect is an error: the user expects it to change the verdicts.
    for option in ("policy", "template"):
        if getattr(options, option) is not None and option not in entry.takes:
            raise InputError(f"{name}: takes no --{option}; leave it out")
    engine, guard_format = entry.open(model, options)
    return PromptedGuard(f"{entry.name}:{model}", engine, guard_format)
