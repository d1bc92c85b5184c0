"""Runs the cells of a grid against the platform, as one of its clients, and continues where it was stopped."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from functools import partial
from threading import Event, Lock
from typing import Any, Protocol, TypeVar

from google.longrunning import operations_pb2
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.bench.cells import Accounting, Arm, Cell, Regime
from flawsmith.bench.results import CellResult, ImageScore, OperatingPoint
from flawsmith.bench.run_folder import RunFolder
from flawsmith.classification.v1 import classification_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.client import Progress as OnProgress
from flawsmith.common import manifests
from flawsmith.common.errors import (
    FailedPreconditionError,
    FlawsmithError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from flawsmith.common.regimes import PROMPTS
from flawsmith.common.sizes import MINI_AREA, MINI_MULTIPLE, fit_area
from flawsmith.common.statuses import error_of
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.v1 import generation_pb2

_EPOCHS, _BATCH_SIZE, _MOST_SYNTHETIC = 50, 5, 120
"""Of the paper's trainings, and the largest N_aug of its grid."""
_REDRAWS = 20
"""Of a painted defect that failed, the most there are: an arm that lacks one cannot be compared."""
_SEEDS_APART = 100_000
"""Between the seeds of two pools, whose k-th image has the seed + k: more than a pool has images."""
_PROTO_REGIMES = {
    Regime.ZERO: common_pb2.REGIME_ZERO_SHOT,
    Regime.FEW: common_pb2.REGIME_FEW_SHOT,
    Regime.FULL: common_pb2.REGIME_FULL_SHOT,
}

Made = TypeVar("Made")
Response = TypeVar("Response", bound=Message)


class Watch(Protocol):
    """Who hears of a run's progress. Its methods are called from several threads."""

    def operation(self, title: str) -> AbstractContextManager[OnProgress]:
        """Around each operation that is waited for; gives what its progress goes to."""

    def done(self, result: CellResult) -> None:
        """A cell has its result."""

    def failed(self, cell: Cell, error: FlawsmithError) -> None:
        """A cell ended with an error; the others go on."""


def run_cells(
    client: Client,
    folder: RunFolder,
    product: str,
    cells: Sequence[Cell],
    *,
    upload_data: Callable[[], str],
    initial_weights: Callable[[], dict[str, Any]],
    watch: Watch,
    parallel: int = 1,
) -> dict[Cell, FlawsmithError]:
    """Give every cell without a result one; returns the cells that failed and why.

    product: its resource name. upload_data: puts the data set into the object store and returns its prefix.
    initial_weights: the field of TrainClassifierRequest that says what backbones start from, {} for random weights;
    may upload. Both are called when first needed. parallel: cells at once.

    Raises UnavailableError when the platform is out of reach, since no other cell would fare better, the
    FlawsmithError of the import, FailedPreconditionError (BENCH_NO_TEST_SPLIT, BENCH_NO_POSITIVES), and
    KeyboardInterrupt; operations go on at the platform, and the next start finds them.
    """
    done = folder.done()
    missing = [cell for cell in cells if cell not in done]
    if not missing:
        return {}
    run = _Run(client, folder, product, cells, upload_data, initial_weights, watch)
    run.prepare(missing)
    failed: dict[Cell, FlawsmithError] = {}
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(run.measure, cell): cell for cell in missing}
        try:
            for future in as_completed(futures):
                cell = futures[future]
                try:
                    result = future.result()
                except _CellFailed as failure:
                    failed[cell] = failure.error
                    watch.failed(cell, failure.error)
                else:
                    folder.add_result(result)
                    watch.done(result)
        except BaseException:
            run.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def equal_steps(regime: Regime, steps: int | None, real_defects: int) -> int:
    """Optimiser steps that every arm of a regime is trained for.

    steps: as asked for. None: what the paper's 50 epochs of 2 images for each positive come to in batches of 5 for 120
    synthetic defects, the most of its grid, and the regime's real ones. real_defects: in the train split.
    """
    real = {Regime.ZERO: 0, Regime.FEW: min(5, real_defects), Regime.FULL: real_defects}[regime]
    return steps or math.ceil(_EPOCHS * 2 * (_MOST_SYNTHETIC + real) / _BATCH_SIZE)


