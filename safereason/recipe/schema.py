"""The recipe, as frozen pydantic models: one class a section, unknown keys refused.

A field's docstring gives its unit, and is what the reference page says of the key. What only TRL knows goes into a
section's `extra` mapping, which refuses the keys that a typed field of the section owns (`training/arguments.py` holds
that list).
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
    model_validator,
)

from safereason.recipe.limits import MOST_NEW_TOKENS

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Precision = Literal["fp32", "bf16"]
"""Arithmetic of a model's weights and activations."""
EngineChoice = Literal["auto", "hf", "vllm"]
"""Engine of models that are named without one: transformers, vLLM, or what suits the machine."""
Settings: TypeAlias = dict[str, object]
"""Keys and values that another library or an attack defines, and checks when it takes them."""


class RecipeSection(BaseModel):
    """A part of a recipe: immutable, and closed to keys it does not know."""

    # Frozen, so that the recipe written to a run's directory is the one that every stage has read.
    # Each class checks its values by a program that is built at its first use: a recipe needs that of `Recipe` alone.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


NewTokens = Annotated[int, Field(gt=0, le=MOST_NEW_TOKENS)]
"""Longest completion, in tokens of the model."""


class Sampling(RecipeSection):
    """Sampling settings of completions. One object, passed whole to every engine."""

    # The defaults are the model's own distribution, without any truncation.
    temperature: NonNegative = 1.0
    """Softmax temperature; 0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Probability mass of the nucleus that is sampled from."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Number of likeliest tokens sampled from; 0 keeps all."""
    repetition_penalty: PositiveFloat = 1.0
    """Divides positive and multiplies negative logits of tokens already seen (CTRL's penalty); 1 is none."""
    max_new_tokens: NewTokens = 512
    """Longest completion, in tokens of the model."""


class SourceShare(RecipeSection):
    """The number and kind of prompts taken from one source."""

    source: str
    """Name of a data source (`safereason data ls`)."""
    prompts: PositiveInt
    """Most prompts taken from it."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Prompts of the source's own seeded order that are passed over first (another stage has them)."""
    categories: tuple[str, ...] = ()
    """Categories of the source that it takes prompts of; none named takes all."""
    kind: Literal["harmful", "harmless", "ambiguous"] | None = None
    """Kind of prompts that it takes; null takes all, and in a pool of a kind those of that kind."""


class Hygiene(RecipeSection):
    """Rules for equal texts, and for training rows that a test set holds too."""

    # Unrelated texts share some 5-grams by chance: a lower threshold would match nearly anything.
    near_duplicate: Annotated[float, Field(ge=0.1, le=1.0)] | None = 0.8
    """Jaccard similarity of two texts' character 5-grams from which on they are the same; null wants the letter."""
    # 13 words in a row are the rule of GPT-3's contamination analysis (arXiv 2005.14165, app. C).
    shared_words: Annotated[int, Field(ge=5)] | None = 13
    """Words in a row that a training text may not share with a test text; null does not look."""
    deduplicate: Literal["none", "exact", "near"] = "near"
    """Repetitions that are left out of the training rows: none, those to the letter, or nearly the same ones too."""
    on_overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """Treatment of a training row that one of the recipe's test sets holds too; the card counts those left in."""


class Teacher(RecipeSection):
    """The model that writes the reasoning traces of sources that have none of their own."""

    model: str
    """Any model that an engine opens: `openai/NAME`, a run directory, `org/name`."""
    samples: PositiveInt = 1
    """Replies drawn for each prompt."""
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=8192)
    """Sampling of the replies."""
    prefix: str = ""
    """Appended to the teacher's generation prompt; empty lets it begin by itself."""
    judge: str | None = None
    """Judge that filters answers, by its name; null keeps every well-formed one."""


