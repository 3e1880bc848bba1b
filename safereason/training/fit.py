"""Memory of a recipe's trainings on a set of GPUs: whether they fit, what is offloaded for it, and what takes less."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from safereason.errors import InputError, did_you_mean
from safereason.judges import JudgeSpec
from safereason.judges.registry import REWARD_MODEL
from safereason.recipe.schema import DPO, GRPO, SFT, LoRA, Offload, Recipe, RSafeRewardSettings
from safereason.training import memory
from safereason.training.arguments import Batch, cut_batch
from safereason.training.memory import MemoryPart, OptimizerStep, Shape
from safereason.training.shapes import shape_of

Section = SFT | GRPO | DPO
GIB = 2**30
SIZES = {
    "T4": 16,
    "V100": 32,
    "A10": 24,
    "A10G": 24,
    "L4": 24,
    "RTX3090": 24,
    "RTX4090": 24,
    "RTX5090": 32,
    "A40": 48,
    "A6000": 48,
    "RTX6000Ada": 48,
    "L40": 48,
    "L40S": 48,
    "A100": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
"""Memory of well-known GPUs by their data sheets, in GB; the largest size of each."""
ENGINE_TOKENS = 16_384
"""Tokens of prompts and rollouts that our engine holds at a time, unless one alone is longer."""
PROMPT_SHARE = 0.25
"""Shortest prompts, as a share of the completions' length, that GRPO computes once for all rollouts."""


@dataclass(frozen=True)
class Gpus:
    """GPUs of one kind that train together."""

    count: int
    size: int
    """Memory of each, in bytes."""
    name: str

    @property
    def room(self) -> int:
        """Bytes of each GPU that a plan may use; the rest is for fragments and the CUDA context."""
        return int(self.size * memory.ROOM)


def parse_gpus(text: str) -> Gpus:
    """GPUs from `A6000`, `80GB`, `4xA6000` or `4x48GB`.

    Raises:
        InputError: It is none of these, or no GPU of this name is known.
    """
    count = 1
    name = ""
    if match := re.fullmatch(r"(?:([1-9]\d{0,4})[xX])?(.+)", text.strip()):
        count = int(match[1] or 1)
        name = match[2]
    if size := re.fullmatch(r"(\d+(?:\.\d+)?) ?Gi?B?", name, re.IGNORECASE):
        return Gpus(count, int(float(size[1]) * GIB), name)
    names_by_lower = {known.lower(): known for known in SIZES}
    lower = re.sub(r"[ _-]|nvidia", "", name.lower())
    if lower not in names_by_lower:
        hint = did_you_mean(lower, names_by_lower, f"known are {', '.join(SIZES)}", lambda known: names_by_lower[known])
        raise InputError(f"--gpus {text}: no GPU of this name is known; give its memory, as in 4x48GB ({hint})")
    known_name = names_by_lower[lower]
    return Gpus(count, SIZES[known_name] * GIB, known_name)


@dataclass(frozen=True)
class TrainingOnGpus:
    """One training of a recipe on the GPUs."""

    key: str
    section: Section
    shape: Shape
    gpus: Gpus
    judges: int = 0
    """Bytes of the judges' models that stay on each GPU."""
    reward_model: int = 0
    """Bytes of the reward model, which waits in the CPU's memory between scorings."""

    def step(self, section: Section, *, sharded: bool = False, offload: Offload = "none") -> OptimizerStep:
        """A step of a section, which may be a changed copy of the recipe's."""
        step = step_of(
            section,
            self.shape,
            self.key,
            devices=self.gpus.count,
            sharded=sharded,
            device_size=self.gpus.size,
        )
        # DPO's pairs are scored before its training begins.
        reward_model = 0 if isinstance(section, DPO) else self.reward_model
        return replace(step, judges=self.judges, reward_model=reward_model, offload=offload)

    def parts(self, section: Section, *, sharded: bool = False, offload: Offload = "none") -> dict[str, MemoryPart]:
        """The parts of a step's memory on each GPU."""
        return memory.parts(self.step(section, sharded=sharded, offload=offload))

    def peak(self, section: Section, *, sharded: bool = False, offload: Offload = "none") -> int:
        """Bytes that a step takes on each GPU."""
        return memory.peak(self.parts(section, sharded=sharded, offload=offload))[0]

    def has_room(self, section: Section, *, sharded: bool = False, offload: Offload = "none") -> bool:
        """Whether a step fits each GPU."""
        return self.peak(section, sharded=sharded, offload=offload) <= self.gpus.room

    def fits(self, section: Section, *, sharded: bool = False, offload: Offload = "none") -> bool:
        """Whether a step fits each GPU, and vLLM has what it starts with."""
        return self.has_room(section, sharded=sharded, offload=offload) and not self.vllm_lack(section)

    def offload(self, section: Section, *, sharded: bool = False) -> Offload:
        """What each process of the training offloads: what the section says, else the optimizer if need be."""
        if section.offload != "auto":
            return section.offload
        if self.has_room(section, sharded=sharded):
            return "none"
        return "optimizer"

    def vllm_lack(self, section: Section) -> str:
        """The message where a colocated vLLM would not start on its share of the GPU; empty where it would."""
        if not isinstance(section, GRPO) or section.rollouts != "vllm-colocate":
            return ""
        needed = vllm_needs(section, self.shape)
        share = section.vllm.memory_share
        if needed <= share * self.gpus.size:
            return ""
        return (
            f"{self.key}.vllm.memory_share: {share:g} of a GPU is {share * self.gpus.size / GIB:.1f} GiB, and vLLM "
            f"starts with {needed / GIB:.1f} (weights, {memory.VLLM_OWN / GIB:.1f} of its own, the cache of a row)"
        )


