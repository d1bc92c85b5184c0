"""What the drawing model answers Triton; only the module that Triton gives its python models is stood in for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tritonclient.utils import InferenceServerException

from flawsmith.common.triton import _translate

MODEL = Path(__file__).parents[3] / "deploy/triton/diffusion/model.py"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    backend = ModuleType("triton_python_backend_utils")
    backend.get_input_tensor_by_name = lambda request, name: None
    backend.TritonError = str
    backend.InferenceResponse = SimpleNamespace
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    spec = importlib.util.spec_from_file_location("diffusion_model", MODEL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "failure", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_want_of_memory_is_said_with_what_to_do(
    model: ModuleType, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def out_of(tensors: object) -> None:
        raise failure

    monkeypatch.setattr(model, "masked_from_tensors", out_of)
    request = SimpleNamespace(requested_output_names=lambda: ["images"])
    error = _translate(InferenceServerException(model.TritonPythonModel().answer(request).error))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")
    assert "smaller" in error.message