class TarsMix(RecipeSection):
    """Prompts of TARS: harmful, harmless and ambiguous ones in a fixed ratio, and traces for the light SFT."""

    mix: Literal["tars"]
    prompts: PositiveInt
    """Prompts for RL in all."""
    harmful_ratio: Ratio
    """λ: the share of harmful prompts among them."""
    ambiguous_ratio: Ratio = 0.5
    """Share of ambiguous prompts among those that are not harmful."""
    harmful: tuple[SourceShare, ...]
    """The harmful pool; the mix draws from all of it."""
    harmless: tuple[SourceShare, ...]
    """The harmless pool: sources, with the most prompts of each."""
    ambiguous: tuple[SourceShare, ...] = ()
    """The ambiguous pool: sources, with the most prompts of each."""
    traces: tuple[SourceShare, ...]
    """Prompts with reasoning traces for SFT."""
    traces_per_prompt: PositiveInt = 1
    """Most traces kept for one prompt."""
    trace_prompts: bool = False
    """Whether SFT has traces of the mix's own prompts, and those of `traces` are only kept out of the mix."""
    teacher: Teacher | None = None
    """The model that writes the traces of sources without any."""
    without_sources: tuple[str, ...] = ()
    """Sources left out of every pool and of the traces."""
    hygiene: Hygiene = Hygiene()
    """Rules for equal texts and for test rows."""
    max_prompt_chars: PositiveInt = 1000
    """Longer prompts are dropped, in characters."""

    @model_validator(mode="after")
    def _ambiguous_pool_where_needed(self) -> "TarsMix":
        if self.ambiguous_ratio > 0 and self.harmful_ratio < 1 and not self.ambiguous:
            raise ValueError("ambiguous_ratio is above 0 but `ambiguous` names no source; add one or set it to 0")
        return self


class RSafeMix(RecipeSection):
    """Labelled rows of RSafe: as many safe as unsafe ones from each source."""

    mix: Literal["rsafe"]
    rows_per_label: PositiveInt
    """Rows of each label taken from a two-label source, with replacement where it has too few."""
    sources: tuple[str, ...]
    """Sources with both labels."""
    safe_only: tuple[SourceShare, ...] = ()
    """Sources whose rows are all safe."""
    unsafe_only: tuple[SourceShare, ...] = ()
    """Sources whose rows are all unsafe."""
    max_prompt_task_tokens: PositiveInt = 1024
    """A prompt-classification row longer than this, template included, is dropped."""
    max_response_task_tokens: PositiveInt = 2048
    """The same for response classification."""
    without_categories: tuple[str, ...] = ()
    """Harm categories left out of training, to be tested on."""
    traces: tuple[SourceShare, ...] = ()
    """Labelled rows with reasoning, for the SFT of a guard that reasons."""
    teacher: Teacher | None = None
    """The model that writes missing reasoning of traces; a reply with the wrong verdict is dropped."""
    validation_rows_per_label: Annotated[int, Field(ge=0)] = 0
    """Rows of each label that are left out of the mix, for validation during training."""
    without_sources: tuple[str, ...] = ()
    """Sources left out of the mix and of the traces."""
    hygiene: Hygiene = Hygiene()
    """Rules for equal texts and for test rows."""


class LoRA(RecipeSection):
    """Low-rank adapters instead of full fine-tuning (peft)."""

    rank: PositiveInt = 16
    """Rank of each adapter."""
    alpha: PositiveFloat = 32.0
    """Scale numerator; the adapter is scaled by alpha / rank."""
    dropout: Ratio = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter, as peft names them."""


Offload = Literal["auto", "none", "optimizer", "all"]
"""What of a training waits in the CPU's memory: nothing, AdamW's state, or that with weights and gradients too."""
PLACEMENT: dict[str, bool | dict[str, bool]] = {"offload": True, "vllm": {"sleep": True}}
"""Keys of a training's section that say where it is computed, and not what: they are part of no run's identity."""


class Training(RecipeSection):
    """Settings that every training method has."""

    epochs: PositiveFloat
    """Passes over the rows: traces, prompts or pairs."""
    learning_rate: PositiveFloat
    """Peak learning rate of AdamW."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate."""
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the steps spent warming up."""
    weight_decay: NonNegative = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient-norm clip."""
    max_steps: PositiveInt | None = None
    """Most optimizer steps, even where the epochs are not over by then."""
    precision: Precision = "bf16"
    """Arithmetic on a GPU, and format of the saved model; weights in training and the optimizer stay fp32."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    offload: Offload = "auto"
    """What waits in the CPU's memory: AdamW's state between steps, or `all` under FSDP2; `auto`: as little as fits."""
    save_steps: PositiveInt = 50
    """Optimizer steps between checkpoints."""
    lora: LoRA | None = None
    """Adapters, or none for full fine-tuning."""
    extra: Settings = Field(default_factory=dict)
    """Fields of TRL's own configuration that no key of this section owns; with `--backend verl`, verl's dotted keys."""


class SFT(Training):
    """Supervised fine-tuning on reasoning traces; the loss covers the trace and the answer only."""

    batch_size: PositiveInt
    """Traces an optimizer step, over all devices."""
    micro_batch_size: PositiveInt = 4
    """Traces in one forward pass of one device; the rest is gradient accumulation."""
    max_tokens: PositiveInt = 4608
    """Longest training text, in tokens; longer rows are dropped and counted, never cut."""
    reasoning: bool = True
    """Whether the reasoning is trained on; without it a trace is its answer alone."""


class TarsRewardSettings(RecipeSection):
    """The product format × (safety on a harmful prompt | task on the others)."""

    name: Literal["tars"]
    safety: str
    """Judge of harmful prompts' answers: of harm, of refusal, or of quality, whose score is then taken as it is."""
    task: str
    """Judge of the other answers: a sequence classifier's hub id or path, `server:URL` of one, or `compliance`."""
    require_format: bool = True
    """Whether the format check multiplies the reward."""


