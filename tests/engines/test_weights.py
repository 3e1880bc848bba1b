"""Whether a folder holds the same model is told without reading all of it, and whatever its times and place are."""

import json
import os
import shutil
from pathlib import Path

import micro
import pytest

from safereason.engines import weights
from safereason.engines.spec import ModelSpec


@pytest.fixture
def model(tmp_path) -> Path:
    return micro.save_model(tmp_path / "model")


def edited(file: Path, place: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte[0] ^ 1]))


def test_a_copy_elsewhere_with_other_times_is_the_same_model(model, tmp_path):
    before = ModelSpec.parse(str(model)).contents()
    copy = shutil.copytree(model, tmp_path / "elsewhere" / "copy")
    for file in copy.iterdir():
        os.utime(file, (1, 1))
    assert (
        ModelSpec.parse(str(copy)).contents()
        == before
        == ModelSpec.parse(f"hf/{model}").contents()
        == ModelSpec.parse(f"vllm/{copy}").contents()
    )


def test_another_training_in_the_same_folder_is_another_model(model):
    before = ModelSpec.parse(str(model)).contents()
    shutil.rmtree(model)
    micro.save_model(model, seed=1)
    assert ModelSpec.parse(str(model)).contents() != before


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
)
def test_what_a_model_is_loaded_with_counts(model, name):
    before = ModelSpec.parse(str(model)).contents()
    (model / name).write_text((model / name).read_text() + " " if (model / name).exists() else "{}")
    assert ModelSpec.parse(str(model)).contents() != before


def test_what_it_is_not_loaded_from_does_not_count(model):
    before = ModelSpec.parse(str(model)).contents()
    for name in ("README.md", "optimizer.pt", "rng_state.pth", "trainer_state.json", "training_args.bin", ".cache"):
        (model / name).write_text("other")
    (model / "logs").mkdir()
    assert ModelSpec.parse(str(model)).contents() == before


def test_a_large_file_is_read_in_part_and_a_training_is_seen_all_the_same(model, monkeypatch):
    monkeypatch.setattr(weights, "WHOLE", 1 << 12)
    monkeypatch.setattr(weights, "BLOCK", 1 << 8)
    file = model / "model.safetensors"
    size = file.stat().st_size
    read = sum(len(part) for part in weights._parts(file.open("rb"), size, has_header=True))
    assert read < size / 5
    identities = {ModelSpec.parse(str(model)).contents()}
    edited(file, 40)  # the header
    identities.add(ModelSpec.parse(str(model)).contents())
    edited(file, size - 1)
    identities.add(ModelSpec.parse(str(model)).contents())
    with file.open("r+b") as opened:
        opened.seek(size // 2)
        opened.write(bytes(size // 2))
    identities.add(ModelSpec.parse(str(model)).contents())
    assert len(identities) == 4


def test_the_model_that_adapters_belong_to_counts(model, tmp_path):
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    (adapters / "adapter_model.safetensors").write_bytes(b"weights")
    before = ModelSpec.parse(str(adapters)).contents()
    edited(model / "model.safetensors", 5000)
    assert ModelSpec.parse(str(adapters)).contents() != before


def test_what_is_known_by_its_name_has_no_hash(model, tmp_path):
    for spec in ("openai/gpt", "org/name", "embedded/smollm2-135m", "none", "x" * 5000):
        assert ModelSpec.parse(spec).contents() is None
    (model / "manifest.json").write_text('{"stage": "sft", "status": "finished"}')
    assert ModelSpec.parse(str(model)).contents() is None
