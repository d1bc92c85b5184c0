from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.model import ResNetClassifier, SegmentingClassifier, load_initial_weights
from flawsmith.common.errors import InvalidArgumentError


def test_it_is_resnet_50_and_normalises_as_imagenet_does() -> None:
    model = ResNetClassifier().eval()
    backbone_parameters = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert backbone_parameters == 25_557_032 - 2_049_000  # torchvision's count less its 1000-way head
    seen: list[torch.Tensor] = []
    model.backbone.embedder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 32, 3), dtype=np.uint8)
    probability, logit, _, _ = model(torch.from_numpy(pixels))
    expected = (pixels / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen[0].permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert probability.shape == logit.shape == (2, 1)
    torch.testing.assert_close(probability, torch.sigmoid(logit))


@pytest.mark.parametrize(("backbone", "parameters"), [("resnet18", 11_689_512), ("resnet34", 21_797_672)])
def test_smaller_backbones_are_the_ones_of_their_names(backbone: str, parameters: int) -> None:
    model = ResNetClassifier(Backbone(backbone))
    found = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert found == parameters - 513_000  # torchvision's count less its 1000-way head
    assert model.head.in_features == 512


@pytest.mark.parametrize("prefix", ["", "resnet.", "backbone."])
def test_backbone_weights_load_under_the_names_of_transformers(prefix: str, tmp_path: Path) -> None:
    source = ResNetClassifier()
    save_file({prefix + name: value for name, value in source.backbone.state_dict().items()}, tmp_path / "w")
    target = ResNetClassifier()
    load_initial_weights(target, tmp_path / "w")
    for name, value in source.backbone.state_dict().items():
        torch.testing.assert_close(target.backbone.state_dict()[name], value)


@pytest.mark.parametrize("kind", [ResNetClassifier, SegmentingClassifier])
def test_heads_of_the_same_network_are_taken_and_others_dropped(kind: type[ResNetClassifier], tmp_path: Path) -> None:
    source = SegmentingClassifier(Backbone.RESNET18)
    for value in source.parameters():
        torch.nn.init.normal_(value)
    save_file({name: value.contiguous() for name, value in source.state_dict().items()}, tmp_path / "w")
    target = kind(Backbone.RESNET18)
    fresh = {name: value.clone() for name, value in target.state_dict().items()}
    load_initial_weights(target, tmp_path / "w")
    for name, value in target.state_dict().items():
        taken = name.startswith("backbone.") or kind is SegmentingClassifier
        torch.testing.assert_close(value, source.state_dict()[name] if taken else fresh[name])


def test_weights_that_do_not_fit_are_refused_naming_every_tensor(tmp_path: Path) -> None:
    weights = dict(ResNetClassifier().backbone.state_dict())
    stem = "embedder.embedder.convolution.weight"
    weights[stem] = torch.zeros(64, 1, 7, 7)
    missing = "encoder.stages.0.layers.0.layer.0.convolution.weight"
    del weights[missing]
    weights["stranger"] = torch.zeros(1)
    save_file(weights, tmp_path / "w")
    with pytest.raises(InvalidArgumentError) as error:
        load_initial_weights(ResNetClassifier(), tmp_path / "w")
    assert error.value.reason == "INITIAL_WEIGHTS_MISMATCH"
    named = {violation.field.removeprefix("initial_weights.") for violation in error.value.fields}
    assert named == {stem, missing, "stranger"}


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"not tensors")
    with pytest.raises(InvalidArgumentError) as error:
        load_initial_weights(ResNetClassifier(), tmp_path / "w")
    assert error.value.reason == "INITIAL_WEIGHTS_UNREADABLE"
