"""Triton python backend: draws images with a base model and any LoRA adapter of it, both from the object store.

Weights are fetched once into the cache folder and compared with their sha256; adapters are merged in place, so that
swapping one does not reload the base model. Errors are `CODE/REASON: message`, which callers map back.
"""

import hashlib
import importlib.metadata
import json
import os

# Threads that spin while they wait make everything else on the machine, and themselves, many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from flawsmith.common.errors import FlawsmithError, InvalidArgumentError, NotFoundError
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.settings import Settings
from flawsmith.generation.catalog import download_base_model, require_base_model
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest, from_tensors, masked_from_tensors
from flawsmith.generation.memory import out_of_memory

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy")


class TritonPythonModel:
    def initialize(self, args):
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        settings = Settings()
        self.store = ObjectStore(settings.object_store)
        self.cache = settings.state_dir / "triton-cache"
        threads = int(parameters["threads"])
        torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            ref = require_base_model(Resources(self.store), parameters["base_model"])
            folder = download_base_model(Resources(self.store), ref, self.cache / "base-models")
            model = load_model(folder, device=device)
        except FlawsmithError as error:
            raise pb_utils.TritonModelException(describe(error)) from error
        self.drawer = Drawer(
            model,
            ref.sha256,
            self.fetch_adapter,
            precision=parameters["precision"],
            threads=threads,
            adapter_cache_bytes=settings.drawing.adapter_cache_bytes,
        )
        self.drawer.warm_up()
        self.info = json.dumps(
            {
                "base_model": parameters["base_model"],
                "base_model_sha256": ref.sha256,
                "device": device,
                "precision": parameters["precision"],
                "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            }
        )

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            tensors = {
                name: tensor.as_numpy()
                for name in (*DrawingRequest.model_fields, "image", "mask")
                if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
            }
            masked = masked_from_tensors(tensors)
            if "features" in request.requested_output_names():
                return self.answer_features(masked)
            images = self.drawer.draw(from_tensors(tensors), masked)
        except FlawsmithError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(describe(error)))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            # Not while drawing, which makes do with less: while merging an adapter or looking at images.
            text = "RESOURCE_EXHAUSTED/OUT_OF_MEMORY: the device's memory is too small; ask for smaller images"
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("images", images), pb_utils.Tensor("info", np.array([self.info.encode()], dtype=object))]
        )

    def answer_features(self, masked):
        if masked is None:
            raise InvalidArgumentError("NO_IMAGES", "features are of images and masks; send some")
        return pb_utils.InferenceResponse([pb_utils.Tensor("features", self.drawer.features(masked))])

    def fetch_adapter(self, uri, sha256):
        path = self.cache / "adapters" / f"{sha256}.safetensors"
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return path
        partial = path.with_suffix(".partial")
        try:
            self.store.get_file(ObjectRef(uri=uri, sha256=sha256, size=0), partial)
        except NotFoundError as error:
            raise NotFoundError("UNKNOWN_ADAPTER", f"no adapter at {uri}; fine-tune one first") from error
        return partial.replace(path)


def describe(error):
    return f"{error.code}/{error.reason}: {error.message}"
