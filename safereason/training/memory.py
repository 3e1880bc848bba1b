"""The memory of a device that training takes: arithmetic on a model's shape, without loading anything.

With P weights, of which Q are trained, each device holds, in bytes:

    weights        4 P                   fp32 in any precision of the arithmetic (`training.model`)
    optimizer      8 Q                   AdamW's two moments, fp32
    gradients      4 Q, 8 Q under DDP    fp32, and DDP's buckets beside them
    reference      4 P                   where there is a KL term and no adapters
    bf16 copies    2 each of a linear weight, which autocast keeps for the forward pass
    activations    n · (L · a + 12 d)    n tokens of a forward pass, L layers; checkpointed n · (L · 4 d + a + 12 d)
    logits         tiles of [tokens, vocabulary], and the head's own gradient before it is added to the others
    KV cache       2 · L · kv · 4        a token of the rollouts drawn at once
    vLLM           its share of the device, and no less than its own weights and the cache of one row

With width d, q and kv the widths of queries and keys, m the MLP's, h heads and b bytes a number, a layer keeps of each
token for its backward pass, by a count of the tensors that autograd saves in transformers' Llama and Qwen2:

    a = 24 d (26 d in bf16) + 4 q b + 4 m b + T b + 4 h + 8

Two RMS norms keep their input and output in fp32, and every projection a copy of its input in the precision of the
arithmetic; attention keeps queries, keys and values repeated for every head, and its output; the MLP its gate before
and after the activation, the other branch and their product; and every layer turns the attention mask into a summand
of row length T. Rows that need no mask keep 2 (q + kv) b in place of 4 q b + T b.

Parts that are there at different times are not added up: a step draws rollouts (KV cache), then differentiates
(gradients, copies, activations, logits), then moves the weights (gradients, and the optimizer's scratch of 4 Q).

Sources: the way of counting is that of Korthikanti et al. (arXiv 2205.05198, §4), for gated MLPs and attention that
does not keep its scores (arXiv 2205.14135); sharding as ZeRO stage 3 has it (arXiv 1910.02054, §5): weights, gradients,
optimizer and reference over the devices, and beside these the gathered layers.

Deviations:
    1. Every row is as long as it may be. Rows of a real step are shorter, most of them by far.
    2. Gradients are there in whole with all activations, as they are from the second of several forward passes on.
    3. The reference's own forward pass, the peak inside one operation, CUDA's context and fragmentation are not
       counted; `ROOM` leaves space for them.
    4. Sharded, two layers and the embeddings are gathered at a time, and one layer's gradients; DeepSpeed's buckets and
       FSDP's prefetching can be set otherwise. Our engine's rollouts gather all weights.
    5. Mixtures of experts, sliding windows and other MLPs than gated ones are not modelled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import ceil

FP32, BF16 = 4, 2
ROOM = 0.92
"""Share of a device that may be planned with; the rest is CUDA's context, NCCL's buffers and fragmentation."""
TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""Tokens, and words of the vocabulary, of one of TRL 1.16's tiles of logits."""
PACKED_TOKENS = 1024
"""Tokens that `training.shared_prefix` projects at a time, onto the whole vocabulary."""
COPIES = 5
"""Tensors of a tile's size that torch holds at once while it differentiates one."""
ADAPTED = 7
"""Linear layers a decoder layer has."""


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped attention and a gated MLP: Llama, Qwen2, Mistral and their like."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = False
    """Whether the head is the embedding."""
    qkv_bias: bool = False
    shares: bool = True
    """Whether the common beginning of prompts may be computed once (`training.shared_prefix`)."""

    @property
    def query(self) -> int:
        """Width of the queries."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def linear(self) -> int:
        """Weights of one layer's linear layers."""
        return 2 * self.hidden * (self.query + self.key) + 3 * self.hidden * self.intermediate

    @property
    def layer(self) -> int:
        """Number of weights of one layer, norms included."""
        biases = self.query + 2 * self.key if self.qkv_bias else 0
        return self.linear + 2 * self.hidden + biases  # and two norms

    @property
    def embeddings(self) -> int:
        """Weights of embedding and head."""
        matrices = 1 if self.tied else 2
        return matrices * self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Number of all weights, embeddings included."""
        return self.layers * self.layer + self.embeddings + self.hidden

    def adapters(self, rank: int) -> int:
        """Weights of adapters of this rank on every linear layer but the head."""
        # An adapter of a layer with m inputs and n outputs has rank · (m + n) weights.
        attention = 3 * self.hidden + 2 * (self.query + self.key) + self.hidden
        mlp = 3 * (self.hidden + self.intermediate)
        return self.layers * rank * (attention + mlp)


@dataclass(frozen=True)
class OptimizerStep:
    """One optimizer step, as one device sees it."""

    shape: Shape
    rows: int
    """Rows of a forward pass."""
    tokens: int
    """Tokens of the longest row."""
    trained: int
    """Tokens of that row that the loss is on."""
    bf16: bool = True
    """Whether the arithmetic is in bf16."""
    checkpointing: bool = False
    """Whether activations are recomputed."""
    rank: int | None = None
    """Rank of the adapters; None trains all weights."""
    reference: bool = False
    """Whether a frozen copy of the model is kept."""
    drawn: int = 0
    """Tokens of the rollouts in our engine's KV cache at a time, prompts included."""
    devices: int = 1
    """Devices that train together."""
    sharded: bool = False
    """Whether weights, gradients, optimizer and reference are shared out among them."""
    judge: int = 0
    """Bytes of the reward's own models."""
    vllm: int = 0
    """Bytes that vLLM takes beside the training."""
    group: int = 0
    """Rows of one prompt that is computed once for all of them (`training.shared_prefix`); 0 if it is not."""
    projected: bool = False
    """Whether logits come in our own tiles (`training.logprobs`), as in GRPO, and not in TRL's."""
    gpu: bool = True
    """Whether it is a GPU: there the optimizer moves all weights at once, and TRL's kernel works on tiles in place."""


