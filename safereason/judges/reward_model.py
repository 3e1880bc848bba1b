"""A reward model as a judge of quality: a sequence classifier with one label, read through a sigmoid.

TARS's task reward (arXiv 2507.00971, §4) is such a model, `Ray2333/GRM-llama3-8B-distill`.
"""

import math
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import openai
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safereason.engines import server
from safereason.engines.memory import halves_of, is_out_of_memory, run_or_halve
from safereason.engines.open import check_embeddings, has_bf16, load_tokenizer, not_loaded, report_full_memory
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import BATCH_TOKENS, pack
from safereason.errors import InputError, one_line
from safereason.judges.base import Exchange, Measure, Verdict
from safereason.judges.registry import REWARD_MODEL
from safereason.text import chat
from safereason.text.inert import inert, special_tokens

CONCURRENT_CALLS = 64
"""Requests at a time to a server, which batches them."""
SECONDS_A_TRY = 600.0
KEY = "SAFEREASON_REWARD_KEY"
"""Environment variable with the key of a reward model's server: a key of OpenAI's is not for it."""


class ParkedWeights:
    """The weights of a frozen model that leaves its device between uses."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Takes the model, and the device that it computes on."""
        self._tensors = list(chain(model.parameters(), model.buffers()))
        self._device = device
        # Weights never change, so that one copy stays behind and nothing has to be sent back.
        self._waiting = [_on_host(tensor) for tensor in self._tensors]
        self._is_parked = False

    def park(self) -> None:
        """Frees the device's memory; the weights wait in the CPU's."""
        for tensor, waiting in zip(self._tensors, self._waiting, strict=True):
            tensor.data = waiting
        self._is_parked = True
        # vLLM allocates by itself, and cannot use what torch keeps for later.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def bring_back(self) -> None:
        """Puts the weights on the device, where they are not there."""
        if not self._is_parked:
            return
        for tensor, waiting in zip(self._tensors, self._waiting, strict=True):
            tensor.data = waiting.to(self._device, copy=True, non_blocking=True)
        self._is_parked = False


def _on_host(tensor: Tensor) -> Tensor:
    """A copy in the CPU's memory, pinned where there is a GPU: from there it moves several times faster."""
    copy = tensor.detach().to("cpu", copy=True)
    if torch.cuda.is_available():
        return copy.pin_memory()
    return copy