class RSafeRewardSettings(RecipeSection):
    """The weighted sum of accuracy and format of a guard's verdict."""

    name: Literal["rsafe"]
    accuracy_weight: Ratio = 0.9
    """Weight of a right verdict."""
    format_weight: Ratio = 0.1
    """Weight of the format: reasoning, where the guard is to reason, and a verdict."""


class VLLM(RecipeSection):
    """Settings of TRL's vLLM, for rollouts that vLLM draws."""

    memory_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """Share of each GPU's memory that vLLM takes where it is colocated; the training has the rest."""
    tensor_parallel: PositiveInt = 1
    """GPUs that hold a colocated copy of the model together; it divides the processes of the training."""
    sleep: bool = True
    """Whether a colocated vLLM gives its weights and its cache back while the loss is computed."""
    server: str = "http://localhost:8000"
    """Address of the server of `vllm-server`."""


class GRPO(Training):
    """Group-relative policy optimisation, as both papers use it."""

    algorithm: Literal["grpo"] = "grpo"
    prompts_per_step: PositiveInt
    """Prompts an optimizer step, over all devices."""
    # The advantage is relative to the group: alone, a completion would always have 0.
    rollouts_per_prompt: Annotated[int, Field(ge=2)]
    """Completions drawn for each prompt: the group."""
    micro_batch_size: PositiveInt
    """Completions in one forward pass of one device; the rest is gradient accumulation."""
    kl_coef: NonNegative
    """KL coefficient, the weight of the k3 estimate in the loss; 0 means that no reference model is loaded."""
    clip: PositiveFloat = 0.2
    """Half-width of the ratio's clipping range."""
    # Dual-clip PPO (arXiv 1912.09729): a bound of 1 or less would clip every negative advantage.
    dual_clip: Annotated[float, Field(gt=1.0)] = 3.0
    """Upper bound of the ratio where the advantage is negative."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    advantage_epsilon: PositiveFloat = 1.0e-6
    """Added to the group's standard deviation."""
    drop_uniform_groups: bool = False
    """Leave groups whose rewards are all 0 or all 1 out of the loss."""
    max_prompt_tokens: PositiveInt
    """Longer prompts are dropped and counted."""
    sampling: Sampling
    """Sampling of rollouts, in training and in validation."""
    reward: Annotated[TarsRewardSettings | RSafeRewardSettings, Field(discriminator="name")]
    """The reward that is maximised."""
    rollouts: Literal["engine", "vllm-colocate", "vllm-server"] = "engine"
    """Generator of rollouts: our engine on the model being trained, or TRL's vLLM, on the same GPUs or as a server."""
    vllm: VLLM = VLLM()
    """Settings of vLLM, for the two values of `rollouts` that use it."""
    shared_prefix: bool = True
    """Compute a group's prompt once in the loss, where the architecture allows it exactly."""
    extra: Settings = Field(default_factory=dict)
    """Arguments of TRL's VLLMGeneration that no key of this section owns; with `--backend verl`, verl's dotted keys."""
    # An RL step takes minutes where an SFT step takes seconds, so that a lost one costs more.
    save_steps: PositiveInt = 10
    """Optimizer steps between checkpoints."""


