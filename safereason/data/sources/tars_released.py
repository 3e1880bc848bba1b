"""TARS: the prompts of RL that its authors released, a file for each λ (Kim et al., arXiv 2507.00971).

A file has 2000 rows, and the share λ of them is harmful. The category is the publisher's `ability`: the origin of a
harmful prompt, or `refusal` for a prompt with the task reward. Those are UltraFeedback's and OR-Bench's. The file does
not say which, so all of them are harmless here. A few prompts repeat.
"""

from collections.abc import Iterator

from safereason.data.example import Example, PromptKind
from safereason.data.fetch import File
from safereason.data.sources.base import Source, SourceRow, Split, published_rows
from safereason.errors import InputError

PAGE = "https://github.com/danielkty/tars"
RAW = "https://raw.githubusercontent.com/danielkty/tars/32c10be22eabb4ddaadab353756bd5d2d2fb81f2"
# The repository has no licence file. The prompts come from WildJailbreak (ODC-By-1.0), Aegis 2.0 (CC-BY-4.0), OR-Bench
# (CC-BY-4.0), UltraFeedback (MIT) and the authors' own rainbow teaming.
LICENCE = "none stated"
_SHA256 = {
    "0.1": "70ceb1c9424de7af0f7222ba522b6b206ee94cabcd39848328130c3d12a902e7",
    "0.3": "c49635aaa6452f326f6f8e30ef9706adeeb065fe70d5c0f7fd6134ff4060e4b5",
    "0.5": "f81d2030f97d731fd92a444dd039c805f277ea5e19c1c74b3312b6671c3954a6",
    "0.7": "749e677cb1e8852e1c87b601d222b4b2a4b4386e03525e184279a50fc1820371",
    "0.9": "02841cc4a33b7191fce801b399dfbec1f13e7697c7e92de247921c18d18d0522",
}
FILES = {
    ratio: File("tars-released", name := f"train_lambda_{ratio}.parquet", f"{RAW}/data/{name}", sha256)
    for ratio, sha256 in _SHA256.items()
}
"""The file of each λ."""


def _released_source(ratio: str) -> Source:
    name = f"tars-released-{ratio}"

    def read(split: Split) -> Iterator[Example]:
        # The other columns hold nothing that RL reads.
        for row in published_rows(FILES[ratio], columns=["prompt", "ability"]):
            ability = row["ability"]
            kind: PromptKind = "harmful"
            if ability == "refusal":
                kind = "harmless"
            yield Example(f"{name}/{row.number}", _only_message(row), kind, name, ability)

    return Source(name, f"TARS: the released prompts of RL at λ = {ratio}", PAGE, LICENCE, ("train",), read, rows=2000)


def _only_message(row: SourceRow) -> str:
    match row.get("prompt"):
        case [{"role": "user", "content": str(text)}]:
            return text
    raise InputError(f"{row.where}: `prompt` is no list of one message of a user; {row.advice}")


SOURCES = tuple(_released_source(ratio) for ratio in FILES)
