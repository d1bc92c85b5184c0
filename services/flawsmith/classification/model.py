"""ResNets with one logit, and the normalisation inside, so that whatever serves them feeds raw pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer

from flawsmith.classification.backbones import Backbone
from flawsmith.common.errors import FieldViolation, InvalidArgumentError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIDUAL_SCALE = 0.25
"""For some hundred steps of five images from scratch. Tried on the sample product with 24 real defects (160 x 128, 120
steps, average precision of seeds 0 and 1): 1 gave .50 and .40, 0 gave .74 and .75, 0.25 gave .99 and .98."""
SEGMENTATION_CHANNELS = 64
SEGMENTATION_PRIOR = 0.01
"""Share of cells with a defect that the segmentation head starts from; from a half, normals' cells drown the rest."""

_HEADS = ("classifier.", "head.", "lateral.", "smooth.", "segment.")
_BACKBONES: dict[Backbone, dict[str, Any]] = {
    Backbone.RESNET18: {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    Backbone.RESNET34: {"layer_type": "basic", "depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]},
    Backbone.RESNET50: {},  # transformers' default
}


def backbone_config(backbone: Backbone, **changes: Any) -> ResNetConfig:
    """transformers' configuration of a backbone."""
    return ResNetConfig(**_BACKBONES[backbone], **changes)


class ResNetClassifier(nn.Module):
    """A ResNet (50: v1.5, stride in the 3x3 convolution) with a head of one logit.

    prior: share of defects that the training batches hold; the head's bias starts at its log-odds and its weights
    at zero, so that the first loss is the prior's entropy. The scale of the last batch normalisation of each
    block starts at `RESIDUAL_SCALE`, near the identity after Goyal et al. 2017 (section 5.1, who start at zero).
    """

    def __init__(self, backbone: Backbone = Backbone.RESNET50, prior: float = 0.5) -> None:
        super().__init__()
        self.backbone = ResNetModel(backbone_config(backbone))
        self.sizes: list[int] = self.backbone.config.hidden_sizes
        self.head = _head(self.sizes[-1], prior)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255.0, persistent=False)
        for module in self.backbone.modules():
            if isinstance(module, ResNetBasicLayer | ResNetBottleNeckLayer):
                nn.init.constant_(module.layer[-1].normalization.weight, RESIDUAL_SCALE)

    def logits(self, images: Tensor) -> Tensor:
        """images: uint8, N x H x W x 3, RGB, 0-255. Returns float32, N x 1."""
        return self.head(_pooled(self._stages(images)[-1])).float()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is served. images: uint8, N x H x W x 3.

        Returns float32 probability N x 1, logit N x 1, heat_map N x H/32 x W/32 and embedding N x 2048 (512 where the
        blocks are basic).
        heat_map: the evidence of each cell, whose mean is the logit without the head's bias. With global average
        pooling before one linear layer this is Grad-CAM of the last feature maps (Selvaraju et al. 2017, section 3.1,
        before its ReLU), without a gradient. embedding: the pooled features.
        """
        maps = self._stages(images)[-1]
        embedding = _pooled(maps)
        logit = self.head(embedding).float()
        heat_map = functional.conv2d(maps, self.head.weight[:, :, None, None])[:, 0].float()
        return torch.sigmoid(logit), logit, heat_map, embedding.float()

    def _stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the four stages, N x C x H/s x W/s at strides s of 4, 8, 16 and 32."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.backbone(pixels, output_hidden_states=True).hidden_states[1:]


class SegmentingClassifier(ResNetClassifier):
    """A ResNet whose segmentation head says which cells of 8 x 8 pixels show a defect, and helps to decide.

    The head joins the stages of strides 8, 16 and 32 at stride 8, as a feature pyramid does (Lin et al. 2017). What
    decides are the pooled features, as in `ResNetClassifier`, and the map's maximum and mean, as in the
    segmentation-decision network (Tabernik et al. 2020). No gradient flows from the decision through the map (Bozic et
    al. 2021, section 3.1): what cells show is learned from masks alone.
    """

    def __init__(self, backbone: Backbone = Backbone.RESNET50, prior: float = 0.5) -> None:
        super().__init__(backbone, prior)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(size, SEGMENTATION_CHANNELS, 1, bias=False), nn.BatchNorm2d(SEGMENTATION_CHANNELS))
            for size in self.sizes[1:]
        )
        self.smooth = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(SEGMENTATION_CHANNELS, SEGMENTATION_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(SEGMENTATION_CHANNELS),
            nn.ReLU(),
        )
        self.segment = nn.Conv2d(SEGMENTATION_CHANNELS, 1, 1)
        nn.init.constant_(self.segment.bias, math.log(SEGMENTATION_PRIOR / (1.0 - SEGMENTATION_PRIOR)))
        self.head = _head(self.sizes[-1] + 2, prior)

    def logits(self, images: Tensor) -> Tensor:
        """images: uint8, N x H x W x 3, RGB, 0-255. Returns float32, N x 1."""
        return self.logits_and_map(images)[0]

    def logits_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: uint8, N x H x W x 3. Returns float32 logits, N x 1, and the map's logits, N x H/8 x W/8."""
        logit, cells, _ = self._decide(images)
        return logit, cells

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `ResNetClassifier.forward`, but heat_map is the segmentation head's logits, N x H/8 x W/8."""
        logit, cells, embedding = self._decide(images)
        return torch.sigmoid(logit), logit, cells, embedding.float()

    def _decide(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stages = self._stages(images)
        size = stages[1].shape[2:]
        joined = self.lateral[0](stages[1])
        for lateral, stage in zip(list(self.lateral)[1:], stages[2:], strict=True):
            joined = joined + functional.interpolate(lateral(stage), size, mode="bilinear", align_corners=False)
        cells = self.segment(self.smooth(joined))[:, 0].float()
        embedding = _pooled(stages[-1])
        seen = cells.detach().flatten(1)
        evidence = torch.stack([seen.amax(1), seen.mean(1)], dim=1).to(embedding.dtype)
        return self.head(torch.cat([embedding, evidence], dim=1)).float(), cells, embedding


def _pooled(maps: Tensor) -> Tensor:
    """Global average pooling: N x C x H x W to N x C."""
    return functional.adaptive_avg_pool2d(maps, 1).flatten(1)


def _head(inputs: int, prior: float) -> nn.Linear:
    head = nn.Linear(inputs, 1)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, math.log(prior / (1.0 - prior)))
    return head


def load_initial_weights(model: ResNetClassifier, path: Path) -> None:
    """Start from weights in a safetensors file with the tensor names of transformers' `ResNetModel`.

    A prefix `resnet.` or `backbone.` is accepted (the files of `ResNetForImageClassification` and ours). Heads are
    taken where the file has those of this very network, names and shapes, as a classifier of the same recipe has;
    others are dropped. Raises InvalidArgumentError INITIAL_WEIGHTS_UNREADABLE, or INITIAL_WEIGHTS_MISMATCH naming every
    tensor of the backbone that is missing, unknown or of another shape.
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
        if not name.startswith(_HEADS)
    }
    own = model.backbone.state_dict()
    required = {name for name in own if not name.endswith("num_batches_tracked")}
    problems = [(name, "is missing") for name in sorted(required - weights.keys())]
    problems += [(name, "is not a tensor of this backbone") for name in sorted(weights.keys() - own.keys())]
    problems += [
        (name, f"has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}")
        for name in sorted(weights.keys() & own.keys())
        if weights[name].shape != own[name].shape
    ]
    if problems:
        raise InvalidArgumentError(
            "INITIAL_WEIGHTS_MISMATCH",
            f"{len(problems)} tensors of the initial weights do not fit transformers' ResNetModel with the "
            f"blocks {model.backbone.config.depths}: give weights of the same backbone. The first: "
            + "; ".join(f"{name} {what}" for name, what in problems[:3]),
            fields=[FieldViolation(f"initial_weights.{name}", what) for name, what in problems],
        )
    model.backbone.load_state_dict(weights, strict=False)
    heads, wanted = (
        {name: tensor for name, tensor in tensors.items() if name.startswith(_HEADS)}
        for tensors in (stored, model.state_dict())
    )
    if _shapes(heads) == _shapes(wanted):
        model.load_state_dict(heads, strict=False)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