class DPO(Training):
    """Preference optimisation on pairs of the start model's own completions, ranked by the reward (TARS's baseline)."""

    algorithm: Literal["dpo"]
    rollouts_per_prompt: Annotated[int, Field(ge=2)]
    """Completions drawn for each prompt, once; ranked, they make half as many pairs at most."""
    batch_size: PositiveInt
    """Pairs an optimizer step, over all devices."""
    micro_batch_size: PositiveInt = 2
    """Pairs in one forward pass of one device; the rest is gradient accumulation."""
    beta: PositiveFloat
    """Weight of the log-ratio to the reference, which is the start."""
    rpo_alpha: NonNegative
    """Weight of the chosen completion's negative log-likelihood a token (RPO's α); 0 is plain DPO."""
    max_prompt_tokens: PositiveInt
    """Longer prompts are dropped and counted."""
    sampling: Sampling
    """Sampling of completions."""
    reward: TarsRewardSettings
    """The reward that ranks completions."""


def _algorithm(section: object) -> str:
    """The name of a section's training algorithm; GRPO is the default."""
    # Pydantic passes a mapping from a file, or a model that was built in Python.
    if isinstance(section, dict):
        return str(section.get("algorithm", "grpo"))
    return str(getattr(section, "algorithm", "grpo"))


class GuardValidation(RecipeSection):
    """Validation of a guard during training, on rows left out of its mix."""

    every_steps: PositiveInt
    """Optimizer steps between two looks; the first is before any step."""
    keep_best: bool = True
    """Whether the model with the best F1 is kept in place of the last one."""


class GuardSet(RecipeSection):
    """Labelled rows that a guard is measured on."""

    source: str
    """Name of a data source."""
    name: str | None = None
    """Name of the set in figures, by default its source; sets of the same name are one."""
    split: Literal["train", "test"] = "test"
    """Split of the source; `train` is for protocols that test on rows which training left out."""
    categories: tuple[str, ...] = ()
    """Categories that unsafe rows are taken of; none named takes all."""
    safe: Annotated[int, Field(ge=0)] | None = None
    """Most safe rows; null takes all."""
    unsafe: Annotated[int, Field(ge=0)] | None = None
    """Most unsafe rows; null takes all."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Rows of each label in the source's own seeded order that are passed over first (training has them)."""
    policy: str | None = None
    """Policy that the guard applies to this set, in place of its own."""

    @property
    def label(self) -> str:
        """Name of the set in figures."""
        return self.name or self.source


class GuardEvaluation(RecipeSection):
    """The sets that `eval guard` measures a guard on, and how many rows of them."""

    sets: tuple[GuardSet, ...]
    """Sets of labelled rows."""
    limit: PositiveInt | None = None
    """Most rows a set, drawn by the seed; null takes all."""
    resamples: PositiveInt = 1000
    """Bootstrap resamples behind each 95 % interval."""


class GuardSection(RecipeSection):
    """A guard that reasons over a policy and says safe or unsafe."""

    policy: str = "default"
    """Name of a shipped policy (`safereason guard policy ls`), or a YAML file."""
    reasoning: bool = True
    """Whether the prompt demands reasoning before the verdict; the format of the reward goes with it."""
    prompt_template: str | None = None
    """File with the user turn for a prompt, or `prompt-brief`, in place of ours."""
    response_template: str | None = None
    """File with the user turn for a response, or `response-brief`, in place of ours."""
    sft: SFT | None = None
    """SFT of the guard, before the RL or alone; null for none."""
    train: GRPO | None = None
    """RL of the guard; null for none."""
    validation: GuardValidation | None = None
    """Validation during RL; null watches the training's own rollouts only."""
    sampling: Sampling
    """Sampling of verdicts after training."""
    eval: GuardEvaluation | None = None
    """The guard's evaluation."""

    @model_validator(mode="after")
    def _one_training_at_least(self) -> "GuardSection":
        if self.sft is None and self.train is None:
            raise ValueError("neither `sft` nor `train` is there; a guard needs one of them")
        # Two keys for one decision could contradict each other.
        if self.sft is not None and not self.sft.reasoning:
            raise ValueError("sft.reasoning is not a guard's; set `reasoning`, which its questions and RL go by")
        if self.train is not None and not isinstance(self.train.reward, RSafeRewardSettings):
            raise ValueError("train.reward is not `rsafe`, the reward of a guard's verdicts")
        return self


