"""The files of a training by verl: rows, reward, overrides and script before it; metrics and rollouts after it."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safereason.data.example import Example
from safereason.data.prompt_builder import PromptBuilder
from safereason.errors import InputError
from safereason.recipe.schema import RSafeRewardSettings, TarsRewardSettings
from safereason.runs.asides import aside_of
from safereason.runs.records import Record, read_record, read_records, write_json, write_text
from safereason.training.verl import CHECKPOINTS, REWARD, ROLLOUTS, HydraOverrides, hydra_lines
from safereason.training.verl_reward import write_config

OVERRIDES = "overrides.txt"
SCRIPT = "run.sh"
EXPORT = "export.json"
"""The settings that the folder was exported from."""
STEPS = "steps"
"""Folder of verl's metrics, one file per start of the script."""
MERGED = "merged"
"""Folder of the trained model."""
STEP_FILE = "step"
"""In that folder: the steps that the model was trained for."""
_SCRIPT = f"""#!/usr/bin/env bash
# Trains with verl and merges its last checkpoint; written by safereason.
# Run it again and it goes on from the last checkpoint. PYTHON names an interpreter that has verl and safereason;
# arguments are further overrides for verl.
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
python=${{PYTHON:-python}}
mkdir -p "$here/{STEPS}"
started=$(date -u +%Y%m%dT%H%M%SZ)
overrides=()
while IFS= read -r line; do
    overrides+=("${{line//'$here'/$here}}")
done < "$here/{OVERRIDES}"
"$python" -m verl.trainer.main_ppo "${{overrides[@]}}" \\
    "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH='$here/{STEPS}/$started.jsonl'" "$@"
step=$(cat "$here/{CHECKPOINTS}/latest_checkpointed_iteration.txt")
"$python" -m verl.model_merger merge --backend fsdp \\
    --local_dir "$here/{CHECKPOINTS}/global_step_$step/actor" --target_dir "$here/{MERGED}"
printf '%s\\n' "$step" > "$here/{MERGED}/{STEP_FILE}"
"""

OURS = {
    "critic/score/mean": "reward",
    "actor/pg_loss": "loss",
    "actor/kl_loss": "kl",
    "actor/entropy": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "response_length/mean": "completions/mean_length",
    "response_length/clip_ratio": "completions/clipped_ratio",
}
"""verl's metrics that have a name of ours; the others keep theirs."""


def write_rows(path: Path, examples: Sequence[Example], prompt_builder: PromptBuilder) -> None:
    """Writes examples, in their order, as the rows that verl's RLHFDataset reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        {
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "data_source": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct(
                {"index": pa.int64(), "id": text, "user": text, "kind": text, "label": text, "response": text}
            ),
        }
    )
    rows = [_verl_row(index, example, prompt_builder) for index, example in enumerate(examples)]
    aside = aside_of(path)
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _verl_row(index: int, example: Example, prompt_builder: PromptBuilder) -> dict[str, object]:
    return {
        "prompt": prompt_builder(example),
        "data_source": example.source,
        "reward_model": {"style": "rule", "ground_truth": example.label or example.kind},
        "extra_info": {
            "index": index,
            "id": example.id,
            # `prompt` is the conversation in verl; folders that were exported earlier have this name too.
            "user": example.prompt,
            "kind": example.kind,
            "label": example.label,
            "response": example.response,
        },
    }


def write_settings(
    folder: Path,
    given: HydraOverrides,
    reward: TarsRewardSettings | RSafeRewardSettings,
    reasoning: bool | None,
    about: Mapping[str, object],
    opening: str = "",
) -> None:
    """Writes everything but the rows.

    Args:
        folder: The folder that is exported.
        given: verl's overrides.
        reward: The recipe's.
        reasoning: Whether a guard is to reason.
        about: The settings that the folder is exported from, for `read_about`.
        opening: The reasoning that the chat template opens.
    """
    write_config(folder / REWARD, reward, reasoning, opening)
    write_text(folder / OVERRIDES, "".join(f"{line}\n" for line in hydra_lines(given)))
    write_text(folder / SCRIPT, _SCRIPT)
    (folder / SCRIPT).chmod(0o755)
    write_json(folder / EXPORT, about)


def read_about(folder: Path) -> Record:
    """The settings that a folder was exported from.

    Raises:
        InputError: The folder was not exported.
    """
    if not (folder / EXPORT).is_file():
        raise InputError(f"{folder}: was not exported for verl; make it with --backend verl --export {_quoted(folder)}")
    return read_record(folder / EXPORT)


def trained_step(folder: Path) -> int:
    """Steps that the merged model was trained for.

    Raises:
        InputError: There is no merged model.
    """
    try:
        return int((folder / MERGED / STEP_FILE).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: holds no trained model; let `bash {_quoted(folder / SCRIPT)}` run to its end"
        ) from error


def read_metrics(folder: Path) -> Iterator[Record]:
    """One record per step, in order; the validation before any step is step 0."""
    records: dict[int, Record] = {}
    # The names are the times of the starts: a later start has trained the steps after its checkpoint again.
    for log in sorted((folder / STEPS).glob("*.jsonl")):
        for logged in read_records(log):
            record: Record = {"step": logged["step"]}
            for name, value in logged["data"].items():
                record[OURS.get(name, name)] = value
            records[logged["step"]] = record
    for step in sorted(records):
        yield records[step]


def read_rollouts(folder: Path, labels: bool, opening: str = "") -> Iterator[Record]:
    """The scored rollouts, step by step.

    Args:
        folder: A folder that verl has trained in.
        labels: Whether verl's ground truth is a label, or a kind.
        opening: The reasoning that the chat template opens, which verl counts to the prompt.
    """
    truth = "label" if labels else "kind"
    for log in sorted((folder / ROLLOUTS).glob("*.jsonl"), key=lambda path: int(path.stem)):
        for row in read_records(log):
            if row["uid"].startswith("pad"):  # verl fills its batch up
                continue
            yield {
                "step": row["step"],
                "prompt": row["input"],
                truth: row["gts"],
                "text": opening + row["output"],
                "total": row["score"],
                "parts": {},
            }


def _quoted(path: Path) -> str:
    """A path for a shell, in one line."""
    return shlex.quote(re.sub(r"\s", " ", str(path)))