def parts(step: OptimizerStep) -> dict[str, int]:
    """Bytes by part, in the order of the module's table; a part that the step lacks is left out."""
    sizes: dict[str, int] = {}
    shards = step.devices if step.sharded else 1
    for part, size in _sharded_parts(step).items():
        sizes[part] = ceil(size / shards)
    sizes.update(_whole_parts(step))
    return {part: size for part, size in sizes.items() if size}


def _trainable(step: OptimizerStep) -> int:
    """Number of weights that are trained."""
    if step.rank is None:
        return step.shape.parameters
    return step.shape.adapters(step.rank)


def _sharded_parts(step: OptimizerStep) -> dict[str, int]:
    """Bytes of the parts that the devices of a sharded training share out among them."""
    parameters = step.shape.parameters
    trainable = _trainable(step)
    weights = FP32 * parameters
    reference = 0
    if step.rank is not None:
        weights += FP32 * trainable  # the adapters; the reference is the model without them
    elif step.reference:
        reference = FP32 * parameters
    gradients = FP32 * trainable
    if step.devices > 1 and not step.sharded:
        gradients *= 2  # DDP's buckets
    return {
        "weights": weights,
        "optimizer": 2 * FP32 * trainable,
        "gradients": gradients,
        "reference": reference,
        "optimizer's scratch": FP32 * trainable if step.gpu else 0,
    }


def _whole_parts(step: OptimizerStep) -> dict[str, int]:
    """Bytes of the parts that every device holds in whole."""
    shape = step.shape
    copies = 0
    gathered = 0
    gathered_for_rollouts = 0
    if step.sharded:
        gathered = _gathered(step)
        if step.drawn:
            gathered_for_rollouts = FP32 * shape.parameters
    else:
        copies = _copies(step)
    return {
        "bf16 copies": copies,
        "gathered": gathered,
        "activations": _activations(step),
        "logits": _logits(step),
        "KV cache": step.drawn * shape.layers * 2 * shape.key * FP32,
        "gathered for rollouts": gathered_for_rollouts,
        "reward model": step.judge,
        "vLLM": step.vllm,
    }


