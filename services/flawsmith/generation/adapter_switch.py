"""Swapping LoRA adapters in a model that stays in memory: merged into its weights in place, and taken out exactly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.generation.cpu_inference import PackedConv2d, PackedLinear, PackedWeight
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, unmatched_keys


@dataclass(frozen=True)
class PreparedAdapter:
    """An adapter that was checked, ready to be merged into the networks that it was prepared for.

    merges: set a layer's weight for a ratio, by kohya's module names. nbytes: memory that it takes.
    """

    merges: Mapping[str, Callable[[float], None]]
    nbytes: int


class AdapterSwitch:
    """Merges adapters into the weights of networks in place, and takes them out again exactly.

    `W = W0 + ratio * alpha / rank * (up @ down)`, always from the kept W0, so that nothing drifts. Layers that an
    adapter does not touch stay as they are. Updates of packed layers (see `cpu_inference`) are computed when the
    adapter is prepared; merging it at whatever ratio is then one pass over the weights. Not safe for threads that run
    the model meanwhile.
    """

    def __init__(self, networks: Mapping[str, nn.Module], *, threads: int = 1) -> None:
        """networks: by the prefix of their layers' names. threads: that merge."""
        self._layers = dict(_named_layers(networks))
        self._base: dict[str, torch.Tensor] = {}
        self._changed: set[str] = set()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "merge")

    def prepare(self, weights: LoraWeights) -> PreparedAdapter:
        """Check an adapter and do what merging it needs once.

        Raises InvalidArgumentError unless it fits: ADAPTER_KEYS_UNMATCHED lists modules that the networks lack,
        ADAPTER_BASE_MISMATCH lists layers of another shape.
        """
        self._check(weights)
        merges: dict[str, Callable[[float], None]] = {}
        nbytes = 0
        for name, layer in weights.layers.items():
            target = self._layers[name]
            if isinstance(target, PackedWeight):
                update = target.pack(layer.delta())
                merges[name] = partial(target.merge, update)
                nbytes += update.nbytes
            else:
                merges[name] = partial(self._merge_factors, name, layer)
                nbytes += layer.down.nbytes + layer.up.nbytes
        return PreparedAdapter(merges, nbytes)

    def merge(self, adapter: PreparedAdapter, ratio: float) -> None:
        """Merge an adapter at a weight of `ratio`, instead of what was merged before."""
        self._put_back(self._changed - adapter.merges.keys())
        self._changed |= adapter.merges.keys()
        self._run((name, partial(task, ratio)) for name, task in adapter.merges.items())

    def restore(self) -> None:
        """Take the adapter out: every weight is bit for bit what it was."""
        self._put_back(set(self._changed))

    def _check(self, weights: LoraWeights) -> None:
        unknown = sorted(set(weights.layers) - set(self._layers))
        if unknown:
            raise unmatched_keys(unknown)
        problems = []
        for name, layer in weights.layers.items():
            shape = self._layers[name].shape
            out, inner = shape[:2]
            if (
                layer.down.ndim != len(shape)
                or layer.down.shape[1:] != shape[1:]
                or layer.up.shape[0] != out
                or layer.up.shape[1] != layer.down.shape[0]
            ):
                found = f"{layer.up.shape[0]} x {layer.down.shape[1]}"
                problems.append(FieldViolation(name, f"the adapter is for {found}, the model has {out} x {inner}"))
        if problems:
            raise InvalidArgumentError(
                "ADAPTER_BASE_MISMATCH",
                "the adapter was made for another base model; fine-tune one on this base model: "
                + "; ".join(f"{problem.field}: {problem.description}" for problem in problems[:5]),
                fields=problems,
            )

    @torch.no_grad()
    def _merge_factors(self, name: str, layer: LoraLayerWeights, ratio: float) -> None:
        weight = self._layers[name]
        assert isinstance(weight, torch.Tensor)
        base = self._base.setdefault(name, weight.detach().clone())
        weight.copy_(base.float() + ratio * layer.delta().to(base.device))

    def _put_back(self, names: Collection[str]) -> None:
        self._run((name, partial(self._restore_layer, name)) for name in names)
        self._changed.difference_update(names)

    @torch.no_grad()
    def _restore_layer(self, name: str) -> None:
        weight = self._layers[name]
        if isinstance(weight, PackedWeight):
            weight.restore()
        else:
            weight.copy_(self._base[name])

    def _run(self, tasks: Iterable[tuple[str, Callable[[], None]]]) -> None:
        """Run one task a layer, on all threads, each about as much."""
        shares: list[list[Callable[[], None]]] = [[] for _ in range(self._threads)]
        loads = [0] * self._threads
        for size, _, task in sorted(
            ((self._layers[name].shape.numel(), name, task) for name, task in tasks), reverse=True, key=lambda t: t[:2]
        ):
            least = loads.index(min(loads))
            shares[least].append(task)
            loads[least] += size
        others = [self._pool.submit(_run_all, share) for share in shares[1:]]
        _run_all(shares[0])
        for other in others:
            other.result()


def _run_all(tasks: Iterable[Callable[[], None]]) -> None:
    for task in tasks:
        task()


def _named_layers(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, torch.Tensor | PackedWeight]]:
    for prefix, network in networks.items():
        for name, layer in network.named_modules():
            if isinstance(layer, PackedLinear | PackedConv2d):
                yield prefix + name.replace(".", "_"), layer.packed_weight
            elif isinstance(layer, nn.Linear | nn.Conv2d):
                yield prefix + name.replace(".", "_"), layer.weight
