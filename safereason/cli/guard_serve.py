"""`safereason guard serve`: a guard behind the Moderation API."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.cli.guard_classify import guide_of
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.guard.policy import Policy
    from safereason.guard.server.keys import Keys
    from safereason.guard.server.mapping import Mapping

EXAMPLES = opt.examples(
    "safereason guard serve --model runs/guard/rl/RUN",
    "safereason guard serve --model runs/guard/rl/RUN --host 0.0.0.0 --keys-file keys.txt --threshold 0.8",
    "safereason guard serve --model openai/guard --base-url http://gpu:9000/v1 --max-batch 64",
)

PolicyName = Annotated[
    str | None, typer.Option("--policy", metavar="POLICY", help="A shipped policy or a file, in place of the guard's.")
]
Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Address to listen at; others need keys.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port; 0 picks a free one.")]
KeysFile = Annotated[
    Path | None,
    typer.Option("--keys-file", metavar="FILE", help="API keys, one a line, beside those of $SAFEREASON_API_KEYS."),
]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="Let everybody in who reaches an address beyond this machine.")]
MappingFile = Annotated[
    Path | None,
    typer.Option("--mapping", metavar="FILE", help="From the policy's categories to the Moderation API's."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0.0,
        max=1.0,
        metavar="P",
        help="Flag from this probability of unsafe on, not by the guard's label.",
    ),
]
Unparsed = Annotated[
    Literal["refuse", "flag"],
    typer.Option("--unparsed", help="What the Moderation API does with a text that got no verdict."),
]
Samples = Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Verdicts that vote on a text.")]
Precision = Annotated[Literal["fp32", "bf16"], typer.Option("--precision", help="Arithmetic of a local model.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the verdicts.")]
MaxBatch = Annotated[int, typer.Option("--max-batch", min=1, metavar="N", help="Texts judged together.")]
MaxWait = Annotated[
    float, typer.Option("--max-wait", min=0.0, max=60_000.0, metavar="MS", help="Milliseconds a text waits for them.")
]
MaxQueue = Annotated[int, typer.Option("--max-queue", min=1, metavar="N", help="Texts that may wait; else 429.")]
MaxInputs = Annotated[int, typer.Option("--max-inputs", min=1, metavar="N", help="Texts of one request; else 422.")]
MaxTurns = Annotated[int, typer.Option("--max-turns", min=1, metavar="N", help="Turns of a conversation; else 422.")]
MaxChars = Annotated[int, typer.Option("--max-chars", min=1, metavar="N", help="Characters of one text; else 422.")]
MaxBody = Annotated[
    int, typer.Option("--max-body-bytes", min=1, metavar="N", help="Bytes of a request's body; else 413.")
]
HeaderTimeout = Annotated[
    float,
    typer.Option("--header-timeout", min=0.001, max=86_400.0, metavar="S", help="Seconds a request's head may take."),
]
MaxConnections = Annotated[
    int | None,
    typer.Option("--max-connections", min=1, metavar="N", help="Open at a time; by default half of `ulimit -n`."),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-hosts", metavar="NAME,...", help="Names callers use, beside --host and localhost; * for any."
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, metavar="N", help="Tokens of a verdict, in place of the guard's own."),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", min=0.001, max=86_400.0, metavar="S", help="Seconds a request waits for verdicts; else 503."
    ),
]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="Write each text and its finding to stderr.")]


def serve(
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    policy: PolicyName = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys_file: KeysFile = None,
    no_keys: NoKeys = False,
    allowed_hosts: AllowedHosts = None,
    mapping: MappingFile = None,
    threshold: Threshold = None,
    unparsed: Unparsed = "refuse",
    samples: Samples = 1,
    max_new_tokens: MaxNewTokens = None,
    precision: Precision = "fp32",
    seed: Seed = 0,
    max_batch: MaxBatch = 16,
    max_wait: MaxWait = 5.0,
    max_queue: MaxQueue = 256,
    max_inputs: MaxInputs = 64,
    max_turns: MaxTurns = 64,
    max_chars: MaxChars = 32_768,
    max_body: MaxBody = 1_048_576,
    timeout: Timeout = 60.0,
    header_timeout: HeaderTimeout = 10.0,
    max_connections: MaxConnections = None,
    log_prompts: LogPrompts = False,
    verbose: opt.Verbose = False,
) -> None:
    """Serve a guard behind the Moderation API, and with all it says at /v1/guard, until SIGTERM or Ctrl-C."""
    from safereason.console import say
    from safereason.guard.open import open_guard
    from safereason.guard.server import keys, run
    from safereason.guard.server.app import create_app
    from safereason.guard.server.hosts import Hosts, listed
    from safereason.guard.server.mapping import CATCH_ALL
    from safereason.guard.server.settings import Limits, Settings

    if model is None:
        raise InputError("which guard? name a run of `guard train`, or any model, with --model")
    limits = Limits(
        max_batch=max_batch,
        max_wait=max_wait / 1000,
        max_queue=max_queue,
        max_inputs=max_inputs,
        max_turns=max_turns,
        max_chars=max_chars,
        max_body=max_body,
        timeout=timeout,
        header_timeout=header_timeout,
        max_connections=run.connections_allowed(max_connections),
    )
    settings = Settings(
        model=Path(model).resolve().name if Path(model).exists() else model,
        limits=limits,
        keys=_keys(host, keys_file, no_keys),
        hosts=Hosts((host, *listed(allowed_hosts or ()))),
        threshold=threshold,
        flag_unparsed=unparsed == "flag",
        seed=seed,
        log_prompts=log_prompts,
    )
    # All that can be wrong is looked at before the model is loaded, which may take minutes.
    guide = guide_of(model, policy, max_new_tokens)
    settings = replace(settings, mapping=_mapping(mapping, guide.policy), ask_again=guide.sampling.temperature > 0)
    with run.bind(host, port) as bound:
        if settings.mapping is None:
            whose = f"policy {guide.policy.name} has no mapping"
            say(f"{whose}: whatever is unsafe is {CATCH_ALL!r}; write a file for --mapping")
        guard = open_guard(
            model, base_url=base_url, policy=policy, sampling=guide.sampling, samples=samples, precision=precision
        )
        ready = f"{settings.model} answers at {run.url_of(bound)} under policy {guide.policy.name}; Ctrl-C ends it"
        on_hangup = (lambda: say(keys.reread(settings.keys, keys_file))) if keys_file else None
        run.serve(create_app(guard, settings), bound, limits, ready, on_hangup)


def _keys(host: str, file: Path | None, none: bool) -> "Keys":
    from safereason.guard.server import keys
    from safereason.guard.server.hosts import is_loopback

    found = keys.read(file)
    if found and none:
        raise InputError(f"--no-keys: there are keys; drop it, or --keys-file and ${keys.VARIABLE}")
    if not (found or none or is_loopback(host)):
        raise InputError(
            f"--host {host}: others than this machine reach it; give ${keys.VARIABLE} or --keys-file, or say --no-keys"
        )
    return found


def _mapping(file: Path | None, policy: "Policy") -> "Mapping | None":
    from safereason.guard.server import mapping

    return mapping.for_policy(policy) if file is None else mapping.load(file, policy)
