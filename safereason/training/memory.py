"""The memory of a device that training takes: arithmetic on a model's shape, without loading anything.

With P weights, of which Q are trained, each device holds, in bytes:

    weights        4 P                   fp32 in any precision of the arithmetic (`training.model`)
    optimizer      8 Q                   AdamW's two moments, fp32
    gradients      4 Q                   fp32; under DDP they lie in its buckets, which stay, or TRL's beside them
    reference      4 P                   where there is a KL term and no adapters
    bf16 copies    2 each of a linear weight, which autocast keeps for the forward pass
    activations    n · (L · a + 12 d)    n tokens of a forward pass, L layers; checkpointed n · (4 L d + 12 d)
    a layer again  n · a                 where activations are computed again, a layer at a time
    logits         tiles of [tokens, vocabulary], and the head's own gradient before it is added to the others
    KV cache       2 · L · kv · 4        a token of the rollouts drawn at once
    vLLM           its share of the device; asleep, what it keeps beside weights and cache

With width d, q and kv the widths of queries and keys, m the MLP's, h heads and b bytes a number, a layer keeps of each
token for its backward pass, by a count of the tensors that autograd saves in transformers' Llama and Qwen2:

    a = 24 d (26 d in bf16) + 4 q b + 4 m b + T b + 4 h + 8

Two RMS norms keep their input and output in fp32, and every projection a copy of its input in the precision of the
arithmetic; attention keeps queries, keys and values repeated for every head, and its output; the MLP its gate before
and after the activation, the other branch and their product; and every layer turns the attention mask into a summand
of row length T. Rows that need no mask keep 2 (q + kv) b in place of 4 q b + T b.

Parts that are there at different times are not added up. A step draws rollouts (KV cache, or vLLM awake), scores them
(the reward model comes to the device), differentiates the head (logits) and then the layers (one again at a time), and
moves the weights; the fused AdamW needs nothing beside its moments.

What `offload` keeps in the CPU's memory is not on the device: the optimizer's moments but for the time of its step, or
weights, gradients, optimizer and reference for good, of which layers are gathered as they are needed.

Sources: the way of counting is that of Korthikanti et al. (arXiv 2205.05198, §4), for gated MLPs and attention that
does not keep its scores (arXiv 2205.14135); sharding as ZeRO stage 3 has it (arXiv 1910.02054, §5): weights, gradients,
optimizer and reference over the devices, and beside these the gathered layers.

Deviations:
    1. Every row is as long as it may be. Rows of a real step are shorter, most of them by far.
    2. Gradients are there in whole with all activations, as they are from the second of several forward passes on.
    3. The passes of the reference and of the reward model, the peak inside one operation, CUDA's context and
       fragmentation are not counted; `ROOM` leaves space for them.
    4. Sharded, two layers, embeddings and head are gathered at a time; DeepSpeed's buckets and FSDP's prefetching can
       be set otherwise. Our engine's rollouts gather all weights.
    5. Mixtures of experts, sliding windows and other MLPs than gated ones are not modelled.
    6. vLLM's own memory is one figure for all models and GPUs, and counts as if it kept all of it while it sleeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from safereason.recipe.schema import Offload

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
VLLM_OWN = int(2.5 * 2**30)
"""Bytes that vLLM takes beside weights and cache: CUDA graphs, buffers of its kernels, and a pass of 4096 tokens."""
DRAW, SCORE, HEAD, LAYERS, UPDATE = PHASES = ("draw", "score", "loss: head", "loss: layers", "optimizer step")
"""The times within a step at which other parts are there."""
LOSS = (HEAD, LAYERS)


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
    judges: int = 0
    """Bytes of the judges' models that stay on the device."""
    reward_model: int = 0
    """Bytes of the reward model, which is there while it scores."""
    vllm: int = 0
    """Bytes that vLLM takes beside the training."""
    sleeps: bool = True
    """Whether vLLM gives weights and cache back but for the draw."""
    offload: Offload = "none"
    """What waits in the CPU's memory; `auto` is none here."""
    group: int = 0
    """Rows of one prompt that is computed once for all of them (`training.shared_prefix`); 0 if it is not."""
    projected: bool = False
    """Whether logits come in our own tiles (`training.logprobs`), as in GRPO, and not in TRL's."""
    gpu: bool = True
    """Whether it is a GPU: there TRL's kernel works on tiles in place."""


