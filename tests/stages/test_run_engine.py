"""The engine of a run: what a person names counts in its identity, what the machine chooses is noted and kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from safereason.engines import engine_spec
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.runs.records import read_json
from safereason.stages.base import Options
from safereason.stages.run_engine import ENGINE, RunEngine, noted_engine

MODEL = ModelSpec.parse("org/name")
IDENTITY = {"seed": 0, "model": "org/name"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU with bf16 arithmetic, and vLLM."""
    monkeypatch.setattr(engine_spec, "gpu_has_bf16", lambda: True)
    monkeypatch.setattr(engine_spec, "check_precision", lambda precision: None)
    monkeypatch.setattr("safereason.engines.vllm.is_installed", lambda: True)


def choose(model: ModelSpec = MODEL, choice: str = "auto", precision: str | None = None, **more: bool) -> RunEngine:
    return RunEngine.choose(model, Options(precision=precision), choice, **more)


def test_on_a_cpu_it_is_transformers_in_fp32():
    engine = choose()
    assert engine.settings == {"engine": "hf", "precision": "fp32"}
    assert engine.named == {}


def test_on_a_gpu_it_is_vllm_in_bf16_unless_the_weights_are_read(gpu: None):
    assert choose().settings == {"engine": "vllm", "precision": "bf16"}
    assert choose(by_transformers=True).settings == {"engine": "hf", "precision": "bf16"}


@pytest.mark.parametrize(
    ("model", "choice", "precision", "named"),
    [
        ("org/name", "auto", None, {}),
        ("org/name", "hf", None, {"engine": "hf"}),
        ("hf/org/name", "auto", None, {"engine": "hf"}),
        ("org/name", "vllm", "bf16", {"engine": "vllm", "precision": "bf16"}),
        # The name in the identity says vllm/ already.
        ("vllm/org/name", "auto", "fp32", {"precision": "fp32"}),
        ("openai/name", "auto", "bf16", {}),
    ],
)
def test_what_is_named_counts_in_the_identity(gpu: None, model: str, choice: str, precision: str | None, named):
    engine = choose(ModelSpec.parse(model), choice, precision)
    assert engine.named == named
    assert engine.identity(IDENTITY, Path("nothing")) == {**IDENTITY, **named}


def test_a_server_decides_for_itself(tmp_path: Path):
    engine = choose(ModelSpec.parse("openai/name"))
    engine.begin(tmp_path)
    engine.note(tmp_path)
    assert not (tmp_path / ENGINE).exists()


def test_the_first_note_stays(tmp_path: Path, gpu: None):
    choose().note(tmp_path)
    choose(choice="hf").note(tmp_path)
    assert read_json(tmp_path / ENGINE) == noted_engine(tmp_path) == {"engine": "vllm", "precision": "bf16"}


def test_a_run_that_another_engine_began_is_refused_with_what_to_pass(tmp_path: Path, gpu: None):
    choose().note(tmp_path)
    choose().begin(tmp_path)
    with pytest.raises(InputError) as error:
        choose(choice="hf", precision="fp32").begin(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: was begun by vLLM in bf16, and transformers in fp32 would go on here; "
        "pass --model vllm/NAME and --precision bf16, or --overwrite"
    )


def test_vllm_is_said_where_nobody_named_it(tmp_path: Path, gpu: None, capsys: pytest.CaptureFixture[str]):
    choose().begin(tmp_path)
    assert capsys.readouterr().err == "engine: vLLM in bf16; --model hf/NAME takes transformers\n"
    choose(choice="vllm").begin(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_where_what_it_chose_by_itself_is_named(tmp_path: Path, gpu: None, monkeypatch):
    monkeypatch.setattr("safereason.stages.run_engine.read_manifest", lambda run: {"identity": IDENTITY})
    choose().note(tmp_path)
    assert choose(choice="vllm", precision="bf16").identity(IDENTITY, tmp_path) == IDENTITY
    assert choose(precision="fp32").identity(IDENTITY, tmp_path) == {**IDENTITY, "precision": "fp32"}


def test_planned_gpus_decide_in_a_plan():
    from safereason.stages.run_engine import engine_of
    from safereason.training.fit import parse_gpus

    for named, precision in (("4x48GB", "bf16"), ("V100", "fp32")):
        options = replace(Options(), planned_gpus=parse_gpus(named))
        assert engine_of(MODEL, options).precision == precision
