"""Halves of a test set, for studies that have no other data: train on one, and test on the other.

Their reasoning is no teacher's: a sentence by template from the row's own label and category codes, enough for a warm
start and for nothing else.
"""

from collections.abc import Iterator
from dataclasses import replace

from safereason.data.draw import digest, order_key
from safereason.data.example import Example
from safereason.data.sources.base import Source, Split


def half(source: Source) -> Source:
    """A source's test rows, one half to train on and the other to test on; rows of one prompt are in the same half."""
    name = f"{source.name}-half"

    def prompts(split: Split) -> Iterator[Example]:
        return (replace(e, source=name) for e in source.stream("test") if _side(e.prompt) == split)

    def reasoned(split: Split) -> Iterator[Example]:
        return map(_explained, prompts(split))

    title = f"one half of {source.name} to train on, and the other to test on"
    return Source(
        name, title, source.page, source.licence, ("train", "test"), prompts, reasoned, source.gated, source.rows
    )


def _explained(example: Example) -> Example:
    """The row with the least reasoning that leads to its verdict, written from its own label and category codes."""
    label = example.label or ("unsafe" if example.kind == "harmful" else "safe")
    # A policy's id is a code; a category in words is none that a policy lists.
    codes = [category for category in example.categories if category.isalnum() and category.isupper()]
    if label == "safe":
        return replace(example, reasoning="Nothing in it falls under the policy.", answer=r"\boxed{safe}")
    if not codes:
        return replace(example, reasoning="It asks for something harmful.", answer=r"\boxed{unsafe}")
    listed = ", ".join(codes)
    answer = f"Categories: {listed}\n\n" + r"\boxed{unsafe}"
    return replace(example, reasoning=f"It falls under {listed} of the policy.", answer=answer)


def _side(prompt: str) -> Split:
    return "train" if int(digest("half", order_key(prompt)), 16) % 2 else "test"
