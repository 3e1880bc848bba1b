"""Placement: which model of a command lies on which GPUs, and how many shards the GPUs make.

A shard is a part of the work with models of its own. It takes as few GPUs as its models fit on, so that there are as
many shards as the GPUs allow. A model that is larger than a GPU is split over several.

Sizes are arithmetic on a model's shape: its weights, the keys and values of a batch, and `ENGINE_OWN` beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safereason.engines import vllm
from safereason.engines.engine_spec import EngineSpec, Loading
from safereason.engines.place import VISIBLE, Place, names_of
from safereason.errors import InputError
from safereason.guard.classify import ClassifySettings
from safereason.judges import JudgeSpec
from safereason.stages.base import Options
from safereason.stages.run_engine import engine_of
from safereason.training import layout
from safereason.training.fit import ENGINE_TOKENS, GIB, Gpus
from safereason.training.memory import BF16, FP32, Shape
from safereason.training.shapes import shape_of

ENGINE_OWN = 2 * GIB
"""Bytes that an engine takes beside weights and cache: activations, logits and buffers."""
JUDGE = "judge"
"""Name of the role of a judge's model."""
SPLITS = (1, 2, 4, 8)
"""GPUs that a model is split over; a power of two divides the heads of nearly every model."""


@dataclass(frozen=True)
class Role:
    """A model's part in the work of a shard."""

    name: str
    """As a plan shows it, such as `target model` or `judge`."""
    engine: EngineSpec


@dataclass(frozen=True)
class Size:
    """Bytes that a model takes where it runs."""

    weights: int
    work: int
    """Keys and values of a batch, and what the engine takes beside."""

    @property
    def whole(self) -> int:
        """Both together."""
        return self.weights + self.work


@dataclass(frozen=True)
class Placement:
    """The shards of one piece of work, and the place of each model in a shard."""

    roles: tuple[Role, ...] = ()
    """The roles whose models run on this machine, each engine with its place."""
    gpus: Gpus | None = None
    """All GPUs that were planned with; None without any."""
    shards: int = 1
    gpus_a_shard: int = 0

    @property
    def environments(self) -> list[dict[str, str]]:
        """Variables of a worker for each shard; none where this process does the work alone."""
        if self.shards < 2:
            return []
        environments: list[dict[str, str]] = []
        for number in range(self.shards):
            first = number * self.gpus_a_shard
            variables = {VISIBLE: names_of(range(first, first + self.gpus_a_shard))}
            if self.gpus_a_shard == 1 and self._vllm_models == 1:
                # Inside the worker, vLLM's engine dies with it. A process of its own would live on after `kill -9`.
                variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            environments.append(variables)
        return environments

    @property
    def _vllm_models(self) -> int:
        """Number of models that vLLM has in a shard. It can have several only in processes of their own."""
        return len({role.engine for role in self.roles if role.engine.model.engine == "vllm"})

    def placed(self, engine: EngineSpec) -> EngineSpec:
        """The engine of one of the roles, with its place."""
        for role in self.roles:
            if replace(role.engine, place=None) == engine:
                return role.engine
        return engine

    def rows(self, work: str) -> list[dict[str, object]]:
        """The placement as a plan shows it, a row a role; `work` says what the models are there for."""
        rows: list[dict[str, object]] = []
        for role in self.roles:
            size = size_of(role.engine)
            gpus: tuple[int, ...] = (0,)
            if role.engine.place is not None:
                gpus = role.engine.place.gpus
            rows.append(
                {
                    "work": work,
                    "shards": self.shards,
                    "GPUs a shard": self.gpus_a_shard,
                    "role": role.name,
                    "model": replace(role.engine.model, engine=None).recorded_name,
                    "engine": role.engine.title,
                    "precision": role.engine.precision,
                    "GiB": size and round(size.weights / GIB, 1),
                    "on GPU": ", ".join(map(str, gpus)),
                }
            )
        return rows


