"""Schemas of requests and answers. Unknown keys are ignored, as by OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError


def _validate_input(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """The valid input. A mistake is one error; pydantic gives one for each type of the union that does not fit.

    Raises:
        ValueError: The input has an allowed type, and a text in it is invalid.
        PydanticCustomError: The input has none of the allowed types.
    """
    try:
        return validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            if detail["type"] == "value_error":
                raise ValueError(str(detail["ctx"]["error"])) from None
        message = "should be a text, a list of texts, or a list of parts such as {type: text, text: ...}"
        raise PydanticCustomError("input", message) from None


def _check_surrogates(text: str) -> str:
    """The text itself, without half a surrogate pair, which JSON can escape and no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no text") from None
    return text


ValidText = Annotated[str, AfterValidator(_check_surrogates)]


class Body(BaseModel):
    """Base of all schemas. The docstrings of their fields go into /openapi.json."""

    # So that a field is described in one place only.
    model_config = ConfigDict(use_attribute_docstrings=True)


class TextPart(Body):
    """A part of a text."""

    type: Literal["text"]
    text: ValidText


class ImagePart(Body):
    """A part that is refused: no image is judged."""

    type: Literal["image_url"]


# With a discriminator, pydantic names the wrong type; without one it lists the errors of every type.
Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationRequest(Body):
    """Body of a request to the Moderation API."""

    # Each list ends at its first error: a body of a megabyte could hold half a million of them, and take seconds.
    input: Annotated[
        ValidText | Annotated[list[ValidText], Field(fail_fast=True)] | Annotated[list[Part], Field(fail_fast=True)],
        WrapValidator(_validate_input),
    ]
    """A text, or texts with a result each, or the parts of one text."""
    model: str | None = None
    """Ignored: the served guard answers every request."""


class ModerationResult(Body):
    """The result for one text."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationResponse(Body):
    """Body of an answer of the Moderation API."""

    id: str
    model: str
    results: list[ModerationResult]


class TurnPart(Body):
    """A text of a turn, with the text under the name of its type (`text`, or `refusal`)."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: ValidText | None = None
    refusal: ValidText | None = None


class Turn(Body):
    """One turn of a conversation in the format of OpenAI's clients; `guard.conversation` reads it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: ValidText | list[TurnPart] | None = None
    """A text or a list of text parts; null for an assistant that calls tools or refuses."""
    refusal: ValidText | None = None
    tool_calls: list[dict[str, Any]] | None = None


class GuardRequest(Body):
    """A conversation, whose last turn is judged; or a prompt, and the response to judge if there is one."""

    # `Turn` is for /openapi.json alone. `guard.conversation` checks the turns, with messages of its own.
    messages: list[SkipValidation[Turn]] | None = None
    prompt: ValidText | None = None
    response: ValidText | None = None
    policy: str | None = None
    """Name of a shipped policy, used instead of the guard's own."""


class NamedCategory(Body):
    """A category of the policy."""

    id: str
    name: str


class GuardResponse(Body):
    """The full verdict of the guard."""

    label: Literal["safe", "unsafe"] | None
    """Null without a verdict that can be read."""
    score: float | None
    """Probability of `unsafe`; null without log-probabilities."""
    categories: list[NamedCategory]
    reasoning: str
    unparsed: bool
    reason: str | None
    """Reason why there is no verdict; null where there is one."""
    policy: str
    model: str


ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class ErrorDetail(Body):
    """The error in an answer, with the keys of OpenAI's API."""

    message: str
    type: ErrorType
    param: str | None
    code: str


class ErrorBody(Body):
    """The body of every error answer, in OpenAI's shape."""

    error: ErrorDetail


class ModelCard(Body):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Start of the server, in seconds since 1970."""
    owned_by: Literal["safereason"] = "safereason"


class Models(Body):
    """The served models: the guard alone."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Body):
    """The state of the server."""

    status: str