def step_of(
    section: Section,
    shape: Shape,
    key: str,
    *,
    devices: int = 1,
    sharded: bool = False,
    device_size: int = 0,
    cpu: bool = False,
) -> OptimizerStep:
    """The memory figures of a training step on each device.

    Args:
        section: The training's section.
        shape: The model's shape.
        key: The section's dotted key.
        devices: Number of devices that share a step.
        sharded: Whether weights and optimizer state are divided among them.
        device_size: Bytes of memory of a device.
        cpu: Whether the training runs without a GPU.

    Raises:
        InputError: Its batch cannot be shared out evenly.
    """
    rank = None
    if section.lora is not None:
        rank = section.lora.rank
    device = OptimizerStep(
        shape=shape,
        rows=1,
        tokens=1,
        trained=1,
        bf16=section.precision == "bf16" and not cpu,
        gpu=not cpu,
        checkpointing=section.activation_checkpointing,
        rank=rank,
        devices=devices,
        sharded=sharded and devices > 1,
    )
    if isinstance(section, SFT):
        return _sft_step(section, device, key)
    # Without Triton, TRL projects the prompt's tokens onto the vocabulary too.
    length = section.max_prompt_tokens + section.sampling.max_new_tokens
    trained = section.sampling.max_new_tokens
    if cpu:
        trained = length
    if isinstance(section, DPO):
        # All rollouts are drawn before the training, so they take no memory beside it.
        batch = batch_of(section, devices, key)
        return replace(device, rows=2 * batch.per_device, tokens=length, trained=trained, reference=True)
    return _grpo_step(section, replace(device, tokens=length, trained=trained), key, device_size)


def _sft_step(section: SFT, device: OptimizerStep, key: str) -> OptimizerStep:
    batch = batch_of(section, device.devices, key)
    group = 0
    # The rows of a guard all begin with the same policy, whose states are then shared.
    if device.shape.shares and device.devices == 1 and key.startswith("guard"):
        group = batch.per_device
    return replace(device, rows=batch.per_device, tokens=section.max_tokens, trained=section.max_tokens, group=group)


