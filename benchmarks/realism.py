"""How near do generated defects come to real ones? Few-shot on a real product: five real defects to learn from.

    python -m benchmarks.realism --data ../shared/data --json out/realism.json

KID (see `benchmarks.kid`) of crops centred on the defect against the real test defects, in SqueezeNet's features:
whole images would reward good surface and sharpness, of which defects are a small part. Arms:

- `text to image` and `inpainting` (into real normals, where the five's masks fall): drawn with an adapter fine-tuned
  on the five, and by the base model without one;
- the per-region methods of the augmentation service on real normals (`memseg` is its default);
- for comparison: real training defects (what can be had), the same blurred, and normals without defect.

Crops are centred on the middle of the defect mask's largest region. Images drawn from text have no mask: theirs are
centred on the clearest line in them, with the adapter and without. How often that finds real defects, which are cracks,
is reported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.kid import bootstrap_difference, bootstrap_kid
from benchmarks.round_trip import round_trip
from benchmarks.squeezenet import SqueezeNet
from flawsmith.augmentation.augment import augment
from flawsmith.augmentation.methods import METHODS
from flawsmith.common.images import decode_image, decode_mask
from flawsmith.common.manifests import CopyThresholds, ImageRecord, Label, ObjectRef, Regime, Source, Split
from flawsmith.common.selection import select_positives
from flawsmith.generation import failure_removal, finetune
from flawsmith.generation.copies import MAX_HELD_OUT, TrainingImages, calibrate, is_copy
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.inpainting import Inpaint, Material, Painter
from flawsmith.generation.masks import change
from flawsmith.generation.presets import drawing_values, preset_values
from flawsmith.generation.spec import FineTuneRun, FineTuneSpec
from training.environment import restart_in_compute_environment

CROP = 96
"""Side of the crops, pixels."""
_WEIGHTS = "weights/squeezenet1_1-imagenet-features.safetensors"
_BASE = "the only base model here"
_SHEET_COLUMNS = 16
_LINE = 33
_DRAWN_TOGETHER = 4


@dataclass(frozen=True)
class Picture:
    """An image and its defect's mask: uint8, height x width x 3, and height x width, 0 or 255.

    mask: None where nobody outlined the defect. record: of a real image.
    """

    image: np.ndarray
    mask: np.ndarray | None
    record: ImageRecord | None = None


@dataclass(frozen=True)
class Product:
    """What is known of a product. shots: the training defects that a few-shot regime may use. other_defects: the rest
    of the training defects."""

    shots: list[Picture]
    other_defects: list[Picture]
    train_normals: list[Picture]
    test_defects: list[Picture]


def read_product(folder: Path, seed: int) -> Product:
    """Reads KolektorSDD2's layout; the shots are those that the platform would choose.

    Raises FileNotFoundError where the folder holds no such data set.
    """
    pictures = [
        _read_picture(path.with_name(path.name.replace("_GT", "")), path, split)
        for split in (Split.TRAIN, Split.TEST)
        for path in sorted((folder / split.value).glob("*_GT.png"))
    ]
    if not pictures:
        raise FileNotFoundError(f"{folder} holds no data set: train/10000.png with train/10000_GT.png is expected")
    shots = {record.image.sha256 for record in select_positives(records_of(pictures), Regime.FEW_SHOT, seed)}
    groups: dict[tuple[Split, Label, bool], list[Picture]] = {}
    for picture, record in zip(pictures, records_of(pictures), strict=True):
        groups.setdefault((record.split, record.label, record.image.sha256 in shots), []).append(picture)
    return Product(
        shots=groups[Split.TRAIN, Label.DEFECT, True],
        other_defects=groups[Split.TRAIN, Label.DEFECT, False],
        train_normals=groups[Split.TRAIN, Label.NORMAL, False],
        test_defects=groups[Split.TEST, Label.DEFECT, False],
    )


def _read_picture(image: Path, mask: Path, split: Split) -> Picture:
    pixels, outline = decode_image(image.read_bytes()), decode_mask(mask.read_bytes())
    record = ImageRecord(
        image=_ref(image),
        mask=_ref(mask),
        height=pixels.shape[0],
        width=pixels.shape[1],
        label=Label.DEFECT if outline.any() else Label.NORMAL,
        source=Source.REAL,
        split=split,
    )
    return Picture(pixels, outline, record)


def _ref(path: Path) -> ObjectRef:
    data = path.read_bytes()
    return ObjectRef(uri=str(path), sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def records_of(pictures: Sequence[Picture]) -> list[ImageRecord]:
    """Those of real pictures."""
    return [picture.record for picture in pictures if picture.record is not None]


def mask_centre(mask: np.ndarray) -> tuple[float, float]:
    """Row and column of the middle of the mask's largest region's box."""
    count, _, boxes, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)
    left, top, width, height = boxes[1 + int(np.argmax(boxes[1:count, cv2.CC_STAT_AREA])), :4]
    return top + height / 2, left + width / 2


def crop_at(image: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    """CROP x CROP pixels about a point, moved into the image where it lies near the edge."""
    top, left = (
        int(np.clip(round(middle - CROP / 2), 0, side - CROP))
        for middle, side in zip(centre, image.shape[:2], strict=True)
    )
    return image[top : top + CROP, left : left + CROP]


def line_centre(image: np.ndarray) -> tuple[float, float]:
    """Row and column of the middle of the clearest line, dark or bright: a matched filter in twelve directions.

    For images whose defect nobody outlined. What stands out by itself counts little: a line is many pixels.
    """
    grey = image.mean(axis=2, dtype=np.float32)
    detail = cv2.GaussianBlur(grey, (0, 0), 1) - cv2.GaussianBlur(grey, (0, 0), 10)
    limit = 3 * float(np.median(np.abs(detail)))
    clipped = np.clip(detail, -limit, limit)
    answers = np.stack(
        [np.abs(cv2.filter2D(clipped, -1, kernel, borderType=cv2.BORDER_REFLECT)) for kernel in _line_kernels()]
    )
    # A spot answers in every direction, a line in one.
    row, column = np.unravel_index(int(np.argmax(answers.max(axis=0) - answers.mean(axis=0))), grey.shape)
    return float(row), float(column)


@cache
def _line_kernels() -> list[np.ndarray]:
    kernels = []
    for angle in np.arange(0, np.pi, np.pi / 12):
        kernel = np.zeros((_LINE, _LINE), np.float32)
        reach = np.array([np.cos(angle), np.sin(angle)]) * (_LINE // 2)
        ends = [tuple(np.round(_LINE // 2 + sign * reach).astype(int).tolist()) for sign in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0, 1)
        kernel = cv2.GaussianBlur(kernel, (0, 0), 1.2)
        kernels.append(kernel / kernel.sum())
    return kernels


def crops_of(pictures: Sequence[Picture]) -> np.ndarray:
    """Crops centred on the defects, N x CROP x CROP x 3."""
    return np.stack(
        [
            crop_at(picture.image, line_centre(picture.image) if picture.mask is None else mask_centre(picture.mask))
            for picture in pictures
        ]
    )


class Generator:
    """Draws pictures through the code that serves requests, with the adapter and without."""

    def __init__(
        self, model: LatentDiffusionModel, adapter: Path, product: Product, arguments: argparse.Namespace
    ) -> None:
        self._model = model
        self._drawer = Drawer(model, _BASE, fetch_adapter=lambda uri, sha256: adapter)
        self._arguments = arguments
        height, width = np.median([shot.image.shape[:2] for shot in product.shots], axis=0)
        self._size = (model.nearest_side(int(height)), model.nearest_side(int(width)))
        # The import's manifest is looked into by nobody here: the material is chosen already.
        nothing = ObjectRef(uri="", sha256="0" * 64, size=0)
        self._inpaint = Inpaint.model_validate({"prompts": (arguments.inpaint_prompt,), "import_manifest": nothing})
        self._painter = Painter(
            Material(records_of(product.train_normals), records_of(product.shots), drawn=False),
            self._inpaint,
            arguments.seed,
            lambda ref: Path(ref.uri).read_bytes(),
            prompts=(arguments.inpaint_prompt,),
            native_side=model.native_side,
            multiple=model.size_multiple,
        )
        self.failures: dict[str, dict[str, int]] = {}

    def text_to_image(self, count: int, *, adapted: bool) -> list[Picture]:
        """Images of the product's size from the instance prompt."""
        drawn: list[Picture] = []
        while len(drawn) < count:
            seeds = range(len(drawn), min(len(drawn) + _DRAWN_TOGETHER, count))
            images = self._drawer.draw(self._request(self._arguments.prompt, self._size, seeds, adapted))
            drawn += [Picture(image, None) for image in images]
        return drawn

    def inpaint(self, count: int, *, adapted: bool) -> list[Picture]:
        """Defects painted into real normals, failures removed as in a batch: redrawn, and in the end dropped."""
        shown = self._painter.references()
        masked = MaskedImages(np.stack([image for image, _ in shown]), np.stack([mask for _, mask in shown]))
        calibration = failure_removal.calibrate(self._drawer.features(masked))
        counts = {"drawn": 0, "unchanged": 0, "unlike": 0}
        kept = []
        for index in range(count):
            for attempt in range(1 + self._inpaint.max_redraws):
                picture, failure = self._paint(index, attempt, calibration, adapted)
                counts["drawn"] += 1
                if not failure:
                    kept.append(picture)
                    break
                counts[failure] += 1
        self.failures["adapter" if adapted else "base model"] = {**counts, "dropped": count - len(kept)}
        return kept

    def _paint(
        self, index: int, attempt: int, calibration: failure_removal.Calibration, adapted: bool
    ) -> tuple[Picture, str]:
        candidate = self._painter.prepare(index, attempt)
        request = self._request(
            self._arguments.inpaint_prompt,
            candidate.image.shape[:2],
            [index + attempt * self._arguments.images],
            adapted,
            strategy="inpaint",
        )
        drawn = self._drawer.draw(request, MaskedImages(candidate.image[None], candidate.mask[None]))[0]
        pixels, mask = self._painter.finish(candidate, drawn), candidate.placed.mask
        look, outline = self._painter.look(pixels, mask)
        features = self._drawer.features(MaskedImages(look[None], outline[None]))
        changes = [change(candidate.pixels, pixels, mask)]
        verdict = failure_removal.judge(changes, self._inpaint.min_change, features, calibration)[0]
        return Picture(pixels, mask), verdict.failure

    def _request(
        self,
        prompt: str,
        size: tuple[int, ...],
        seeds: Sequence[int],
        adapted: bool,
        strategy: str = "text_to_image",
    ) -> DrawingRequest:
        return DrawingRequest(
            strategy=strategy,
            prompt=prompt,
            base_model_sha256=_BASE,
            adapter_uri="adapter" if adapted else "",
            adapter_sha256="adapter" if adapted else "",
            alpha=self._arguments.alpha,
            height=size[0],
            width=size[1],
            steps=self._arguments.steps,
            guidance=self._arguments.guidance[strategy],
            seeds=tuple(self._arguments.seed + seed for seed in seeds),
        )


