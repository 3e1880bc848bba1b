"""XSTest: safe prompts that look unsafe, and their unsafe contrasts (Röttger et al., arXiv 2308.01263)."""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import KIND, Source, Split, published_rows

FILE = File(
    source="xstest",
    name="xstest_prompts.csv",
    url="https://raw.githubusercontent.com/paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv",
    sha256="11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
)


def _read_xstest_prompts(split: Split) -> Iterator[Example]:
    for row in published_rows(FILE):
        label = row.label("label", {"safe": "safe", "unsafe": "unsafe"})
        if label:
            yield Example(
                id=f"xstest/{row['id']}",
                prompt=row["prompt"],
                # No `label` is set: a guard's mix derives it from the kind, as for all sources of prompts.
                kind=KIND[label],
                source="xstest",
                category=row["type"],
            )


SOURCE = Source(
    name="xstest",
    title="XSTest: 250 safe prompts that look unsafe, 200 unsafe contrasts",
    page="https://github.com/paul-rottger/xstest",
    licence="CC-BY-4.0",
    serves=("test",),
    prompts=_read_xstest_prompts,
    rows=450,
)
