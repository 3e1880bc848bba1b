"""The engine on a transformers model: shared prompts are computed once, finished rows retired early.

A prompt is prefilled once for all its completions, and what all prompts of a batch begin with once for all of them.
Requests are sorted by length and packed into batches by a budget of tokens; a batch that does not fit in memory is
halved, and later ones are no larger than its halves. An architecture that a batch would change is read a row at a time
(see `engines.states`). Every completion draws from random numbers of its own, and a resumed call lays out the same
batches, so that the same call gives the same completions however often it is interrupted.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from safereason.engines import architectures
from safereason.engines.architectures import CausalModel
from safereason.engines.base import (
    Completion,
    Conversation,
    FinishReason,
    GenerateOptions,
    Likelihood,
    Sampling,
    TokenChoice,
    Usage,
    in_order,
    text_before_stop,
)
from safereason.engines.memory import halves_of, run_or_halve
from safereason.engines.sampler import draw, uniforms
from safereason.engines.states import States, accepted, evaluation_mode, holds_prefixes
from safereason.errors import InputError
from safereason.text import chat

BATCH_TOKENS = 16_384
"""Default budget of a batch: rows x (longest prompt + longest completion)."""
SHARE_FROM = 64
"""Tokens that all prompts of a batch begin with, such as a guard's policy, are computed once from this many on."""
RETIRE_SHARE = 0.25
"""Finished rows are dropped from a batch once they are this share of it: each drop copies the cache."""


@dataclass
class _OpenCompletion:
    """One completion under way."""

    conversation: int
    number: int
    stream: tuple[int, int] = (0, 0)
    """Index of its conversation and number of its draw, which give its random numbers together with the seed."""
    token_ids: list[int] = field(default_factory=list)
    likeliest: list[tuple[list[int], list[float]]] = field(default_factory=list)
    completion: Completion | None = None