class Attacking(RecipeSection):
    """Settings that all attacks share. `safereason attack ls` lists attacks and the settings of each."""

    attacker: str | None = None
    """Model that writes prompts, for attacks that have one."""
    attackers: dict[str, str] = Field(default_factory=dict)
    """Attackers by attack's name, in place of `attacker`."""
    judge: str | None = None
    """Judge that guides attacks which look at answers: one of harm or refusal by its name, or `rating:MODEL`."""
    others: tuple[str, ...] = ()
    """Further target models of the same search (`gcg`: one suffix for all of them)."""
    sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=256)
    """Sampling of the target model's answers during the attack."""
    max_queries: PositiveInt | None = None
    """Most queries to the target in one search; null sets no bound."""
    settings: dict[str, Settings] = Field(default_factory=dict)
    """Settings by attack's name, in place of its defaults."""
    engine: EngineChoice = "auto"
    """Engine of models that are named without one, in attacks that only ask them."""


class Evaluation(RecipeSection):
    """The evaluations of a model: prompts, attacks and judges."""

    sampling: Sampling
    """Sampling of answers."""
    prefix: str = "<think>\n"
    """Appended to the generation prompt; empty lets the model begin by itself."""
    behaviors: str | None = "harmbench"
    """Source of the behaviors of `eval harmbench`, or null to leave defence success out."""
    attacks: tuple[str, ...] = ("direct",)
    """Attacks on each behavior."""
    harm_judge: str = "harmbench"
    """Judge of answers to harmful prompts: `harmbench`, `strongreject`, `refusal`, `moderation`, `guard:RUN`."""
    benign: str | None = "xstest"
    """Source of the prompts of `eval xstest`, or null to leave compliance out."""
    refusal_judge: str = "strongreject"
    """Judge of refusal: `strongreject`, `xstest-rubric:MODEL`, `refusal`."""
    also: tuple[str, ...] = ()
    """Further evaluations that `run` makes of each model, by name (`safereason eval ls`)."""
    limit: PositiveInt | None = None
    """Most prompts an evaluation, drawn by the seed; null takes all."""
    engine: EngineChoice = "auto"
    """Engine of the model that is measured, if it is named without one."""


class Recipe(RecipeSection):
    """One model of a paper, from data to evaluation."""

    name: str
    """Name of the recipe's file, without `.yaml`."""
    paper: str | None = None
    """The paper it reproduces; every value of such a recipe says where it comes from."""
    model: str
    """Base model: `org/name`, a path, `embedded/smollm2-135m` or a run directory."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the data draw, of training and of sampling."""
    hardware: Annotated[str, Field(pattern=r"^[1-9]\d*x[1-9]\d*GB$")] | None = None
    """The GPUs that it is meant for, as `4x48GB`; `doctor` counts with them unless others are named."""
    report_to: Literal["none", "trackio", "wandb", "tensorboard", "mlflow"] = "none"
    """Experiment tracker that receives a training's metrics, beside its run directory; no run depends on it."""
    data: Annotated[TarsMix | RSafeMix, Field(discriminator="mix")]
    sft: SFT | None = None
    # A function as discriminator, because a recipe may leave `algorithm` out.
    rl: Annotated[Annotated[GRPO, Tag("grpo")] | Annotated[DPO, Tag("dpo")], Discriminator(_algorithm)] | None = None
    guard: GuardSection | None = None
    attack: Attacking | None = None
    eval: Evaluation | None = None
    provenance: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    """Source of each value, by dotted key; a section's entry covers all values in it that have none of their own."""
    _reference: str | None = PrivateAttr(default=None)

    @property
    def reference(self) -> str:
        """The argument of `--recipe` that names this recipe: a shipped recipe's name, or a path."""
        return self._reference or self.name

    def referred_to_as(self, reference: str) -> "Recipe":
        """The same recipe, which messages name as the command line did."""
        # A private attribute of a frozen model may be set. It is neither compared nor dumped.
        recipe = self.model_copy()
        recipe._reference = reference
        return recipe

    def __eq__(self, other: object) -> bool:
        """Whether two recipes have the same settings; the command line's name for them does not count."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    # Python drops the inherited hash of a class that defines `__eq__`.
    __hash__ = RecipeSection.__hash__
