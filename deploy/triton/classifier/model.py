"""Triton python backend: one variant of a classifier version through ONNX Runtime, where the onnxruntime backend is
missing.

The folder holds model.onnx beside this file. Requests that Triton's dynamic batching put together run as one batch.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

OUTPUTS = ("probability", "logit", "heat_map", "embedding")


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["intra_op_threads"]["string_value"])
        options.inter_op_num_threads = 1
        # Threads that sleep between a graph's hundred small operators wake late. They spin for the length of a run
        # only: several models share the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        results = self.session.run(OUTPUTS, {"image": images[0] if len(images) == 1 else np.concatenate(images)})
        responses, start = [], 0
        for request, image in zip(requests, images, strict=True):
            end, wanted = start + len(image), request.requested_output_names()
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(result[start:end]))
                for name, result in zip(OUTPUTS, results, strict=True)
                if name in wanted
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
            start = end
        return responses