class _Printed:
    """Says on the terminal how far the fine-tuning is."""

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None:
        if step == total or step % 20 == 0:
            print(f"  {stage} {step}/{total}" + ("" if loss is None else f" loss {loss:.3f}"), flush=True)

    def checkpoint(self, path: Path, step: int) -> None:
        path.unlink()


def fine_tune(product: Product, arguments: argparse.Namespace, target: Path) -> dict[str, Any]:
    """Fine-tunes on the shots with the preset's values; writes the adapter to `target`."""
    values = preset_values(Regime.FEW_SHOT, "mini")
    spec = FineTuneSpec(**{**values, **({"max_steps": 4, "regularization_images": 4} if arguments.quick else {})})
    with tempfile.TemporaryDirectory() as folder:
        run = FineTuneRun(
            spec=spec,
            base_model=arguments.model,
            base_model_sha256=_BASE,
            images=tuple(Path(record.image.uri) for record in records_of(product.shots)),
            masks=tuple(Path(record.mask.uri) for record in records_of(product.shots) if record.mask is not None),
            work_folder=Path(folder),
            checkpoint_every=10_000,
            threads=arguments.threads,
        )
        result = finetune.run(run, _Printed())
        shutil.copy(result["weights"], target)
    return {key: result[key] for key in ("steps", "epochs", "final_loss", "height", "width")}


