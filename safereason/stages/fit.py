"""Whether the trainings of a recipe fit a set of GPUs, and what would make them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from math import ceil
from typing import Any

from safereason.errors import InputError
from safereason.recipe.schema import DPO, GRPO, SFT, LoRA, Recipe, RSafeReward
from safereason.stages import guard, rl, sft
from safereason.stages.base import Options
from safereason.training import memory
from safereason.training.arguments import cut_batch
from safereason.training.memory import Shape, Step
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
"""Memory of well-known GPUs by their data sheets, in GB; of those sold with several sizes the larger one."""
JUDGE_MODELS = {"harmbench": "cais/HarmBench-Llama-2-13b-cls", "strongreject": "qylu4156/strongreject-15k-v1"}
"""Models of judges that name none."""
ENGINE_TOKENS = 16_384
"""Prompts and rollouts that our engine holds at a time, unless one alone is longer (`engines.transformers`)."""


PROMPT_SHARE = 0.25
"""Prompts are computed once from this share of the completions' length on (`training.grpo`)."""


@dataclass(frozen=True)
class Gpus:
    """GPUs of one kind that train together."""

    count: int
    size: int
    """Memory of each, in bytes."""
    name: str

    @property
    def room(self) -> int:
        """What may be planned with on each."""
        return int(self.size * memory.ROOM)


def parse_gpus(text: str) -> Gpus:
    """`A6000`, `80GB`, `4xA6000` or `4x48GB`.

    Raises:
        InputError: It is none of these, or no GPU of this name is known.
    """
    found = re.fullmatch(r"(?:([1-9]\d{0,4})[xX])?(.+)", text.strip())
    count, name = (int(found[1] or 1), found[2]) if found else (1, "")
    if size := re.fullmatch(r"(\d+(?:\.\d+)?) ?Gi?B?", name, re.IGNORECASE):
        return Gpus(count, int(float(size[1]) * GIB), name)
    known = {key.lower(): key for key in SIZES}
    plain = re.sub(r"[ _-]|nvidia", "", name.lower())
    if plain not in known:
        close = get_close_matches(plain, known, n=1)
        hint = f"did you mean {known[close[0]]}?" if close else f"known are {', '.join(SIZES)}"
        raise InputError(f"--gpus {text}: no GPU of this name is known; give its memory, as in 4x48GB ({hint})")
    return Gpus(count, SIZES[known[plain]] * GIB, known[plain])


@dataclass(frozen=True)
class Training:
    """One training of a recipe on the GPUs."""

    key: str
    section: Section
    shape: Shape
    gpus: Gpus
    judges: int = 0
    """Bytes of the reward's own models on each GPU."""

    def step(self, section: Section, *, sharded: bool = False) -> Step:
        """A step of the section, which may be another than the recipe's."""
        return step_of(
            section,
            self.shape,
            self.key,
            devices=self.gpus.count,
            sharded=sharded,
            judge=self.judges,
            device_size=self.gpus.size,
        )

    def peak(self, section: Section, *, sharded: bool = False) -> int:
        """Bytes that a step takes of each GPU."""
        return memory.peak(memory.parts(self.step(section, sharded=sharded)))[0]


