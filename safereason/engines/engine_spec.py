"""What opens an engine: a model, the engine that runs it, its arithmetic and its place.

A model that is named without an engine is vLLM's where vLLM is installed, there is a GPU with bf16 arithmetic, and
nobody needs the model's weights or hidden states; elsewhere it is transformers'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from safereason.engines import vllm
from safereason.engines.base import (
    Completion,
    Conversation,
    Engine,
    GenerateOptions,
    Likelihood,
    LocalEngine,
    Sampling,
    TokenizerEngine,
)
from safereason.engines.open import (
    check_precision,
    has_bf16,
    load_tokenizer,
    open_engine,
    open_engine_here,
    precision_here,
)
from safereason.engines.place import Place
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import EngineChoice, Precision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENGINE_TITLES = {"hf": "transformers", "vllm": "vLLM", "openai": "a server"}
"""The engines as messages and plans call them."""


@dataclass(frozen=True)
class EngineSpec:
    """An engine that is not open yet. It can be sent to another process, which opens it there."""

    model: ModelSpec
    """The model, with its engine named."""
    precision: Precision = "fp32"
    base_url: str | None = None
    """Address of the server, for `openai/…`."""
    place: Place | None = None
    """The GPUs of a model that runs here; None is the first one."""

    @property
    def title(self) -> str:
        """The engine as messages and plans call it."""
        return ENGINE_TITLES[self.model.engine or "hf"]

    def open(self) -> Engine:
        """The engine, with the model loaded.

        Raises:
            InputError: It cannot be had.
            StageFailed: It does not fit in memory.
        """
        return open_engine(self.model, base_url=self.base_url, precision=self.precision, place=self.place)

    def open_here(self, tokenizer: "PreTrainedTokenizerBase | None" = None) -> TokenizerEngine:
        """The engine of a model that runs here, with the model loaded, and with another tokenizer if one is given.

        Raises:
            InputError: A server runs it, or it cannot be had.
            StageFailed: It does not fit in memory.
        """
        return open_engine_here(self.model, precision=self.precision, tokenizer=tokenizer, place=self.place)


class DeferredEngine:
    """An engine on this machine whose model is loaded at its first use.

    A judge is opened so: what is wrong with it is said before the model that it judges is loaded, and its own model
    takes no memory beside that one.
    """

    def __init__(self, spec: EngineSpec, tokenizer: "PreTrainedTokenizerBase | None" = None) -> None:
        """Takes the engine's spec, and a tokenizer in place of the model's own.

        Raises:
            InputError: The model, its tokenizer or vLLM cannot be had, or the GPU has no such arithmetic.
        """
        spec.model.check()
        check_precision(spec.precision)
        self.name = str(spec.model)
        if spec.model.engine == "vllm":
            vllm.check_installed(self.name)
        self.tokenizer = tokenizer or load_tokenizer(spec.model)
        self._spec = spec

    @cached_property
    def _engine(self) -> TokenizerEngine:
        return self._spec.open_here(self.tokenizer)

    @property
    def local(self) -> LocalEngine | None:
        """The engine itself, where its weights are in this process."""
        return self._engine.local

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        options: GenerateOptions = GenerateOptions(),
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        return self._engine.generate(conversations, sampling, options)

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """See `Engine.loglikelihood`."""
        return self._engine.loglikelihood(conversations, continuations, prefix=prefix)

    def room(self, conversation: Conversation) -> int:
        """See `TokenizerEngine.room`."""
        return self._engine.room(conversation)

    def batches(
        self, conversations: Sequence[Conversation], sampling: Sampling, options: GenerateOptions
    ) -> list[list[int]]:
        """See `TokenizerEngine.batches`."""
        return self._engine.batches(conversations, sampling, options)


def choose_engine(
    model: ModelSpec,
    *,
    engine: EngineChoice = "auto",
    precision: Precision | None = None,
    base_url: str | None = None,
    white_box: bool = False,
) -> EngineSpec:
    """The engine of a model on this machine.

    Args:
        model: The model; an engine that it names is taken.
        engine: The engine of a model that names none, where it is not `auto`.
        precision: The arithmetic; None is bf16 on a GPU that has it, else fp32.
        base_url: Address of the server, for `openai/…`.
        white_box: Whether likelihoods, hidden states or the weights are read, as transformers lets one.

    Raises:
        InputError: The GPU has no such arithmetic.
    """
    if model.is_remote:
        # A server decides for itself, and torch need not be imported for it.
        return EngineSpec(model, base_url=base_url)
    if precision is None:
        precision = precision_here()
    else:
        check_precision(precision)
    if model.engine is None:
        model = replace(model, engine="hf")
        if not white_box and engine == "vllm":
            model = replace(model, engine="vllm")
        # In fp32 vLLM has no fast attention.
        if not white_box and engine == "auto" and vllm.is_installed() and precision == "bf16" and has_bf16():
            model = replace(model, engine="vllm")
    return EngineSpec(model, precision, base_url)
