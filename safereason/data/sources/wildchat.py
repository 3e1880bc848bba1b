"""WildChat: requests to a public chatbot (Zhao et al., arXiv 2405.01470), in the edition without toxic conversations.

An example is the first request of a conversation. It is in English, and the conversation is neither toxic nor redacted.
TARS measures compliance on 500 of them. They are harmless as far as two moderation models can tell.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, SourceRow, Split, published_rows
from safereason.errors import InputError

REPO = "allenai/WildChat"
REVISION = "f66566ceaaeb619dd98ffb0f3bf3ce1f86775ac4"
SHARDS = [HubFile("wildchat", REPO, f"data/train-{n:05}-of-00006.parquet", REVISION) for n in range(6)]
COLUMNS = ("conversation", "toxic", "redacted")


def _read_wildchat_prompts(split: Split) -> Iterator[Example]:
    for shard, file in enumerate(SHARDS):
        for row in published_rows(file, COLUMNS):
            # In a redacted conversation parts of the text are replaced.
            if row.flag("toxic") or row.flag("redacted"):
                continue
            prompt = _first_request(row)
            if prompt:
                yield Example(f"wildchat/{shard}/{row.number}", prompt, "harmless", "wildchat")


def _first_request(row: SourceRow) -> str | None:
    """The first turn, where it is a request in English."""
    match row.get("conversation"):
        case [{"role": "user", "language": "English", "content": str(text)}, *_] if text.strip():
            return text
        case [] | [{"role": _, "language": _, "content": _}, *_]:
            return None
    raise InputError(f"{row.where}: `conversation` holds no turns of role, language and content; {row.advice}")


SOURCE = Source(
    name="wildchat",
    title="WildChat: the first English request of each of 529 thousand conversations that are not toxic",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="ODC-By-1.0",
    serves=("test",),
    prompts=_read_wildchat_prompts,
    rows=529_428,
)
