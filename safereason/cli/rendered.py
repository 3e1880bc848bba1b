"""The training text of a row, token for token, with the part that is trained apart from the rest."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from safereason.cli import output
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.text.visible import visible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from safereason.guard.guard_prompt import GuardPrompt
    from safereason.recipe.schema import SFT, Recipe
    from safereason.text.chat import Conversation

# A row of a dataset or a run: any JSON object.
TableRow = dict[str, object]


class Rendered(TypedDict):
    """A row's training text in two parts. Its keys are those of `--json`."""

    given: str
    """The text that the model reads: the prompt in its chat template, and a prefix where the row has one."""
    given_tokens: int
    trained: str
    """The text that SFT trains on; empty for a row without an answer."""
    trained_tokens: int
    too_long: bool
    """Whether SFT leaves the row out because of its length."""


Render = Callable[[TableRow], Rendered]


def renderer(model_name: str, recipe: "Recipe | None") -> Render:
    """A function from a row to its training text: the token ids of SFT, decoded.

    Args:
        model_name: The model, for its tokenizer and chat template.
        recipe: A recipe with a guard puts the row into the guard's prompt. Its SFT section sets the longest text.

    Raises:
        InputError: The model has no tokenizer or no chat template. The function raises it, too, for a row without a
            text `prompt`.
    """
    from safereason.engines.open import load_tokenizer
    from safereason.guard import guard_prompt
    from safereason.guard.prompt import Question
    from safereason.text import chat
    from safereason.text.inert import special_tokens

    with output.results_only():
        tokenizer = load_tokenizer(ModelSpec.parse(model_name))
    guards_prompt: GuardPrompt | None = None
    sft: SFT | None = None
    if recipe is not None:
        sft = recipe.sft
        if recipe.guard:
            guards_prompt = guard_prompt.of_section(recipe.guard)
            sft = recipe.guard.sft

    def conversation_of(prompt: str, response: str | None) -> "Conversation":
        if guards_prompt is None:
            return chat.user(prompt)
        return guards_prompt.conversation(Question(prompt, response), special_tokens(tokenizer))

    # Without a recipe, a row is rendered with its reasoning, as by SFT's default.
    has_reasoning = sft is None or sft.reasoning
    if guards_prompt is not None:
        has_reasoning = guards_prompt.reasoning

    def render(row: TableRow) -> Rendered:
        texts = {key: value for key, value in row.items() if isinstance(value, str)}
        if "prompt" not in texts:
            raise InputError("--rendered: a row has no text `prompt`; name a source or a file of prompts")
        conversation = conversation_of(texts["prompt"], texts.get("response"))
        trained: Sequence[int] = ()
        if _is_trace(texts, has_reasoning):
            reasoning = texts["reasoning"] if has_reasoning else None
            given, trained = chat.trace_ids(tokenizer, conversation, reasoning, texts["answer"])
        else:
            given = chat.prompt_ids(tokenizer, conversation, texts.get("prefix", ""))
        given_text, trained_text = _decode_parts(tokenizer, given, trained)
        tokens = len(given) + len(trained)
        return {
            "given": given_text,
            "given_tokens": len(given),
            "trained": trained_text,
            "trained_tokens": len(trained),
            "too_long": bool(trained and sft and tokens > sft.max_tokens),
        }

    return render


def _is_trace(texts: Mapping[str, str], has_reasoning: bool) -> bool:
    """Whether SFT can train on the row: it has an answer, and reasoning where SFT trains on that too."""
    # A row with `text` is a rollout or a completion: a model's own output is no trace.
    if "text" in texts:
        return False
    if has_reasoning and not texts.get("reasoning", "").strip():
        return False
    return bool(texts.get("answer", "").strip())


def _decode_parts(
    tokenizer: "PreTrainedTokenizerBase", given: Sequence[int], trained: Sequence[int]
) -> tuple[str, str]:
    """The texts of both parts; the second is what follows the first in the text of the whole."""

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # Decoded alone, the second part may lose its first space: some tokenizers drop one at the beginning of a text.
    given_text = decode(given)
    whole_text = decode([*given, *trained])
    if whole_text.startswith(given_text):
        return given_text, whole_text[len(given_text) :]
    # A character may have its bytes in both parts. Then the whole cannot be cut, and each part is decoded alone.
    return given_text, decode(trained)


def rendered_lines(rendered: Rendered, coloured: bool) -> list[str]:
    """Both parts with their numbers of tokens, as lines for a person; the trained one may be green."""
    lines = [f"given ({rendered['given_tokens']} tokens, not trained):"]
    lines += _indented_lines(rendered["given"], coloured=False)
    if not rendered["trained_tokens"]:
        lines.append("trained: nothing; the model writes from here")
        return lines
    title = f"trained ({rendered['trained_tokens']} tokens"
    if rendered["too_long"]:
        title += "; the whole is longer than SFT takes, and is left out"
    lines.append(f"{title}):")
    lines += _indented_lines(rendered["trained"], coloured)
    return lines


# Escape codes of a terminal.
GREEN = "\x1b[32m"
PLAIN = "\x1b[0m"


def _indented_lines(text: str, coloured: bool) -> list[str]:
    lines: list[str] = []
    for line in visible(text).split("\n"):
        # Each line sets the colour anew: a pager forgets it at the end of a line.
        if coloured and line:
            lines.append(f"  {GREEN}{line}{PLAIN}")
        else:
            lines.append(f"  {line}")
    return lines
