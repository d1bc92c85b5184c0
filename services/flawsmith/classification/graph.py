"""What every classifier's graph takes and gives, whatever runs it: input `image`, uint8 N x H x W x 3, RGB."""

OUTPUTS = ("probability", "logit", "heat_map", "embedding")
"""float32: N x 1, N x 1, N x h x w, N x D (see `ResNetClassifier.forward`)."""

OPSET = 17
"""Read by ONNX Runtime 1.13 and later, TensorRT 8.6 and later, OpenVINO 2023 and later."""
