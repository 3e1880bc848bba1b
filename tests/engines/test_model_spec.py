"""How a model is named, and what its name, its label and its identity say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.runs.directory import RunDirectory

WORDS = st.text("abcXYZ019-._", min_size=1, max_size=12).filter(lambda text: text.strip(".") == text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("org/name", ModelSpec("org/name")),
        ("hf/org/name", ModelSpec("org/name", "hf")),
        ("vllm/org/name", ModelSpec("org/name", "vllm")),
        ("openai/gpt@home", ModelSpec("gpt@home", "openai")),
        ("openai/org/name", ModelSpec("org/name", "openai")),
        ("org/name@v1.0", ModelSpec("org/name", None, "v1.0")),
        ("vllm/org/name@main", ModelSpec("org/name", "vllm", "main")),
        ("./folder@home", ModelSpec("./folder@home")),
        ("/models/a@b", ModelSpec("/models/a@b")),
        ("embedded/smollm2-135m", ModelSpec("embedded/smollm2-135m")),
        ("hf", ModelSpec("hf")),
        ("org/name@", ModelSpec("org/name@")),
    ],
)
def test_a_name_is_read_once(text: str, spec: ModelSpec):
    assert ModelSpec.parse(text) == spec
    assert str(spec) == text
    assert spec.recorded_name == text.removeprefix("hf/")


@given(engine=st.sampled_from(["", "hf/", "vllm/", "openai/"]), org=WORDS, name=WORDS, revision=st.none() | WORDS)
def test_a_spec_is_written_as_it_is_read(engine: str, org: str, name: str, revision: str | None):
    text = f"{engine}{org}/{name}"
    if revision is not None:
        text = f"{text}@{revision}"
    spec = ModelSpec.parse(text)
    assert ModelSpec.parse(str(spec)) == spec
    shows_weights = engine in ("", "hf/") and (engine != "" or org not in ("vllm", "openai"))
    assert (spec.is_remote, spec.has_weights) == (engine == "openai/", shows_weights)
    assert spec.identity() == spec.recorded_name == text.removeprefix("hf/")


def test_a_folder_with_an_at_sign_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "org" / "name@1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert ModelSpec.parse("org/name@1").revision is None
    assert ModelSpec.parse("org/name@1").location == "org/name@1"


def test_a_run_is_known_by_its_stage_recipe_and_hash_wherever_it_lies(micro_model: Path, tmp_path: Path):
    for folder in ("here", "there"):
        with RunDirectory(tmp_path / folder, "sft", "micro", "name: micro\n", {"seed": 0}) as run:
            (run.path / "model").mkdir()
            (run.path / "model" / "config.json").write_text("{}")
            run.finish({})
    here = ModelSpec.parse(str(tmp_path / "here"))
    there = ModelSpec.parse(f"hf/{tmp_path / 'there'}")
    assert here.identity() == there.identity()
    assert here.identity().startswith("sft/micro/")
    assert here.label() == there.label() == f"sft.{here.identity().rpartition('/')[2]}"
    # vLLM draws otherwise.
    assert ModelSpec.parse(f"vllm/{tmp_path / 'here'}").identity() == f"vllm/{here.identity()}"
    assert here.contents() is None
    assert here.location == str(tmp_path / "here" / "model")


def test_a_run_that_did_not_finish_has_no_identity(tmp_path: Path):
    run = RunDirectory(tmp_path / "run", "sft", "micro", "name: micro\n", {})
    run.__enter__()
    run.__exit__(None, None, None)
    with pytest.raises(InputError, match="this sft run is not finished; resume it first"):
        ModelSpec.parse(str(tmp_path / "run")).identity()


def test_other_models_are_known_by_their_names(micro_model: Path):
    assert ModelSpec.parse("org/name@v2").identity() == "org/name@v2"
    assert ModelSpec.parse("org/name@v2").label() == "name@v2"
    assert ModelSpec.parse("openai/judge").identity() == "openai/judge"
    spec = ModelSpec.parse(str(micro_model))
    assert spec.identity() == str(micro_model)
    assert len(spec.contents() or "") == 16


def test_a_model_behind_a_server_has_no_files():
    with pytest.raises(InputError, match="openai/judge: a server runs this model; name one whose files"):
        assert ModelSpec.parse("openai/judge").location


def test_a_revision_that_cannot_be_had_is_one_line():
    spec = ModelSpec.parse("org/none@v1")
    for look_up in (spec.check, lambda: spec.location):
        with pytest.raises(InputError) as error:
            look_up()
        assert "org/none" in str(error.value)
        assert "\n" not in str(error.value)


def test_the_base_of_adapters_is_read_once(tmp_path: Path):
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "org/base@v1"}')
    spec = ModelSpec.parse(str(tmp_path))
    assert spec.base == ModelSpec("org/base", revision="v1")
    config.write_text("{}")
    assert spec.base is spec.base
    with pytest.raises(InputError, match="does not say which model the adapter belongs to"):
        assert ModelSpec.parse(str(tmp_path)).base


def test_a_path_becomes_absolute_and_another_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ModelSpec.parse("m").absolute() == ModelSpec(str(tmp_path / "m"))
    assert ModelSpec.parse("vllm/m").absolute() == ModelSpec(str(tmp_path / "m"), "vllm")
    for name in ("org/name@v1", "openai/x", "embedded/smollm2-135m", ""):
        assert ModelSpec.parse(name).absolute() == ModelSpec.parse(name)