@dataclass(frozen=True)
class MemoryPart:
    """One part of a step's memory, and when it is there."""

    size: int
    """Bytes."""
    phases: tuple[str, ...] = PHASES


def parts(step: OptimizerStep) -> dict[str, MemoryPart]:
    """The parts by name, in the order of the module's table; those that the step lacks are left out."""
    all_parts = {**_state(step), **_passing(step), **_beside(step)}
    return {name: part for name, part in all_parts.items() if part.size}


def peak(step_parts: Mapping[str, MemoryPart]) -> tuple[int, str]:
    """The most bytes that are taken at once, and the phase that takes them; the parts are from `parts`."""
    sizes = phase_sizes(step_parts)
    largest = max(sizes, key=lambda phase: sizes[phase])
    return sizes[largest], largest


def phase_sizes(step_parts: Mapping[str, MemoryPart]) -> dict[str, int]:
    """The bytes that are taken in each phase."""
    sizes: dict[str, int] = {}
    for phase in PHASES:
        sizes[phase] = sum(part.size for part in step_parts.values() if phase in part.phases)
    return sizes


def host_size(step: OptimizerStep) -> int:
    """The most bytes of the machine's own memory that all of its processes take together, one for each device.

    Each process loads the model whole where it is sharded afterwards; a copy of it is made whole again to be saved.
    """
    weights = FP32 * step.shape.parameters
    parked = step.devices * step.reward_model
    if step.offload != "none":
        parked += 2 * FP32 * _trainable(step)
    if step.offload == "all":
        parked += weights + FP32 * _trainable(step)
        if step.reference:
            parked += weights
    loading = 0
    if step.sharded:
        loading = step.devices * weights
    # At the start there is no optimizer yet; but the reference is loaded when the model lies there already.
    at_start = step.devices * step.reward_model + loading
    if step.offload == "all" and step.reference:
        at_start += weights
    return max(at_start, parked + weights)


def _trainable(step: OptimizerStep) -> int:
    """Number of weights that are trained."""
    if step.rank is None:
        return step.shape.parameters
    return step.shape.adapters(step.rank)


def _state(step: OptimizerStep) -> dict[str, MemoryPart]:
    """Weights, optimizer, gradients and reference: what a sharded training shares out among the devices."""
    if step.offload == "all":
        return {}
    parameters = step.shape.parameters
    trainable = _trainable(step)
    shards = step.devices if step.sharded else 1
    weights = FP32 * parameters
    reference = 0
    if step.rank is not None:
        weights += FP32 * trainable  # the adapters; the reference is the model without them
    elif step.reference:
        reference = FP32 * parameters
    optimizer_phases: tuple[str, ...] = PHASES
    if step.offload == "optimizer":
        optimizer_phases = (UPDATE,)
    gradients = MemoryPart(ceil(FP32 * trainable / shards), (*LOSS, UPDATE))
    buckets = 0
    if step.devices > 1 and not step.sharded:
        buckets = FP32 * trainable
        # In our own loop gradients are views of DDP's buckets, which stay.
        if step.projected:
            gradients = MemoryPart(buckets)
            buckets = 0
    return {
        "weights": MemoryPart(ceil(weights / shards)),
        "optimizer": MemoryPart(ceil(2 * FP32 * trainable / shards), optimizer_phases),
        "gradients": gradients,
        "DDP's buckets": MemoryPart(buckets),
        "reference": MemoryPart(ceil(reference / shards)),
    }


def _passing(step: OptimizerStep) -> dict[str, MemoryPart]:
    """What a pass over the model takes beside its state, on every device in whole."""
    kept, again = _activations(step)
    # In TRL's trainers `benchmarks/memory.py` counts the tiles of logits beside a layer that is computed again.
    again_phases: tuple[str, ...] = LOSS
    if step.projected:
        again_phases = (LAYERS,)
    tiles, head_gradient = _logits(step)
    head_phases: tuple[str, ...] = (HEAD,)
    gathered = MemoryPart(0)
    layers = 0
    for_rollouts = 0
    if step.sharded:
        shape = step.shape
        gathered = MemoryPart(_root_width(step) * shape.embeddings + _width(step) * shape.layer, LOSS)
        layers = _layers_beside(step)
        # The head's gradient is whole until the backward pass ends, and so is a layer's until it is shared out.
        head_phases = LOSS
        if step.drawn:
            for_rollouts = _root_width(step) * shape.embeddings + _width(step) * shape.layers * shape.layer
    return {
        "bf16 copies": _copies(step),
        "gathered": gathered,
        "a layer's weights and gradients": MemoryPart(layers, (LAYERS,)),
        "activations": MemoryPart(kept, LOSS),
        "a layer again": MemoryPart(again, again_phases),
        "logits": MemoryPart(tiles, (HEAD,)),
        "head's gradient": MemoryPart(head_gradient, head_phases),
        "gathered for rollouts": MemoryPart(for_rollouts, (DRAW,)),
    }