def copies_report(
    training: TrainingImages, thresholds: CopyThresholds, pictures: Sequence[Picture], *, masked: bool
) -> dict[str, Any]:
    """How many of the pictures copy a training image."""
    found = [training.nearest(picture.image, picture.mask if masked else None) for picture in pictures]
    return {
        "images": len(pictures),
        "flagged": sum(is_copy(nearest, thresholds, masked=masked) for nearest in found),
        "median_similarity": round(float(np.median([nearest.similarity for nearest in found])), 3),
        "highest_similarity": round(max(nearest.similarity for nearest in found), 3),
        "threshold": round(thresholds.window if masked else thresholds.whole, 3),
    }


def write_sheet(path: Path, rows: dict[str, np.ndarray]) -> None:
    """A row of crops an arm, its name at the left."""
    lines = []
    for name, crops in rows.items():
        label = np.full((CROP, 220, 3), 255, dtype=np.uint8)
        cv2.putText(label, name[:26], (4, CROP // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        shown = [*crops[:_SHEET_COLUMNS], *[np.full((CROP, CROP, 3), 255, np.uint8)] * (_SHEET_COLUMNS - len(crops))]
        lines.append(np.concatenate([label, *shown], axis=1))
    if not cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(lines), cv2.COLOR_RGB2BGR)):
        raise OSError(f"cannot write {path}")