PHASES = {
    "rollouts": ("KV cache", "gathered for rollouts"),
    "loss": ("gradients", "bf16 copies", "gathered", "activations", "logits"),
    "optimizer step": ("gradients", "optimizer's scratch"),
}
"""Parts that come and go within a step, by phase; the other parts stay."""


def peak(sizes: Mapping[str, int]) -> tuple[int, str]:
    """The most bytes that are taken at once, and the phase of a step that takes them; `sizes` is from `parts`."""
    passing = set(chain.from_iterable(PHASES.values()))
    staying = sum(size for part, size in sizes.items() if part not in passing)
    sizes_by_phase: dict[str, int] = {}
    for phase, phase_parts in PHASES.items():
        sizes_by_phase[phase] = sum(sizes.get(part, 0) for part in phase_parts)
    largest = max(sizes_by_phase, key=lambda phase: sizes_by_phase[phase])
    return staying + sizes_by_phase[largest], largest


def _width(step: OptimizerStep) -> int:
    """Bytes of a number in the precision of the arithmetic."""
    return BF16 if step.bf16 else FP32


def _copies(step: OptimizerStep) -> int:
    """bf16 copies of the linear layers' weights, which autocast keeps until the end of the forward pass."""
    if not step.bf16:
        return 0
    layers = step.shape.layers
    if step.rank is not None and step.checkpointing:
        # Autocast does not keep copies of frozen weights, so that one layer's are there at a time.
        layers = 1
    return BF16 * layers * step.shape.linear


def _gathered(step: OptimizerStep) -> int:
    """Weights and gradients of a sharded model that are gathered at a time."""
    gradients = 0
    if step.rank is None:
        gradients = FP32 * step.shape.layer
    return _width(step) * (2 * step.shape.layer + step.shape.embeddings) + gradients


def _activations(step: OptimizerStep) -> int:
    """Numbers that autograd keeps of a forward pass for its backward pass."""
    shape = step.shape
    width = _width(step)
    # Packed, a row holds the prompt once and the completions of all rollouts of the group.
    length = step.tokens + max(step.group - 1, 0) * step.trained
    rows = ceil(step.rows / max(step.group, 1))
    masked = length if step.rows > 1 else 0  # a single row has no padding, and needs no mask
    layer = per_token(shape, width, masked)
    if step.rank is not None:
        layer += ADAPTED * step.rank * width
    inputs = FP32 * shape.hidden
    # Checkpointed, each layer's input is kept, and one layer at a time is computed again.
    kept = shape.layers * inputs + layer if step.checkpointing else shape.layers * layer
    return rows * length * (kept + 3 * inputs)


def per_token(shape: Shape, width: int, masked: int) -> int:
    """Bytes that a layer keeps of a token: `a` of the module's text; `masked` is a row's length, 0 without a mask."""
    # The inputs and outputs of two norms in fp32, and the projections' copies of their inputs.
    norms = 6 * FP32 if width == FP32 else 4 * FP32 + 5 * BF16
    # Without a mask attention does not repeat keys and values for every head.
    attention = 4 * shape.query + masked if masked else 2 * (shape.query + shape.key)
    return shape.hidden * norms + width * (attention + 4 * shape.intermediate) + 4 * shape.heads + 8


def _logits(step: OptimizerStep) -> int:
    """Tiles of logits while the loss is differentiated, and the gradient of the head."""
    shape = step.shape
    trained = step.rows * step.trained
    if step.group or step.projected:
        tile = COPIES * FP32 * min(trained, PACKED_TOKENS) * shape.vocab
    else:
        tokens = min(trained, TILE_TOKENS)
        tile = _width(step) * tokens * TILE_WORDS
        if not step.gpu:
            # Without Triton torch differentiates the tile, where the kernel works in place.
            tile += COPIES * FP32 * tokens * min(shape.vocab, TILE_WORDS)
    gradient = 0
    if step.rank is None:
        gradient = FP32 * shape.vocab * shape.hidden
    return tile + gradient
