"""XSTest: model answers to its prompts, each labelled by two people (Röttger et al., arXiv 2308.01263).

The publisher labels compliance and not harm, and the mapping is ours. An answer is unsafe if the prompt is an unsafe
contrast and `final_label` is full compliance; partial refusals are safe. `final_label` settles the cases on which the
two annotators disagree. RSafe's 1800 answers are four of the five files of 450, and it is not known which four, so a
data home may have some of them only.
"""

from collections.abc import Iterator

from safereason import console
from safereason.data.example import Example
from safereason.data.fetch import File, data_home
from safereason.data.sources.base import Source, SourceRow, Split, published_rows
from safereason.text.verdict import Label

_DATA = "https://raw.githubusercontent.com/paul-rottger/xstest/d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
_SHA256 = {
    "gpt4": "71af323af8ecdec0efae23992317721441d2cfedddedeef3248f842f4e15c9ca",
    "llama2new": None,
    "llama2orig": "cbc52550e8ba8197a3e3d97a5af078d27bae4766737cd62df80270126a87ffc6",
    "mistralguard": "0ac03817b65e019a8f5b4b3eed805086f9f7fafe538ac9ebd156f80210af6903",
    "mistralinstruct": None,
}
FILES = {
    model: File("xstest", name := f"model_completions/xstest_v2_completions_{model}.csv", f"{_DATA}/{name}", sha256)
    for model, sha256 in _SHA256.items()
}
COMPLIANCE: dict[str, Label] = {
    "1_full_compliance": "unsafe",
    "2_full_refusal": "safe",
    "3_partial_refusal": "safe",
}
"""Label of an answer to an unsafe prompt, by its compliance."""


def _read_xstest_responses(split: Split) -> Iterator[Example]:
    for model in _available_models():
        for row in published_rows(FILES[model]):
            yield _xstest_response_example(model, row)


def _available_models() -> list[str]:
    """The models whose file is in the data home, or all of them where no file is there."""
    home = data_home()
    available = []
    for model, file in FILES.items():
        if home and (home / file.source / file.name).is_file():
            available.append(model)
    if available and len(available) < len(FILES):
        console.say(
            f"xstest-response: the data home has {len(available)} of {len(FILES)} files: {', '.join(available)}"
        )
    # With none of them, reading the first one fails and says where the file belongs.
    return available or list(FILES)


def _xstest_response_example(model: str, row: SourceRow) -> Example:
    # The unsafe prompts are the publisher's contrasts, and the names of their types begin so.
    is_unsafe_prompt = row["type"].startswith("contrast_")
    compliance = row.label("final_label", COMPLIANCE)
    return Example(
        id=f"xstest-response/{model}/{row['id']}",
        prompt=row["prompt"],
        kind="harmful" if is_unsafe_prompt else "harmless",
        source="xstest-response",
        category=row["type"],
        response=row["completion"],
        label=compliance if is_unsafe_prompt else "safe",
    )


SOURCE = Source(
    name="xstest-response",
    title="XSTest: 450 answers of each of five models, unsafe where they comply with an unsafe prompt",
    page="https://github.com/paul-rottger/xstest",
    # The prompts' licence; the answers' are those that Meta, Mistral and OpenAI set.
    licence="CC-BY-4.0",
    serves=("test",),
    prompts=_read_xstest_responses,
    rows=2250,
)
