"""What verl is given as files, and what it leaves behind: rows, reward, overrides and script; metrics and rollouts."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safereason.data.example import Example
from safereason.errors import InputError
from safereason.recipe.schema import RSafeReward, TarsReward
from safereason.runs.asides import aside_of
from safereason.runs.records import Record, read_json, read_records, write_json, write_text
from safereason.training.ask import Ask
from safereason.training.verl import CHECKPOINTS, REWARD, ROLLOUTS, Overrides, lines
from safereason.training.verl_reward import write_config

OVERRIDES, SCRIPT, EXPORT, STEPS, MERGED, STEP = ("overrides.txt", "run.sh", "export.json", "steps", "merged", "step")
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
printf '%s\\n' "$step" > "$here/{MERGED}/{STEP}"
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


def write_rows(path: Path, examples: Sequence[Example], ask: Ask) -> None:
    """Writes examples, in their order, as the rows that verl's RLHFDataset reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, maybe = pa.string(), pa.string()
    schema = pa.schema(
        {
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "data_source": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct(
                {"index": pa.int64(), "id": text, "user": text, "kind": text, "label": maybe, "response": maybe}
            ),
        }
    )
    rows = [_row(index, example, ask) for index, example in enumerate(examples)]
    aside = aside_of(path)
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _row(index: int, example: Example, ask: Ask) -> dict[str, Any]:
    return {
        "prompt": ask(example),
        "data_source": example.source,
        "reward_model": {"style": "rule", "ground_truth": example.label or example.kind},
        "extra_info": {
            "index": index,
            "id": example.id,
            "user": example.prompt,
            "kind": example.kind,
            "label": example.label,
            "response": example.response,
        },
    }


def write_settings(
    folder: Path,
    given: Overrides,
    reward: TarsReward | RSafeReward,
    reasoning: bool | None,
    about: dict[str, Any],
    opening: str = "",
) -> None:
    """Writes everything but the rows.

    Args:
        folder: Where to.
        given: verl's overrides.
        reward: The recipe's.
        reasoning: Whether a guard is to reason.
        about: What the folder was exported from, for `read_about`.
        opening: The reasoning that the chat template opens.
    """
    write_config(folder / REWARD, reward, reasoning, opening)
    write_text(folder / OVERRIDES, "".join(f"{line}\n" for line in lines(given)))
    write_text(folder / SCRIPT, _SCRIPT)
    (folder / SCRIPT).chmod(0o755)
    write_json(folder / EXPORT, about)


def read_about(folder: Path) -> dict[str, Any]:
    """What `write_settings` was told.

    Raises:
        InputError: The folder is none that was exported.
    """
    if not (folder / EXPORT).is_file():
        raise InputError(f"{folder}: was not exported for verl; make it with --backend verl --export {_quoted(folder)}")
    about: dict[str, Any] = read_json(folder / EXPORT)
    return about


def trained_step(folder: Path) -> int:
    """Steps that the merged model was trained for.

    Raises:
        InputError: There is no merged model.
    """
    try:
        return int((folder / MERGED / STEP).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: holds no trained model; let `bash {_quoted(folder / SCRIPT)}` run to its end"
        ) from error


def read_metrics(folder: Path) -> Iterator[Record]:
    """A record a step, in order, of whichever start logged it last; the look before any step is step 0."""
    found: dict[int, Record] = {}
    for log in sorted((folder / STEPS).glob("*.jsonl")):
        for record in read_records(log):
            named = {OURS.get(name, name): value for name, value in record["data"].items()}
            found[record["step"]] = {"step": record["step"], **named}
    return (found[step] for step in sorted(found))


def read_rollouts(folder: Path, labels: bool, opening: str = "") -> Iterator[Record]:
    """The scored rollouts, step by step.

    Args:
        folder: That was trained in.
        labels: Whether what verl calls the ground truth is a label, or a kind.
        opening: The reasoning that the chat template opens, which verl counts to the prompt.
    """
    for log in sorted((folder / ROLLOUTS).glob("*.jsonl"), key=lambda path: int(path.stem)):
        for row in read_records(log):
            if row["uid"].startswith("pad"):  # verl fills its batch up
                continue
            truth = {"label": row["gts"]} if labels else {"kind": row["gts"]}
            text = opening + row["output"]
            yield {
                "step": row["step"],
                "prompt": row["input"],
                **truth,
                "text": text,
                "total": row["score"],
                "parts": {},
            }


def _quoted(path: Path) -> str:
    return shlex.quote(re.sub(r"\s", " ", str(path)))