def timed(name: str, seconds: dict[str, float], work: Callable[[], Any]) -> Any:
    """Runs a piece of work and notes how long it took."""
    print(name, flush=True)
    started = time.monotonic()
    result = work()
    seconds[name] = round(time.monotonic() - started, 1)
    return result


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The report, and the crops of every arm."""
    seconds: dict[str, float] = {}
    product = read_product(arguments.data / arguments.product, arguments.seed)
    network = SqueezeNet(arguments.data / _WEIGHTS)
    order = np.random.default_rng(arguments.seed).permutation(len(product.train_normals))
    parents = [product.train_normals[index] for index in order[: arguments.images]]
    adapter = arguments.adapter
    tuned: dict[str, Any] = {"adapter": str(adapter)}
    if not adapter.exists():
        adapter.parent.mkdir(parents=True, exist_ok=True)
        tuned |= timed("fine-tuning", seconds, lambda: fine_tune(product, arguments, adapter))
    model = load_model(arguments.model)
    generator = Generator(model, adapter, product, arguments)
    arms: dict[str, list[Picture]] = {}
    for adapted, suffix in ((True, "adapter"), (False, "base model")):
        for strategy, draw in (("text to image", generator.text_to_image), ("inpainting", generator.inpaint)):
            name = f"{strategy}, {suffix}"
            arms[name] = timed(name, seconds, partial(draw, arguments.images, adapted=adapted))
    for method in METHODS:
        if method == "realnet":  # it takes generated anomalies
            continue
        made = [
            augment(picture.image, np.random.default_rng([arguments.seed, index]), method=method)
            for index, picture in enumerate(parents)
        ]
        arms[method] = [Picture(one.image, one.mask) for one in made]

    crops = {name: crops_of(pictures) for name, pictures in arms.items()}
    crops["real training defects"] = crops_of(product.other_defects)
    crops["the five shots"] = crops_of(product.shots)
    for sigma in (0.8, 1.5, 3.0):
        blurred = [cv2.GaussianBlur(crop, (0, 0), sigma) for crop in crops["real training defects"]]
        crops[f"blurred by {sigma} pixels"] = np.stack(blurred)
    centres = [mask_centre(picture.mask) for picture in product.other_defects if picture.mask is not None]
    crops["normals, no defect"] = np.stack(
        [crop_at(picture.image, centres[index % len(centres)]) for index, picture in enumerate(parents)]
    )
    real = crops_of(product.test_defects)

    features = {name: network.pooled(images) for name, images in crops.items()}
    real_features = network.pooled(real)
    kid = {
        name: {"images": len(values), **asdict(bootstrap_kid(real_features, values, seed=arguments.seed))}
        for name, values in features.items()
    }
    differences = {
        f"{first} - {second}": asdict(
            bootstrap_difference(real_features, features[first], features[second], seed=arguments.seed)
        )
        for strategy in ("text to image", "inpainting")
        for first in (f"{strategy}, adapter",)
        for second in ("memseg", f"{strategy}, base model", "normals, no defect")
    }
    report = {
        "product": arguments.product,
        "crop": CROP,
        "real_test_defects": len(real),
        "fine_tuning": tuned,
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "alpha": arguments.alpha,
        "prompts": {"text to image": arguments.prompt, "inpainting": arguments.inpaint_prompt},
        "kid": kid,
        "differences": differences,
        "failures": generator.failures,
        "centres_found": centres_found(product.other_defects),
        "copies": copies(product, model, arms),
        "seconds": seconds,
    }
    return report, {"real test defects": real, **crops}


def centres_found(pictures: Sequence[Picture]) -> float:
    """Share of real defects whose mask's centre lies in the crop that is centred without the mask."""
    hits = []
    for picture in pictures:
        assert picture.mask is not None
        offsets = np.subtract(mask_centre(picture.mask), line_centre(picture.image))
        hits.append(bool((np.abs(offsets) <= CROP / 2).all()))
    return round(float(np.mean(hits)), 3)