def check_drawing_config(config: generation_pb2.GenerateImagesRequest, strategy: str) -> None:
    """Raises InvalidArgumentError (FIXED_BY_GRID) for fields that are not the caller's to choose: the grid or an option
    of its own sets them, or another strategy than `strategy` has them."""
    free = {"alpha", "guidance", "clip_skip"}
    fixed = {field.name for field, _ in config.ListFields()} - free
    if strategy == "inpaint":
        given = {field.name for field, _ in config.inpaint.ListFields()} & {"prompts", "import_manifest", "regime"}
        fixed = (fixed - {"inpaint"}) | {f"inpaint.{name}" for name in given}
    if fixed:
        raise InvalidArgumentError(
            "FIXED_BY_GRID",
            f"--drawing-config cannot set {', '.join(sorted(fixed))}: the grid does; it can set "
            f"{', '.join(sorted(free))}, and with --strategy inpaint how defects are placed (inpaint.defect_types, "
            "inpaint.min_area and others)",
        )


def require_whole(batch: generation_pb2.Batch, count: int) -> None:
    """Raises FailedPreconditionError (BENCH_TOO_FEW_DRAWN) when failures were removed from a batch of `count`: its arm
    would be compared by another N_aug than it is named after."""
    if batch.image_count < count:
        raise FailedPreconditionError(
            "BENCH_TOO_FEW_DRAWN",
            f"{batch.name} holds {batch.image_count} of {count} defects, the others showed none and were removed; tune "
            "longer (--adapter-config), take another --base-model, or --strategy text-to-image, in another --out",
        )


