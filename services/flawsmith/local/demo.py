"""The main job from end to end through the public gRPC API: import, fine-tune, generate, assemble, train, classify."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.classification.v1 import classification_pb2
from flawsmith.cli.output import console, progress_bar
from flawsmith.client import Client
from flawsmith.common.images import decode_image, decode_mask
from flawsmith.common.manifests import Regime
from flawsmith.common.regimes import PROMPTS
from flawsmith.common.sizes import MINI_AREA, MINI_MULTIPLE, fit_area
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.pictures import Tile, contact_sheet, precision_recall_plot

Response = TypeVar("Response", bound=Message)
_SHEET_TILES = 8
_CLASSIFIED = 12
_CLASSIFIER_AREA = 300 * 100


@dataclass(frozen=True)
class DemoOptions:
    """Sizes of the job. None: chosen for a machine with two cores.

    data: a real data set; None draws the sample product. strategy: `inpaint` paints defects into good images,
    `text-to-image` draws whole ones. recipe: of the classifiers. n_aug: synthetic positives. adapter_steps,
    train_steps: optimiser steps. height, width: the classifier's input, pixels. drawn_height, drawn_width: what the
    adapter is trained on and draws, pixels.
    """

    out: Path
    data: Path | None = None
    regime: str = "few"
    strategy: str = "inpaint"
    recipe: str = "mixed"
    n_aug: int = 40
    adapter_steps: int | None = None
    denoising_steps: int = 20
    train_steps: int | None = None
    height: int | None = None
    width: int | None = None
    drawn_height: int | None = None
    drawn_width: int | None = None
    sample_size: tuple[int, int, int, int] = (120, 24, 60, 20)
    seed: int = 1234


_REGIMES = {"zero": Regime.ZERO_SHOT, "few": Regime.FEW_SHOT, "full": Regime.FULL_SHOT}


def run_demo(client: Client, options: DemoOptions) -> dict[str, Any]:
    """Run the job and write `summary.json`, `contact-sheet.png` and `pr-curve.png` into `options.out`.

    Returns the summary. Raises the FlawsmithError of the step that failed.
    """
    return _Demo(client, options).run()


class _Demo:
    def __init__(self, client: Client, options: DemoOptions) -> None:
        self.client = client
        self.options = options
        regime = _REGIMES[options.regime]
        self.regime = f"REGIME_{regime.name}"
        self.prompts = PROMPTS[regime]
        self.product = "products/sample" if options.data is None else f"products/{_slug(options.data.name)}"
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        self.options.out.mkdir(parents=True, exist_ok=True)
        with self._timed("import"):
            imported = self._import()
        with self._timed("finetune"):
            adapter = self._fine_tune(imported)
        with self._timed("generate"):
            batches = [self._generate(imported, adapter), self._augment(imported)]
        with self._timed("assemble"):
            dataset = self._assemble(imported, batches)
        with self._timed("train"):
            version = self._train("main", dataset, exclude_synthetic=False)
            has_positives = dataset.counts["train"].real_defect > 0
            baseline = self._train("baseline", dataset, exclude_synthetic=True) if has_positives else None
            deployment = self._wait(
                self.client.classification.DeployClassifier(
                    classification_pb2.DeployClassifierRequest(name=version.name)
                ),
                classification_pb2.Deployment, "deploy",
            )  # fmt: skip
        with self._timed("classify"):
            right = self._classify(version, dataset)
        self._draw_pictures(dataset, version, baseline)
        summary = self._summary(dataset, adapter, version, baseline, deployment)
        (self.options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        self._say(dataset, adapter, version, baseline, deployment, right)
        return summary

    def _import(self) -> assembly_pb2.Import:
        options = self.options
        folder, licence = options.data, ""
        if folder is None:
            folder, licence = options.out / "sample-product", "drawn by flawsmith (Apache-2.0)"
            train_normal, train_defect, test_normal, test_defect = options.sample_size
            write_sample_dataset(
                folder, seed=options.seed, train_normal=train_normal, train_defect=train_defect,
                test_normal=test_normal, test_defect=test_defect,
            )  # fmt: skip
        with console.status(f"uploading {folder}"):
            prefix = self.client.upload_folder(folder)
        operation = self.client.assembly.ImportImages(
            assembly_pb2.ImportImagesRequest(parent=self.product, prefix=prefix, seed=options.seed, licence=licence)
        )
        return self._wait(operation, assembly_pb2.Import, "import")

    def _fine_tune(self, imported: assembly_pb2.Import) -> generation_pb2.Adapter:
        height, width = self._drawn_size(imported)
        config = generation_pb2.FineTuneConfig(
            base_model="mini", max_steps=self.options.adapter_steps, height=height, width=width
        )
        operation = self.client.generation.FineTuneAdapter(
            generation_pb2.FineTuneAdapterRequest(
                parent=self.product, import_manifest=imported.manifest, regime=self.regime, config=config,
                seed=self.options.seed,
            )
        )  # fmt: skip
        return self._wait(operation, generation_pb2.Adapter, "fine-tune")

    def _generate(self, imported: assembly_pb2.Import, adapter: generation_pb2.Adapter) -> common_pb2.ObjectRef:
        names = []
        for text in self.prompts:
            prompt = self.client.generation.CreatePrompt(
                generation_pb2.CreatePromptRequest(parent=self.product, text=text)
            )
            self.client.generation.DecidePrompt(
                generation_pb2.DecidePromptRequest(
                    name=prompt.name, state=generation_pb2.Prompt.STATE_APPROVED, reason="the demo approves its own"
                )
            )
            names.append(prompt.name)
        inpaint = whole = None
        if self.options.strategy == "inpaint":
            # Five defects of several kinds are a narrow measure of likeness: many are refused before one passes.
            inpaint = generation_pb2.Inpaint(prompts=names, import_manifest=imported.manifest, max_redraws=20)
        else:
            whole = generation_pb2.TextToImage(prompts=names)
        operation = self.client.generation.GenerateImages(
            generation_pb2.GenerateImagesRequest(
                parent=self.product, adapter=adapter.name, count=self.options.n_aug - self.options.n_aug // 2,
                steps=self.options.denoising_steps, seed=self.options.seed,
                inpaint=inpaint, text_to_image=whole,
            )
        )  # fmt: skip
        return self._wait(operation, generation_pb2.Batch, "generate").manifest

    def _augment(self, imported: assembly_pb2.Import) -> common_pb2.ObjectRef:
        operation = self.client.augmentation.AugmentImages(
            augmentation_pb2.AugmentImagesRequest(
                parent=self.product, import_manifest=imported.manifest, method="memseg",
                count=self.options.n_aug // 2, seed=self.options.seed,
            )
        )  # fmt: skip
        return self._wait(operation, augmentation_pb2.AugmentedBatch, "augment").manifest

    def _assemble(self, imported: assembly_pb2.Import, batches: list[common_pb2.ObjectRef]) -> assembly_pb2.Dataset:
        operation = self.client.assembly.AssembleDataset(
            assembly_pb2.AssembleDatasetRequest(
                **{"import": imported.name}, parent=self.product, regime=self.regime, batches=batches,
                seed=self.options.seed,
            )
        )  # fmt: skip
        return self._wait(operation, assembly_pb2.Dataset, "assemble")

    def _train(
        self, classifier: str, dataset: assembly_pb2.Dataset, *, exclude_synthetic: bool
    ) -> classification_pb2.ClassifierVersion:
        height, width = self._classifier_size(dataset)
        operation = self.client.classification.TrainClassifier(
            classification_pb2.TrainClassifierRequest(
                parent=f"{self.product}/classifiers/{classifier}", dataset_manifest=dataset.manifest,
                exclude_synthetic=exclude_synthetic, recipe=self.options.recipe, steps=self._train_steps(),
                height=height, width=width, seed=self.options.seed,
            )
        )  # fmt: skip
        return self._wait(operation, classification_pb2.ClassifierVersion, f"train {classifier}")

    def _classify(self, version: classification_pb2.ClassifierVersion, dataset: assembly_pb2.Dataset) -> int:
        classifier = version.name.partition("/versions/")[0]
        right = 0
        for label in (common_pb2.LABEL_NORMAL, common_pb2.LABEL_DEFECT):
            records = [r for r in self._records(dataset, common_pb2.SPLIT_TEST) if r.label == label]
            for record in records[: _CLASSIFIED // 2]:
                answer = self.client.classification.Classify(
                    classification_pb2.ClassifyRequest(
                        classifier=classifier, image=common_pb2.ImageSource(ref=record.image)
                    )
                )
                called = answer.verdict == classification_pb2.VERDICT_DEFECTIVE
                right += called == (label == common_pb2.LABEL_DEFECT)
        return right

    def _draw_pictures(
        self,
        dataset: assembly_pb2.Dataset,
        version: classification_pb2.ClassifierVersion,
        baseline: classification_pb2.ClassifierVersion | None,
    ) -> None:
        train = self._records(dataset, common_pb2.SPLIT_TRAIN)
        test = self._records(dataset, common_pb2.SPLIT_TEST)
        real = common_pb2.SOURCE_REAL
        rows = {
            "real normals (train)": [r for r in train if r.source == real and r.label == common_pb2.LABEL_NORMAL],
            "real defects (train)": [r for r in train if r.source == real and r.label == common_pb2.LABEL_DEFECT],
            "real defects (test)": [r for r in test if r.label == common_pb2.LABEL_DEFECT],
            "in-distribution synthetic defects (diffusion)": [
                r for r in train if r.source == common_pb2.SOURCE_IN_DISTRIBUTION
            ],
            "out-of-distribution synthetic defects (per-region)": [
                r for r in train if r.source == common_pb2.SOURCE_OUT_OF_DISTRIBUTION
            ],
        }
        tiles = {label: list(self._tiles(records[:_SHEET_TILES])) for label, records in rows.items()}
        contact_sheet(tiles, self.options.out / "contact-sheet.png")
        versions = {"with synthetic defects": version} | ({"real only (baseline)": baseline} if baseline else {})
        precision_recall_plot(
            {
                f"{label}, AP {item.test.ap:.3f}": (
                    [point.recall for point in item.test.curve], [point.precision for point in item.test.curve],
                )
                for label, item in versions.items()
            },
            (version.test.at_threshold.recall, version.test.at_threshold.precision),
            self.options.out / "pr-curve.png",
        )  # fmt: skip

    def _tiles(self, records: list[common_pb2.ImageRecord]) -> Iterator[Tile]:
        masked = [record.mask for record in records if record.HasField("mask")]
        masks = iter(list(self.client.download(masked)))
        for record, data in zip(records, self.client.download(r.image for r in records), strict=True):
            mask = decode_mask(next(masks)) if record.HasField("mask") else None
            yield Tile(decode_image(data), mask)

    def _records(self, dataset: assembly_pb2.Dataset, split: common_pb2.Split) -> list[common_pb2.ImageRecord]:
        records: list[common_pb2.ImageRecord] = []
        token = ""
        while True:
            answer = self.client.assembly.ListDatasetImages(
                assembly_pb2.ListDatasetImagesRequest(
                    parent=dataset.name, split=split, page_size=1000, page_token=token
                )
            )
            records += answer.images
            token = answer.next_page_token
            if not token:
                return records

    def _summary(
        self,
        dataset: assembly_pb2.Dataset,
        adapter: generation_pb2.Adapter,
        version: classification_pb2.ClassifierVersion,
        baseline: classification_pb2.ClassifierVersion | None,
        deployment: classification_pb2.Deployment,
    ) -> dict[str, Any]:
        train, validation, test = (dataset.counts[split] for split in ("train", "validation", "test"))
        return {
            "dataset": {
                "uri": dataset.manifest.uri,
                "counts": {
                    "train": {
                        "normal": train.normal,
                        "real_defect": train.real_defect,
                        "in_distribution": train.in_distribution,
                        "out_of_distribution": train.out_of_distribution,
                    },
                    "validation": {"normal": validation.normal, "defect": validation.real_defect},
                    "test": {"normal": test.normal, "defect": test.real_defect},
                },
            },
            "adapter": {"uri": adapter.manifest.uri, "steps": adapter.steps, "final_loss": adapter.final_loss},
            "classifier": _describe(version),
            "baseline": _describe(baseline) if baseline else None,
            "triton": {"max_abs_diff_vs_onnxruntime": deployment.max_abs_diff_vs_onnxruntime},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }

    def _say(
        self,
        dataset: assembly_pb2.Dataset,
        adapter: generation_pb2.Adapter,
        version: classification_pb2.ClassifierVersion,
        baseline: classification_pb2.ClassifierVersion | None,
        deployment: classification_pb2.Deployment,
        right: int,
    ) -> None:
        out = self.options.out
        without = f" (without synthetic defects: {baseline.test.ap:.3f})" if baseline else ""
        for line in (
            f"data set     {dataset.manifest.uri}",
            f"adapter      {adapter.manifest.uri}",
            f"classifier   {version.name} as Triton model {deployment.triton_model}",
            f"average precision on {version.test.normals} real normals and {version.test.defects} real defects: "
            f"{version.test.ap:.3f}{without}",
            f"classified through ClassificationService: {right} of {_CLASSIFIED} right",
            f"look at      {out / 'contact-sheet.png'}, {out / 'pr-curve.png'}",
            f"numbers      {out / 'summary.json'}",
        ):
            console.print(line, markup=False, soft_wrap=True)

    def _drawn_size(self, imported: assembly_pb2.Import) -> tuple[int, int]:
        """What the adapter draws: the product's aspect ratio on about the area that mini was trained at."""
        if self.options.drawn_height and self.options.drawn_width:
            return self.options.drawn_height, self.options.drawn_width
        height, width = self._native_size(imported.manifest)
        return fit_area(height, width, area=MINI_AREA, multiple=MINI_MULTIPLE)

    def _classifier_size(self, dataset: assembly_pb2.Dataset) -> tuple[int, int]:
        if self.options.height and self.options.width:
            return self.options.height, self.options.width
        record = self._records(dataset, common_pb2.SPLIT_TEST)[0]
        return fit_area(record.height, record.width, area=_CLASSIFIER_AREA, multiple=4)

    def _native_size(self, manifest: common_pb2.ObjectRef) -> tuple[int, int]:
        first = json.loads(next(self.client.download([manifest])))["images"][0]
        return int(first["height"]), int(first["width"])

    def _train_steps(self) -> int:
        return self.options.train_steps or (150 if self.options.data is None else 300)

    def _wait(self, operation: operations_pb2.Operation, response: type[Response], title: str) -> Response:
        with progress_bar(title) as update:
            return self.client.wait(operation, response, on_progress=update)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        console.print(f"{name:9} {self.seconds[name]:6.1f} s", markup=False)


def _describe(version: classification_pb2.ClassifierVersion) -> dict[str, Any]:
    classifier, _, number = version.name.partition("/versions/")
    return {
        "model": classifier,
        "version": number,
        "steps": version.steps,
        "ap_trapezoid": version.test.ap_trapezoid,
        "ap": version.test.ap,
        "precision": version.test.at_threshold.precision,
        "recall": version.test.at_threshold.recall,
        "threshold": version.threshold.value,
        "threshold_rule": version.threshold.rule,
    }


def _slug(name: str) -> str:
    text = "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
    return text[:60] or "product"
