"""What a model reads of a row, token for token, and which part of it is trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from safereason.cli import output
from safereason.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from safereason.recipe.schema import Recipe

Rendered = dict[str, Any]
Render = Callable[[dict[str, Any]], Rendered]


def renderer(spec: str, recipe: "Recipe | None") -> Render:
    """A function from a row to its training text, as what the token ids of SFT decode to.

    Args:
        spec: The model whose tokenizer and template are meant.
        recipe: Where it has a guard, a row is what the guard is asked about; its SFT says how long a text may be.

    Raises:
        InputError: The model has no tokenizer or no chat template, or a row no text `prompt`.
    """
    from safereason.engines.open import load_tokenizer
    from safereason.guard import guide
    from safereason.guard.prompt import Question
    from safereason.text import chat
    from safereason.text.inert import special_tokens

    with output.results_only():
        tokenizer = load_tokenizer(spec)
    guard = recipe.guard if recipe else None
    asked = guide.of_section(guard) if guard else None
    sft = guard.sft if guard else recipe.sft if recipe else None

    def render(row: dict[str, Any]) -> Rendered:
        texts = {key: value for key, value in row.items() if isinstance(value, str)}
        if "prompt" not in texts:
            raise InputError("--rendered: a row has no text `prompt`; name a source or a file of prompts")
        question = Question(texts["prompt"], texts.get("response"))
        conversation = asked.conversation(question, special_tokens(tokenizer)) if asked else chat.user(question.prompt)
        reasoned = asked.reasoning if asked else sft is None or sft.reasoning
        if _is_trace(texts, reasoned):
            reasoning = texts["reasoning"] if reasoned else None
            given, trained = chat.trace_ids(tokenizer, conversation, reasoning, texts["answer"])
        else:
            given, trained = chat.prompt_ids(tokenizer, conversation, texts.get("prefix", "")), []
        before, after = _decoded(tokenizer, given, trained)
        return {
            "given": before,
            "given_tokens": len(given),
            "trained": after,
            "trained_tokens": len(trained),
            "too_long": bool(trained and sft and len(given) + len(trained) > sft.max_tokens),
        }

    return render


def _is_trace(texts: Mapping[str, str], reasoned: bool) -> bool:
    """Whether SFT trains on the row; what a model wrote, `text`, is none."""
    needed = ("reasoning", "answer") if reasoned else ("answer",)
    return "text" not in texts and all(texts.get(name, "").strip() for name in needed)


def _decoded(tokenizer: "PreTrainedTokenizerBase", given: Sequence[int], trained: Sequence[int]) -> tuple[str, str]:
    """The text of both parts, the second as it stands after the first: some tokenizers drop a space at a beginning."""

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    before, whole = decode(given), decode([*given, *trained])
    return before, whole[len(before) :] if whole.startswith(before) else decode(trained)


def lines(rendered: Rendered, coloured: bool) -> list[str]:
    """Both parts with their numbers of tokens, as lines for a person; the trained one may be coloured."""
    found = [f"given ({rendered['given_tokens']} tokens, not trained):", *_indented(rendered["given"], False)]
    if not rendered["trained_tokens"]:
        return [*found, "trained: nothing; the model writes from here"]
    dropped = "; the whole is longer than SFT takes, and is left out" if rendered["too_long"] else ""
    title = f"trained ({rendered['trained_tokens']} tokens{dropped}):"
    return [*found, title, *_indented(rendered["trained"], coloured)]


GREEN, PLAIN = "\x1b[32m", "\x1b[0m"


def _indented(text: str, coloured: bool) -> list[str]:
    """Lines of a text; each has its own colour, since a pager forgets it at the end of a line."""
    found = output.visible(text).split("\n")
    return [f"  {GREEN}{line}{PLAIN}" if coloured and line else f"  {line}" for line in found]