def copies(product: Product, model: LatentDiffusionModel, arms: dict[str, list[Picture]]) -> dict[str, Any]:
    """Copies of training images among what was drawn, and two checks of the check itself."""
    training = TrainingImages([picture.image for picture in product.shots])
    # As the service does: normals, which every regime may use.
    held_out = [picture.image for picture in product.train_normals[:MAX_HELD_OUT]]
    thresholds = calibrate(training, held_out)
    if thresholds is None:
        raise ValueError(f"{len(held_out)} held-out real images are too few to calibrate on")
    decoded = [Picture(image, None) for shot in product.shots for image in round_trip(model, shot.image[None])]
    report = {
        "held_out": len(held_out),
        "training images, autoencoded": copies_report(training, thresholds, decoded, masked=False),
        "real test defects": copies_report(training, thresholds, product.test_defects, masked=False),
        "real test defects, by window": copies_report(training, thresholds, product.test_defects, masked=True),
    }
    for name in arms:
        if "," in name:
            report[name] = copies_report(training, thresholds, arms[name], masked=name.startswith("inpainting"))
    return report


def print_report(report: dict[str, Any]) -> None:
    """The figures."""
    print(f"\nKID against {report['real_test_defects']} real test defects, 95 % intervals")
    for name, row in sorted(report["kid"].items(), key=lambda item: item[1]["estimate"]):
        print(f"  {name:32}{row['estimate']:10.1f}  [{row['low']:.1f}, {row['high']:.1f}]  {row['images']} images")
    print("\ndifference of KID, 95 % intervals; below 0: the first is nearer")
    for name, row in report["differences"].items():
        print(f"  {name:58}{row['estimate']:10.1f}  [{row['low']:.1f}, {row['high']:.1f}]")
    for name, row in report["failures"].items():
        listing = ", ".join(f"{count} {what}" for what, count in row.items())
        print(f"\nimages that inpainting removed, {name}: {listing}")
    print(f"\ncentres of real defects found without their masks: {report['centres_found']:.0%}")
    print("\ncopies of the five training images")
    for name, row in report["copies"].items():
        if isinstance(row, dict):
            print(
                f"  {name:32}{row['flagged']:4d} of {row['images']}  similarity {row['median_similarity']:.2f}, "
                f"at most {row['highest_similarity']:.2f}; threshold {row['threshold']:.2f}"
            )
    print("\nseconds: " + ", ".join(f"{name} {value:.0f}" for name, value in report["seconds"].items()))


def main() -> None:
    """Parses the arguments and measures."""
    restart_in_compute_environment("benchmarks.realism")
    usual = {name: drawing_values("mini", adapted=True, strategy=name) for name in ("text_to_image", "inpaint")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds the product's folder and weights/")
    parser.add_argument("--json", type=Path, required=True, help="where to write; a sheet of crops goes beside it")
    parser.add_argument("--product", default="ksdd1", help="folder below --data, in KolektorSDD2's layout")
    parser.add_argument("--model", type=Path, default=Path("models/mini"))
    parser.add_argument("--adapter", type=Path, help="used when it exists, written otherwise; default: beside --json")
    parser.add_argument("--images", type=int, default=60, help="an arm")
    parser.add_argument("--prompt", default="skt background")
    parser.add_argument("--inpaint-prompt", default="skt background cracked")
    parser.add_argument("--steps", type=int, default=usual["inpaint"]["steps"])
    parser.add_argument("--guidance", type=float, help="of every arm; by default an adapter's for the strategy")
    alpha = preset_values(Regime.FEW_SHOT, "mini")["alpha"]
    parser.add_argument("--alpha", type=float, default=alpha, help="the adapter's merge weight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a few images and steps: shows that it runs, no figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.guidance = {
        name: values["guidance"] if arguments.guidance is None else arguments.guidance for name, values in usual.items()
    }
    if arguments.quick:
        arguments.images, arguments.steps = 6, 4
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.adapter = arguments.adapter or arguments.json.with_suffix(".adapter.safetensors")
    report, crops = measure(arguments)
    print_report(report)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    write_sheet(arguments.json.with_suffix(".png"), crops)


if __name__ == "__main__":
    main()