def pool_parts(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(first, count) of the batches of a pool, such that for each of `counts` some of them together are its first
    images."""
    ends = sorted({count for count in counts if count})
    return [(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]


class _CellFailed(Exception):
    """An operation that a cell needs ended with an error."""

    def __init__(self, error: FlawsmithError) -> None:
        super().__init__(error.message)
        self.error = error


class _Stopped(Exception):
    """The run ends; what goes on at the platform is found again at the next start."""


class _Run:
    """One start of a run. Steps that several cells share are made once, by the first that needs them."""

    def __init__(
        self,
        client: Client,
        folder: RunFolder,
        product: str,
        cells: Sequence[Cell],
        upload_data: Callable[[], str],
        initial_weights: Callable[[], dict[str, Any]],
        watch: Watch,
    ) -> None:
        self.client = client
        self.folder = folder
        self.settings = folder.settings
        self.product = product
        self.cells = cells
        self.upload_data = upload_data
        self.initial_weights = initial_weights
        self.watch = watch
        self._stopping = Event()
        self._lock = Lock()
        self._shared: dict[Hashable, Future[Any]] = {}

    def stop(self) -> None:
        """Let every thread end at the next word from the platform."""
        self._stopping.set()

    def prepare(self, missing: Sequence[Cell]) -> None:
        """Import the data set, and refuse one that cannot answer what is asked."""
        try:
            self.imported = self._import()
        except _CellFailed as failure:
            raise failure.error from failure
        train, test = self.imported.counts["train"], self.imported.counts["test"]
        if not (test.normal and test.real_defect):
            raise FailedPreconditionError(
                "BENCH_NO_TEST_SPLIT",
                f"the data set has {test.normal} normals and {test.real_defect} defects in test/; average precision "
                "needs both",
            )
        needy = sorted({cell.regime for cell in missing} - {Regime.ZERO})
        if needy and not train.real_defect:
            raise FailedPreconditionError(
                "BENCH_NO_POSITIVES",
                f"the data set has no defects in train/, which the regimes {', '.join(needy)} need; ask for "
                "--regimes zero alone",
            )

    def measure(self, cell: Cell) -> CellResult:
        """Make what the cell's training needs, train, and read what came out.

        Raises _CellFailed, _Stopped, UnavailableError.
        """
        try:
            return self._measure(cell)
        except UnavailableError:
            raise
        except FlawsmithError as error:
            raise _CellFailed(error) from error

    def _measure(self, cell: Cell) -> CellResult:
        dataset = self._dataset(cell)
        settings = self.settings
        real_defects = self.imported.counts["train"].real_defect
        by_steps = cell.accounting is Accounting.STEPS  # otherwise the recipe's epochs
        count = f"-{cell.n_aug}" if cell.n_aug else ""
        version, seconds = self._finish(
            f"train {cell}",
            self.client.classification.TrainClassifier,
            classification_pb2.TrainClassifierRequest(
                parent=f"{self.product}/classifiers/{self.folder.id}-{cell.regime}-{cell.arm}{count}-{cell.accounting}",
                dataset_manifest=dataset.manifest, recipe=settings.recipe, backbone=settings.backbone,
                height=settings.height, width=settings.width, seed=settings.seed + cell.seed,
                steps=equal_steps(cell.regime, settings.steps, real_defects) if by_steps else None,
                **self._once("initial weights", self._initial_weights),
            ),
            classification_pb2.ClassifierVersion,
        )  # fmt: skip
        return self._result(cell, dataset, version, seconds)

    def _import(self) -> assembly_pb2.Import:
        settings = self.settings

        def request(prefix: str) -> assembly_pb2.ImportImagesRequest:
            return assembly_pb2.ImportImagesRequest(
                parent=self.product, import_id=self.folder.id, prefix=prefix, seed=settings.seed,
                validation_share=settings.validation_share,
            )  # fmt: skip

        def upload() -> str:
            prefix = self.upload_data()
            self.folder.add_upload("data", prefix)
            return prefix

        try:
            name = f"{self.product}/imports/{self.folder.id}"
            return self.client.assembly.GetImport(assembly_pb2.GetImportRequest(name=name))
        except NotFoundError:
            pass
        try:
            found = request(self.folder.upload("data") or upload())
            return self._finish("import", self.client.assembly.ImportImages, found, assembly_pb2.Import)[0]
        except _CellFailed as failure:
            # The folder is older than the platform's object store.
            if failure.error.reason != "NOTHING_UPLOADED":
                raise
            return self._finish("import", self.client.assembly.ImportImages, request(upload()), assembly_pb2.Import)[0]

    def _initial_weights(self) -> dict[str, Any]:
        """The field of TrainClassifierRequest; the same reference at every start."""
        stored = self.folder.upload("initial_weights")
        if stored is not None:
            return {"initial_weights": json_format.ParseDict(stored, common_pb2.ObjectRef())}
        fields = self.initial_weights()
        if "initial_weights" in fields:
            self.folder.add_upload("initial_weights", json_format.MessageToDict(fields["initial_weights"]))
        return fields

    def _dataset(self, cell: Cell) -> assembly_pb2.Dataset:
        """The data set of a cell; cells that differ in what training alone sees share it."""
        seed = self._data_seed(cell)
        return self._once(
            ("dataset", cell.regime, cell.arm, cell.n_aug, seed), lambda: self._make_dataset(cell, seed)
        )  # fmt: skip

    def _make_dataset(self, cell: Cell, seed: int) -> assembly_pb2.Dataset:
        batches = []
        if self.settings.control_images or cell.arm is Arm.CONTROL:
            batches.append(self._reconstructed(common_pb2.SPLIT_TEST))
        if cell.arm is Arm.CONTROL:
            batches.append(self._reconstructed(common_pb2.SPLIT_TRAIN))
        if cell.augmented:
            batches.append(self._augmented(cell.augmented, seed))
        if cell.drawn:
            batches += self._drawn(cell, seed)
        return self._finish(
            f"assemble {cell.regime} {cell.arm}",
            self.client.assembly.AssembleDataset,
            assembly_pb2.AssembleDatasetRequest(
                **{"import": self.imported.name}, parent=self.product, regime=_PROTO_REGIMES[cell.regime], seed=seed,
                batches=batches,
            ),
            assembly_pb2.Dataset,
        )[0]  # fmt: skip

    def _augmented(self, count: int, seed: int) -> common_pb2.ObjectRef:
        """A batch of per-region defects. They depend on the train normals alone, so all regimes share it; a smaller
        batch is the beginning of a larger one."""
        parameters = struct_pb2.Struct()
        parameters.update(self.settings.parameters)
        request = augmentation_pb2.AugmentImagesRequest(
            parent=self.product, import_manifest=self.imported.manifest, method=self.settings.method,
            parameters=parameters, count=count, seed=seed,
        )  # fmt: skip
        return self._once(
            ("augmented", count, seed),
            lambda: (
                self._finish(
                    f"augment {count}", self.client.augmentation.AugmentImages, request, augmentation_pb2.AugmentedBatch
                )[0].manifest
            ),
        )

    def _drawn(self, cell: Cell, seed: int) -> list[common_pb2.ObjectRef]:
        """The first of the images that the regime's adapter draws: batches that together hold as many as the cell
        takes. The pool is cut where some cell of the grid ends, so that all of them draw from the same images."""
        counts = [other.drawn for other in self.cells if other.regime is cell.regime]
        parts = [(first, count) for first, count in pool_parts(counts) if first < cell.drawn]
        # At a merge weight of 0 nothing of an adapter would be drawn with.
        source: dict[str, Any] = {"base_model": self.settings.base_model}
        if self.settings.drawing_config.get("alpha") != 0:
            source = {"adapter": self._once(("adapter", cell.regime, seed), lambda: self._tune(cell.regime, seed)).name}
        prompts = self._once(("prompts", cell.regime), lambda: self._approve_prompts(cell.regime))

        def draw(first: int, count: int) -> common_pb2.ObjectRef:
            make = partial(self._draw, cell.regime, source, prompts, first, count, seed)
            return self._once(("drawn", cell.regime, seed, first, count), make)

        return [draw(first, count) for first, count in parts]

    def _draw(
        self, regime: Regime, source: dict[str, Any], prompts: list[str], first: int, count: int, seed: int
    ) -> common_pb2.ObjectRef:
        """Images `first` and those after it of the pool that the seed makes. source: the adapter's name, or the base
        model's."""
        request = json_format.ParseDict(self.settings.drawing_config, generation_pb2.GenerateImagesRequest())
        request.MergeFrom(
            generation_pb2.GenerateImagesRequest(
                parent=self.product,
                count=count,
                start_index=first,
                steps=self.settings.denoising_steps,
                seed=seed,
                **source,
            )
        )
        if self.settings.strategy == "inpaint":
            request.inpaint.MergeFrom(
                generation_pb2.Inpaint(
                    prompts=prompts, import_manifest=self.imported.manifest, regime=_PROTO_REGIMES[regime]
                )
            )
            if not request.inpaint.HasField("max_redraws"):
                request.inpaint.max_redraws = _REDRAWS
        else:
            request.text_to_image.prompts.extend(prompts)
        title = f"draw {count} ({regime})"
        batch = self._finish(title, self.client.generation.GenerateImages, request, generation_pb2.Batch)[0]
        require_whole(batch, count)
        return batch.manifest

    def _tune(self, regime: Regime, seed: int) -> generation_pb2.Adapter:
        height, width = self._drawn_size()
        config = generation_pb2.FineTuneConfig(base_model=self.settings.base_model, height=height, width=width)
        config.MergeFrom(json_format.ParseDict(self.settings.adapter_config, generation_pb2.FineTuneConfig()))
        request = generation_pb2.FineTuneAdapterRequest(
            parent=self.product, import_manifest=self.imported.manifest, regime=_PROTO_REGIMES[regime], config=config,
            seed=seed,
        )  # fmt: skip
        title = f"fine-tune ({regime})"
        return self._finish(title, self.client.generation.FineTuneAdapter, request, generation_pb2.Adapter)[0]

    def _approve_prompts(self, regime: Regime) -> list[str]:
        """Names of the run's prompts, or else the regime's published ones, approved in the caller's name: a benchmark
        has nobody to ask."""
        names = []
        generation = self.client.generation
        for number, text in enumerate(self.settings.prompts or PROMPTS[manifests.Regime(f"{regime}_shot")]):
            name = f"{self.product}/prompts/{self.folder.id}-{regime}-{number}"
            try:
                prompt = generation.GetPrompt(generation_pb2.GetPromptRequest(name=name))
            except NotFoundError:
                prompt = generation.CreatePrompt(
                    generation_pb2.CreatePromptRequest(
                        parent=self.product, prompt_id=name.rpartition("/")[2], text=text
                    )
                )
            if prompt.state != generation_pb2.Prompt.STATE_APPROVED:
                generation.DecidePrompt(
                    generation_pb2.DecidePromptRequest(
                        name=name, state=generation_pb2.Prompt.STATE_APPROVED, reason="for the benchmark"
                    )
                )
            names.append(name)
        return names

    def _reconstructed(self, split: common_pb2.Split) -> common_pb2.ObjectRef:
        """All normals of a split, through encoder and decoder of the base model at the size that it draws at."""
        height, width = self._drawn_size()
        request = generation_pb2.GenerateImagesRequest(
            parent=self.product, base_model=self.settings.base_model, height=height, width=width, round_size=True,
            seed=self.settings.seed,
            reconstruct=generation_pb2.Reconstruct(import_manifest=self.imported.manifest, split=split),
        )  # fmt: skip
        title = f"reconstruct {common_pb2.Split.Name(split).removeprefix('SPLIT_').lower()} normals"
        return self._once(
            ("reconstructed", split),
            lambda: self._finish(
                title, self.client.generation.GenerateImages, request, generation_pb2.Batch
            )[0].manifest,
        )  # fmt: skip

    def _drawn_size(self) -> tuple[int, int] | tuple[None, None]:
        """Height and width that diffusion works at; None where the platform chooses."""
        settings = self.settings
        if settings.drawn_height and settings.drawn_width:
            return settings.drawn_height, settings.drawn_width
        if settings.base_model != "mini":
            return None, None
        image = self._once("images", lambda: json.loads(next(self.client.download([self.imported.manifest])))["images"])
        return fit_area(image[0]["height"], image[0]["width"], area=MINI_AREA, multiple=MINI_MULTIPLE)

    def _data_seed(self, cell: Cell) -> int:
        """What decides positives, adapter and synthetic defects."""
        return self.settings.seed + (cell.seed * _SEEDS_APART if self.settings.vary == "everything" else 0)

    def _result(
        self, cell: Cell, dataset: assembly_pb2.Dataset, version: classification_pb2.ClassifierVersion, seconds: float
    ) -> CellResult:
        test, train = version.test, dataset.counts["train"]
        reconstructed = next((group for group in test.sources if group.name == "reconstructed"), None)
        return CellResult(
            cell=cell,
            ap=test.ap,
            ap_trapezoid=test.ap_trapezoid,
            at_threshold=_point(test.at_threshold),
            at_best_f1_of_validation=(
                _point(test.at_best_f1_of_validation) if test.HasField("at_best_f1_of_validation") else None
            ),
            at_best_f1_of_test=_point(test.at_best_f1_here),
            reconstructed_false_alarm_rate=reconstructed.false_alarm_rate if reconstructed else None,
            test_scores=self._scores(test.predictions),
            optimiser_steps=version.steps,
            seconds=seconds,
            dataset=dataset.name,
            classifier=version.name,
            recipe=version.recipe,
            backbone=version.backbone,
            initial_weights=version.initial_weights.uri,
            height=version.height,
            width=version.width,
            train_normals=train.normal,
            train_reconstructed_normals=train.reconstructed,
            train_real_defects=train.real_defect,
            train_synthetic_defects=train.in_distribution + train.out_of_distribution,
        )

    def _scores(self, predictions: common_pb2.ObjectRef) -> tuple[ImageScore, ...]:
        from pyarrow import parquet

        (data,) = self.client.download([predictions])
        table = parquet.read_table(
            io.BytesIO(data), columns=["sha256", "path", "label", "defect_type", "source", "score"]
        )  # fmt: skip
        return tuple(ImageScore(image=row.pop("sha256"), **row) for row in table.to_pylist())

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returns or raises, called once for a key however many threads ask."""
        with self._lock:
            mine = key not in self._shared
            future = self._shared.setdefault(key, Future())
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
        made: Made = future.result()
        return made

    def _finish(
        self, title: str, method: Callable[[Any], operations_pb2.Operation], request: Any, response: type[Response]
    ) -> tuple[Response, float]:
        """An operation's response, and seconds from its request to its end; started unless it was before.

        Raises _CellFailed, _Stopped, UnavailableError.
        """
        operation = self._start(title, method, request)
        metadata = metadata_of(operation)
        with self.watch.operation(title) as show:

            def on_progress(latest: common_pb2.OperationMetadata) -> None:
                metadata.CopyFrom(latest)
                show(latest)
                if self._stopping.is_set():
                    raise _Stopped

            try:
                made = self.client.wait(operation, response, on_progress=on_progress)
            except FlawsmithError as error:
                # Where the connection is lost the operation may still end well.
                if isinstance(error, UnavailableError) and not self._ended(operation):
                    raise
                self.folder.add_failure(request, title, error)
                raise _CellFailed(error) from error
        return made, (metadata.update_time.ToNanoseconds() - metadata.create_time.ToNanoseconds()) / 1e9

    def _start(
        self, title: str, method: Callable[[Any], operations_pb2.Operation], request: Any
    ) -> operations_pb2.Operation:
        """The request's operation: the one of a former start, where there is one that has not failed."""
        if self._stopping.is_set():
            raise _Stopped
        operation = self._send(title, method, request)
        if operation.done and operation.HasField("error"):
            # It ended when nobody was looking, or somebody cancelled it.
            self.folder.add_failure(request, title, error_of(operation.error))
            operation = self._send(title, method, request)
        return operation

    def _send(
        self, title: str, method: Callable[[Any], operations_pb2.Operation], request: Any
    ) -> operations_pb2.Operation:
        sent = type(request)()
        sent.CopyFrom(request)
        sent.request_id = self.folder.request_id(request)
        try:
            return method(sent)
        except UnavailableError:
            raise
        except FlawsmithError as error:
            self.folder.add_failure(request, title, error)
            raise _CellFailed(error) from error

    def _ended(self, operation: operations_pb2.Operation) -> bool:
        """Whether the platform knows the operation's end. Raises UnavailableError."""
        request = operations_pb2.GetOperationRequest(name=operation.name)
        return bool(self.client.operations(operation.name).GetOperation(request).done)


def _point(point: classification_pb2.OperatingPoint) -> OperatingPoint:
    return OperatingPoint(
        threshold=point.threshold, precision=point.precision, recall=point.recall, f1=point.f1,
        false_alarm_rate=point.false_alarm_rate,
    )  # fmt: skip
