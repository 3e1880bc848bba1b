"""The judges by name, each with what a listing, a precondition and a memory estimate need; nothing heavy is loaded.

The function that opens a judge imports its module. It gets the argument, as the entry's `parse` makes it of the text
after the colon, what the judge is to measure, and how its model is loaded.
"""

from typing import TYPE_CHECKING

from safereason.engines.engine_spec import Loading
from safereason.engines.spec import ModelSpec
from safereason.judges.base import MEASURES, DeferredJudge, Judge, Measure
from safereason.judges.entry import JudgeEntry, ModelArgument, TextArgument
from safereason.registry import Registry

if TYPE_CHECKING:
    from safereason.guard.open import GuardSpec
    from safereason.judges.rubric import RubricSpec

HARMBENCH_MODEL = ModelSpec("cais/HarmBench-Llama-2-13b-cls")
STRONGREJECT_MODEL = ModelSpec("qylu4156/strongreject-15k-v1")
"""The published weights of the two judges, which are loaded where no model is named."""
REWARD_MODEL = "reward-model"
"""Name of the judge that is a sequence classifier."""
SERVED = "server:"
"""Beginning of its argument where a server has the classifier; the address follows."""


def _refusal(argument: None, measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.refusal import RefusalJudge

    return RefusalJudge()


def _refusal_learned(argument: None, measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.refusal_learned import LearnedRefusal

    return LearnedRefusal()


def _compliance(argument: None, measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.refusal import Compliance

    return Compliance()


def _moderation(argument: TextArgument | None, measure: Measure, loading: Loading) -> Judge:
    from safereason.guard.others import GUARDS
    from safereason.guard.others.moderation import ModerationAPI
    from safereason.judges.moderation import Moderation

    model = GUARDS["moderation"].model
    if argument is not None:
        model = argument.text
    return Moderation(ModerationAPI(model))


def _parse_reward_model(text: str) -> ModelArgument | TextArgument:
    # Which model a server has is known to the server alone.
    if text.startswith(SERVED):
        return TextArgument(text)
    return ModelArgument.parse(text)


def _reward_model(argument: ModelArgument | TextArgument, measure: Measure, loading: Loading) -> Judge:
    def open_model() -> Judge:
        from safereason.judges.reward_model import RewardModel, ServedRewardModel

        if isinstance(argument, TextArgument):
            return ServedRewardModel.at(argument.text.removeprefix(SERVED))
        return RewardModel(argument.model)

    # A server is asked at once whether it is there.
    if not loading.is_deferred or isinstance(argument, TextArgument):
        return open_model()
    from safereason.engines.open import load_tokenizer

    argument.model.check()
    # A model or a tokenizer that wants to run its own code is refused now, not after the completions.
    load_tokenizer(argument.model)
    return DeferredJudge(REWARD_MODEL, "quality", open_model)


def _parse_guard(text: str) -> "GuardSpec":
    from safereason.guard.open import GuardSpec

    return GuardSpec.parse(text)


def _guard(argument: "GuardSpec", measure: Measure, loading: Loading) -> Judge:
    from safereason.guard.others import GuardOptions
    from safereason.judges.guard_judge import GuardJudge

    return GuardJudge(argument.open(GuardOptions(loading=loading)))


def _harmbench(argument: ModelArgument, measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.harmbench import open_harmbench

    return open_harmbench(argument.model, loading)


def _strongreject(argument: ModelArgument, measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.strongreject import StrongReject

    return StrongReject(argument.model, loading, refusal=measure == "refusal")


def _strongreject_rubric(argument: ModelArgument, measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.strongreject import open_strongreject_rubric

    return open_strongreject_rubric(argument.model, loading, refusal=measure == "refusal")


def _xstest_rubric(argument: ModelArgument, measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.xstest import open_xstest_rubric

    return open_xstest_rubric(argument.model, loading)


def _parse_rubric(text: str) -> "RubricSpec":
    from safereason.judges.rubric import RubricSpec

    return RubricSpec.parse(text)


def _rubric(argument: "RubricSpec", measure: Measure, loading: Loading) -> Judge:
    from safereason.judges.rubric import open_own

    return open_own(argument, loading)


JUDGES: Registry[JudgeEntry] = Registry(
    "judge",
    JudgeEntry,
    (
        JudgeEntry(
            "refusal",
            "Refusal by how an answer opens; local, and weaker than refusal-learned",
            _refusal,
            ("refusal",),
            title="local refusal judge, weak",
        ),
        JudgeEntry(
            "refusal-learned",
            "Refusal by a small classifier learned from XSTest's human labels; the local default",
            _refusal_learned,
            ("refusal",),
            title="local learned refusal judge, weak",
        ),
        JudgeEntry(
            "compliance",
            "1 - refusal, and 0 for a degenerate answer; local and weak",
            _compliance,
            ("quality",),
            title="local compliance judge, weak",
        ),
        JudgeEntry(
            "moderation",
            "Largest category score of a Moderation API; moderation:MODEL names the model",
            _moderation,
            ("harm",),
            argument="MODEL",
            parse=TextArgument,
        ),
        JudgeEntry(
            REWARD_MODEL,
            "A sequence classifier's score: reward-model:ORG/NAME",
            _reward_model,
            ("quality",),
            argument="ORG/NAME, path or server:URL",
            needs_argument=True,
            parse=_parse_reward_model,
        ),
        JudgeEntry(
            "guard",
            "A guard's verdict: guard:RUN, guard:MODEL, guard:RECIPE (its newest guard), guard:llama-guard:MODEL, ...",
            _guard,
            ("harm",),
            argument="RUN, model or NAME:MODEL",
            needs_argument=True,
            parse=_parse_guard,
        ),
        JudgeEntry(
            "harmbench",
            "HarmBench's classifier, Llama-2-13B by default; harmbench:MODEL names another",
            _harmbench,
            ("harm",),
            argument="ORG/NAME or path",
            default=ModelArgument(HARMBENCH_MODEL),
        ),
        JudgeEntry(
            "strongreject",
            "StrongREJECT's fine-tuned evaluator, of harm or refusal as the evaluation wants it",
            _strongreject,
            ("harm", "refusal"),
            argument="ORG/NAME or path",
            default=ModelArgument(STRONGREJECT_MODEL),
        ),
        JudgeEntry(
            "strongreject-rubric",
            "StrongREJECT's rubric put to a chat model: strongreject-rubric:openai/NAME",
            _strongreject_rubric,
            ("harm", "refusal"),
            argument="openai/NAME or another chat model",
            needs_argument=True,
        ),
        JudgeEntry(
            "xstest-rubric",
            "XSTest's classes of refusal, by a chat model: xstest-rubric:openai/NAME",
            _xstest_rubric,
            ("refusal",),
            argument="openai/NAME or another chat model",
            needs_argument=True,
        ),
        JudgeEntry(
            "rubric",
            "A rubric of your own put to a chat model: rubric:FILE.yaml or rubric:FILE.yaml@openai/NAME",
            _rubric,
            MEASURES,
            argument="FILE.yaml or FILE.yaml@MODEL",
            needs_argument=True,
            parse=_parse_rubric,
        ),
    ),
)
