"""SimpleSafetyTests: plainly harmful prompts of five areas (Vidgen et al., arXiv 2311.08370)."""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import File
from safereason.data.sources.base import Source, Split, published_rows

_REVISION = "0a31ff0ca5c33960761becd9bf371541c707d143"
FILE = File(
    source="simplesafetytests",
    name="sst_test_cases.csv",
    url=f"https://raw.githubusercontent.com/bertiev/SimpleSafetyTests/{_REVISION}/SimpleSafetyTests%20-%20test%20cases.csv",
    sha256="6d95a1301e0d0f3a3c4cf5392f4afff11ad6e3066f95d23aaa138d44aedf986c",
)


def _read_simplesafetytests_prompts(split: Split) -> Iterator[Example]:
    for row in published_rows(FILE):
        yield Example(
            id=f"simplesafetytests/{row['id']}",
            prompt=row["prompts_final"],
            kind="harmful",
            source="simplesafetytests",
            category=row["harm_area"],
        )


SOURCE = Source(
    name="simplesafetytests",
    title="SimpleSafetyTests: 100 plainly harmful prompts",
    page="https://github.com/bertiev/SimpleSafetyTests",
    licence="CC-BY-4.0",
    serves=("train", "test"),
    prompts=_read_simplesafetytests_prompts,
    rows=100,
)
