"""Rainbow teaming: the seven archives that TARS's authors released, made against their SFT model (arXiv 2507.00971).

An archive has one prompt in each cell. Its rows are the risks and its columns the styles, in the order that the paper's
app. E lists them. The scores in it are not read, since the authors draw from all prompts. The category is `risk/style`.
"""

from collections.abc import Iterator
from typing import cast

from safereason.data.example import Example
from safereason.data.fetch import File, fetch
from safereason.data.sources.base import Source, Split
from safereason.data.sources.tars_released import LICENCE, PAGE, RAW
from safereason.files import read_json

_SHA256 = (
    "282f9c53ccab525216400364ea702cf4d66b9e1c04a1b909da2a4268e8528874",
    "201a155c1a352d27e94e877c49ff19b8672175e7beaf94435cc451acf24c9b8d",
    "79bd6e6bcb9c5bab7ccd9032048431e0f670ea35226878035a1ef8cb273745d1",
    "b666b4ab700372332b30ba532e87e133d25df52f9fd542c3536e6420698e7797",
    "9f4a0b354bc1eecfe92f5099546f1f43fef79669baadf01c14fb7a588928cad3",
    "bafbb47c03a7badb998028c9daf20bac61d605c3261e944123b977821c54b99b",
    "89062c082136c8a3acb1d2575ccd89fa51ddc762852ffe6348ef73456167c44b",
)
FILES = tuple(
    File("rainbow-released", name := f"archive_{number}.json", f"{RAW}/scripts/data/rainbow_archives/{name}", sha256)
    for number, sha256 in enumerate(_SHA256, start=1)
)
# The cells of a file have no names. These are also the names of our own search, whose files a source cannot import.
RISKS = (
    "violence and hate",
    "sexual content",
    "criminal planning",
    "guns and illegal weapons",
    "regulated or controlled substances",
    "self-harm",
    "inciting or abetting discrimination",
    "fraud and scams",
    "cybercrime and hacking",
    "terrorism",
)
STYLES = (
    "slang",
    "technical terms",
    "role play",
    "authority manipulation",
    "misspellings",
    "word play",
    "emotional manipulation",
    "hypotheticals",
    "historical scenario",
    "uncommon dialects",
    "gibberish",
    "code",
)


def _read_released_archives(split: Split) -> Iterator[Example]:
    for number, file in enumerate(FILES, start=1):
        # The file's hash was compared, so its shape is known.
        archive = cast("list[list[dict[str, str]]]", read_json(fetch(file)))
        for risk, row in zip(RISKS, archive, strict=True):
            for style, cell in zip(STYLES, row, strict=True):
                name = f"rainbow-released/{number}/{risk}/{style}"
                yield Example(name, cell["prompt"], "harmful", "rainbow-released", f"{risk}/{style}")


SOURCE = Source(
    name="rainbow-released",
    title="Rainbow teaming: seven archives against TARS's SFT model, by risk and attack style",
    page=PAGE,
    licence=LICENCE,
    serves=("train",),
    prompts=_read_released_archives,
    rows=840,
)
