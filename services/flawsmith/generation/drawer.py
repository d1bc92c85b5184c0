"""One base model in memory that draws with any adapter of it, swapped in place."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np

from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.generation import cpu_inference
from flawsmith.generation.adapter_switch import AdapterSwitch, PreparedAdapter
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.features import encoder_features
from flawsmith.generation.lora import read_kohya, read_metadata
from flawsmith.generation.memory import in_parts
from flawsmith.generation.quality import check_images, check_reconstructed
from flawsmith.generation.signal_leak import SignalLeak, from_json
from flawsmith.generation.spec import Precision
from flawsmith.generation.strategies import STRATEGIES

_WARM_UP_SIDE = 64


class Drawer:
    """Draws images for requests, one after the other; not safe for threads.

    The model belongs to the drawer from then on: on a CPU that is quick at bfloat16, and unless float32 is asked for,
    its networks are changed for inference (see `cpu_inference`).
    """

    def __init__(
        self,
        model: LatentDiffusionModel,
        base_model_sha256: str,
        fetch_adapter: Callable[[str, str], Path],
        *,
        precision: Precision = "auto",
        threads: int = 1,
        adapter_cache_bytes: int = 2**30,
    ) -> None:
        """base_model_sha256: hash of the loaded model's manifest. fetch_adapter: from an adapter's URI and sha256 to a
        local file with that hash. precision: of the networks, see `LatentDiffusionModel.precision`. threads: that
        compute, on a CPU. adapter_cache_bytes: for adapters that are ready to be merged, those used last; one is kept
        whatever it takes."""
        self._model = model
        self._base_model_sha256 = base_model_sha256
        self._fetch = fetch_adapter
        self._precision: Precision = precision
        self._optimised = model.device.type == "cpu" and precision in ("auto", "bfloat16") and cpu_inference.is_quick()
        if self._optimised:
            cpu_inference.optimise(model, threads)
        self._switch = AdapterSwitch(model.networks, threads=threads)
        self._merged: tuple[str, float] | None = None
        self._leak: SignalLeak | None = None
        self._adapters: OrderedDict[str, tuple[PreparedAdapter, SignalLeak | None]] = OrderedDict()
        self._adapter_cache_bytes = adapter_cache_bytes

    def warm_up(self) -> None:
        """Draw something, so that no request waits for what is made when it is first needed."""
        model = self._model
        side = model.nearest_side(min(model.native_side, _WARM_UP_SIDE))
        request = DrawingRequest(
            prompt="metal", base_model_sha256=self._base_model_sha256, height=side, width=side, steps=1, seeds=(0,)
        )
        with self._context():
            STRATEGIES[request.strategy](model, request, None, None)

    def draw(self, request: DrawingRequest, masked: MaskedImages | None = None) -> np.ndarray:
        """Images of a request, uint8, N x height x width x 3, one a seed. masked: for strategies that begin with
        images. Fewer at once where memory runs out: an image depends on its own seed only.

        Raises FailedPreconditionError (ADAPTER_BASE_MISMATCH, or BASE_MODEL_REPLACED without an adapter: the request's
        base model is not the loaded one), InvalidArgumentError (UNKNOWN_STRATEGY, and what `AdapterSwitch.prepare` and
        the strategies raise), AbortedError (BLACK_IMAGE), ResourceExhaustedError (OUT_OF_MEMORY: one image does not
        fit), and what `fetch_adapter` raises.
        """
        if request.base_model_sha256 != self._base_model_sha256:
            asked, loaded = (f"{sha256[:16]}..." for sha256 in (request.base_model_sha256, self._base_model_sha256))
            if request.adapter_uri:
                raise FailedPreconditionError(
                    "ADAPTER_BASE_MISMATCH",
                    f"the adapter belongs to the base model {asked}, but {loaded} is loaded; fine-tune an adapter on "
                    "the loaded one",
                )
            raise FailedPreconditionError(
                "BASE_MODEL_REPLACED",
                f"the weights {asked} of the base model were asked for, but {loaded} are installed by now; start "
                "a new call, which draws with these",
            )
        if request.strategy not in STRATEGIES:
            raise InvalidArgumentError(
                "UNKNOWN_STRATEGY", f"no strategy {request.strategy!r}; known are {', '.join(STRATEGIES)}"
            )
        self._merge(request)

        def draw(rows: slice) -> np.ndarray:
            part = request.model_copy(update={"seeds": request.seeds[rows]})
            of_part = None if masked is None else MaskedImages(masked.images[rows], masked.masks[rows])
            with self._context():
                return STRATEGIES[request.strategy](self._model, part, self._leak, of_part)

        images = np.concatenate(in_parts(draw, len(request.seeds), len(request.seeds)))
        if request.strategy == "reconstruct":
            assert masked is not None  # the strategy's word
            check_reconstructed(images, masked.images)
        else:
            check_images(images, request.seeds)
        return images

    def features(self, masked: MaskedImages) -> np.ndarray:
        """See `encoder_features`; no adapter changes them."""
        return encoder_features(self._model, masked)

    def _merge(self, request: DrawingRequest) -> None:
        wanted = (request.adapter_sha256, request.alpha) if request.adapter_uri else None
        if wanted == self._merged:
            return
        if wanted is None:
            self._switch.restore()
            self._leak = None
        else:
            adapter, leak = self._adapter(request.adapter_uri, request.adapter_sha256)
            self._switch.merge(adapter, request.alpha)
            self._leak = leak if request.alpha > 0 else None
        self._merged = wanted

    def _adapter(self, uri: str, sha256: str) -> tuple[PreparedAdapter, SignalLeak | None]:
        if sha256 not in self._adapters:
            path = self._fetch(uri, sha256)
            adapter = self._switch.prepare(read_kohya(path))
            leak = json.loads(read_metadata(path) or "{}").get("signal_leak")
            self._adapters[sha256] = (adapter, None if leak is None else from_json(leak))
            while len(self._adapters) > 1 and self._cached_bytes() > self._adapter_cache_bytes:
                self._adapters.popitem(last=False)
        self._adapters.move_to_end(sha256)
        return self._adapters[sha256]

    def _cached_bytes(self) -> int:
        return sum(adapter.nbytes for adapter, _ in self._adapters.values())

    def _context(self) -> AbstractContextManager[None]:
        """The precision of what is not changed for inference."""
        return nullcontext() if self._optimised else self._model.precision(self._precision)
