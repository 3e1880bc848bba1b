"""Opening of any guard by its name: one that reasons over a policy, another publisher's, or a Moderation API."""

from dataclasses import dataclass, replace
from functools import cached_property

from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, did_you_mean
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard import policy as policies
from safereason.guard.base import Guard
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.others import GUARDS, GuardEntry, GuardOptions
from safereason.guard.reasoning import ReasoningGuard
from safereason.recipe.schema import Sampling
from safereason.registry import split_argument


@dataclass(frozen=True)
class GuardSpec:
    """A guard as a person names it: `NAME:MODEL` with a name of `GUARDS`, or a model that reasons over a policy."""

    name: str
    """Name by which `GUARDS` finds it: its own, or a dotted path; empty for a model that reasons over a policy."""
    argument: str
    """The model: its name, a folder or a run. Of an API, the server's own name for it, empty for the default."""

    @classmethod
    def parse(cls, text: str) -> "GuardSpec":
        """The guard `NAME:MODEL`, `module:NAME:MODEL` or `MODEL`, or an API by its name alone.

        Raises:
            InputError: Its model is missing, its name is misspelt, or another package's guard cannot be imported.
        """
        name, argument = split_argument(text)
        if GUARDS.has(name):
            entry = GUARDS.find(name)
            if not argument and not entry.is_api:
                raise InputError(f"{name}: name its model after a colon, such as {name}:{entry.model}")
            return cls(name, argument)
        before_colon, colon, _ = text.partition(":")
        hint = did_you_mean(before_colon, GUARDS)
        # A misspelt name would otherwise be taken for a model's, and fail with a message about the Hub.
        if colon and "/" not in before_colon and hint:
            raise InputError(f"{text}: no guard is called {before_colon!r}; {hint}")
        return cls("", text)

    def __str__(self) -> str:
        """The text that `parse` reads as this guard, in another process, too."""
        if self.name and self.argument:
            return f"{self.name}:{self.argument}"
        return self.name or self.argument

    def label(self) -> str:
        """The text that records and metrics hold: the same with the entry's own name, by whichever it was found."""
        entry = self.entry
        if entry is None:
            return str(self)
        return str(replace(self, name=entry.name))

    @property
    def entry(self) -> GuardEntry | None:
        """Entry that the name leads to; None for a model that reasons over a policy."""
        if not self.name:
            return None
        return GUARDS.find(self.name)

    @property
    def is_api(self) -> bool:
        """Whether it is an API, whose model has no name here."""
        entry = self.entry
        return entry is not None and entry.is_api

    @cached_property
    def model(self) -> ModelSpec:
        """The guard's model; that of an API is behind its server."""
        entry = self.entry
        if entry is not None and entry.is_api:
            return ModelSpec(self.argument or entry.model, "openai")
        return ModelSpec.parse(self.argument)

    def absolute(self) -> "GuardSpec":
        """The same guard, with its model named so that it is found from any folder."""
        if self.is_api:
            return self
        return replace(self, argument=str(self.model.absolute()))

    def identity(self) -> str:
        """The guard's part of a run's identity: its name, and its model by that one's identity.

        Raises:
            InputError: Its model is a run that did not finish.
        """
        entry = self.entry
        if entry is None:
            return self.model.identity()
        if entry.is_api:
            return self.label()
        return f"{entry.name}:{self.model.identity()}"

    def open(self, options: GuardOptions = GuardOptions()) -> Guard:
        """The guard, with its model loaded or its server known.

        Raises:
            InputError: It does not take one of the options, or cannot be opened.
            StageFailed: Its model does not fit in memory.
        """
        entry = self.entry
        if entry is not None:
            _check_options(entry, options)
            return entry.open(self.model, options)
        if options.template is not None:
            raise InputError(f"{self}: takes no --template; its prompt comes with it, or from `guard.prompt_template`")
        return open_guard(
            self.model,
            base_url=options.base_url,
            policy=options.policy,
            samples=options.samples,
            loading=options.loading,
        )


def _check_options(entry: GuardEntry, options: GuardOptions) -> None:
    """Refuses options without effect: a person would expect them to change the verdicts.

    Raises:
        InputError: There is one.
    """
    # These guards decode greedily, or run on a server that always decides alike.
    if options.samples != 1:
        raise InputError(f"{entry.name}: always gives the same verdict; leave --samples out")
    for option, value in (("policy", options.policy), ("template", options.template)):
        if value is not None and option not in entry.takes:
            raise InputError(f"{entry.name}: takes no --{option}; leave it out")


def open_guard(
    model: ModelSpec,
    *,
    base_url: str | None = None,
    policy: str | None = None,
    sampling: Sampling | None = None,
    samples: int = 1,
    loading: Loading = LOADED_AT_ONCE,
    otherwise: GuardPrompt | None = None,
) -> ReasoningGuard:
    """A run of `guard train`, or any other model, as a guard that reasons.

    Args:
        model: The model, perhaps behind a server.
        base_url: Address of the server, for `openai/…`.
        policy: Name of a shipped policy or a file, used instead of the guard's own.
        sampling: Used instead of the guard's own.
        samples: Number of verdicts that vote on a question.
        loading: How the model is loaded.
        otherwise: Prompt for a model without a prompt of its own; by default RSafe's.

    Raises:
        InputError: The model or the policy cannot be opened.
    """
    # The prompt comes first: reading it takes milliseconds, and loading the weights can take minutes.
    guard_prompt = guard_prompt_of(model, policy=policy, sampling=sampling, otherwise=otherwise)
    return open_with_prompt(model, guard_prompt, base_url=base_url, samples=samples, loading=loading)


def open_with_prompt(
    model: ModelSpec,
    guard_prompt: GuardPrompt,
    *,
    base_url: str | None = None,
    samples: int = 1,
    loading: Loading = LOADED_AT_ONCE,
) -> ReasoningGuard:
    """A model as a guard that reasons, with a prompt that is read already; other arguments as of `open_guard`.

    Raises:
        InputError: The model cannot be opened.
        StageFailed: It does not fit in memory.
    """
    return ReasoningGuard(loading.open(model, base_url), guard_prompt, samples=samples)


def guard_prompt_of(
    model: ModelSpec,
    *,
    policy: str | None = None,
    sampling: Sampling | None = None,
    otherwise: GuardPrompt | None = None,
) -> GuardPrompt:
    """The prompt that `open_guard` gives to a model; no weights are loaded.

    Raises:
        InputError: The model, its `guard.json` or the policy cannot be read.
    """
    own_policy = policies.load(policy) if policy else None
    model.check()
    if model.is_remote:
        # A server does not hand out the files beside its weights.
        guard_prompt = otherwise or guard_prompts.default()
    else:
        guard_prompt = guard_prompts.of_model(model.location, otherwise)
    # The model's own prompt stays, and only what the caller gave replaces a part of it.
    return replace(guard_prompt, policy=own_policy or guard_prompt.policy, sampling=sampling or guard_prompt.sampling)
