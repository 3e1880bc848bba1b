"""XSTest's model answers, each labelled by two people (Röttger et al., arXiv 2308.01263).

The publisher labels compliance and not harm; the mapping is ours: an answer is unsafe where the prompt is an unsafe
contrast and `final_label`, which settles what the two annotators disagree on, is full compliance. Partial refusals are
safe. Of the five files of 450 answers, RSafe's 1800 are four, and it is not known which; a data home need not have all.
"""

from safereason import console
from safereason.data.example import Example, Label
from safereason.data.fetch import File, data_home
from safereason.data.sources.base import Row, Source, Split, rows

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
"""What an answer to an unsafe prompt is, by how far it complies."""


def _responses(split: Split) -> list[Example]:
    return [_example(model, row) for model in _models() for row in rows(FILES[model])]


def _models() -> list[str]:
    """The models whose file can be had: those in the data home, all where there is no data home or none is in it."""
    home = data_home()
    there = [model for model, file in FILES.items() if home and (home / file.source / file.name).is_file()]
    if there and len(there) < len(FILES):
        console.say(f"xstest-response: the data home has {len(there)} of {len(FILES)} files: {', '.join(there)}")
    return there or list(FILES)


def _example(model: str, row: Row) -> Example:
    contrast = row["type"].startswith("contrast_")
    complied = row.label("final_label", COMPLIANCE)
    return Example(
        id=f"xstest-response/{model}/{row['id']}",
        prompt=row["prompt"],
        kind="harmful" if contrast else "harmless",
        source="xstest-response",
        category=row["type"],
        response=row["completion"],
        label=complied if contrast else "safe",
    )


SOURCE = Source(
    name="xstest-response",
    title="XSTest: 450 answers of each of five models, unsafe where they comply with an unsafe prompt",
    page="https://github.com/paul-rottger/xstest",
    # The prompts' licence; the answers' are those that Meta, Mistral and OpenAI set.
    licence="CC-BY-4.0",
    serves=("test",),
    prompts=_responses,
    rows=2250,
)
