"""`safereason guard serve`: a server for a guard, with the Moderation API."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.cli.guard_classify import check_precision_option, requested_guard_prompt
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.engines.spec import ModelSpec
    from safereason.guard.guard_prompt import GuardPrompt
    from safereason.guard.policy import Policy
    from safereason.guard.reasoning import ReasoningGuard
    from safereason.guard.server.keys import Keys
    from safereason.guard.server.mapping import Mapping
    from safereason.guard.server.settings import ServerSettings

EXAMPLES = opt.examples(
    "safereason guard serve --model runs/guard/rl/RUN",
    "safereason guard serve --model runs/guard/rl/RUN --host 0.0.0.0 --keys-file keys.txt --threshold 0.8",
    "safereason guard serve --model openai/guard --base-url http://gpu:9000/v1 --max-batch 64",
)

PolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="POLICY", help="A shipped policy or a file, in place of the guard's.")
]
Host = Annotated[
    str, typer.Option("--host", metavar="HOST", help="Address to listen at; all but this machine's own need keys.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port; 0 picks a free one.")]
KeysFile = Annotated[
    Path | None,
    typer.Option("--keys-file", metavar="FILE", help="API keys, one a line, beside those of $SAFEREASON_API_KEYS."),
]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="Serve an address beyond this machine without keys.")]
MappingFile = Annotated[
    Path | None,
    typer.Option("--mapping", metavar="FILE", help="YAML file from the policy's categories to the Moderation API's."),
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
# An error leaves the choice to the caller; a flag may block a harmless text. To let the text pass is no choice: an
# attacker could aim for verdicts that cannot be parsed.
Unparsed = Annotated[
    Literal["refuse", "flag"],
    typer.Option("--unparsed", help="Answer of the Moderation API for a text without a verdict."),
]
Samples = Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Verdicts that vote on a text.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the verdicts.")]
MaxBatch = Annotated[int, typer.Option("--max-batch", min=1, metavar="N", help="Texts judged together.")]
MaxWait = Annotated[
    float,
    typer.Option(
        "--max-wait",
        min=0.0,
        max=60_000.0,
        metavar="MS",
        help="Milliseconds that a text waits for others to be judged with.",
    ),
]
# Every limit below ends in an answer with a status code. Without them, one caller could fill the memory or keep all
# connections open.
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
    typer.Option(
        "--max-connections", min=1, metavar="N", help="Most open connections; by default half of `ulimit -n`."
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-hosts",
        metavar="NAME,...",
        help="Host names that callers may use, besides --host and localhost; * for any.",
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
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="Write each text and its verdict to stderr.")]


def serve(
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    policy: PolicyOption = None,
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
    precision: opt.PrecisionOption = None,
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
    """Serve a guard behind the Moderation API, and with its whole verdict at /v1/guard, until SIGTERM or Ctrl-C."""
    from safereason.engines.spec import ModelSpec
    from safereason.guard.server import run
    from safereason.guard.server.hosts import Hosts, listed
    from safereason.guard.server.settings import Limits, ServerSettings

    if model is None:
        raise InputError("which guard? name a run of `guard train`, or any model, with --model")
    spec = ModelSpec.parse(model)
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
    settings = ServerSettings(
        model=_served_name(model),
        limits=limits,
        keys=_api_keys(host, keys_file, no_keys),
        hosts=Hosts((host, *listed(allowed_hosts or ()))),
        threshold=threshold,
        flag_unparsed=unparsed == "flag",
        seed=seed,
        log_prompts=log_prompts,
    )
    check_precision_option(precision, spec)
    guard_prompt = requested_guard_prompt(spec, policy, max_new_tokens)
    source = _GuardSource(spec, base_url, guard_prompt, samples, precision)
    _serve_guard(source, settings, (host, port), mapping, keys_file)


@dataclass(frozen=True)
class _GuardSource:
    """The guard to serve: its model, and the settings of the command line."""

    model: "ModelSpec"
    base_url: str | None
    guard_prompt: "GuardPrompt"
    samples: int
    precision: Literal["fp32", "bf16"] | None

    def open(self) -> "ReasoningGuard":
        """The guard with its model loaded, which may take minutes."""
        from safereason.engines.engine_spec import Loading
        from safereason.guard.open import open_with_prompt

        return open_with_prompt(
            self.model,
            self.guard_prompt,
            base_url=self.base_url,
            samples=self.samples,
            loading=Loading(self.precision),
        )


def _serve_guard(
    source: _GuardSource,
    settings: "ServerSettings",
    address: tuple[str, int],
    mapping_file: Path | None,
    keys_file: Path | None,
) -> None:
    """Binds the address, loads the guard, and serves it until a signal.

    Args:
        source: The guard.
        settings: The server's settings, without what depends on the guard's policy and sampling.
        address: The host and the port.
        mapping_file: The file of `--mapping`.
        keys_file: The file of `--keys-file`, which SIGHUP has read again.
    """
    from safereason.console import say
    from safereason.guard.server import run
    from safereason.guard.server.app import create_app
    from safereason.guard.server.mapping import CATCH_ALL

    policy = source.guard_prompt.policy
    settings = replace(
        settings,
        mapping=_category_mapping(mapping_file, policy),
        # At temperature 0, a second try would give the same text again.
        retry_unparsed=source.guard_prompt.sampling.temperature > 0,
    )
    # A port that is taken has to be known before the model is loaded, so binding comes first.
    with run.bind(*address) as bound:
        if settings.mapping is None:
            whose = f"policy {policy.name} has no mapping"
            say(f"{whose}: whatever is unsafe is {CATCH_ALL!r}; write a file for --mapping")
        guard = source.open()
        ready = f"{settings.model} answers at {run.url_of(bound)} under policy {policy.name}; Ctrl-C ends it"

        on_hangup = None
        # Without a file there is nothing to read again, and SIGHUP ends the server as it ends other commands.
        if keys_file:
            on_hangup = partial(_reread_keys, settings.keys, keys_file)
        run.serve(create_app(guard, settings), bound, settings.limits, ready, on_hangup)


def _served_name(model: str) -> str:
    """The name that clients see: a folder's own, without its place on this machine."""
    if Path(model).exists():
        return Path(model).resolve().name
    return model


def _api_keys(host: str, file: Path | None, no_keys: bool) -> "Keys":
    """The keys of the environment and the file.

    Raises:
        InputError: There are keys despite `--no-keys`, or none at an address that other machines reach.
    """
    from safereason.guard.server import keys
    from safereason.guard.server.hosts import is_loopback

    accepted = keys.read(file)
    if accepted and no_keys:
        raise InputError(f"--no-keys: there are keys; drop it, or --keys-file and ${keys.VARIABLE}")
    # A guard that nobody meant to open to the network is the worse mistake, so this takes an option of its own.
    if not (accepted or no_keys or is_loopback(host)):
        raise InputError(
            f"--host {host}: others than this machine reach it; give ${keys.VARIABLE} or --keys-file, or say --no-keys"
        )
    return accepted


def _reread_keys(accepted: "Keys", file: Path) -> None:
    """Reads the keys again, so that they can be changed while the server runs, and prints what changed."""
    from safereason.console import say
    from safereason.guard.server import keys

    say(keys.reread(accepted, file))


def _category_mapping(file: Path | None, policy: "Policy") -> "Mapping | None":
    """The mapping of the file, or the shipped one of the policy; None where the policy has none."""
    from safereason.guard.server import mapping

    if file is None:
        return mapping.for_policy(policy)
    return mapping.load(file, policy)
