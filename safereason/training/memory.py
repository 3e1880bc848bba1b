"""How much memory of a device training takes: arithmetic on a model's shape, without loading anything.

With P weights, of which Q are trained, each device holds, in bytes:

    weights        4 P                   fp32, whatever the precision of the arithmetic (`training.model`)
    optimizer      8 Q                   AdamW's two moments, fp32
    gradients      4 Q, 8 Q under DDP    fp32, and DDP's buckets beside them
    reference      4 P                   where there is a KL term and no adapters
    bf16 copies    2 each of a linear weight, which autocast keeps for the forward pass
    activations    n · (L · a + 12 d)    n tokens of a forward pass, L layers; checkpointed n · (L · 4 d + a + 12 d)
    logits         tiles of [tokens, vocabulary], and the head's own gradient before it is added to the others
    KV cache       2 · L · kv · 4        a token of the rollouts drawn at once
    vLLM           its share of the device, and no less than its own weights and the cache of one row

With width d, q and kv the widths of queries and keys, m the MLP's, h heads and b bytes a number, what a layer keeps of
each token for its backward pass is, by counting what autograd saves in transformers' Llama and Qwen2:

    a = 24 d (26 d in bf16) + 4 q b + 4 m b + T b + 4 h + 8

Two RMS norms keep their input and output in fp32, and every projection a copy of its input in the precision of the
arithmetic; attention keeps queries, keys and values repeated for every head, and its output; the MLP its gate before
and after the activation, the other branch and their product; and every layer turns the attention mask into a summand
of row length T. Rows that need no mask keep 2 (q + kv) b in place of 4 q b + T b.

What is not there at the same time is not added up: a step draws rollouts (KV cache), then differentiates (gradients,
copies, activations, logits), then moves the weights (gradients, and the optimizer's scratch of 4 Q).

Sources: the way of counting is that of Korthikanti et al. (arXiv 2205.05198, §4), for gated MLPs and attention that
does not keep its scores (arXiv 2205.14135); sharding as ZeRO stage 3 has it (arXiv 1910.02054, §5): weights, gradients,
optimizer and reference over the devices, and what is gathered of them beside.

Deviations:
    1. Every row is as long as it may be. Rows of a real step are shorter, most of them by far.
    2. Gradients are there in whole with all activations, as they are from the second of several forward passes on.
    3. The reference's own forward pass, the peak inside one operation, CUDA's context and fragmentation are not
       counted; `ROOM` is what is left for them.
    4. Sharded, two layers and the embeddings are gathered at a time, and one layer's gradients; DeepSpeed's buckets and
       FSDP's prefetching can be set otherwise. Our engine's rollouts gather all weights.
    5. Mixtures of experts, sliding windows and other MLPs than gated ones are not modelled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

FP32, BF16 = 4, 2
ROOM = 0.92
"""Share of a device that may be planned with; the rest is CUDA's context, NCCL's buffers and fragmentation."""
TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""What TRL 1.16 projects onto the vocabulary at a time."""
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
    """Whether what prompts begin with may be computed once (`training.shared_prefix`)."""

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
        """Weights of one layer."""
        return self.linear + 2 * self.hidden + (self.query + 2 * self.key if self.qkv_bias else 0)

    @property
    def embeddings(self) -> int:
        """Weights of embedding and head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.layers * self.layer + self.embeddings + self.hidden

    def adapters(self, rank: int) -> int:
        """Weights of adapters of this rank on every linear layer but the head."""
        ends = 3 * self.hidden + 2 * (self.query + self.key) + self.hidden + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * ends


@dataclass(frozen=True)
class Step:
    """One optimizer step, as one device sees it."""

    shape: Shape
    rows: int
    """Rows of a forward pass."""
    tokens: int
    """Tokens of the longest row."""
    trained: int
    """Tokens of it that the loss is on."""
    bf16: bool = True
    """Whether the arithmetic is in bf16."""
    checkpointing: bool = False
    """Whether activations are recomputed."""
    rank: int | None = None
    """Rank of the adapters, where there are any."""
    reference: bool = False
    """Whether a frozen copy of the model is kept."""
    drawn: int = 0
    """Tokens of the rollouts that our engine holds at a time, prompts included."""
    devices: int = 1
    """Devices that train together."""
    sharded: bool = False
    """Whether weights, gradients, optimizer and reference are shared out among them."""
    judge: int = 0
    """Bytes of the reward's own models."""
    vllm: int = 0
    """Bytes that vLLM takes beside the training."""
    group: int = 0
    """Rows of one prompt, where it is computed once for all of them (`training.shared_prefix`); 0 where it is not."""
    gpu: bool = True
    """Whether it is a GPU: there the optimizer moves all weights at once, and TRL's tiles are worked on in place."""


