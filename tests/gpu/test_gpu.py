"""The checks on one CUDA device, with real shapes: `make test-gpu`."""

from pathlib import Path

import pytest
from gpu_cases import ON_GPU
from gpu_models import Models
from gpu_trial import Case, Figures

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.mark.parametrize("case", ON_GPU, ids=str)
def test_on_one_gpu(case: Case, tmp_path: Path, models: Models, gpu_figures: Figures) -> None:
    case.run("cuda", tmp_path, models, gpu_figures)
