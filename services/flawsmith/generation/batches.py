"""The durable work that draws: batches of images, whole, painted into good ones or reconstructed, and previews of
prompts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from flawsmith.common.errors import AbortedError, FailedPreconditionError, UnavailableError
from flawsmith.common.images import decode_image, decode_mask, encode_png
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import (
    BatchManifest,
    CopiedImage,
    CopyCheck,
    DroppedImage,
    FailureRemoval,
    ImageRecord,
    ImportManifest,
    Label,
    ObjectRef,
    Source,
    Split,
)
from flawsmith.common.resources import describe
from flawsmith.generation.copies import TrainingImages, is_copy
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages, masked_to_tensors, to_tensors
from flawsmith.generation.failure_removal import Calibration, Verdict, calibrate, judge
from flawsmith.generation.inpainting import Candidate, Inpaint, Painter, batches_of, choose_material
from flawsmith.generation.masks import change
from flawsmith.generation.native_size import native_size
from flawsmith.generation.prompts import Prompt, PromptPreview
from flawsmith.generation.reconstruction import Reconstruct, fit, unfit
from flawsmith.generation.requests import (
    PREVIEWS,
    Artist,
    DrawingOptions,
    GenerateRequest,
    PreviewRequest,
    check_generation,
    find_artist,
    find_normals,
    get_prompt,
    steps_and_guidance,
)
from flawsmith.generation.serving import keep_loaded

CHUNK = 4
"""Images a step at most: what a killed worker repeats, and what a cancelled one still draws."""
CHUNK_WORK = 4 * 256 * 256 * 50
"""Pixels times denoising steps of a step at most (one image is always allowed); on two CPU cores about two minutes."""
_SEEDS_OF_AN_ATTEMPT = 2**21
"""More than there are places in a batch, so that no two drawings of one share a seed."""
_FAILURES = {
    "unchanged": "the model left the masked part as it was",
    "unlike": "what was drawn is not like any real defect",
}


async def generate_images(job: Job, request: GenerateRequest) -> dict[str, Any]:
    """Draw a batch through Triton, a few images a step; publish its manifest last."""
    resources = job.platform.resources

    async def prepare() -> dict[str, Any]:
        artist, prompts = await asyncio.to_thread(
            check_generation, resources, request, require_approval=job.settings.require_approved_prompts
        )
        return {
            "artist": artist.model_dump(mode="json"),
            "prompts": [prompt.model_dump(mode="json") for prompt in prompts],
            "native": await asyncio.to_thread(native_size, resources, artist.base_model, artist.base_model_sha256),
            "count": request.count or await asyncio.to_thread(count_normals),
        }

    def count_normals() -> int:
        return len(find_normals(resources, request, request.reconstruct)) if request.reconstruct else 0

    prepared = await job.step("prepare", prepare)
    artist = Artist.model_validate(prepared["artist"])
    prompts = [Prompt.model_validate(prompt) for prompt in prepared["prompts"]]
    drawing = _drawing(request, artist, prepared["native"][0])
    batch: _WholeImages | _PaintedImages | _ReconstructedImages
    if request.reconstruct is not None:
        batch = _ReconstructedImages(job, request, request.reconstruct, artist, drawing, prepared["native"][1])
    elif request.inpaint is not None:
        batch = _PaintedImages(job, request, request.inpaint, artist, prompts, drawing, prepared["native"])
        await batch.calibrate()
    else:
        batch = _WholeImages(job, artist, prompts, drawing, request.seed)
    total = prepared["count"]
    chunk = min(CHUNK, max(1, CHUNK_WORK // (drawing.height * drawing.width * drawing.steps)))
    comparison = _Comparison(job, artist)
    records: list[ImageRecord] = []
    await job.progress("draw", 0, total)
    start = request.start_index
    for first in range(0, total, chunk):
        drawn = await job.step("draw", batch.draw, start + first, start + min(first + chunk, total))
        fresh = [ImageRecord.model_validate(record) for record in batch.take(drawn)]
        if comparison.possible:
            comparison.take(await job.step("compare", comparison.compare, fresh), len(records))
        records += fresh
        await job.progress("draw", min(first + chunk, total), total)
    begins_with = request.inpaint or request.reconstruct
    manifest = BatchManifest(
        name=request.name,
        product=request.parent,
        source=Source.RECONSTRUCTED if request.reconstruct else Source.IN_DISTRIBUTION,
        method=drawing.strategy,
        seed=request.seed,
        images=tuple(records),
        import_manifest=begins_with.import_manifest if begins_with else None,
        removal=batch.removal(),
        copy_check=comparison.result(),
        create_time=await job.now(),
    )

    async def publish() -> dict[str, Any]:
        if not records:
            _refuse_empty(manifest)
        return describe(manifest, await asyncio.to_thread(resources.publish, request.name, manifest))

    result: dict[str, Any] = await job.step("publish", publish)
    return result


async def preview_prompt(job: Job, request: PreviewRequest) -> dict[str, Any]:
    """Draw a few images from a prompt and store them beside it."""
    resources = job.platform.resources
    product = request.name.partition("/prompts/")[0]

    async def prepare() -> dict[str, Any]:
        artist = await asyncio.to_thread(find_artist, resources, product, request)
        prompt = await asyncio.to_thread(get_prompt, resources, request.name)
        native, _ = await asyncio.to_thread(native_size, resources, artist.base_model, artist.base_model_sha256)
        return {
            "artist": artist.model_dump(mode="json"), "prompt": prompt.model_dump(mode="json"), "native": native,
        }  # fmt: skip

    prepared = await job.step("prepare", prepare)
    artist = Artist.model_validate(prepared["artist"])
    drawing = _drawing(request, artist, prepared["native"])
    prompts = [Prompt.model_validate(prepared["prompt"])]
    batch = _WholeImages(job, artist, prompts, drawing, request.seed)
    images: list[ObjectRef] = []
    for index in range(request.count):
        await job.progress("draw", index, request.count)
        images += [
            ImageRecord.model_validate(one).image for one in await job.step("draw", batch.draw, index, index + 1)
        ]
    preview = PromptPreview(
        images=tuple(images), drawn_with=artist.name, seed=request.seed, create_time=await job.now()
    )  # fmt: skip

    async def publish() -> dict[str, Any]:
        def append() -> Prompt:
            # Of a worker that was killed between the two lines.
            if preview not in resources.events(request.name, PREVIEWS, PromptPreview):
                resources.append_event(request.name, PREVIEWS, preview)
            return get_prompt(resources, request.name)

        return (await asyncio.to_thread(append)).model_dump(mode="json")

    result: dict[str, Any] = await job.step("publish", publish)
    return result


def _drawing(request: DrawingOptions, artist: Artist, native_side: int) -> DrawingRequest:
    """What every call of a batch has in common. Prompt, seeds, and sizes that follow from an image come later."""
    adapter = artist.adapter
    inpaint = request.inpaint if isinstance(request, GenerateRequest) else None
    strategy = request.strategy if isinstance(request, GenerateRequest) else "text_to_image"
    steps, guidance = steps_and_guidance(request, artist)
    trained = adapter.parameters if adapter and inpaint is None else {}
    return DrawingRequest(
        strategy=strategy,
        prompt="-",
        base_model_sha256=artist.base_model_sha256,
        adapter_uri=adapter.weights.uri if adapter else "",
        adapter_sha256=adapter.weights.sha256 if adapter else "",
        alpha=(adapter.alpha if adapter else 1.0) if request.alpha is None else request.alpha,
        height=request.height or trained.get("height", native_side),
        width=request.width or trained.get("width", native_side),
        round_size=isinstance(request, GenerateRequest) and request.round_size,
        steps=steps,
        guidance=guidance,
        clip_skip=request.clip_skip or (adapter.parameters["clip_skip"] if adapter else 1),
        strength=inpaint.strength if inpaint else 1.0,
        seeds=(0,),
    )


def _made_with(drawing: DrawingRequest, artist: Artist, prompt: Prompt, info: dict[str, Any]) -> dict[str, Any]:
    """What the sidecars of all images of a call have in common."""
    return {
        **drawing.model_dump(mode="json", exclude={"seeds", "prompt", "adapter_uri"}),
        **info,
        "adapter": artist.adapter.name if artist.adapter else None,
        "prompt": prompt.model_dump(mode="json"),
    }


def _store(
    job: Job, pixels: np.ndarray, made_with: dict[str, Any], parents: Sequence[str], *, mask: np.ndarray | None = None,
    label: Label = Label.DEFECT, source: Source = Source.IN_DISTRIBUTION, split: Split = Split.TRAIN,
    defect_type: str = "", group: str = "",
) -> ImageRecord:  # fmt: skip
    """Write an image, its mask and its sidecar."""
    store = job.platform.store
    mask_ref = None if mask is None else store.put_blob(encode_png(mask), ".png")
    sidecar = {
        **made_with, "parents": list(parents), "mask": mask_ref.model_dump(mode="json") if mask_ref else None,
    }  # fmt: skip
    return ImageRecord(
        image=store.put_blob(encode_png(pixels), ".png"),
        mask=mask_ref,
        height=pixels.shape[0],
        width=pixels.shape[1],
        label=label,
        source=source,
        split=split,
        defect_type=defect_type,
        group=group,
        parents=tuple(parents),
        sidecar=store.put_blob(json.dumps(sidecar, sort_keys=True, indent=1).encode(), ".json"),
    )


async def _infer(job: Job, artist: Artist, tensors: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    """Ask the Triton model of the artist's base model, which may have to be loaded first.

    Raises what `TritonClient.infer` raises, and UnavailableError (TRITON_FAILED) for another number of images than was
    asked for: an answer to somebody else, from a Triton that has lost count of its model's processes.
    """
    model = artist.triton_model
    await asyncio.to_thread(keep_loaded, job.platform.store, job.settings.triton.repository, model)
    found = await job.platform.triton.infer(model, tensors, outputs)
    if "images" in found and (count := len(found["images"])) != (asked := tensors["seeds"].size):
        raise UnavailableError(
            "TRITON_FAILED", f"Triton's model {model} answered {count} images to {asked} seeds; see its log"
        )
    return found


class _WholeImages:
    """Images from text alone; they take the prompts in turn."""

    def __init__(self, job: Job, artist: Artist, prompts: list[Prompt], drawing: DrawingRequest, seed: int) -> None:
        self._job = job
        self._artist = artist
        self._prompts = prompts
        self._drawing = drawing
        self._seed = seed

    async def draw(self, first: int, end: int) -> list[dict[str, Any]]:
        """Records of the images from `first` to before `end`."""
        records: dict[int, ImageRecord] = {}
        for position, prompt in enumerate(self._prompts):
            # Those of one prompt are drawn together.
            chosen = [index for index in range(first, end) if index % len(self._prompts) == position]
            if chosen:
                records.update(await self._draw(prompt, chosen))
        return [records[index].model_dump(mode="json") for index in range(first, end)]

    def take(self, drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What `draw` returned, as records."""
        return drawn

    def removal(self) -> None:
        """Whole images have no parent to be compared with."""
        return

    async def _draw(self, prompt: Prompt, indices: list[int]) -> dict[int, ImageRecord]:
        adapter = self._artist.adapter
        drawing = self._drawing.model_copy(
            update={
                "prompt": prompt.text, "negative_prompt": prompt.negative_text,
                "seeds": tuple(self._seed + index for index in indices),
            }
        )  # fmt: skip
        answer = await _infer(self._job, self._artist, to_tensors(drawing), ["images", "info"])
        parents = [ref.sha256 for ref in adapter.training_images] if adapter else []
        made_with = _made_with(drawing, self._artist, prompt, json.loads(answer["info"].item()))
        made_with["height"], made_with["width"] = answer["images"].shape[1:3]  # what was asked for may be rounded
        return {
            index: await asyncio.to_thread(_store, self._job, pixels, {**made_with, "seed": seed}, parents)
            for index, pixels, seed in zip(indices, answer["images"], drawing.seeds, strict=True)
        }


