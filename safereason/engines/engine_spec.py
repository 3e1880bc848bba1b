"""What opens an engine: a model, the engine that runs it, its arithmetic and its place.

A model that is named without an engine is vLLM's where vLLM is installed, there is a GPU with bf16 arithmetic, and
nobody needs the model's weights or hidden states; elsewhere it is transformers'.
"""

from collections.abc import Callable, Sequence
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
from safereason.engines.open import check_precision, load_tokenizer, open_engine, open_engine_here
from safereason.engines.open import has_bf16 as gpu_has_bf16
from safereason.engines.place import Place
from safereason.engines.spec import EngineName, ModelSpec
from safereason.recipe.schema import EngineChoice, Precision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENGINE_TITLES = {"hf": "transformers", "vllm": "vLLM", "openai": "a server"}
"""The engines as messages and plans call them."""


Prepare = Callable[[TokenizerEngine], None]
"""Changes an engine as soon as its model is loaded."""


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

    def __init__(
        self, spec: EngineSpec, tokenizer: "PreTrainedTokenizerBase | None" = None, prepare: Prepare | None = None
    ) -> None:
        """Takes what `Loading.open_here` takes.

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
        self._prepare = prepare

    @cached_property
    def _engine(self) -> TokenizerEngine:
        engine = self._spec.open_here(self.tokenizer)
        if self._prepare is not None:
            self._prepare(engine)
        return engine

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


@dataclass(frozen=True)
class Loading:
    """How the model of a judge or a guard is loaded."""

    precision: Precision | None = None
    """Its arithmetic; None is bf16 on a GPU that has it, else fp32."""
    place: Place | None = None
    """Its GPUs; None is the first one."""
    is_deferred: bool = False
    """Whether it is loaded at its first use, and not at once."""

    def open(self, model: ModelSpec, base_url: str | None = None) -> Engine:
        """The engine of a model, perhaps behind a server at `base_url`.

        Raises:
            InputError: It cannot be had.
            StageFailed: It does not fit in memory.
        """
        if model.is_remote:
            return EngineSpec(model, base_url=base_url).open()
        return self.open_here(model)

    def open_here(
        self,
        model: ModelSpec,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        prepare: Prepare | None = None,
    ) -> TokenizerEngine:
        """The engine of a model that runs here; one that is named without an engine is transformers'.

        Args:
            model: The model.
            tokenizer: In place of its own.
            prepare: Called with the engine as soon as the model is loaded.

        Raises:
            InputError: It cannot be had.
            StageFailed: It does not fit in memory.
        """
        spec = choose_engine(model, engine="hf", precision=self.precision)
        spec = replace(spec, place=self.place)
        if self.is_deferred:
            return DeferredEngine(spec, tokenizer, prepare)
        engine = spec.open_here(tokenizer)
        if prepare is not None:
            prepare(engine)
        return engine


LOADED_AT_ONCE = Loading()
"""The machine's own choice of precision and GPU, and nothing deferred."""


def choose_engine(
    model: ModelSpec,
    *,
    engine: EngineChoice = "auto",
    precision: Precision | None = None,
    base_url: str | None = None,
    by_transformers: bool = False,
    has_bf16: bool | None = None,
) -> EngineSpec:
    """The engine of a model on this machine.

    Args:
        model: The model; an engine that it names is taken.
        engine: The engine of a model that names none, where it is not `auto`.
        precision: The arithmetic; None is bf16 on a GPU that has it, else fp32.
        base_url: Address of the server, for `openai/…`.
        by_transformers: Whether transformers runs a model that names no engine, as where its likelihoods, states or
            weights are read.
        has_bf16: Whether the GPU has bf16 arithmetic; None asks this machine, which may have no GPU at all.

    Raises:
        InputError: The GPU has no such arithmetic.
    """
    if model.is_remote:
        # A server decides for itself, and torch need not be imported for it.
        return EngineSpec(model, base_url=base_url)
    if has_bf16 is None:
        if precision is not None:
            check_precision(precision)
        has_bf16 = gpu_has_bf16()
    if precision is None:
        precision = "fp32"
        if has_bf16:
            precision = "bf16"
    if model.engine is not None:
        return EngineSpec(model, precision)
    chosen: EngineName = "hf"
    # In fp32 vLLM has no fast attention.
    suits_vllm = has_bf16 and precision == "bf16" and vllm.is_installed()
    if not by_transformers and (engine == "vllm" or (engine == "auto" and suits_vllm)):
        chosen = "vllm"
    return EngineSpec(replace(model, engine=chosen), precision)