class RewardModel:
    """Scores sigmoid(logit) of the conversation (user: prompt, assistant: answer).

    A conversation longer than the model reads is cut at its end; `truncated` counts them and the verdict's details
    say so. Special tokens that a text spells are made inert, so that no answer can end its turn.
    """

    name = REWARD_MODEL
    measure: Measure = "quality"

    def __init__(self, spec: ModelSpec) -> None:
        """Loads the classifier, on the GPU where there is one.

        Raises:
            InputError: It cannot be loaded, has no chat template, or not exactly one label.
        """
        location = spec.location
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(spec)
        if not self.tokenizer.chat_template:
            raise InputError(f"{spec}: its tokenizer has no chat template; a reward model needs one")
        self.model = _load_classifier(location)
        check_embeddings(self.model, self.tokenizer, location)
        # A preference classifier with two labels needs another formula than the sigmoid of one logit.
        if self.model.config.num_labels != 1:
            raise InputError(f"{spec}: has {self.model.config.num_labels} labels; a reward model has one")
        self.truncated = 0
        self._budget = BATCH_TOKENS
        self._longest = _longest_row(self.tokenizer, self.model.config)
        self._special = special_tokens(self.tokenizer)
        self._weights: ParkedWeights | None = None

    def park(self) -> None:
        """Leaves the GPU to others until the next call of `judge`; without a GPU nothing moves."""
        if self.model.device.type == "cpu":
            return
        if self._weights is None:
            self._weights = ParkedWeights(self.model, self.model.device)
        self._weights.park()

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict an exchange; unscored where the logit is not finite, failed where the model breaks down."""
        if self._weights is not None:
            self._weights.bring_back()
        rows: list[list[int]] = []
        is_cut: list[bool] = []
        for exchange in exchanges:
            ids = self._ids(exchange)
            rows.append(ids[: self._longest])
            is_cut.append(len(ids) > self._longest)
        self.truncated += sum(is_cut)
        logits, reasons = self._all_logits(rows)
        verdicts: list[Verdict] = []
        for i in range(len(rows)):
            if i in reasons:
                verdicts.append(Verdict.failure(reasons[i]))
            else:
                verdicts.append(_verdict_of_logit(logits[i], is_cut[i]))
        return verdicts

    def _all_logits(self, rows: Sequence[list[int]]) -> tuple[dict[int, float], dict[int, str]]:
        """The logit of each row, and for rows where the model broke down the reason, both by index."""
        logits: dict[int, float] = {}
        reasons: dict[int, str] = {}

        def compute(members: list[int]) -> None:
            try:
                values = self._logits([rows[i] for i in members])
            except RuntimeError as error:
                # A batch that can be halved is tried again. Any other error, even of a single row, costs these rows
                # alone, and never the stage.
                if is_out_of_memory(error) and len(members) > 1:
                    raise
                reasons.update(dict.fromkeys(members, f"the reward model failed: {one_line(error)}"))
            else:
                logits.update(zip(members, values, strict=True))

        def halve(members: list[int]) -> list[list[int]]:
            # Later batches are no larger than these halves.
            self._budget = max(1, min(self._budget, len(members) * max(len(rows[i]) for i in members) // 2))
            return halves_of(members)

        with torch.inference_mode():
            for batch in self._batches([len(row) for row in rows]):
                run_or_halve(batch, compute, halve, "out of memory for a single exchange")
        return logits, reasons

    def _ids(self, exchange: Exchange) -> list[int]:
        return _transcript_ids(self.tokenizer, exchange, self._special)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices, longest rows first; one row a batch where the model names no pad token to find a row's end by."""

        def budget() -> int:
            # Transformers finds a row's last token by the pad token's id, and not by the mask.
            if self.model.config.pad_token_id is None:
                return 0
            return self._budget

        longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        return pack(longest_first, lengths, budget)

    def _logits(self, rows: Sequence[list[int]]) -> list[float]:
        width = max(map(len, rows))
        pad = self.model.config.pad_token_id or 0
        ids = torch.full((len(rows), width), pad)  # [B, L]
        mask = torch.zeros(len(rows), width, dtype=torch.long)  # [B, L]
        # Padded on the right: the classifier reads its logit at the last token that is no padding.
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        logits = self.model(
            input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device)
        ).logits  # [B, 1]
        return [float(value) for value in logits[:, 0].float().cpu()]