class _PaintedImages:
    """Defects painted into good images; those that show none are drawn again, and dropped in the end."""

    def __init__(
        self, job: Job, request: GenerateRequest, spec: Inpaint, artist: Artist, prompts: list[Prompt],
        drawing: DrawingRequest, native: tuple[int, int],
    ) -> None:  # fmt: skip
        self._job = job
        self._request = request
        self._spec = spec
        self._artist = artist
        self._prompts = prompts
        self._drawing = drawing
        self._native = native
        self._painter: Painter | None = None
        self._calibration = calibrate(np.zeros((0, 0), np.float32))
        self._counts = {"drawn": 0, "unchanged": 0, "unlike": 0, "unplaced": 0}
        self._dropped: list[DroppedImage] = []

    async def calibrate(self) -> None:
        """Learn from real defects what drawn ones must look like."""

        async def look() -> dict[str, Any]:
            painter = await self._get_painter()
            shown = await asyncio.to_thread(painter.references)
            vectors = await self._features(shown) if shown else np.zeros((0, 0), np.float32)
            data = json.dumps(vectors.tolist()).encode()
            return (await asyncio.to_thread(self._job.platform.store.put_blob, data, ".json")).model_dump(mode="json")

        ref = ObjectRef.model_validate(await self._job.step("calibrate", look))
        vectors = json.loads(await asyncio.to_thread(self._job.platform.store.get, ref))
        if vectors:
            self._calibration = calibrate(np.asarray(vectors, np.float32))

    async def draw(self, first: int, end: int) -> dict[str, Any]:
        """Records of the images from `first` to before `end` that show a defect, and what became of the others."""
        painter = await self._get_painter()
        records: dict[int, dict[str, Any]] = {}
        failures: dict[int, str] = {}
        counts = dict.fromkeys(self._counts, 0)
        for attempt in range(1 + self._spec.max_redraws):
            candidates = []
            for index in (index for index in range(first, end) if index not in records):
                try:
                    candidates.append(await asyncio.to_thread(painter.prepare, index, attempt))
                except FailedPreconditionError as error:
                    # One parent in which nothing can be placed is no reason to give all images up.
                    counts["unplaced"] += 1
                    failures[index] = error.message
            for positions in batches_of(candidates, [one.index % len(self._prompts) for one in candidates]):
                chosen = [candidates[position] for position in positions]
                for candidate, record, verdict in await self._paint(painter, chosen, attempt):
                    counts["drawn"] += 1
                    if record is None:
                        counts[verdict.failure] += 1
                        failures[candidate.index] = _reason(verdict, self._calibration)
                    else:
                        records[candidate.index] = record.model_dump(mode="json")
        return {
            "records": [records[index] for index in sorted(records)],
            "dropped": [
                {"index": index - self._request.start_index, "reason": failures[index]}
                for index in range(first, end)
                if index not in records
            ],
            "counts": counts,
        }

    def take(self, drawn: dict[str, Any]) -> list[dict[str, Any]]:
        """Count what `draw` returned; returns its records."""
        for name, count in drawn["counts"].items():
            self._counts[name] += count
        self._dropped += [DroppedImage.model_validate(dropped) for dropped in drawn["dropped"]]
        records: list[dict[str, Any]] = drawn["records"]
        return records

    def removal(self) -> FailureRemoval:
        """What was removed so far."""
        return FailureRemoval(
            **self._counts,
            dropped=tuple(self._dropped),
            threshold=self._calibration.threshold,
            references=len(self._calibration.references),
            note=self._calibration.note,
        )

    async def _get_painter(self) -> Painter:
        """Made anew by a worker that goes on with the job: it follows from the request alone."""
        if self._painter is None:
            self._painter = await asyncio.to_thread(self._make_painter)
        return self._painter

    def _make_painter(self) -> Painter:
        request, resources = self._request, self._job.platform.resources
        imported = resources.load(self._spec.import_manifest, ImportManifest)
        material = choose_material(imported, self._spec, request.seed, request.parent, self._artist.adapter)
        side, multiple = self._native
        size = (request.height, request.width) if request.height and request.width else None
        return Painter(
            material, self._spec, request.seed, resources.store.get,
            prompts=[prompt.text for prompt in self._prompts], native_side=side, multiple=multiple, size=size,
        )  # fmt: skip

    async def _paint(
        self, painter: Painter, candidates: list[Candidate], attempt: int
    ) -> list[tuple[Candidate, ImageRecord | None, Verdict]]:
        """Draw candidates of one prompt and one size, and judge them."""
        request, spec = self._request, self._spec
        prompt = self._prompts[candidates[0].index % len(self._prompts)]
        height, width = candidates[0].image.shape[:2]
        drawing = self._drawing.model_copy(
            update={
                "prompt": prompt.text,
                "negative_prompt": prompt.negative_text or spec.negative_text,
                "height": height,
                "width": width,
                "seeds": tuple(request.seed + attempt * _SEEDS_OF_AN_ATTEMPT + one.index for one in candidates),
            }
        )
        masked = MaskedImages(
            np.stack([one.image for one in candidates]), np.stack([one.mask for one in candidates])
        )  # fmt: skip
        answer = await _infer(self._job, self._artist, to_tensors(drawing, masked), ["images", "info"])
        painted = [painter.finish(one, drawn) for one, drawn in zip(candidates, answer["images"], strict=True)]
        changes = [change(one.pixels, pixels, one.placed.mask) for one, pixels in zip(candidates, painted, strict=True)]
        features = np.zeros((0, 0), np.float32)
        if self._calibration.threshold is not None:
            features = await self._features(
                [painter.look(pixels, one.placed.mask) for one, pixels in zip(candidates, painted, strict=True)]
            )
        verdicts = judge(changes, spec.min_change, features, self._calibration)
        made_with = _made_with(drawing, self._artist, prompt, json.loads(answer["info"].item()))
        return [
            (
                one,
                None
                if verdict.failure
                else await asyncio.to_thread(self._keep, painter, one, pixels, verdict, {**made_with, "seed": seed}),
                verdict,
            )
            for one, pixels, verdict, seed in zip(candidates, painted, verdicts, drawing.seeds, strict=True)
        ]

    def _keep(
        self, painter: Painter, one: Candidate, pixels: np.ndarray, verdict: Verdict, made_with: dict[str, Any]
    ) -> ImageRecord:
        adapter, source = self._artist.adapter, one.placed.source
        tuned = [ref.sha256 for ref in adapter.training_images] if adapter else []
        parents = list(dict.fromkeys([one.parent.image.sha256, *filter(None, [source.origin]), *tuned]))
        sidecar = {
            **made_with,
            "parent": one.parent.image.model_dump(mode="json"),
            "mask_source": {"defect_type": source.defect_type, "origin": source.origin},
            "transform": one.placed.transform.as_json(),
            "crop": vars(one.crop),
            "feather": self._spec.feather,
            "area_range": painter.areas[source.defect_type],
            "change": round(verdict.change, 3),
            "similarity": None if verdict.similarity is None else round(verdict.similarity, 4),
        }
        return _store(
            self._job, pixels, sidecar, parents, mask=one.placed.mask, defect_type=source.defect_type,
            group=one.parent.group,
        )  # fmt: skip

    async def _features(self, shown: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        vectors = []
        for start in range(0, len(shown), CHUNK):
            part = shown[start : start + CHUNK]
            masked = MaskedImages(np.stack([image for image, _ in part]), np.stack([mask for _, mask in part]))
            answer = await _infer(self._job, self._artist, masked_to_tensors(masked), ["features"])
            vectors.append(answer["features"])
        return np.concatenate(vectors)


class _ReconstructedImages:
    """Good images through the autoencoder, one a call, so that what becomes of one depends on no other."""

    def __init__(
        self, job: Job, request: GenerateRequest, spec: Reconstruct, artist: Artist, drawing: DrawingRequest,
        multiple: int,
    ) -> None:  # fmt: skip
        self._job = job
        self._request = request
        self._spec = spec
        self._artist = artist
        self._drawing = drawing
        self._multiple = multiple
        self._size = (request.height, request.width) if request.height and request.width else None
        self._normals: list[ImageRecord] | None = None

    async def draw(self, first: int, end: int) -> list[dict[str, Any]]:
        """Records of the images from `first` to before `end`."""
        if self._normals is None:
            # Chosen anew by a worker that goes on with the job: it follows from the request alone.
            resources = self._job.platform.resources
            self._normals = await asyncio.to_thread(find_normals, resources, self._request, self._spec)
        return [(await self._reconstruct(self._normals[index])).model_dump(mode="json") for index in range(first, end)]

    def take(self, drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What `draw` returned, as records."""
        return drawn

    def removal(self) -> None:
        """There is no defect to be looked for."""
        return

    async def _reconstruct(self, normal: ImageRecord) -> ImageRecord:
        pixels = await asyncio.to_thread(lambda: decode_image(self._job.platform.store.get(normal.image)))
        image = fit(pixels, self._size, self._multiple)
        drawing = self._drawing.model_copy(update={"height": image.shape[0], "width": image.shape[1]})
        whole = MaskedImages(image[None], np.full((1, *image.shape[:2]), 255, np.uint8))
        answer = await _infer(self._job, self._artist, to_tensors(drawing, whole), ["images", "info"])
        made = unfit(answer["images"][0], *pixels.shape[:2], sized=self._size is not None)
        sidecar = {
            **drawing.model_dump(mode="json", include={"strategy", "base_model_sha256"}),
            **json.loads(answer["info"].item()),
            # The model's side of it: what was scaled or mirrored came before and after.
            "height": answer["images"].shape[1],
            "width": answer["images"].shape[2],
            "scaled": self._size is not None,
            "parent": normal.image.model_dump(mode="json"),
        }
        return await asyncio.to_thread(
            _store, self._job, made, sidecar, [normal.image.sha256], label=Label.NORMAL, source=Source.RECONSTRUCTED,
            split=normal.split, group=normal.group,
        )  # fmt: skip


class _Comparison:
    """Finds images that copy one that the adapter was tuned on."""

    def __init__(self, job: Job, artist: Artist) -> None:
        self._store = job.platform.store
        self._adapter = artist.adapter
        self._training: TrainingImages | None = None
        self._copies: list[CopiedImage] = []
        self._compared: list[float] = []
        self._threshold: float | None = None

    @property
    def possible(self) -> bool:
        """Whether there is something to compare with, and a threshold."""
        adapter = self._adapter
        return bool(adapter and adapter.training_images and adapter.copy_thresholds)

    async def compare(self, records: list[ImageRecord]) -> list[dict[str, Any]]:
        """The nearest training image of each, and whether it is a copy of that."""
        return await asyncio.to_thread(lambda: [self._compare(record) for record in records])

    def take(self, compared: list[dict[str, Any]], first: int) -> None:
        """Remember what `compare` returned. first: index of the first of these images in the batch."""
        for index, one in enumerate(compared, start=first):
            self._threshold = one["threshold"]
            self._compared.append(one["similarity"])
            if one["copy"]:
                training_image = ObjectRef.model_validate(one["training_image"])
                self._copies.append(
                    CopiedImage(index=index, training_image=training_image, similarity=one["similarity"])
                )

    def result(self) -> CopyCheck | None:
        """What was found; None where no adapter drew."""
        if self._adapter is None:
            return None
        if not self.possible:
            unknown = "the images that the adapter was tuned on are not known"
            few = "the product had too few real images to say how alike they are anyhow"
            return CopyCheck(note=few if self._adapter.training_images else unknown)
        return CopyCheck(
            copies=tuple(self._copies),
            threshold=self._threshold,
            highest_similarity=max(self._compared, default=None),
            training_images=len(self._adapter.training_images),
        )

    def _compare(self, record: ImageRecord) -> dict[str, Any]:
        assert self._adapter is not None
        assert self._adapter.copy_thresholds is not None
        references, thresholds = self._adapter.training_images, self._adapter.copy_thresholds
        if self._training is None:
            self._training = TrainingImages([decode_image(self._store.get(ref)) for ref in references])
        mask = None if record.mask is None else decode_mask(self._store.get(record.mask))
        nearest = self._training.nearest(decode_image(self._store.get(record.image)), mask)
        return {
            "training_image": references[nearest.index].model_dump(mode="json"),
            "similarity": round(nearest.similarity, 4),
            "copy": is_copy(nearest, thresholds, masked=mask is not None),
            "threshold": thresholds.whole if mask is None else thresholds.window,
        }


def _reason(verdict: Verdict, calibration: Calibration) -> str:
    text = _FAILURES[verdict.failure]
    if verdict.failure == "unchanged":
        return f"{text} (change {verdict.change:.1f} grey levels)"
    return f"{text} (similarity {verdict.similarity:.3f}, threshold {calibration.threshold:.3f})"


def _refuse_empty(manifest: BatchManifest) -> None:
    removal = manifest.removal
    reasons = sorted({dropped.reason for dropped in removal.dropped})[:3] if removal else []
    raise AbortedError(
        "NO_USABLE_IMAGES",
        f"all images of {manifest.name} were dropped: {'; '.join(reasons)}. Use other prompts, another adapter, more "
        "strength or guidance, or larger masks",
    )
