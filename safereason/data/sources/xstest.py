"""XSTest: safe prompts that look unsafe, and their unsafe contrasts (Röttger et al., arXiv 2308.01263)."""

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import KIND, Source, Split, rows

FILE = File(
    source="xstest",
    name="xstest_prompts.csv",
    url="https://raw.githubusercontent.com/paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv",
    sha256="11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
)


def _prompts(split: Split) -> list[Example]:
    return [
        Example(
            id=f"xstest/{row['id']}",
            prompt=row["prompt"],
            kind=KIND[label],
            source="xstest",
            category=row["type"],
        )
        for row in rows(FILE)
        if (label := row.label("label", {"safe": "safe", "unsafe": "unsafe"}))
    ]


SOURCE = Source(
    name="xstest",
    title="XSTest: 250 safe prompts that look unsafe, 200 unsafe contrasts",
    page="https://github.com/paul-rottger/xstest",
    licence="CC-BY-4.0",
    serves=("test",),
    prompts=_prompts,
    rows=450,
)
