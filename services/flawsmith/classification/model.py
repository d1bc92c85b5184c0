"""ResNet-50 with one logit, and the normalisation inside, so that whatever serves it feeds raw pixels."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel
from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

from flawsmith.common.errors import FieldViolation, InvalidArgumentError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIDUAL_SCALE = 0.25
"""For some hundred steps of five images from scratch. Tried on the sample product with 24 real defects (160 x 128, 120
steps, average precision of seeds 0 and 1): 1 gave .50 and .40, 0 gave .74 and .75, 0.25 gave .99 and .98."""


class ResNet50Classifier(nn.Module):
    """ResNet-50 v1.5 (stride in the 3x3 convolution) with a head of one logit.

    prior: share of defects that the training batches hold; the head's bias starts at its log-odds and its weights
    at zero, so that the first loss is the prior's entropy. The scale of the last batch normalisation of each
    bottleneck starts at `RESIDUAL_SCALE`, near the identity after Goyal et al. 2017 (section 5.1, who start at zero).
    """

    def __init__(self, prior: float = 0.5) -> None:
        super().__init__()
        self.backbone = ResNetModel(ResNetConfig())
        self.head = nn.Linear(self.backbone.config.hidden_sizes[-1], 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255.0, persistent=False)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, math.log(prior / (1.0 - prior)))
        for module in self.backbone.modules():
            if isinstance(module, ResNetBottleNeckLayer):
                nn.init.constant_(module.layer[-1].normalization.weight, RESIDUAL_SCALE)

    def logits(self, images: Tensor) -> Tensor:
        """images: uint8, N x H x W x 3, RGB, 0-255. Returns float32, N x 1."""
        return self.head(self._features(images)[1]).float()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is served. images: uint8, N x H x W x 3.

        Returns float32 probability N x 1, logit N x 1, heat_map N x H/32 x W/32 and embedding N x 2048.
        heat_map: the evidence of each cell, whose mean is the logit without the head's bias. With global average
        pooling before one linear layer this is Grad-CAM of the last feature maps (Selvaraju et al. 2017, section 3.1,
        before its ReLU), without a gradient. embedding: the pooled features.
        """
        maps, embedding = self._features(images)
        logit = self.head(embedding).float()
        heat_map = functional.conv2d(maps, self.head.weight[:, :, None, None])[:, 0].float()
        return torch.sigmoid(logit), logit, heat_map, embedding.float()

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature maps, N x 2048 x H/32 x W/32, and their means, N x 2048."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        found = self.backbone(pixels)
        return found.last_hidden_state, found.pooler_output.flatten(1)


def load_backbone(model: ResNet50Classifier, path: Path) -> None:
    """Start from weights in a safetensors file with the tensor names of transformers' `ResNetModel`.

    A prefix `resnet.` or `backbone.` and tensors of a classifier head are accepted and dropped (the files of
    `ResNetForImageClassification` and ours). Raises InvalidArgumentError INITIAL_WEIGHTS_UNREADABLE, or
    INITIAL_WEIGHTS_MISMATCH naming every tensor that is missing, unknown or of another shape.
    """
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InvalidArgumentError(
            "INITIAL_WEIGHTS_UNREADABLE",
            f"the initial weights are not a readable safetensors file ({error}); send one, or leave them out",
            fields=[FieldViolation("initial_weights", "not a safetensors file")],
        ) from error
    weights = {
        name.removeprefix("resnet.").removeprefix("backbone."): tensor
        for name, tensor in stored.items()
        if not name.startswith(("classifier.", "head."))
    }
    own = model.backbone.state_dict()
    required = {name for name in own if not name.endswith("num_batches_tracked")}
    problems = [(name, "is missing") for name in sorted(required - weights.keys())]
    problems += [(name, "is not a tensor of ResNet-50") for name in sorted(weights.keys() - own.keys())]
    problems += [
        (name, f"has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}")
        for name in sorted(weights.keys() & own.keys())
        if weights[name].shape != own[name].shape
    ]
    if problems:
        raise InvalidArgumentError(
            "INITIAL_WEIGHTS_MISMATCH",
            f"{len(problems)} tensors of the initial weights do not fit transformers' ResNetModel (ResNet-50); "
            "the first: " + "; ".join(f"{name} {what}" for name, what in problems[:3]),
            fields=[FieldViolation(f"initial_weights.{name}", what) for name, what in problems],
        )
    model.backbone.load_state_dict(weights, strict=False)
