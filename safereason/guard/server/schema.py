"""What the endpoints take and give. Keys they do not know are passed over, as OpenAI's API passes over them."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    WrapValidator,
)
from pydantic_core import PydanticCustomError


def _input_or_one_error(value: Any, check: Any) -> Any:
    """One error in place of one for each kind that the input is not."""
    try:
        return check(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        if broken := next((detail for detail in details if detail["type"] == "value_error"), None):
            raise ValueError(str(broken["ctx"]["error"])) from None
        said = "should be a text, a list of texts, or a list of parts such as {type: text, text: ...}"
        raise PydanticCustomError("input", said) from None


def _whole(text: str) -> str:
    """Refuses what JSON can escape and no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no text") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]


class Body(BaseModel):
    """What its fields say of themselves goes into /openapi.json."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class TextPart(Body):
    """A part of a text."""

    type: Literal["text"]
    text: Text


class ImagePart(Body):
    """A part that is refused: no image is judged."""

    type: Literal["image_url"]


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationRequest(Body):
    """The Moderation API's."""

    # Each list ends at its first error: a body of a megabyte could hold half a million of them, and take seconds.
    input: Annotated[
        Text | Annotated[list[Text], Field(fail_fast=True)] | Annotated[list[Part], Field(fail_fast=True)],
        WrapValidator(_input_or_one_error),
    ]
    """A text, or texts with a result each, or the parts of one text."""
    model: str | None = None
    """Whatever it names, the guard that is served answers."""


class Result(Body):
    """What is said of one text."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationResponse(Body):
    """The Moderation API's."""

    id: str
    model: str
    results: list[Result]


class TurnPart(Body):
    """A text of a turn, with the text under the name of its type (`text`, or `refusal`)."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None


class Turn(Body):
    """One turn of a conversation, as OpenAI's clients keep it; `guard.conversation` reads it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[TurnPart] | None = None
    """A text or a list of text parts; null where an assistant calls tools or refuses."""
    refusal: Text | None = None
    tool_calls: list[dict[str, Any]] | None = None


class GuardRequest(Body):
    """A conversation, whose last turn is judged; or a prompt, and the response to judge where there is one."""

    messages: list[SkipValidation[Turn]] | None = None
    prompt: Text | None = None
    response: Text | None = None
    policy: str | None = None
    """Name of a shipped policy, in place of the guard's own."""


class NamedCategory(Body):
    """A category of the policy."""

    id: str
    name: str


class GuardResponse(Body):
    """All that the guard says."""

    label: Literal["safe", "unsafe"] | None
    """Null where there is no verdict that can be read."""
    score: float | None
    """Probability of `unsafe`, where it is to be had."""
    categories: list[NamedCategory]
    reasoning: str
    unparsed: bool
    reason: str | None
    """Why there is no verdict."""
    policy: str
    model: str


class ErrorDetail(Body):
    """What went wrong."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str


class ErrorBody(Body):
    """The body of every answer that is none: OpenAI's shape."""

    error: ErrorDetail


class Model(Body):
    """A model that answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When the server began, in seconds since 1970."""
    owned_by: Literal["safereason"] = "safereason"


class Models(Body):
    """The models that answer: the guard alone."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(Body):
    """Whether it lives, or takes requests."""

    status: str
