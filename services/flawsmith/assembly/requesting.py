"""A data set on demand: one durable job that lets the other services fine-tune, draw and augment, waits for people
where it must, and assembles.

Every operation that it starts has a request id made from its own: a worker killed at any moment, and another that
goes on, start nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from flawsmith.assembly.peers import Peers
from flawsmith.assembly.products import requires_review
from flawsmith.assembly.publishing import publish_dataset
from flawsmith.assembly.resolving import find_import
from flawsmith.assembly.reviewing import Say, await_prompts, await_review, check_texts, find_prompts
from flawsmith.assembly.spec import GenerationOptions, RequestDatasetSpec
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.common.convert import to_dict
from flawsmith.common.errors import FieldViolation, FlawsmithError, InvalidArgumentError
from flawsmith.common.jobs import Job, JobCancelledError
from flawsmith.common.manifests import AdapterManifest, ObjectRef
from flawsmith.common.regimes import PROMPTS
from flawsmith.common.selection import select_positives
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.v1 import generation_pb2


async def request_dataset(job: Job, spec: RequestDatasetSpec) -> dict[str, Any]:
    """See protos/flawsmith/assembly/v1/assembly.proto. What it started elsewhere ends when it fails or is cancelled."""
    peers = Peers(job.platform, job.principal, job.settings.jobs.outage_patience_s)
    run = _Run(job, spec, peers)
    try:
        return await run.all()
    except (FlawsmithError, JobCancelledError):
        # Not for every exception: one that says that another worker goes on with this job must stop nothing.
        for service, operation in run.started:
            with contextlib.suppress(FlawsmithError):
                await peers.cancel(service, operation)
        raise


def tuning_config(options: GenerationOptions) -> dict[str, Any]:
    """Fields of FineTuneConfig; what a request leaves unset stays unset there, and follows the preset."""
    return {
        "base_model": options.base_model, "preset": options.tuning_preset, "flips": options.flips,
        "max_steps": options.max_steps, "height": options.height, "width": options.width, "alpha": options.alpha,
    }  # fmt: skip


class _Run:
    """One request's steps. started: (service, operation) of all that it set going."""

    def __init__(self, job: Job, spec: RequestDatasetSpec, peers: Peers) -> None:
        self.job = job
        self.spec = spec
        self.peers = peers
        self.resources = job.platform.resources
        self.started: list[tuple[str, str]] = []

    async def all(self) -> dict[str, Any]:
        spec, options = self.spec, self.spec.generation
        found = await self.job.step("resolve", self._resolve)
        import_ref = found["import"]
        prompts: list[str] = []
        adapter: dict[str, Any] = {}
        if spec.in_distribution:
            if options.adapter:
                adapter = await self._adapter(options.adapter)
            # Before tuning, so that a person may decide meanwhile.
            prompts = await self.job.step("prompts", self._prompts)
        augmentation = None
        if spec.out_of_distribution:
            augmentation = await self._start(
                "augmentation", "AugmentImages", augmentation_pb2.AugmentImagesRequest,
                {
                    "import_manifest": import_ref, "method": spec.augmentation_method,
                    "count": spec.out_of_distribution,
                },
            )  # fmt: skip
        batches: list[ObjectRef] = []
        reviewed: list[str] = []
        if spec.in_distribution:
            if not adapter and not options.without_adapter:
                adapter = await self._adapter(await self._tune(import_ref))
            if self.job.settings.require_approved_prompts:
                prompts = await self.job.step("await prompts", self._await_prompts, prompts)
            operation = await self._start(
                "generation", "GenerateImages", generation_pb2.GenerateImagesRequest,
                {
                    "adapter": adapter.get("name", ""), "alpha": options.alpha, "count": spec.in_distribution,
                    "steps": options.steps, "guidance": options.guidance, "base_model": options.base_model,
                    **self._strategy(prompts, import_ref),
                },
            )  # fmt: skip
            batch = await self._wait("generation", operation, generation_pb2.Batch, "generate")
            batches.append(ObjectRef.model_validate(batch["manifest"]))
            if spec.review_required or await self.job.step("review requirement", self._requires_review):
                await self.job.step("await review", self._await_review, batch["name"])
                reviewed.append(batch["name"])
        if augmentation is not None:
            made = await self._wait("augmentation", augmentation, augmentation_pb2.AugmentedBatch, "augment")
            batches.append(ObjectRef.model_validate(made["manifest"]))
        return await publish_dataset(
            self.job,
            self.peers,
            name=spec.name,
            product=spec.parent,
            import_ref=ObjectRef.model_validate(import_ref),
            batches=batches,
            review_required=reviewed,
            regime=spec.regime,
            seed=spec.seed or 0,
            adapter=ObjectRef.model_validate(adapter["manifest"]) if adapter else None,
        )

    def _strategy(self, prompts: list[str], import_ref: dict[str, Any]) -> dict[str, Any]:
        """The fields of GenerateImages that say how images are made."""
        options = self.spec.generation
        if options.strategy == "text_to_image":
            # An image's size; inpainting keeps its parent's, and draws its parts at the model's.
            size = {"height": options.height, "width": options.width}
            return {**size, "text_to_image": {"prompts": prompts}}
        return {
            "inpaint": {
                "prompts": prompts, "import_manifest": import_ref, "regime": self.spec.regime.value,
                "preset": options.preset, "foreground": options.foreground, "masks": options.masks,
            }
        }  # fmt: skip

    async def _resolve(self) -> dict[str, Any]:
        """The import; a regime that it cannot serve fails here, before anything is computed."""

        def find() -> ObjectRef:
            imported, ref = find_import(self.resources, self.spec.parent, self.spec.import_)
            select_positives(imported.images, self.spec.regime, self.spec.seed or 0)
            return ref

        return {"import": (await asyncio.to_thread(find)).model_dump(mode="json")}

    async def _prompts(self) -> list[str]:
        options = self.spec.generation
        texts = options.prompts or PROMPTS[self.spec.regime]
        await check_texts(self.peers, self.spec.parent, texts, adapter=options.adapter, base_model=options.base_model)
        return await find_prompts(self.peers, self.spec.parent, texts)

    async def _await_prompts(self, names: list[str]) -> list[str]:
        return await await_prompts(self.peers, names, self._say("awaiting approval of prompts"))

    async def _requires_review(self) -> bool:
        return await asyncio.to_thread(requires_review, self.resources, self.spec.parent)

    async def _await_review(self, batch: str) -> None:
        await await_review(self.peers, batch, self._say("awaiting review of images"))

    def _say(self, stage: str) -> Say:
        async def say(done: int, total: int, message: str) -> None:
            await self.job.progress(stage, done, total, message=message)

        return say

    async def _tune(self, import_ref: dict[str, Any]) -> str:
        """Name of a new adapter."""
        operation = await self._start(
            "generation", "FineTuneAdapter", generation_pb2.FineTuneAdapterRequest,
            {
                "import_manifest": import_ref, "regime": self.spec.regime.value,
                "config": tuning_config(self.spec.generation),
            },
        )  # fmt: skip
        return str((await self._wait("generation", operation, generation_pb2.Adapter, "fine-tune"))["name"])

    async def _adapter(self, name: str) -> dict[str, Any]:
        """name and manifest of an adapter of this product."""

        async def describe() -> dict[str, Any]:
            request = generation_pb2.GetAdapterRequest(name=name)
            found = await self.peers.call("generation", "GetAdapter", request)
            manifest = await asyncio.to_thread(
                self.resources.load, ObjectRef.model_validate(found["manifest"]), AdapterManifest
            )
            if manifest.product != self.spec.parent:
                raise InvalidArgumentError(
                    "ADAPTER_OF_OTHER_PRODUCT",
                    f"{name} belongs to {manifest.product}; name an adapter of {self.spec.parent}, or none",
                    fields=[FieldViolation("generation.adapter", name)],
                )
            return {"name": name, "manifest": found["manifest"]}

        return await self.job.step("adapter", describe)

    async def _start(self, service: str, method: str, request: type[Any], values: dict[str, Any]) -> str:
        """Start an operation of another service; returns its name."""
        common = {
            "parent": self.spec.parent,
            "seed": self.spec.seed,
            "request_id": f"{self.job.operation}-{method}",
        }

        async def start() -> str:
            return await self.peers.start(service, method, request, {**values, **common})

        operation = str(await self.job.step(f"start {method}", start))
        self.started.append((service, operation))
        return operation

    async def _wait(self, service: str, operation: str, response: type[Any], stage: str) -> dict[str, Any]:
        """Fields of an operation's response; its progress is shown as ours."""

        async def show(metadata: common_pb2.OperationMetadata) -> None:
            await self.job.progress(
                f"{stage}: {metadata.stage}" if metadata.stage else stage,
                metadata.step,
                metadata.total,
                loss=metadata.loss if metadata.HasField("loss") else None,
                message=metadata.message,
            )

        async def wait() -> dict[str, Any]:
            found = to_dict(await self.peers.wait(service, operation, response, show))
            return {"name": found["name"], "manifest": found["manifest"]}

        return await self.job.step(f"wait for {stage}", wait)