class TransformersEngine:
    """Generates on a loaded causal language model, on the device and in the dtype it has."""

    def __init__(
        self, model: CausalModel, tokenizer: PreTrainedTokenizerBase, *, name: str, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.batch_tokens = batch_tokens
        self._planned_tokens = batch_tokens
        self._end_ids = end_of_turn_ids(model, tokenizer)
        self._context = int(getattr(model.config, "max_position_embeddings", 1 << 30))
        self._pieces: dict[int, str] = {}

    @property
    def local(self) -> "TransformersEngine":
        """The engine itself: its weights are in this process."""
        return self

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        options: GenerateOptions = GenerateOptions(),
        *,
        streams: Sequence[tuple[int, int]] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. A prompt that leaves no room for a completion gets one that says so.

        `streams` are for a part of a larger call, to draw what the whole call would: the index of each conversation in
        it, and the number that its first completion has there.
        """
        rendered: list[chat.RenderedPrompt] = []
        prompts: list[list[int]] = []
        for conversation in conversations:
            prompt = chat.render(self.tokenizer, conversation, options.prefix)
            rendered.append(prompt)
            prompts.append(chat.ids_of(self.tokenizer, prompt.text))
        done = set(options.done)
        finished: dict[tuple[int, int], Completion] = {}

        def finish(row: _OpenCompletion, reason: FinishReason, text: str, error: str = "") -> None:
            listed: tuple[TokenChoice, ...] = ()
            if options.choices:
                listed = tuple(self._choices(row))
            usage = None
            if not error:
                usage = Usage(len(prompts[row.conversation]), len(row.token_ids))
            opening = rendered[row.conversation].opening
            row.completion = Completion(text, tuple(row.token_ids), reason, opening, error, listed, usage, bool(error))
            finished[row.conversation, row.number] = row.completion
            if options.on_finish is not None and row.conversation not in done:
                options.on_finish(row.conversation, row.number, row.completion)

        for i, ids in enumerate(prompts):
            if (problem := self._no_room(ids)) and i not in done:
                for k in range(options.n):
                    finish(_OpenCompletion(i, k), "error", "", problem)
        # Alone, every conversation has the random numbers of index 0.
        if streams is None and options.alone:
            streams = [(0, 0)] * len(prompts)
        elif streams is None:
            streams = [(i, 0) for i in range(len(prompts))]
        with self._reading():
            for batch in self._rows_by_batch(prompts, options.n, sampling.max_new_tokens, streams):
                # A batch of which a part is done is computed whole: its shape rounds the others' numbers.
                if any(row.conversation not in done for row in batch):
                    self._run(_Decoder(self, batch, prompts, sampling, options, finish))
        return in_order(finished, len(conversations), options.n, done)

    def batches(
        self, conversations: Sequence[Conversation], sampling: Sampling, options: GenerateOptions
    ) -> list[list[int]]:
        """See `TokenizerEngine.batches`."""
        prompts = [chat.prompt_ids(self.tokenizer, conversation, options.prefix) for conversation in conversations]
        streams = [(i, 0) for i in range(len(prompts))]
        done = set(options.done)
        batches: list[list[int]] = []
        # A batch that did not fit in memory makes later ones smaller in this process alone, and does not count here.
        for rows in self._rows_by_batch(prompts, options.n, sampling.max_new_tokens, streams, self._planned_tokens):
            members = list(dict.fromkeys(row.conversation for row in rows))
            if not done.issuperset(members):
                batches.append(members)
        return batches

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """See `Engine.loglikelihood`."""
        prompts = [self._prompt_ids(conversation, prefix) for conversation in conversations]
        targets = [list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in continuations]
        likelihoods: dict[int, Likelihood] = {}
        lengths = [len(p) + len(t) for p, t in zip(prompts, targets, strict=True)]
        # Rows of similar length share a batch, and the longest come first: memory runs out at once or never.
        longest_first = sorted(range(len(prompts)), key=lambda i: -lengths[i])

        def score(members: list[int]) -> None:
            scored = self._score([prompts[i] for i in members], [targets[i] for i in members])
            likelihoods.update(zip(members, scored, strict=True))

        with self._reading():
            for batch in pack(longest_first, lengths, self._budget(lengths)):
                self._read_or_halve(batch, score, lengths)
        return [likelihoods[i] for i in range(len(prompts))]

    def last_states(self, conversations: Sequence[Conversation], *, prefix: str = "") -> Tensor:
        """[N, H], fp32 on the CPU: the final layer's state, after its norm, at the last token of each prompt.

        Raises:
            InputError: A prompt is longer than what the model reads.
        """
        prompts = [self._prompt_ids(conversation, prefix) for conversation in conversations]
        lengths = [len(prompt) for prompt in prompts]
        states: dict[int, Tensor] = {}

        def read(members: list[int]) -> None:
            states.update(zip(members, self._last([prompts[i] for i in members]), strict=True))

        with self._reading():
            for batch in pack(range(len(prompts)), lengths, self._budget(lengths)):
                self._read_or_halve(batch, read, lengths)
        return torch.stack([states[i] for i in range(len(prompts))])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Context in which the model has neither dropout nor gradients."""
        with evaluation_mode(self.model), torch.inference_mode():
            yield

    def room(self, conversation: Conversation) -> int:
        """Tokens that the model can write after a conversation; none, or fewer, where it is too long to be read."""
        return self._context - len(chat.prompt_ids(self.tokenizer, conversation))

    def _choices(self, row: _OpenCompletion) -> Iterator[TokenChoice]:
        for token, (ids, logprobs) in zip(row.token_ids, row.likeliest, strict=True):
            yield TokenChoice(self._piece(token), tuple(zip(map(self._piece, ids), logprobs, strict=True)))

    def _piece(self, token: int) -> str:
        """A token's text by itself, worked out once."""
        if token not in self._pieces:
            self._pieces[token] = str(self.tokenizer.decode([token]))
        return self._pieces[token]

    def _prompt_ids(self, conversation: Conversation, prefix: str) -> list[int]:
        ids = chat.prompt_ids(self.tokenizer, conversation, prefix)
        if problem := self._no_room(ids):
            raise InputError(problem)
        return ids

    def _no_room(self, prompt: list[int]) -> str:
        """The problem of a prompt that fills the model's context; empty where it does not."""
        if len(prompt) < self._context:
            return ""
        return f"{self.name}: a prompt has {len(prompt)} tokens and the model reads {self._context}; shorten it"

    def _rows_by_batch(
        self,
        prompts: list[list[int]],
        n: int,
        max_new_tokens: int,
        streams: Sequence[tuple[int, int]],
        tokens: int | None = None,
    ) -> Iterator[list[_OpenCompletion]]:
        """Rows in batches, longest prompts first, a conversation's side by side; without those that have no room."""
        readable = [i for i, prompt in enumerate(prompts) if not self._no_room(prompt)]
        rows: list[_OpenCompletion] = []
        for i in sorted(readable, key=lambda i: (-len(prompts[i]), i)):
            index, first = streams[i]
            rows.extend(_OpenCompletion(i, k, (index, first + k)) for k in range(n))
        lengths = [len(prompts[row.conversation]) + max_new_tokens for row in rows]
        for members in pack(range(len(rows)), lengths, self._budget(lengths, tokens)):
            yield [rows[m] for m in members]

    def _budget(self, lengths: Sequence[int], tokens: int | None = None) -> Callable[[], int]:
        """Tokens of the next batch of such rows: so many, else what fits; none where each row is read alone."""
        if not architectures.is_batched(self.model, max(lengths, default=0)):
            return lambda: 0
        if tokens is not None:
            return lambda: tokens
        return lambda: self.batch_tokens

    def shrink(self, rows: int, longest: int) -> None:
        """Keeps later batches to half of one that did not fit in memory, so that they are not tried in vain."""
        self.batch_tokens = max(1, min(self.batch_tokens, rows * longest // 2))

    def _read_or_halve(self, batch: list[int], read: Callable[[list[int]], None], lengths: Sequence[int]) -> None:
        """Reads texts by their indices; those that do not fit in memory together are read in halves."""

        def halve(members: list[int]) -> list[list[int]]:
            self.shrink(len(members), max(lengths[i] for i in members))
            return halves_of(members)

        run_or_halve(
            batch, read, halve, f"{self.name}: out of memory for a single text; shorten it, or take a smaller model"
        )

    def _run(self, decoder: "_Decoder") -> None:
        run_or_halve(
            decoder,
            _Decoder.decode,
            _Decoder.halves,
            f"{self.name}: out of memory for a single completion; lower sampling.max_new_tokens",
        )

    def _last(self, prompts: list[list[int]]) -> Tensor:
        """[N, H] of one batch; the model without its head, which gives no logits."""
        ids, mask = self._padded(prompts)
        output = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        states = getattr(output, "last_hidden_state", None)
        if states is None:
            raise InputError(
                f"{self.name}: its architecture, {architectures.kind(self.model)}, does not give its states"
            )
        ends = mask.sum(dim=1) - 1
        return torch.as_tensor(states[torch.arange(len(prompts), device=ends.device), ends]).float().cpu()

    def _padded(self, texts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, [N, longest], padded on the right."""
        ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long, device=self.model.device)
        mask = torch.zeros_like(ids)
        for i, text in enumerate(texts):
            ids[i, : len(text)] = torch.tensor(text)
            mask[i, : len(text)] = 1
        return ids, mask

    def _score(self, prompts: list[list[int]], targets: list[list[int]]) -> list[Likelihood]:
        """Likelihoods of token ids after token ids, one batch."""
        texts = [p + t for p, t in zip(prompts, targets, strict=True)]
        # Padded on the right: without generation, each row's positions count from 0.
        ids, mask = self._padded(texts)
        width = ids.shape[1]
        keep = width - min(map(len, prompts)) + 1  # the logits before the first target of any row, and all after
        options = {}
        if "logits_to_keep" in accepted(self.model):
            options["logits_to_keep"] = keep
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
        likelihoods: list[Likelihood] = []
        for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            start = len(prompt) - 1 - (width - logits.shape[1])
            rows = logits[i, start : start + len(target)].float().log_softmax(-1)  # [T, V]
            target_ids = torch.tensor(target, device=rows.device)
            logprobs = rows.gather(-1, target_ids[:, None])[:, 0]
            is_greedy = bool((rows.argmax(-1) == target_ids).all())
            likelihoods.append(Likelihood(tuple(logprobs.tolist()), is_greedy))
        return likelihoods


class _Decoder:
    """One batch: a shared prefill, then a token at a time until every row has finished."""

    def __init__(
        self,
        engine: TransformersEngine,
        rows: list[_OpenCompletion],
        prompts: list[list[int]],
        sampling: Sampling,
        options: GenerateOptions,
        finish: Callable[[_OpenCompletion, FinishReason, str], None],
    ) -> None:
        self.engine = engine
        self.rows = rows
        self.prompts = prompts
        self.sampling = sampling
        self.options = options
        self.finish = finish

    def halves(self) -> list["_Decoder"]:
        """Two decoders for the rows that have not finished; none where a single one is left."""
        longest = max(len(self.prompts[row.conversation]) for row in self.rows)
        self.engine.shrink(len(self.rows), longest + self.sampling.max_new_tokens)
        left: list[_OpenCompletion] = []
        for row in self.rows:
            if row.completion is None:
                # A new row, because the cache of its tokens is lost: it begins with its first token.
                left.append(_OpenCompletion(row.conversation, row.number, row.stream))
        halves: list[_Decoder] = []
        for part in halves_of(left):
            halves.append(_Decoder(self.engine, part, self.prompts, self.sampling, self.options, self.finish))
        return halves

    def decode(self) -> None:
        """Writes every row to its end."""
        rows = list(self.rows)
        limit = self._limits(rows)
        # Drawn beforehand and for the whole length, so that a row's numbers do not depend on when others end.
        randoms = torch.stack([uniforms(self.options.seed, *r.stream, self.sampling.max_new_tokens) for r in rows])
        states, mask, logits = self._prefill(rows)
        seen: Tensor | None = None
        if self.sampling.repetition_penalty != 1.0:
            seen = self._seen(rows, logits)
        for step in range(self.sampling.max_new_tokens):
            tokens = draw(logits, randoms[:, step].to(logits.device), self.sampling, seen)
            if seen is not None:
                seen.scatter_(1, tokens[:, None], True)
            if self.options.choices:
                self._note_choices(rows, logits, tokens)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if row.completion is None:
                    row.token_ids.append(token)
                    self._check_end(row, limit[row.conversation])
            alive = [i for i, row in enumerate(rows) if row.completion is None]
            if not alive:
                return
            # Copying the cache for each single row would cost more than the steps that it saves.
            if len(rows) - len(alive) >= RETIRE_SHARE * len(rows):
                keep = torch.tensor(alive, device=mask.device)
                rows = [rows[i] for i in alive]
                randoms = randoms[alive]
                states.select(keep)
                mask = mask[keep]
                tokens = tokens[keep]
                if seen is not None:
                    seen = seen[keep]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = states.read(tokens[:, None], mask, mask.sum(1, keepdim=True) - 1)

    def _note_choices(self, rows: list[_OpenCompletion], logits: Tensor, tokens: Tensor) -> None:
        """Keeps the likeliest tokens of each row, and the drawn one where it is not among them."""
        logprobs = logits.float().log_softmax(-1)
        values, ids = logprobs.topk(min(self.options.choices, logits.shape[-1]))
        drawn = logprobs.gather(-1, tokens[:, None])
        for i, row in enumerate(rows):
            if row.completion is None:
                listed = ids[i].tolist()
                listed_logprobs = values[i].tolist()
                if int(tokens[i]) not in listed:
                    listed.append(int(tokens[i]))
                    listed_logprobs.append(float(drawn[i]))
                row.likeliest.append((listed, listed_logprobs))

    def _limits(self, rows: list[_OpenCompletion]) -> dict[int, int]:
        """Longest completion a conversation has room for, by conversation."""
        limits: dict[int, int] = {}
        for row in rows:
            room = self.engine._context - len(self.prompts[row.conversation])
            limits[row.conversation] = min(self.sampling.max_new_tokens, room)
        return limits

    def _prefill(self, rows: list[_OpenCompletion]) -> tuple[States, Tensor, Tensor]:
        """Runs each prompt once and gives its states, mask [B, P] and last logits [B, V] to all of its rows."""
        model = self.engine.model
        unique = list(dict.fromkeys(row.conversation for row in rows))
        # All completions of a conversation share one prefill; their rows are copied from it afterwards.
        prompts = [self.prompts[i] for i in unique]
        states = States(model, max(map(len, prompts)) + self.sampling.max_new_tokens)
        common = 0
        # All prompts of a guard begin with its policy, which may be most of their tokens.
        if holds_prefixes(model):
            common = common_length(prompts, SHARE_FROM)
        if common:
            shared = torch.tensor([prompts[0][:common]], device=model.device)
            states.read(shared, torch.ones_like(shared), torch.arange(common, device=model.device)[None])
            states.select(torch.zeros(len(prompts), dtype=torch.long, device=model.device))
        width = max(map(len, prompts)) - common
        # Padded on the left, so that all rows draw their next token at the same position.
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for u, prompt in enumerate(prompts):
            ids[u, width - len(prompt) + common :] = torch.tensor(prompt[common:])
            mask[u, width - len(prompt) + common :] = 1
        mask = torch.cat([mask.new_ones(len(prompts), common), mask], dim=1).to(model.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, common:]
        logits = states.read(ids.to(model.device), mask, positions)
        if len(rows) > len(unique):
            owner = torch.tensor([unique.index(row.conversation) for row in rows], device=mask.device)
            states.select(owner)
            mask = mask[owner]
            logits = logits[owner]
        return states, mask, logits

    def _seen(self, rows: list[_OpenCompletion], logits: Tensor) -> Tensor:
        seen = torch.zeros(logits.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            seen[i, torch.tensor(self.prompts[row.conversation])] = True
        return seen.to(logits.device)

    def _check_end(self, row: _OpenCompletion, limit: int) -> None:
        ended = row.token_ids[-1] in self.engine._end_ids
        if not (ended or self.options.stop or len(row.token_ids) >= limit):
            return
        # The whole text is decoded, because a stop text may begin inside one token and end inside another.
        text = chat.decoded(self.engine.tokenizer, row.token_ids)
        before_stop = text_before_stop(text, self.options.stop)
        if ended or before_stop != text:
            self.finish(row, "stop", before_stop)
        elif len(row.token_ids) >= limit:
            self.finish(row, "length", text)


def common_length(prompts: Sequence[list[int]], least: int) -> int:
    """Tokens that all prompts begin with, less at least one of each prompt; 0 where they are fewer than `least`."""
    if len(prompts) < 2:
        return 0
    # Of prompts in lexicographic order, the first and the last differ at the earliest position of all pairs.
    first = min(prompts)
    last = max(prompts)
    longest = min(map(len, prompts)) - 1
    length = 0
    while length < longest and first[length] == last[length]:
        length += 1
    if length < least:
        return 0
    return length


def end_of_turn_ids(model: CausalModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Token ids that end a completion: the chat template's, the tokenizer's and those of the generation settings."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    # Checkpoints disagree about which of the three they set; any of them ends a turn.
    candidates = [tokenizer.eos_token_id, chat.end_of_turn(tokenizer)]
    if isinstance(configured, (list, tuple)):
        candidates.extend(configured)
    else:
        candidates.append(configured)
    return {int(token) for token in candidates if token is not None}


def pack(order: Collection[int], lengths: Sequence[int], budget: Callable[[], int]) -> Iterator[list[int]]:
    """Consecutive members whose count x longest length stays within the budget; at least one a batch.

    The budget is asked for anew, so that a batch which did not fit in memory makes the later ones smaller.
    """
    batch: list[int] = []
    longest = 0
    for member in order:
        # Padding makes every row as long as the longest.
        longest = max(longest, lengths[member])
        if batch and (len(batch) + 1) * longest > budget():
            yield batch
            batch = []
            longest = lengths[member]
        batch.append(member)
    if batch:
        yield batch
