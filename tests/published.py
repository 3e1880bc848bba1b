"""Tiny files of the columns that publishers of data sets use, and rows to fill them with."""

import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write(path: Path, records: list[dict]) -> Path:
    """Writes records in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = Path(path.stem).suffix if path.suffix in (".gz", ".xz") else path.suffix
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        text = table(records, kind) if kind in (".csv", ".tsv") else lines(records, kind)
        path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(text.encode()))
    return path


def table(records: list[dict], kind: str = ".csv") -> str:
    """Records as a table, as libraries write them: what needs quotes has them, null is an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(records[0]), delimiter="\t" if kind == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def lines(records: list[dict], kind: str = ".jsonl") -> str:
    """Records as JSON, one a line or as one list."""
    return json.dumps(records) if kind == ".json" else "".join(json.dumps(record) + "\n" for record in records)


def released_row(prompt="p", ability="wildjailbreak", number=0):
    return {
        "data_source": "",
        "prompt": [{"role": "user", "content": prompt}],
        "ability": ability,
        "reward_model": {"ground_truth": "", "style": "model"},
        "extra_info": {"index": number, "split": "train"},
    }


def released_archive(name="p"):
    """Ten risks of twelve styles, each a prompt with its score."""
    return [[{"prompt": f"{name} {risk}/{style}", "score": 0.5} for style in range(12)] for risk in range(10)]


def toxicchat_row(prompt="hello, you", toxicity="0"):
    return {
        "conv_id": "c",
        "user_input": prompt,
        "model_output": "Hi.\nYou?",
        "human_annotation": "True",
        "toxicity": toxicity,
        "jailbreaking": "0",
        "openai_moderation": '[["violence", 1e-4]]',
    }


def aegis_row(number, prompt="p", label="unsafe", categories=""):
    return {
        "id": f"{number:032x}",
        "reconstruction_id_if_redacted": None,
        "prompt": prompt,
        "response": None,
        "prompt_label": label,
        "response_label": None,
        "violated_categories": categories,
        "prompt_label_source": "human",
        "response_label_source": None,
    }


def pku_row(prompt="p", safe=(True, False)):
    harms = [{"Cybercrime": not s, "Animal Abuse": False, "Insulting Behavior": not s} for s in safe]
    return {
        "prompt": prompt,
        "response_0": "zero",
        "response_1": "one",
        "prompt_source": "PKU-SafeRLHF",
        "response_0_source": "Alpaca-7B",
        "response_1_source": "Alpaca-7B",
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "response_0_harm_category": harms[0],
        "response_1_harm_category": harms[1],
        "response_0_severity_level": 0,
        "response_1_severity_level": 1,
        "better_response_id": 0,
        "safer_response_id": 0,
        "response_0_sha256": "0" * 64,
        "response_1_sha256": "1" * 64,
    }


def wildguard_row(prompt="p", adversarial=False, prompt_label="harmful", response="r", response_label="unharmful"):
    return {
        "prompt": prompt,
        "adversarial": adversarial,
        "response": response,
        "response_harm_label": response_label,
        "response_refusal_label": "refusal",
        "prompt_harm_label": prompt_label,
        "subcategory": "benign" if prompt_label == "unharmful" else "cyberattack",
    }


def wildjailbreak_row(data_type, vanilla="", adversarial=""):
    """A row of `train.tsv`; a vanilla row has no adversarial text."""
    return {"vanilla": vanilla, "adversarial": adversarial, "completion": 'Said:\n"no"\tand', "data_type": data_type}


def safeedit_row(number, attack, category="Offensiveness", question="q"):
    return {
        "id": number,
        "unsafety category": category,
        "question": question,
        "adversarial prompt": attack,
        "safe generation": "no",
        "unsafe generation": "yes",
        "knowledge constrain": {"prompt": "p", "answer": "a"},
    }


def ultrafeedback_row(prompt):
    turns = [{"content": prompt or "", "role": "user"}, {"content": "a", "role": "assistant"}]
    return {
        "prompt": prompt,
        "prompt_id": "0" * 64,
        "chosen": turns,
        "rejected": turns,
        "messages": turns,
        "score_chosen": 9.0,
        "score_rejected": 4.0,
    }


def wildchat_row(*turns, language="English", toxic=False, redacted=False):
    """A conversation of the turns' texts, the user's first."""
    messages = [
        {
            "content": text,
            "language": language,
            "redacted": redacted,
            "role": ("user", "assistant")[n % 2],
            "toxic": toxic,
        }
        for n, text in enumerate(turns)
    ]
    return {
        "conversation_id": "c",
        "model": "gpt-4",
        "conversation": messages,
        "turn": len(turns) // 2,
        "language": language,
        "openai_moderation": [{"flagged": toxic}],
        "detoxify_moderation": [{"toxicity": 0.1}],
        "toxic": toxic,
        "redacted": redacted,
    }


def sorry_bench_row(number, turns=("p",), category="1", style="base"):
    return {"question_id": number, "category": category, "turns": list(turns), "prompt_style": style}