def judge_roles(judge: JudgeSpec | None, options: Options) -> list[Role]:
    """The role of a judge's model; none where it has none."""
    if judge is None or (model := judge.model) is None:
        return []
    # A judge whose model is named without an engine is opened by transformers.
    return [Role(JUDGE, engine_of(model, options, "hf"))]


def loading_of(placement: Placement, options: Options) -> Loading:
    """How a judge's model is loaded in its place: when it has something to judge that is not in the cache."""
    for role in placement.roles:
        if role.name == JUDGE:
            return Loading(options.precision, role.engine.place, is_deferred=True)
    return Loading(options.precision, is_deferred=True)


def place(roles: Sequence[Role], gpus: Gpus | None, what: str) -> Placement:
    """The placement of the models that one piece of work opens.

    Args:
        roles: Models and their parts. Those behind a server take no GPU.
        gpus: The GPUs; None without any.
        what: The work, for the message.

    Raises:
        InputError: The models do not fit the GPUs.
    """
    local = [role for role in roles if not role.engine.model.is_remote]
    if gpus is None or not local:
        return Placement(tuple(local))
    # A model with several roles is opened once.
    engines = list(dict.fromkeys(role.engine for role in local))
    if gpus.count == 1 and len(engines) == 1:
        # It has the GPU for itself, as far as that goes: a lack of memory shows when it is loaded.
        return Placement(tuple(local), gpus, 1, 1)
    sizes = {engine: size_of(engine) for engine in engines}
    for count in range(1, gpus.count + 1):
        for with_work in (True, False):
            # A batch that does not fit is halved. So where nothing else is left, the weights alone decide.
            if not with_work and count < gpus.count:
                continue
            on_gpus = _fit(sizes, count, gpus.room, with_work=with_work)
            if on_gpus is not None:
                places_by_engine = _place_models(on_gpus, sizes, gpus)
                placed = tuple(
                    replace(role, engine=replace(role.engine, place=places_by_engine[role.engine])) for role in local
                )
                return Placement(placed, gpus, gpus.count // count, count)
    raise InputError(_does_not_fit(local, sizes, gpus, what))


def place_guard(
    settings: ClassifySettings, most_gpus: int | None, *, is_alone: bool
) -> tuple[ClassifySettings, list[dict[str, str]]]:
    """A guard with its place, and the variables of each worker that judges rows with one.

    Args:
        settings: The guard.
        most_gpus: Most GPUs to use; None takes all.
        is_alone: Whether one process judges all rows.

    Raises:
        InputError: The guard does not fit the GPUs, or there are fewer GPUs.
    """
    if settings.model.is_remote:
        return settings, []
    options = Options(precision=settings.precision, gpus=most_gpus)
    guard = Role("guard", engine_of(settings.model, options, by_transformers=True))
    placement = place([guard], gpus_to_use(options), "guard classify")
    environments = placement.environments
    if is_alone:
        environments = []
    return replace(settings, place=placement.placed(guard.engine).place), environments


def place_alone(engine: EngineSpec, options: Options, what: str) -> EngineSpec:
    """An engine with its place, for work that this process does with one model; `what` is the work.

    Raises:
        InputError: The model does not fit the GPUs.
    """
    return place([Role("model", engine)], gpus_to_use(options), what).placed(engine)


def size_of(engine: EngineSpec) -> Size | None:
    """The memory of a model that runs on this machine; None where its shape is not known here."""
    model = engine.model
    # The place of a revision's files would be a download.
    if model.revision is None and model.base is not None:
        model = model.base
    try:
        shape = shape_of(replace(model, engine=None).recorded_name)
    except InputError:
        return None
    width = FP32
    if engine.precision == "bf16":
        width = BF16
    return Size(shape.parameters * width, _cache(shape) * width + ENGINE_OWN)


def _cache(shape: Shape) -> int:
    """Numbers in the keys and values of the tokens that an engine holds at a time."""
    return 2 * shape.layers * shape.key * ENGINE_TOKENS


def gpus_to_use(options: Options) -> Gpus | None:
    """The GPUs to share work out to: those that are planned for, else this machine's; None without any.

    Raises:
        InputError: More are wanted than there are.
        StageFailed: They cannot be used.
    """
    if options.planned_gpus is not None:
        return options.planned_gpus
    most = options.gpus
    count = layout.device_count()
    if most is not None and most > max(count, 1):
        raise InputError(f"--gpus {most}: this machine has {count}; name no more, or leave the option out")
    gpus = layout.gpus_here()
    if gpus is None or most is None:
        return gpus
    return replace(gpus, count=most)


OnGpus = Mapping[EngineSpec, tuple[int, ...]]
"""Indices of the GPUs that each model lies on."""


def _fit(sizes: Mapping[EngineSpec, Size | None], count: int, room: int, *, with_work: bool) -> OnGpus | None:
    """The models on so many GPUs with so much room each, largest first; None where they do not fit."""
    free = [room] * count
    on_gpus: dict[EngineSpec, tuple[int, ...]] = {}

    def need_of(engine: EngineSpec) -> int:
        size = sizes[engine]
        if size is None:
            # Nothing is known of it: it gets a GPU for itself.
            return room
        if with_work:
            return size.whole
        return size.weights

    for engine in sorted(sizes, key=need_of, reverse=True):
        gpus = _with_most_room(need_of(engine), _least_split(engine), free)
        if gpus is None:
            return None
        for gpu in gpus:
            free[gpu] -= need_of(engine) // len(gpus)
        on_gpus[engine] = gpus
    return on_gpus


def _least_split(engine: EngineSpec) -> int:
    """GPUs that the user's settings of vLLM split its models over; 1 for other engines."""
    if engine.model.engine != "vllm":
        return 1
    return vllm.tensor_parallel()


def _with_most_room(need: int, least_split: int, free: Sequence[int]) -> tuple[int, ...] | None:
    """The GPUs with the most room for a model, as few as possible; None where it has none."""
    by_room = sorted(range(len(free)), key=lambda gpu: -free[gpu])
    for split in SPLITS:
        if least_split <= split <= len(free) and free[by_room[split - 1]] >= need / split:
            return tuple(sorted(by_room[:split]))
    return None


def _place_models(on_gpus: OnGpus, sizes: Mapping[EngineSpec, Size | None], gpus: Gpus) -> dict[EngineSpec, Place]:
    """The place of each model. What models leave free on a GPU, those of vLLM share: it fills it with its cache."""
    taken = [0] * gpus.count
    vllm_models = [0] * gpus.count
    for engine, members in on_gpus.items():
        part = gpus.room
        if (size := sizes[engine]) is not None:
            part = size.whole // len(members)
        for gpu in members:
            taken[gpu] += part
            vllm_models[gpu] += engine.model.engine == "vllm"
    placed: dict[EngineSpec, Place] = {}
    for engine, members in on_gpus.items():
        share = vllm.MEMORY_SHARE
        size = sizes[engine]
        if size is not None:
            gpu = max(members, key=lambda gpu: taken[gpu])
            left = max(0.0, vllm.MEMORY_SHARE - taken[gpu] / gpus.size)
            share = size.whole / len(members) / gpus.size + left / max(vllm_models[gpu], 1)
        placed[engine] = Place(members, round(min(share, vllm.MEMORY_SHARE), 3))
    return placed


def _does_not_fit(roles: Sequence[Role], sizes: Mapping[EngineSpec, Size | None], gpus: Gpus, what: str) -> str:
    parts: list[str] = []
    for engine, size in sizes.items():
        names = " and ".join(role.name for role in roles if role.engine == engine)
        amount = "a GPU of its own, as its size is not known here"
        if size is not None:
            amount = f"{size.weights / GIB:.1f} GiB in {engine.precision}"
        parts.append(f"{names} {engine.model.recorded_name} {amount}")
    return (
        f"{what}: does not fit {gpus.count} x {gpus.name}, of which {gpus.room / GIB:.1f} GiB each can be used: "
        f"{'; '.join(parts)}; take more or larger GPUs, or smaller models"
    )
