"""Questions of a request, or the refusal that names the limit it exceeds."""

from safereason.errors import InputError
from safereason.guard.conversation import turns_of
from safereason.guard.prompt import Question, question_of
from safereason.guard.server.refusal import invalid
from safereason.guard.server.schema import GuardRequest, ModerationRequest, TextPart
from safereason.guard.server.settings import Limits


def of_moderation(request: ModerationRequest, limits: Limits) -> list[Question]:
    """One question per text, each judged as a user's prompt. Parts are joined to one text.

    Raises:
        Refusal: There is an image among the parts, or too much text.
    """
    inputs = request.input if isinstance(request.input, list) else [request.input]
    # All questions of a request wait in the queue together, so its length is a limit too.
    most = min(limits.max_inputs, limits.max_queue)
    if not 0 < len(inputs) <= most:
        raise invalid("input", f"{len(inputs)} texts; send at least 1 and at most {most}")
    texts: list[str] = []
    parts: list[str] = []
    for item in inputs:
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, TextPart):
            parts.append(item.text)
        else:
            raise invalid("input", "images are not judged; send text alone", code="images_not_judged")
    # The schema allows either texts or parts, so one of the two lists is empty.
    if parts:
        texts = ["\n\n".join(parts)]
    questions = [Question(text) for text in texts]
    for question in questions:
        _check_length(question, "input", limits)
    return questions


def of_guard(request: GuardRequest, limits: Limits) -> Question:
    """The question about the last turn of a conversation, or about a prompt or its response.

    Raises:
        Refusal: The request holds both forms or neither, the conversation is malformed, or there is too much text.
    """
    if (request.messages is None) == (request.prompt is None):
        raise invalid("messages", "send either messages, or a prompt and perhaps its response")
    if request.messages is None:
        question = Question(request.prompt or "", request.response)
        _check_length(question, "prompt", limits)
        return question
    if request.response is not None:
        raise invalid("response", "goes with a prompt; among messages it is the last, the assistant's")
    if len(request.messages) > limits.max_turns:
        raise invalid("messages", f"{len(request.messages)} turns; at most {limits.max_turns} are judged")
    try:
        question = question_of(turns_of(request.messages))
        # The schema does not check the turns, so their texts can still hold what it refuses elsewhere.
        _check_encodable(question)
    except InputError as error:
        raise invalid("messages", str(error).removeprefix("messages: ")) from error
    _check_length(question, "messages", limits)
    return question


def _check_encodable(question: Question) -> None:
    """Refuses half a surrogate pair, which JSON can escape and no tokenizer can read."""
    try:
        f"{question.prompt}{question.response or ''}".encode()
    except UnicodeEncodeError:
        raise InputError("half a surrogate pair is among the texts, which is no text") from None


def _check_length(question: Question, param: str, limits: Limits) -> None:
    length = len(question.prompt) + len(question.response or "")
    if length > limits.max_chars:
        message = f"{length} characters; at most {limits.max_chars} are judged at a time"
        raise invalid(param, message, code="text_too_long")
