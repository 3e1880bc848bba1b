"""What a request asks the guard, or the refusal that says which limit it passes."""

from safereason.errors import InputError
from safereason.guard.conversation import turns_of
from safereason.guard.prompt import Question, question_of
from safereason.guard.server.refusal import invalid
from safereason.guard.server.schema import GuardRequest, ModerationRequest, TextPart
from safereason.guard.server.settings import Limits


def of_moderation(request: ModerationRequest, limits: Limits) -> list[Question]:
    """One question a text, each asked about as a user's prompt; parts are joined into one text.

    Raises:
        Refusal: There is an image among them, or too much.
    """
    given = request.input if isinstance(request.input, list) else [request.input]
    most = min(limits.max_inputs, limits.max_queue)
    if not 0 < len(given) <= most:
        raise invalid("input", f"{len(given)} texts; send at least 1 and at most {most}")
    texts = [text for text in given if isinstance(text, str)]
    parts = [part.text for part in given if isinstance(part, TextPart)]
    if len(texts) + len(parts) < len(given):
        raise invalid("input", "images are not judged; send text alone", code="images_not_judged")
    questions = [Question(text) for text in texts or ["\n\n".join(parts)]]
    for question in questions:
        _check_length(question, "input", limits)
    return questions


def of_guard(request: GuardRequest, limits: Limits) -> Question:
    """The question about a conversation's last turn, or about a prompt or its response.

    Raises:
        Refusal: It is neither of the two or both, it is no conversation, or there is too much of it.
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
        _whole(question)
    except InputError as error:
        raise invalid("messages", str(error).removeprefix("messages: ")) from error
    _check_length(question, "messages", limits)
    return question


def _whole(question: Question) -> None:
    """Refuses what JSON can escape and no tokenizer can read."""
    try:
        f"{question.prompt}{question.response or ''}".encode()
    except UnicodeEncodeError:
        raise InputError("half a surrogate pair is among the texts, which is no text") from None


def _check_length(question: Question, param: str, limits: Limits) -> None:
    length = len(question.prompt) + len(question.response or "")
    if length > limits.max_chars:
        said = f"{length} characters; at most {limits.max_chars} are judged at a time"
        raise invalid(param, said, code="text_too_long")