def step_of(
    section: Section,
    shape: Shape,
    key: str,
    *,
    devices: int = 1,
    sharded: bool = False,
    judge: int = 0,
    device_size: int = 0,
    cpu: bool = False,
) -> Step:
    """What a training section asks of each device.

    Raises:
        InputError: Its batch cannot be shared out evenly.
    """
    common: dict[str, Any] = {
        "shape": shape,
        "bf16": section.precision == "bf16" and not cpu,
        "gpu": not cpu,
        "checkpointing": section.activation_checkpointing,
        "rank": section.lora.rank if section.lora else None,
        "devices": devices,
        "sharded": sharded and devices > 1,
        "judge": judge,
    }
    if isinstance(section, SFT):
        batch = cut_batch(section.batch_size, section.micro_batch_size, devices, key)
        shares = shape.shares and devices == 1 and key.startswith("guard")  # rows begin with the same policy
        group = batch.per_device if shares else 0
        return Step(rows=batch.per_device, tokens=section.max_tokens, trained=section.max_tokens, group=group, **common)
    new = section.sampling.max_new_tokens
    length = section.max_prompt_tokens + new
    trained = length if cpu else new  # without Triton, TRL projects prompts too
    if isinstance(section, DPO):  # what ranks the pairs was loaded before, and the rollouts are drawn by then
        batch = cut_batch(section.batch_size, section.micro_batch_size, devices, key)
        return Step(rows=2 * batch.per_device, tokens=length, trained=trained, reference=True, **common)
    batch = cut_batch(section.prompts_per_step * section.rollouts_per_prompt, section.micro_batch_size, devices, key)
    at_once = min(batch.per_device * batch.accumulation, max(1, ENGINE_TOKENS // length))
    colocated = section.rollouts == "vllm-colocate"
    shares = shape.shares and section.shared_prefix and devices == 1 and section.max_prompt_tokens >= PROMPT_SHARE * new
    group = min(batch.per_device, section.rollouts_per_prompt) if shares else 0
    return Step(
        rows=batch.per_device,
        tokens=length,
        trained=new if shares else trained,
        reference=section.kl_coef > 0,
        drawn=at_once * length if section.rollouts == "engine" else 0,
        vllm=max(int(device_size * section.vllm.memory_share), vllm_needs(section, shape)) if colocated else 0,
        group=group,
        **common,
    )


def vllm_needs(section: GRPO, shape: Shape) -> int:
    """Bytes without which vLLM does not start: its weights in bf16, and the cache of one longest row."""
    cache = 2 * shape.layers * shape.key * (section.max_prompt_tokens + section.sampling.max_new_tokens)
    return ceil(memory.BF16 * (shape.parameters + cache) / section.vllm.tensor_parallel)


def trainings(recipe: Recipe, gpus: Gpus) -> tuple[list[Training], list[str]]:
    """The trainings of a recipe, and what could not be counted.

    Raises:
        InputError: It has none, or the shape of its model is not known.
    """
    of_guard = recipe.guard
    sections: dict[str, Section | None] = {
        "sft": recipe.sft,
        "rl": recipe.rl,
        "guard.sft": of_guard.sft if of_guard else None,
        "guard.train": of_guard.train if of_guard else None,
    }
    found, notes, shape = [], list[str](), shape_of(recipe.model)
    for key, section in sections.items():
        if section is not None:
            size, unknown = _judges(section)
            notes += [
                f"{key}: {name} judges too; its shape is not known here, and it is not counted" for name in unknown
            ]
            found.append(Training(key, section, shape, gpus, size))
    if not found:
        raise InputError(f"recipe {recipe.name}: it trains nothing; name one with sft, rl or guard")
    return found, notes


def _judges(section: Section) -> tuple[int, list[str]]:
    """Bytes of the models that the reward loads, in bf16 as on a GPU, and the names of those of unknown shape."""
    if isinstance(section, SFT) or isinstance(section.reward, RSafeReward):
        return 0, []
    from safereason.rewards import judges_of

    size, unknown = 0, []
    for spec in judges_of(section.reward):
        name, _, argument = spec.partition(":")
        asks = name in ("guard", "reward-model", *JUDGE_MODELS)
        model = (argument or JUDGE_MODELS.get(name, "")) if asks else ""
        if not model or model.startswith("openai/"):
            continue
        try:
            size += memory.BF16 * shape_of(model).parameters
        except InputError:
            unknown.append(model)
    return size, unknown


def steps(recipe: Recipe, options: Options, key: str) -> dict[str, Any]:
    """How many steps, sequences and tokens a training has, as its plan counts them."""
    if key == "sft":
        plan = sft.plan(recipe, options)
    elif key == "rl":
        plan = rl.plan(recipe, options)
    else:
        plan = guard.plan(recipe, options)["sft" if key == "guard.sft" else "rl"]
    return {name: plan[name] for name in COUNTED if name in plan}


COUNTED = (
    "rows",
    "prompts",
    "rollouts",
    "pairs at most",
    "steps",
    "steps at most",
    "sequences",
    "tokens at most",
    "tokens generated at most",
)
"""Of a plan."""


def changes(training: Training) -> Iterator[tuple[str, Section]]:
    """What takes less memory, each by itself, as an override and the section it makes."""
    section = training.section
    if section.lora is None:
        yield "lora.rank=16", section.model_copy(update={"lora": LoRA(rank=16)})
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


def _changes_of_grpo(section: GRPO, training: Training) -> Iterator[tuple[str, GRPO]]:
    if section.kl_coef > 0 and section.lora is None:
        yield "kl_coef=0.0", section.model_copy(update={"kl_coef": 0.0})
    if section.rollouts == "vllm-colocate":
        least = ceil(20 * vllm_needs(section, training.shape) / training.gpus.size) / 20
        if least < section.vllm.memory_share:
            share = section.vllm.model_copy(update={"memory_share": least})
            yield f"vllm.memory_share={least}", section.model_copy(update={"vllm": share})
        yield "rollouts=vllm-server", section.model_copy(update={"rollouts": "vllm-server"})
