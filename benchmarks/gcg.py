"""GCG: our search against nanoGCG 0.3.0, without its prefix cache in this environment and with it in one of its own.

    python benchmarks/gcg.py                       ten behaviors, six steps each
    python benchmarks/gcg.py --behaviors 2 --steps 4

All sides search a suffix of twenty `!` for the same behaviors of HarmBench on the embedded model, with the same width,
top-k and seed, one behavior after another, each side in turn and in a process of its own. nanoGCG's cache needs
transformers 4.46.3, which a first run installs into `--environments` beside nanoGCG itself. The table has steps per
second at equal candidates too, because each side drops those that its tokenizer reads otherwise. The fastest setting of
ours goes on until it has nanoGCG's final loss, or has taken as long.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import long_prompt

from safereason.cli.output import print_table
from safereason.data import sources
from safereason.engines import embedded
from safereason.engines.embedded import model_folder
from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.runs.cache import cache_home

NANOGCG = "nanogcg==0.3.0"
FASTEST: dict[str, Any] = {"width": 16, "merge": 8, "top_k": 32, "buffer": 1}
"""Few candidates of the steepest tokens, the best edits put together, and never a step back."""
SIDES = ("ours", "nanogcg", "nanogcg, cached", "ours, fastest")
Report = dict[str, Any]


def pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True, stdout=sys.stderr)


def environments(folder: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """The Python of each side, and the variables that its environment has beside this one's."""
    here = folder / "nanogcg"
    cached = folder / "nanogcg-cached"
    if not (here / "nanogcg").is_dir():
        pip(sys.executable, "--no-deps", "--target", str(here), NANOGCG)
    python = cached / "bin" / "python"
    if os.name == "nt":
        python = cached / "Scripts" / "python.exe"
    if not (cached / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(cached)], check=True)
        pip(str(python), "torch==2.13.0", "transformers==4.46.3", NANOGCG)
        (cached / "ready").touch()
    ours = (sys.executable, dict[str, str]())
    return {
        "ours": ours,
        "ours, fastest": ours,
        "nanogcg": (sys.executable, {"PYTHONPATH": str(here)}),
        "nanogcg, cached": (str(python), {}),
    }


def run(environment: tuple[str, dict[str, str]], job: dict[str, Any]) -> Report:
    """One search in a process of its own."""
    python, added = environment
    script = Path(__file__).with_name("gcg_sides.py")
    done = subprocess.run(
        [python, str(script)], input=json.dumps(job), env={**os.environ, **added}, text=True, capture_output=True
    )
    if done.returncode:
        sys.exit(f"{job['side']} failed:\n{done.stderr[-2000:]}")
    report: Report = json.loads(done.stdout.splitlines()[-1])
    return report


def job_of(side: str, arguments: argparse.Namespace, common: dict[str, Any], peers: list[Report]) -> dict[str, Any]:
    """The search of a side, with its settings and when it ends."""
    job = {**common, "side": side.split(",")[0], "until": -1.0, "seconds": 1e9}
    if side.startswith("nanogcg"):
        settings = {"num_steps": arguments.steps, "search_width": arguments.width, "topk": 256}
        return {**job, "settings": {**settings, "use_prefix_cache": side.endswith("cached")}}
    if side == "ours":
        return {**job, "settings": {"steps": arguments.steps, "width": arguments.width, "top_k": 256}}
    # Past the longest of nanoGCG's searches it has lost.
    goal = min(min(peer["losses"]) for peer in peers)
    longest = max(peer["wall"][-1] for peer in peers)
    return {**job, "until": goal, "seconds": longest, "settings": {**FASTEST, "steps": 100_000}}


def seconds_to(report: Report, loss: float, clock: str) -> float | None:
    """Seconds until a loss was reached; None where it never was."""
    for seconds, value in zip(report[clock], report["losses"], strict=True):
        if value <= loss:
            return float(seconds)
    return None


def per_second(report: Report, clock: str) -> float:
    return (len(report[clock]) - 1) / float(report[clock][-1])


def candidates_per_second(report: Report, clock: str) -> float:
    return sum(report["candidates"]) / float(report[clock][-1])