def _grpo_step(section: GRPO, device: OptimizerStep, key: str, device_size: int) -> OptimizerStep:
    shape = device.shape
    new_tokens = section.sampling.max_new_tokens
    batch = batch_of(section, device.devices, key)
    trained = device.trained
    group = 0
    has_long_prompts = section.max_prompt_tokens >= PROMPT_SHARE * new_tokens
    if shape.shares and section.shared_prefix and has_long_prompts:
        # Each prompt's states are computed once for all its rollouts.
        group = min(batch.per_device, section.rollouts_per_prompt)
        trained = new_tokens
    drawn = 0
    if section.rollouts == "engine":
        at_once = min(batch.per_device * batch.accumulation, max(1, ENGINE_TOKENS // device.tokens))
        drawn = at_once * device.tokens
    vllm = 0
    if section.rollouts == "vllm-colocate":
        vllm = max(int(device_size * section.vllm.memory_share), vllm_needs(section, shape))
    return replace(
        device,
        rows=batch.per_device,
        trained=trained,
        projected=True,
        reference=section.kl_coef > 0,
        drawn=drawn,
        vllm=vllm,
        sleeps=section.vllm.sleep,
        group=group,
    )


def vllm_needs(section: GRPO, shape: Shape) -> int:
    """The fewest bytes that vLLM starts with: its weights in bf16, its own, and the cache of one longest row."""
    gpus = section.vllm.tensor_parallel
    # GPUs that share a copy have a head of keys each at least.
    heads = ceil(shape.kv_heads / gpus)
    # Keys and values, for each layer and token.
    cache = 2 * shape.layers * heads * shape.head_dim * (section.max_prompt_tokens + section.sampling.max_new_tokens)
    return memory.VLLM_OWN + memory.BF16 * (ceil(shape.parameters / gpus) + cache)


def sections_of(recipe: Recipe) -> dict[str, Section]:
    """The sections of a recipe that train, by their dotted keys."""
    sections: dict[str, Section | None] = {"sft": recipe.sft, "rl": recipe.rl}
    if recipe.guard is not None:
        sections["guard.sft"] = recipe.guard.sft
        sections["guard.train"] = recipe.guard.train
    return {key: section for key, section in sections.items() if section is not None}


def batch_of(section: Section, devices: int, key: str) -> Batch:
    """A step of a section, cut for so many devices.

    Raises:
        InputError: It cannot be shared out evenly.
    """
    if isinstance(section, GRPO):
        sequences = section.prompts_per_step * section.rollouts_per_prompt
    else:
        sequences = section.batch_size
    return cut_batch(sequences, section.micro_batch_size, devices, key)


def trainings(recipe: Recipe, gpus: Gpus) -> tuple[list[TrainingOnGpus], list[str]]:
    """The trainings of a recipe, and notes on models whose memory is not known.

    Raises:
        InputError: The recipe has no training, or the shape of its model is not known.
    """
    # All trainings of a recipe start from one model.
    shape = shape_of(recipe.model)
    all_trainings: list[TrainingOnGpus] = []
    notes: list[str] = []
    for key, section in sections_of(recipe).items():
        judges, reward_model, unknown = judge_memory(section)
        for name in unknown:
            notes.append(f"{key}: {name} judges too; its shape is not known here, and it is not counted")
        all_trainings.append(TrainingOnGpus(key, section, shape, gpus, judges, reward_model))
    if not all_trainings:
        raise InputError(f"recipe {recipe.name}: it trains nothing; name one with sft, rl or guard")
    return all_trainings, notes


def judge_memory(section: Section) -> tuple[int, int, list[str]]:
    """Bytes of the judges that stay loaded, and of reward models, in bf16; and the names of those of unknown shape."""
    if isinstance(section, SFT) or isinstance(section.reward, RSafeRewardSettings):
        return 0, 0, []
    from safereason.rewards import judges_of

    judges = 0
    reward_model = 0
    unknown: list[str] = []
    # A judge that is named twice is loaded once.
    for text in dict.fromkeys(judges_of(section.reward)):
        spec = JudgeSpec.parse(text)
        model = spec.model
        if model is None or model.is_remote:
            # A judge behind a server takes no memory here.
            continue
        try:
            size = memory.BF16 * shape_of(str(model)).parameters
        except InputError:
            unknown.append(str(model))
            continue
        if spec.name == REWARD_MODEL:
            reward_model += size
        else:
            judges += size
    return judges, reward_model, unknown


def changes(training: TrainingOnGpus) -> Iterator[tuple[str, Section]]:
    """Changes that take less memory or make vLLM start, each by itself: the override, and the section that it makes."""
    section = training.section
    if section.lora is None:
        yield "lora.rank=16", section.model_copy(update={"lora": LoRA(rank=16)})
    if section.offload == "none":
        yield "offload=auto", section.model_copy(update={"offload": "auto"})
    if not section.activation_checkpointing:
        yield "activation_checkpointing=true", section.model_copy(update={"activation_checkpointing": True})
    if section.micro_batch_size > 1:
        yield "micro_batch_size=1", section.model_copy(update={"micro_batch_size": 1})
    if isinstance(section, SFT):
        half = section.max_tokens // 2
        yield f"max_tokens={half}", section.model_copy(update={"max_tokens": half})
        return
    half = section.sampling.max_new_tokens // 2
    shorter = section.sampling.model_copy(update={"max_new_tokens": half})
    yield f"sampling.max_new_tokens={half}", section.model_copy(update={"sampling": shorter})
    if isinstance(section, GRPO):
        yield from _changes_of_grpo(section, training)


def _changes_of_grpo(section: GRPO, training: TrainingOnGpus) -> Iterator[tuple[str, GRPO]]:
    # With adapters the reference model is the model itself, and takes no memory.
    if section.kl_coef > 0 and section.lora is None:
        yield "kl_coef=0.0", section.model_copy(update={"kl_coef": 0.0})
    if section.rollouts != "vllm-colocate":
        return
    if not section.vllm.sleep:
        yield "vllm.sleep=true", _with_vllm(section, sleep=True)
    # The least share that vLLM starts with, in steps of 5 %.
    least = ceil(20 * vllm_needs(section, training.shape) / training.gpus.size) / 20
    if least < 1 and least != section.vllm.memory_share:
        yield f"vllm.memory_share={least}", _with_vllm(section, memory_share=least)
    twice = 2 * section.vllm.tensor_parallel
    if training.vllm_lack(section) and training.gpus.count % twice == 0 and training.shape.heads % twice == 0:
        yield f"vllm.tensor_parallel={twice}", _with_vllm(section, tensor_parallel=twice)
    yield "rollouts=vllm-server", section.model_copy(update={"rollouts": "vllm-server"})


def _with_vllm(section: GRPO, **changed: object) -> GRPO:
    return section.model_copy(update={"vllm": section.vllm.model_copy(update=changed)})