class ServedRewardModel:
    """Scores as `RewardModel` does, with a model that vLLM serves at `/classify`: one request an exchange.

    The server is asked with token ids and without its activation, so that both judges read the same logit.
    """

    name = REWARD_MODEL
    measure: Measure = "quality"

    @classmethod
    def at(cls, address: str) -> "ServedRewardModel":
        """The reward model that a server of vLLM's has, `http://host:port`; its key is `$SAFEREASON_REWARD_KEY`.

        Raises:
            InputError: The server does not answer, or not with a model; or its tokenizer cannot be loaded here.
        """
        connection = _connect(address)
        try:
            document = connection.client(_seconds_a_try()).get("/v1/models", cast_to=object)
        except openai.OpenAIError as error:
            raise InputError(
                f"judge {REWARD_MODEL!r}: the server at {connection.url} names no model "
                f"({server.reason_of(error)}); start it with `vllm serve MODEL --runner pooling`"
            ) from error
        match document:
            case {"data": [{"id": str() as name, **rest}, *_]}:
                # A server may give its model another name than that of its files.
                root = rest.get("root")
                location = root if isinstance(root, str) and root else name
                return cls(ModelSpec.parse(location), address, name)
        raise InputError(f"judge {REWARD_MODEL!r}: the server at {connection.url} lists no model; serve one")

    def __init__(self, spec: ModelSpec, address: str, name: str | None = None) -> None:
        """Loads the tokenizer; the weights are behind `address`, as `http://host:port`.

        Args:
            spec: The model.
            address: The server's.
            name: The model's name there, where that is not its location.

        Raises:
            InputError: The tokenizer cannot be loaded, or has no chat template.
        """
        from transformers import AutoConfig

        self._tokenizer = load_tokenizer(spec)
        if not self._tokenizer.chat_template:
            raise InputError(f"{spec}: its tokenizer has no chat template; a reward model needs one")
        self._special = special_tokens(self._tokenizer)
        self._longest = _longest_row(
            self._tokenizer, AutoConfig.from_pretrained(spec.location, trust_remote_code=False)
        )
        self._name = name or spec.location
        connection = _connect(address)
        self._client = connection.client(_seconds_a_try())
        self._patience = server.Patience(f"the reward model at {connection.url}")

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict an exchange; unscored where the logit is not finite, failed where the server gives none."""
        with ThreadPoolExecutor(CONCURRENT_CALLS) as pool:
            return list(pool.map(self._judge, exchanges))

    def _judge(self, exchange: Exchange) -> Verdict:
        ids = _transcript_ids(self._tokenizer, exchange, self._special)
        try:
            logit = self._patience.call(lambda: self._logit(ids[: self._longest]))
        except (server.BadReply, openai.OpenAIError) as error:
            return Verdict.failure(f"the reward model failed: {server.reason_of(error)}")
        return _verdict_of_logit(logit, len(ids) > self._longest)

    def _logit(self, ids: list[int]) -> float:
        body = {"model": self._name, "input": ids, "use_activation": False}
        # The client of OpenAI's API has no method for this route of vLLM's.
        document = self._client.post("/classify", body=body, cast_to=object)
        match document:
            case {"data": [{"probs": [int() | float() as logit]}]}:
                return float(logit)
        raise server.BadReply("the server gave no logit of one label", may_pass=False)


def _connect(address: str) -> server.ServerAddress:
    """The server at an address, which may end in `/v1`, as those of OpenAI's API do."""
    return server.connect(f"judge {REWARD_MODEL!r}", address.rstrip("/").removesuffix("/v1"), os.environ.get(KEY, ""))


def _seconds_a_try() -> float:
    return server.seconds(server.TIMEOUT, SECONDS_A_TRY)


def _transcript_ids(tokenizer: PreTrainedTokenizerBase, exchange: Exchange, special: Collection[str]) -> list[int]:
    """Token ids of the conversation (user: prompt, assistant: answer)."""
    messages = [
        {"role": "user", "content": inert(exchange.prompt, special)},
        {"role": "assistant", "content": inert(exchange.answer, special)},
    ]
    return chat.ids_of(tokenizer, chat.transcript(tokenizer, messages))


def _longest_row(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int:
    """Tokens that the model reads."""
    # A tokenizer without a limit names a huge one; a model with one may be shorter than its tokenizer says.
    return min(int(tokenizer.model_max_length), int(config.get_text_config().max_position_embeddings))


def _load_classifier(location: str) -> PreTrainedModel:
    device = "cpu"
    dtype: str | torch.dtype = torch.float32
    if torch.cuda.is_available():
        device = "cuda"
        # The checkpoint's own format is bf16 for most large models, in which older GPUs and CPUs are slow.
        if has_bf16():
            dtype = "auto"
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            location, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise not_loaded(location, error, " as a reward model") from error
    with report_full_memory(location):
        classifier: PreTrainedModel = model.to(device).eval()
    return classifier


def _verdict_of_logit(logit: float, truncated: bool) -> Verdict:
    # Half precision may overflow on a long text.
    if not math.isfinite(logit):
        return Verdict.unscored("the reward model's logit is not finite")
    details: dict[str, object] = {"logit": logit}
    if truncated:
        details["truncated"] = True
    # Below -700 the exponential overflows, where the sigmoid is 0 to the last digit.
    score = 0.0
    if logit > -700:
        score = 1 / (1 + math.exp(-logit))
    return Verdict(score, None, details=details)
