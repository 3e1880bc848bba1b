"""A reward model as a judge of quality: a sequence classifier with one label, read through a sigmoid.

TARS's task reward (arXiv 2507.00971, §4) is such a model, `Ray2333/GRM-llama3-8B-distill`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from safereason.engines.open import check_embeddings, load_tokenizer, model_location, not_loaded
from safereason.errors import InputError, one_line
from safereason.judges.base import Exchange, Verdict
from safereason.text import chat
from safereason.text.inert import inert, special_tokens

BATCH_TOKENS = 16_384
"""Budget of a batch: rows × longest row."""


class RewardModel:
    """Scores sigmoid(logit) of the conversation (user: prompt, assistant: answer).

    A conversation longer than the model reads is cut at its end; `truncated` counts them and the verdict's details
    say so. Special tokens that a text spells are made inert, so that no answer can end its turn.
    """

    name = "reward-model"
    measures = "quality"

    def __init__(self, spec: str) -> None:
        """Loads a hub id, folder or run, on the GPU where there is one.

        Raises:
            InputError: It cannot be loaded, has no chat template, or not exactly one label.
        """
        location = model_location(spec)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(location)
        if not self.tokenizer.chat_template:
            raise InputError(f"{spec}: its tokenizer has no chat template; a reward model needs one")
        self.model = _load(location)
        check_embeddings(self.model, self.tokenizer, location)
        if self.model.config.num_labels != 1:
            raise InputError(f"{spec}: has {self.model.config.num_labels} labels; a reward model has one")
        self.truncated = 0
        self._longest = min(
            int(self.tokenizer.model_max_length), self.model.config.get_text_config().max_position_embeddings
        )
        self._special = special_tokens(self.tokenizer)

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict an exchange; unscored where the logit is not finite, failed where the model breaks down."""
        rows = [self._ids(e) for e in exchanges]
        shown = [row[: self._longest] for row in rows]
        logits: dict[int, float] = {}
        reasons: dict[int, str] = {}
        waiting = self._batches([len(row) for row in shown])
        with torch.inference_mode():
            while waiting:
                members = waiting.pop(0)
                try:
                    values = self._logits([shown[i] for i in members])
                except RuntimeError as error:
                    if isinstance(error, torch.OutOfMemoryError) and len(members) > 1:
                        middle = len(members) // 2
                        waiting[:0] = [members[:middle], members[middle:]]
                    else:
                        reasons.update(dict.fromkeys(members, f"the reward model failed: {one_line(error)}"))
                else:
                    logits.update(zip(members, values, strict=True))
        cut = [len(row) > self._longest for row in rows]
        self.truncated += sum(cut)
        return [Verdict.failure(reasons[i]) if i in reasons else _verdict(logits[i], cut[i]) for i in range(len(rows))]

    def _ids(self, exchange: Exchange) -> list[int]:
        messages = [
            {"role": "user", "content": inert(exchange.prompt, self._special)},
            {"role": "assistant", "content": inert(exchange.answer, self._special)},
        ]
        return chat.ids_of(self.tokenizer, chat.transcript(self.tokenizer, messages))

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices, longest rows first; one row a batch where the model names no pad token to find a row's end by."""
        batches: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            last = batches[-1] if batches and self.model.config.pad_token_id is not None else []
            if last and (len(last) + 1) * lengths[last[0]] <= BATCH_TOKENS:
                last.append(i)
            else:
                batches.append([i])
        return batches

    def _logits(self, rows: Sequence[list[int]]) -> list[float]:
        width = max(map(len, rows))
        pad = self.model.config.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])  # [B, L]
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])  # [B, L]
        logits = self.model(
            input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device)
        ).logits  # [B, 1]
        return [float(value) for value in logits[:, 0].float().cpu()]


def _load(location: str) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: Any = "auto" if device == "cuda" else torch.float32
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            location, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise not_loaded(location, error, " as a reward model") from error
    return model.to(device).eval()


def _verdict(logit: float, truncated: bool) -> Verdict:
    if not math.isfinite(logit):
        return Verdict.unscored("the reward model's logit is not finite")
    details = {"logit": logit, **({"truncated": True} if truncated else {})}
    return Verdict(1 / (1 + math.exp(-logit)) if logit > -700 else 0.0, None, details=details)