def parts(step: Step) -> dict[str, int]:
    """Bytes by part, in the order of the module's table; a part that the step lacks is left out."""
    shape, shards = step.shape, step.devices if step.sharded else 1
    trainable = shape.parameters if step.rank is None else shape.adapters(step.rank)
    buckets = 2 if step.devices > 1 and not step.sharded else 1
    found = {
        "weights": FP32 * shape.parameters + (0 if step.rank is None else FP32 * trainable),
        "optimizer": 2 * FP32 * trainable,
        "gradients": FP32 * trainable * buckets,
        "reference": FP32 * shape.parameters if step.reference and step.rank is None else 0,
        "optimizer's scratch": FP32 * trainable if step.gpu else 0,
    }
    whole = {
        "bf16 copies": 0 if step.sharded else _copies(step),
        "gathered": _gathered(step) if step.sharded else 0,
        "activations": _activations(step),
        "logits": _logits(step),
        "KV cache": step.drawn * shape.layers * 2 * shape.key * FP32,
        "gathered for rollouts": FP32 * shape.parameters if step.sharded and step.drawn else 0,
        "reward model": step.judge,
        "vLLM": step.vllm,
    }
    return {key: size for key, size in ({k: ceil(v / shards) for k, v in found.items()} | whole).items() if size}


PHASES = {
    "rollouts": ("KV cache", "gathered for rollouts"),
    "loss": ("gradients", "bf16 copies", "gathered", "activations", "logits"),
    "optimizer step": ("gradients", "optimizer's scratch"),
}
"""What comes and goes within a step; the other parts stay."""


def peak(found: Mapping[str, int]) -> tuple[int, str]:
    """The most bytes that are taken at once, and the phase of a step that takes them."""
    passing = {part for phase in PHASES.values() for part in phase}
    staying = sum(size for part, size in found.items() if part not in passing)
    sizes = {phase: sum(found.get(part, 0) for part in of) for phase, of in PHASES.items()}
    longest = max(sizes, key=lambda phase: sizes[phase])
    return staying + sizes[longest], longest


def _copies(step: Step) -> int:
    """Frozen weights are not kept by autocast: their copies live as long as what autograd saved of them."""
    if not step.bf16:
        return 0
    layers = 1 if step.rank is not None and step.checkpointing else step.shape.layers
    return BF16 * layers * step.shape.linear


def _gathered(step: Step) -> int:
    width = BF16 if step.bf16 else FP32
    gradients = 0 if step.rank is not None else FP32 * step.shape.layer
    return width * (2 * step.shape.layer + step.shape.embeddings) + gradients


def _activations(step: Step) -> int:
    shape, width = step.shape, BF16 if step.bf16 else FP32
    length = step.tokens + max(step.group - 1, 0) * step.trained
    rows = ceil(step.rows / max(step.group, 1))
    tokens, inputs = rows * length, FP32 * shape.hidden
    layer = per_token(shape, width, length if step.rows > 1 else 0)
    if step.rank is not None:
        layer += ADAPTED * step.rank * width
    kept = shape.layers * inputs + layer if step.checkpointing else shape.layers * layer
    return tokens * (kept + 3 * inputs)


def per_token(shape: Shape, width: int, masked: int) -> int:
    """Bytes that a layer keeps of a token: `a` of the module's text; `masked` is a row's length, 0 without a mask."""
    norms = (6 * FP32 if width == FP32 else 4 * FP32 + 5 * BF16) * shape.hidden
    heads = 4 * shape.query + masked if masked else 2 * (shape.query + shape.key)
    return norms + width * (heads + 4 * shape.intermediate) + 4 * shape.heads + 8


def _logits(step: Step) -> int:
    shape, width = step.shape, BF16 if step.bf16 else FP32
    trained = step.rows * step.trained
    if step.group:
        tile = COPIES * FP32 * min(trained, PACKED_TOKENS) * shape.vocab
    else:
        buffer = width * min(trained, TILE_TOKENS) * TILE_WORDS
        tile = buffer if step.gpu else buffer + COPIES * FP32 * min(trained, TILE_TOKENS) * min(shape.vocab, TILE_WORDS)
    return tile + (FP32 * shape.vocab * shape.hidden if step.rank is None else 0)
