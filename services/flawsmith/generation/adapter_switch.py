"""Swapping LoRA adapters in a model that stays in memory: merged into its weights in place, and taken out exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.generation.cpu_inference import PackedConv2d, PackedLinear, PackedUpdates, PackedWeight
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, unmatched_keys


@dataclass(frozen=True)
class PreparedAdapter:
    """An adapter that was checked, ready to be merged into the networks that it was prepared for.

    updates: of packed weights. factors: of all other weights. names: of both, kohya's module names.
    """

    names: frozenset[str]
    updates: PackedUpdates
    factors: Mapping[str, LoraLayerWeights]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.updates.nbytes + sum(layer.down.nbytes + layer.up.nbytes for layer in self.factors.values())


class AdapterSwitch:
    """Merges adapters into the weights of networks in place, and takes them out again exactly.

    `W = W0 + ratio * alpha / rank * (up @ down)`, always from the kept W0, so that nothing drifts. Layers that an
    adapter does not touch stay as they are. Updates of packed layers (see `cpu_inference`) are computed when the
    adapter is prepared; merging it at whatever ratio is then one pass over the weights. Not safe for threads that run
    the model meanwhile.
    """

    def __init__(self, networks: Mapping[str, nn.Module], *, threads: int = 1) -> None:
        """networks: by the prefix of their layers' names. threads: that merge packed weights."""
        self._layers = dict(_named_layers(networks))
        self._base: dict[str, torch.Tensor] = {}
        self._merged: PreparedAdapter | None = None
        self._pool = ThreadPoolExecutor(threads, "merge")

    def prepare(self, weights: LoraWeights) -> PreparedAdapter:
        """Check an adapter and do what merging it needs once.

        Raises InvalidArgumentError unless it fits: ADAPTER_KEYS_UNMATCHED lists modules that the networks lack,
        ADAPTER_BASE_MISMATCH lists layers of another shape.
        """
        self._check(weights)
        updates, factors = [], {}
        for name, layer in weights.layers.items():
            weight = self._layers[name]
            if isinstance(weight, PackedWeight):
                updates.append((weight, weight.pack(layer.delta())))
            else:
                factors[name] = layer
        return PreparedAdapter(frozenset(weights.layers), PackedUpdates(updates, self._pool), factors)

    @torch.no_grad()
    def merge(self, adapter: PreparedAdapter, ratio: float) -> None:
        """Merge an adapter at a weight of `ratio`, instead of what was merged before."""
        if self._merged is not None and not self._merged.names <= adapter.names:
            self.restore()
        self._merged = adapter
        adapter.updates.merge(ratio)
        for name, layer in adapter.factors.items():
            weight = self._weight(name)
            base = self._base.setdefault(name, weight.detach().clone())
            weight.copy_(base.float() + ratio * layer.delta().to(base.device))

    @torch.no_grad()
    def restore(self) -> None:
        """Take the adapter out: every weight is bit for bit what it was."""
        if self._merged is not None:
            self._merged.updates.restore()
            for name in self._merged.factors:
                self._weight(name).copy_(self._base[name])
        self._merged = None

    def _weight(self, name: str) -> torch.Tensor:
        weight = self._layers[name]
        assert isinstance(weight, torch.Tensor)
        return weight

    def _check(self, weights: LoraWeights) -> None:
        unknown = sorted(set(weights.layers) - set(self._layers))
        if unknown:
            raise unmatched_keys(unknown)
        problems = []
        for name, layer in weights.layers.items():
            shape = self._layers[name].shape
            down, up = tuple(layer.down.shape), tuple(layer.up.shape)
            if down[1:] != tuple(shape[1:]) or up != (shape[0], down[0], *(1 for _ in shape[2:])):
                found = f"{_times(up)} by {_times(down)}"
                problems.append(FieldViolation(name, f"the adapter is for {found}, the model has {_times(shape)}"))
        if problems:
            raise InvalidArgumentError(
                "ADAPTER_BASE_MISMATCH",
                "the adapter was made for another base model; fine-tune one on this base model: "
                + "; ".join(f"{problem.field}: {problem.description}" for problem in problems[:5]),
                fields=problems,
            )


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "no shape"


def _named_layers(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, torch.Tensor | PackedWeight]]:
    for prefix, network in networks.items():
        for name, layer in network.named_modules():
            if isinstance(layer, PackedLinear | PackedConv2d):
                yield prefix + name.replace(".", "_"), layer.packed_weight
            elif isinstance(layer, nn.Linear | nn.Conv2d):
                yield prefix + name.replace(".", "_"), layer.weight