def _beside(step: OptimizerStep) -> dict[str, MemoryPart]:
    """What draws and scores rollouts."""
    shape = step.shape
    vllm = {"vLLM": MemoryPart(step.vllm)}
    if step.vllm and step.sleeps:
        vllm = {
            "vLLM": MemoryPart(max(step.vllm - VLLM_OWN, 0), (DRAW,)),
            "vLLM asleep": MemoryPart(min(step.vllm, VLLM_OWN)),
        }
    return {
        "KV cache": MemoryPart(step.drawn * shape.layers * 2 * shape.key * FP32, (DRAW,)),
        **vllm,
        "judges": MemoryPart(step.judges),
        "reward model": MemoryPart(step.reward_model, (SCORE,)),
    }


def _width(step: OptimizerStep) -> int:
    """Bytes of a number in the precision of the arithmetic."""
    return BF16 if step.bf16 else FP32


def _root_width(step: OptimizerStep) -> int:
    """Bytes of a gathered number of embeddings and head: our own loop gathers them in fp32 (`training.sharding`)."""
    return FP32 if step.projected else _width(step)


def _layers_beside(step: OptimizerStep) -> int:
    """Bytes of the next layer, which is gathered ahead, and of one layer's gradients on their way to the devices."""
    gradients = 0
    if step.rank is None:
        # As they are computed, and then in fp32, in which they are added up over the devices.
        gradients = _width(step) + FP32
    return (_width(step) + gradients) * step.shape.layer


def _copies(step: OptimizerStep) -> MemoryPart:
    """bf16 copies of the linear layers' weights, which autocast keeps until the end of the forward pass."""
    if not step.bf16 or step.sharded:
        return MemoryPart(0)
    layers = step.shape.layers
    phases: tuple[str, ...] = LOSS
    if step.checkpointing:
        # The backward pass makes those of one layer at a time again.
        phases = (HEAD,)
        if step.rank is not None:
            # Autocast does not keep copies of frozen weights, so that one layer's are there at a time.
            layers = 1
    return MemoryPart(BF16 * layers * step.shape.linear, phases)


def _activations(step: OptimizerStep) -> tuple[int, int]:
    """Bytes that autograd keeps of a forward pass, and those of a layer that is computed again."""
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
    kept = shape.layers * layer
    again = 0
    # Checkpointed, each layer's input is kept, and one layer at a time is computed again.
    if step.checkpointing:
        kept = shape.layers * inputs
        again = layer
    return rows * length * (kept + 3 * inputs), rows * length * again


def per_token(shape: Shape, width: int, masked: int) -> int:
    """Bytes that a layer keeps of a token: `a` of the module's text; `masked` is a row's length, 0 without a mask."""
    # The inputs and outputs of two norms in fp32, and the projections' copies of their inputs.
    norms = 6 * FP32 if width == FP32 else 4 * FP32 + 5 * BF16
    # Without a mask attention does not repeat keys and values for every head.
    attention = 4 * shape.query + masked if masked else 2 * (shape.query + shape.key)
    return shape.hidden * norms + width * (attention + 4 * shape.intermediate) + 4 * shape.heads + 8


def _logits(step: OptimizerStep) -> tuple[int, int]:
    """Bytes of the tiles of logits while the loss is differentiated, and of the head's gradient."""
    shape = step.shape
    trained = step.rows * step.trained
    if step.group or step.projected:
        tiles = COPIES * FP32 * min(trained, PACKED_TOKENS) * shape.vocab
    else:
        tokens = min(trained, TILE_TOKENS)
        tiles = _width(step) * tokens * TILE_WORDS
        if not step.gpu:
            # Without Triton torch differentiates the tile, where the kernel works in place.
            tiles += COPIES * FP32 * tokens * min(shape.vocab, TILE_WORDS)
    gradient = 0
    if step.rank is None:
        gradient = FP32 * shape.vocab * shape.hidden
    return tiles, gradient