def print_sides(reports_by_behavior: list[dict[str, Report]], clock: str) -> None:
    """Prints a row a side: medians over behaviors."""
    rows = []
    for side in SIDES:
        reports = [reports_by_side[side] for reports_by_side in reports_by_behavior]
        times_to_half = []
        for report in reports:
            seconds = seconds_to(report, report["losses"][0] / 2, clock)
            if seconds is not None:
                times_to_half.append(seconds)
        half = "-"
        if times_to_half:
            half = f"{median(times_to_half):.1f}"
        rows.append(
            (
                side,
                f"{median(per_second(report, clock) for report in reports):.3f}",
                f"{median(sum(report['candidates']) / len(report['candidates']) for report in reports):.0f}",
                f"{half} ({len(times_to_half)} of {len(reports)})",
                f"{median(report['losses'][0] for report in reports):.3f}",
                f"{median(min(report['losses']) for report in reports):.3f}",
                f"{max(report['peak'] for report in reports):.2f}",
            )
        )
    print_table(
        ("side", "steps/s", "candidates/step", "s to half the loss", "first loss", "final loss", "peak GiB"), rows
    )


def print_ratios(reports_by_behavior: list[dict[str, Report]], clock: str) -> None:
    """Prints a row a peer: medians of the behaviors' own ratios."""
    rows = []
    for peer in ("nanogcg", "nanogcg, cached"):
        steps, candidates, memory, shares = [], [], [], []
        for reports in reports_by_behavior:
            ours, theirs = reports["ours"], reports[peer]
            steps.append(per_second(ours, clock) / per_second(theirs, clock))
            candidates.append(candidates_per_second(ours, clock) / candidates_per_second(theirs, clock))
            memory.append(theirs["peak"] / ours["peak"])
            shares.append(share_of_time(reports, peer, clock))
        in_a_third = sum(share <= 1 / 3 for share in shares)
        medians = [f"{median(ratios):.2f}" for ratios in (steps, candidates, memory, shares)]
        rows.append((peer, *medians, f"{in_a_third} of {len(shares)}"))
    heading = (
        "ours to",
        "steps/s",
        "at equal candidates",
        "times less memory",
        "fastest: share of its time",
        "in a third",
    )
    print_table(heading, rows)


def share_of_time(reports: dict[str, Report], peer: str, clock: str) -> float:
    """The time our fastest setting needs for a peer's final loss, of that peer's time to it; infinite if never."""
    goal = min(reports[peer]["losses"])
    ours = seconds_to(reports["ours, fastest"], goal, clock)
    theirs = seconds_to(reports[peer], goal, clock)
    if ours is None or not theirs:
        return float("inf")
    return ours / theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--behaviors", type=int, default=10, help="how many of HarmBench's standard ones")
    parser.add_argument("--steps", type=int, default=6, help="of nanoGCG, and of ours at equal settings")
    parser.add_argument("--width", type=int, default=64, help="candidates drawn at each step")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu where others use the machine too")
    parser.add_argument("--environments", type=Path, default=cache_home() / "benchmarks", help="where nanoGCG is kept")
    arguments = parser.parse_args()
    long_prompt.need_model()
    folder = str(model_folder())
    pythons = environments(arguments.environments)
    template = load_tokenizer(ModelSpec.parse(embedded.NAME)).chat_template
    behaviors = list(sources.get("harmbench-standard").stream("test"))[:: 200 // arguments.behaviors]
    reports_by_behavior = []
    for seed, behavior in enumerate(behaviors[: arguments.behaviors]):
        common = {
            "model": folder,
            "template": template,
            "behavior": behavior.prompt,
            "target": behavior.target,
            "seed": seed,
            "threads": arguments.threads,
        }
        reports: dict[str, Report] = {}
        for side in SIDES:
            peers = [report for peer, report in reports.items() if peer.startswith("nanogcg")]
            report = run(pythons[side], job_of(side, arguments, common, peers))
            reports[side] = report
            steps = len(report["losses"]) - 1
            print(f"{behavior.id} {side}: {steps} steps, {report[arguments.clock][-1]:.1f} s", file=sys.stderr)
        reports_by_behavior.append(reports)
    count = len(reports_by_behavior)
    print(f"{count} behaviors, {arguments.steps} steps, width {arguments.width}, {arguments.clock} seconds")
    print_sides(reports_by_behavior, arguments.clock)
    print_ratios(reports_by_behavior, arguments.clock)


if __name__ == "__main__":
    main()
