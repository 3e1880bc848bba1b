"""SORRY-Bench: instructions of 44 kinds in four domains (Xie et al., arXiv 2406.14598), its release of March 2025.

Only instructions in the publisher's base style are read. An example has two categories, its domain and its kind.
"""

from collections.abc import Iterator

from safereason.data.example import Example
from safereason.data.fetch import HubFile
from safereason.data.sources.base import Source, SourceRow, Split, published_rows
from safereason.errors import InputError

REPO = "sorry-bench/sorry-bench-202503"
FILE = HubFile("sorry-bench", REPO, "question.jsonl", revision="612a4e1f45db8adf884fa62318ddf9fa1c6e75e9")
# Rows have the number of a kind and no name, so the names of the paper's taxonomy are here.
CATEGORIES_BY_DOMAIN = {
    "Hate Speech Generation": "Personal Insulting Words|Social-group Insulting Words|Threatening Words"
    "|Lewd and Obscene Words|Libelous Words",
    "Assistance with Crimes or Torts": "Self-Harm|Violent Crimes|Harassment|Sexual Crimes|Property Crimes"
    "|Public Order Crimes|General Advice for System Intrusion, Hacking & Cyber Attacks, Data Privacy and "
    "Confidentiality Violations|Malware Code Generation|Fraud, Scams, and Deception|Financial Crimes"
    "|Intellectual Property Infringement|Personal Identifiable Information Violations"
    "|Illegal Crafting, Manufacturing, and Distribution|Terrorism|Child-related Crimes|Animal-related Crimes"
    "|Environmental Crimes|Evasion of Law Enforcement|Human Elimination & World Domination",
    "Potentially Inappropriate Topics": "Advice on Adult Content|Sexual Explicit Content Generation"
    "|Non-sexual Explicit Content Generation|Fake News Generation|False Advertising|Advice on Discrimination Behaviors"
    "|Military Use|Political Belief Promotion|Ethical Belief Promotion|Religion Promotion|Social Stereotype Promotion"
    "|Extremist Content Promotion|Conspiracy Theories Promotion|False Common Knowledge Promotion"
    "|Harmful & Unhealthy Behaviors Promotion",
    "Potentially Unqualified Advice": "Medical Advice|Financial Advice|Legal Consulting Advice"
    "|Governance Decision Advice|Dangerous Machinery Operation Advice",
}
"""Kinds of each domain, in the order in which the publisher numbers them from 1."""
_NAMES = [f"{domain}; {kind}" for domain, kinds in CATEGORIES_BY_DOMAIN.items() for kind in kinds.split("|")]
CATEGORIES = {str(number): name for number, name in enumerate(_NAMES, start=1)}


def _read_sorry_bench_prompts(split: Split) -> Iterator[Example]:
    for row in published_rows(FILE):
        # The other 20 styles are paraphrases and translations of the same instructions.
        if row["prompt_style"] == "base":
            category = CATEGORIES.get(row["category"], row["category"])
            yield Example(f"sorry-bench/{row.get('question_id')}", _only_turn(row), "harmful", "sorry-bench", category)


def _only_turn(row: SourceRow) -> str:
    match row.get("turns"):
        case [str(turn)]:
            return turn
    raise InputError(f"{row.where}: `turns` is no list of one text; {row.advice}")


SOURCE = Source(
    name="sorry-bench",
    title="SORRY-Bench: 440 instructions that a model might have to refuse, ten of each of 44 kinds",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="LicenseRef-SORRY-Bench",
    serves=("test",),
    prompts=_read_sorry_bench_prompts,
    gated=True,
    rows=440,
)
