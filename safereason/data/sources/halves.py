"""Halves of a test set, for studies without other data: one to train on, and one to test on.

The reasoning of the training half is not a teacher's. It is one sentence from a template, made from the row's own label
and category codes: enough for a warm start, and for nothing else.
"""

from collections.abc import Iterator
from dataclasses import replace

from safereason.data.example import Example
from safereason.data.sampling import digest, order_key
from safereason.data.sources.base import Source, Split


def half(source: Source) -> Source:
    """A source that serves one half of another source's test rows as `train`, and the rest as `test`.

    Rows with the same prompt are in the same half.
    """
    name = f"{source.name}-half"

    def prompts(split: Split) -> Iterator[Example]:
        for example in source.stream("test"):
            if _split_of_prompt(example.prompt) == split:
                yield replace(example, source=name)

    def traces(split: Split) -> Iterator[Example]:
        for example in prompts(split):
            yield _with_template_reasoning(example)

    return Source(
        name=name,
        title=f"one half of {source.name} to train on, and the other to test on",
        page=source.page,
        licence=source.licence,
        serves=("train", "test"),
        prompts=prompts,
        reasoned=traces,
        gated=source.gated,
        rows=source.rows,
    )


def _with_template_reasoning(example: Example) -> Example:
    """The row with the shortest reasoning that leads to its verdict."""
    label = example.label or ("unsafe" if example.kind == "harmful" else "safe")
    if label == "safe":
        return replace(example, reasoning="Nothing in it falls under the policy.", answer=r"\boxed{safe}")
    # Ids of a policy's categories are codes such as S1. A source's categories in words are in no policy.
    codes = [category for category in example.categories if category.isalnum() and category.isupper()]
    if not codes:
        return replace(example, reasoning="It asks for something harmful.", answer=r"\boxed{unsafe}")
    listed = ", ".join(codes)
    answer = f"Categories: {listed}\n\n" + r"\boxed{unsafe}"
    return replace(example, reasoning=f"It falls under {listed} of the policy.", answer=answer)


def _split_of_prompt(prompt: str) -> Split:
    # The hash decides, so that a prompt keeps its half when the publisher adds rows.
    if int(digest("half", order_key(prompt)), 16) % 2:
        return "train"
    return "test"
