"""StrongREJECT: forbidden prompts of six categories (Souly et al., arXiv 2402.10260), and its small edition."""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, published_rows

REVISION = "f7cad6c17e624e21d8df2278e918ae1dddb4cb56"
_DATA = f"https://raw.githubusercontent.com/alexandrasouly/strongreject/{REVISION}/strongreject_dataset"
FULL = File(
    source="strongreject",
    name="strongreject_dataset.csv",
    url=f"{_DATA}/strongreject_dataset.csv",
    sha256="4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
)
# The paper's small edition, for quick runs. Its hash is not known, so only the revision pins it.
SMALL = File("strongreject", "strongreject_small_dataset.csv", f"{_DATA}/strongreject_small_dataset.csv")


def _strongreject_source(name: str, title: str, file: File, count: int) -> Source:
    def prompts(split: Split) -> Iterator[Example]:
        for row in published_rows(file):
            yield Example(f"{name}/{row.number}", row["forbidden_prompt"], "harmful", name, row["category"])

    page = "https://github.com/alexandrasouly/strongreject"
    return Source(name, title, page, "MIT", ("test",), prompts, rows=count)


SOURCE = _strongreject_source("strongreject", "StrongREJECT: 313 forbidden prompts of six categories", FULL, 313)
SMALL_SOURCE = _strongreject_source(
    "strongreject-small", "StrongREJECT: its small edition, ten prompts a category", SMALL, 60
)
