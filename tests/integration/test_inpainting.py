"""Painting into good images through the public API: real S3 server, real Triton with mini, a worker that is killed."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FailedPreconditionError, FlawsmithError
from flawsmith.common.images import decode_image, decode_mask, encode_png
from flawsmith.common.manifests import (
    BatchManifest,
    ImageRecord,
    ImportManifest,
    Label,
    ObjectRef,
    Source,
    Split,
)
from flawsmith.common.resources import Resources
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing import draw_sample
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.reconstruction import fit, unfit
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.platform import LocalPlatform
from tests.integration.test_generation import wait_until

HEIGHT, WIDTH = 96, 80
STEPS = 4
MINI = Path(__file__).parents[2] / "models/mini"


@pytest.fixture(scope="module")
def imported(platform: LocalPlatform) -> tuple[str, common_pb2.ObjectRef]:
    """A product with real data of its own, masks included: its name and the import's reference."""
    rng, records, store = np.random.default_rng(8), [], platform.store
    product = f"products/plate-{uuid.uuid4().hex[:8]}"
    for split, defective, count in (("train", False, 6), ("train", True, 6), ("test", True, 2), ("test", False, 2)):
        for _ in range(count):
            image, mask = draw_sample(rng, HEIGHT, WIDTH, defective=defective)
            records.append(
                ImageRecord(
                    image=store.put_blob(encode_png(image), ".png"),
                    mask=store.put_blob(encode_png(mask), ".png") if defective else None,
                    height=HEIGHT, width=WIDTH, label=Label.DEFECT if defective else Label.NORMAL, source=Source.REAL,
                    split=Split(split), defect_type="scratch" if defective else "",
                )
            )  # fmt: skip
    manifest = ImportManifest(
        name=f"{product}/imports/i1", product=product, layout="mvtec-ad", split_rule="given", seed=0,
        images=tuple(records), create_time=datetime.now(UTC),
    )  # fmt: skip
    ref = Resources(store).publish(manifest.name, manifest)
    return product, common_pb2.ObjectRef(**ref.model_dump())


@pytest.fixture(scope="module")
def prompt(platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]) -> str:
    """An approved prompt."""
    with Client(platform.settings.peers, principal="olga") as client:
        made = client.generation.CreatePrompt(
            generation_pb2.CreatePromptRequest(parent=imported[0], text="grey brushed metal with a dark scratch")
        )
        approve(client, made.name)
        return str(made.name)


def approve(client: Client, name: str) -> generation_pb2.Prompt:
    return client.generation.DecidePrompt(
        generation_pb2.DecidePromptRequest(name=name, state=generation_pb2.Prompt.STATE_APPROVED)
    )


def painting(
    imported: tuple[str, common_pb2.ObjectRef], prompt: str, *, count: int = 4, batch_id: str = "", seed: int = 3,
    **values: object,
) -> generation_pb2.GenerateImagesRequest:  # fmt: skip
    inpaint = generation_pb2.Inpaint(prompts=[prompt], import_manifest=imported[1], **values)
    return generation_pb2.GenerateImagesRequest(
        parent=imported[0], batch_id=batch_id, count=count, steps=STEPS, guidance=3, seed=seed, inpaint=inpaint
    )


def load(platform: LocalPlatform, ref: common_pb2.ObjectRef) -> BatchManifest:
    return Resources(platform.store).load(ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size), BatchManifest)


@pytest.fixture(scope="module")
def batch(
    platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef], prompt: str
) -> generation_pb2.Batch:  # fmt: skip
    with Client(platform.settings.peers, principal="tester") as client:
        request = painting(imported, prompt, batch_id="painted", min_change=1)
        return client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=300)


def test_defects_are_painted_and_nothing_else_changes(
    platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef], batch: generation_pb2.Batch
) -> None:
    manifest, store = load(platform, batch.manifest), platform.store
    real = Resources(store).get(f"{imported[0]}/imports/i1", ImportManifest)[0]
    normals = {r.image.sha256: r for r in real.images if (r.split, r.label) == (Split.TRAIN, Label.NORMAL)}
    defects = {r.image.sha256 for r in real.images if (r.split, r.label) == (Split.TRAIN, Label.DEFECT)}
    assert (manifest.method, batch.method, batch.image_count) == ("inpaint", "inpaint", len(manifest.images))
    assert manifest.images
    for record in manifest.images:
        assert record.mask is not None
        assert record.sidecar is not None
        parent = decode_image(store.get(normals[record.parents[0]].image))
        painted, mask = decode_image(store.get(record.image)), decode_mask(store.get(record.mask))
        assert np.array_equal(painted[mask == 0], parent[mask == 0])
        assert not np.array_equal(painted[mask > 0], parent[mask > 0])
        sidecar = json.loads(store.get(record.sidecar))
        low, high = sidecar["area_range"]
        assert low <= np.count_nonzero(mask) / mask.size <= high
        assert sidecar["parent"]["sha256"] == record.parents[0]
        assert sidecar["mask"]["sha256"] == record.mask.sha256
        assert sidecar["mask_source"]["origin"] in defects
        assert set(record.parents[1:]) == {sidecar["mask_source"]["origin"]}
        assert (sidecar["adapter"], sidecar["base_model"], sidecar["strength"]) == (None, "mini", 1.0)
        assert sidecar["prompt"]["decided_by"] == "olga"
        assert {"angle", "scale", "shear", "translate", "tries"} <= set(sidecar["transform"])
        assert {"top", "left", "height", "width"} == set(sidecar["crop"])
        assert record.defect_type == "scratch"


def test_a_batch_goes_on_where_another_one_ended(
    platform: LocalPlatform, client: Client, imported: tuple[str, common_pb2.ObjectRef], prompt: str
) -> None:
    zero = common_pb2.REGIME_ZERO_SHOT
    parts = []
    for first, count in ((0, 3), (0, 1), (1, 2)):
        request = painting(imported, prompt, count=count, regime=zero, min_change=0)
        request.start_index = first
        parts.append(client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=200))
    whole, *pieces = ([*load(platform, part.manifest).images] for part in parts)
    for one, other in zip(whole, pieces[0] + pieces[1], strict=True):
        assert one.mask == other.mask
        assert one.parents == other.parents
        # Drawn beside others, which changes roundings.
        difference = decode_image(platform.store.get(one.image)) - decode_image(platform.store.get(other.image)).astype(
            int
        )
        assert np.abs(difference).max() <= 2
    request = reconstructing(imported, common_pb2.SPLIT_TEST, start_index=1)
    with pytest.raises(FlawsmithError, match="start_index: leave unset with reconstruct"):
        client.wait(client.generation.GenerateImages(request), generation_pb2.Batch)


def test_a_parent_without_a_place_costs_no_other_image(platform: LocalPlatform, client: Client) -> None:
    """One normal of three is overexposed, so that no object stands out of it."""
    rng, store, product = np.random.default_rng(1), platform.store, f"products/exposed-{uuid.uuid4().hex[:8]}"
    text = "grey plastic with a dark scratch"
    prompt = client.generation.CreatePrompt(generation_pb2.CreatePromptRequest(parent=product, text=text)).name
    approve(client, prompt)
    pictures = [np.full((HEIGHT, WIDTH, 3), 250, np.uint8) for _ in range(3)]
    for picture in pictures[1:]:
        picture[24:72, 20:60] = rng.integers(60, 90, (48, 40, 3))
    records = tuple(
        ImageRecord(
            image=store.put_blob(encode_png(picture), ".png"), height=HEIGHT, width=WIDTH, label=Label.NORMAL,
            source=Source.REAL, split=Split.TRAIN,
        )
        for picture in pictures
    )  # fmt: skip
    manifest = ImportManifest(
        name=f"{product}/imports/overexposed", product=product, layout="mvtec-ad", split_rule="given", seed=0,
        images=records, create_time=datetime.now(UTC),
    )  # fmt: skip
    ref = Resources(store).publish(manifest.name, manifest)
    request = painting((product, common_pb2.ObjectRef(**ref.model_dump())), prompt, count=3, min_change=0)
    request.inpaint.foreground = "object"
    request.inpaint.max_redraws = 0
    made = client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=200)
    assert (made.image_count, made.removal.drawn, made.removal.unplaced) == (2, 2, 1)
    assert "no object stands out" in made.removal.dropped[0].reason
    assert records[0].image.sha256 not in {record.parents[0] for record in load(platform, made.manifest).images}
    # From the fifth attempt on another parent is taken.
    request.inpaint.max_redraws = 7
    request.ClearField("request_id")
    assert client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=200).image_count == 3


def reconstructing(
    imported: tuple[str, common_pb2.ObjectRef], split: int, **values: object
) -> generation_pb2.GenerateImagesRequest:
    reconstruct = generation_pb2.Reconstruct(import_manifest=imported[1], split=split)
    return generation_pb2.GenerateImagesRequest(parent=imported[0], reconstruct=reconstruct, **values)


@pytest.mark.parametrize("size", [None, (64, 48)])
def test_normals_are_reconstructed_and_stay_normals_of_their_split(
    platform: LocalPlatform, client: Client, imported: tuple[str, common_pb2.ObjectRef], batch: generation_pb2.Batch,
    size: tuple[int, int] | None,
) -> None:  # fmt: skip
    store, model = platform.store, load_model(MINI)
    real = Resources(store).get(f"{imported[0]}/imports/i1", ImportManifest)[0]
    height, width = size or (HEIGHT, WIDTH)
    made = []
    for split, name in ((common_pb2.SPLIT_TRAIN, Split.TRAIN), (common_pb2.SPLIT_TEST, Split.TEST)):
        request = reconstructing(imported, split, **({"height": height, "width": width} if size else {}))
        made.append(client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=200))
        manifest = load(platform, made[-1].manifest)
        assert (made[-1].method, manifest.source) == ("reconstruct", Source.RECONSTRUCTED)
        assert manifest.copy_check is manifest.removal is None
        normals = {r.image.sha256: r for r in real.images if (r.split, r.label) == (name, Label.NORMAL)}
        assert sorted(record.parents[0] for record in manifest.images) == sorted(normals)
        for record in manifest.images:
            assert (record.label, record.source, record.split) == (Label.NORMAL, Source.RECONSTRUCTED, name)
            assert (record.mask, len(record.parents), record.height, record.width) == (None, 1, HEIGHT, WIDTH)
            assert record.sidecar is not None
            sidecar = json.loads(store.get(record.sidecar))
            assert (sidecar["strategy"], sidecar["base_model"], sidecar["scaled"]) == (
                "reconstruct", "mini", size is not None,
            )  # fmt: skip
            assert (sidecar["height"], sidecar["width"]) == (height, width)
            # float32's round trip of the same picture, which what is served equals but for roundings.
            parent = decode_image(store.get(normals[record.parents[0]].image))
            fitted = fit(parent, size, model.size_multiple)
            roundtrip = model.decode_latents(model.encode_images(fitted[None])[0])[0]
            expected = unfit(roundtrip, HEIGHT, WIDTH, sized=size is not None).astype(int)
            found = decode_image(store.get(record.image)).astype(int)
            assert np.abs(found - expected).mean() < 2
            assert not np.array_equal(found, parent)
    if size is None:
        again = client.generation.GenerateImages(reconstructing(imported, common_pb2.SPLIT_TEST, count=1, seed=4))
        one = load(platform, client.wait(again, generation_pb2.Batch, timeout_s=200).manifest)
        # What becomes of an image depends on nothing but the image.
        assert one.images[0] in load(platform, made[1].manifest).images
    operation = client.assembly.AssembleDataset(
        assembly_pb2.AssembleDatasetRequest(
            parent=imported[0], regime=common_pb2.REGIME_FEW_SHOT, batches=[one.manifest for one in (batch, *made)]
        )
    )
    dataset = client.wait(operation, assembly_pb2.Dataset, timeout_s=100)
    train, test = dataset.counts["train"], dataset.counts["test"]
    assert (train.normal, train.real_defect, train.reconstructed) == (6, 5, 6)
    assert (test.normal, test.real_defect, test.reconstructed, test.in_distribution) == (2, 2, 2, 0)


def test_what_was_removed_is_reported(platform: LocalPlatform, batch: generation_pb2.Batch) -> None:
    removal = load(platform, batch.manifest).removal
    assert removal is not None
    assert removal.drawn == batch.image_count + removal.unchanged + removal.unlike
    assert batch.image_count + len(removal.dropped) == 4
    assert (removal.references, removal.note) == (6, "")
    assert removal.threshold is not None
    assert (batch.removal.drawn, batch.removal.references) == (removal.drawn, 6)
    assert batch.removal.threshold == pytest.approx(removal.threshold)


def test_images_that_never_show_a_defect_are_dropped_with_a_reason(
    client: Client, imported: tuple[str, common_pb2.ObjectRef], prompt: str
) -> None:
    request = painting(imported, prompt, count=2, min_change=254, max_redraws=1)
    operation = client.generation.GenerateImages(request)
    with pytest.raises(FlawsmithError, match="the model left the masked part as it was") as caught:
        client.wait(operation, generation_pb2.Batch, timeout_s=200)
    assert (caught.value.code, caught.value.reason) == ("ABORTED", "NO_USABLE_IMAGES")


def test_without_real_defects_masks_are_drawn_and_only_the_change_is_tested(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef], prompt: str
) -> None:
    request = painting(
        imported, prompt, count=2, regime=common_pb2.REGIME_ZERO_SHOT, min_change=0, preset="diag",
    )  # fmt: skip
    made = client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=200)
    assert made.image_count == 2
    assert not made.removal.HasField("threshold")
    assert "needs 4 of them, and there are 0" in made.removal.note
    for record in load(platform, made.manifest).images:
        assert len(record.parents) == 1
        # The prompt says so.
        assert record.defect_type == "scratch"
        assert record.sidecar is not None
        sidecar = json.loads(platform.store.get(record.sidecar))
        assert (sidecar["mask_source"]["defect_type"], sidecar["area_range"]) == ("scratch", [0.003, 0.04])
        assert (sidecar["strength"], sidecar["guidance"], sidecar["steps"]) == (0.99, 3, STEPS)
        assert sidecar["negative_prompt"] == "smooth, plain, black, dark, shadow"


def test_a_killed_worker_draws_nothing_twice(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef], prompt: str
) -> None:
    request = painting(imported, prompt, count=8, min_change=0, min_area=0.005)
    straight = client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=300)
    request.request_id = ""
    operation = client.generation.GenerateImages(request)
    from google.longrunning import operations_pb2

    get = operations_pb2.GetOperationRequest(name=operation.name)

    def half_done() -> bool:
        metadata = metadata_of(client.operations(operation.name).GetOperation(get))
        return metadata.stage == "draw" and metadata.step >= 4

    wait_until(half_done, 120)
    platform.processes["generation-worker"].kill()
    platform.start_process("generation", "worker")
    resumed = client.wait(operation, generation_pb2.Batch, timeout_s=300)
    one, two = (load(platform, made.manifest) for made in (straight, resumed))
    assert [record.image.sha256 for record in one.images] == [record.image.sha256 for record in two.images]
    assert one.removal == two.removal


def test_prompts_are_previewed_revised_and_approved(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]
) -> None:
    first = client.generation.CreatePrompt(
        generation_pb2.CreatePromptRequest(parent=imported[0], prompt_id="scratches", text="brushed metal, scratch")
    )
    assert (first.state, first.version, first.author) == (generation_pb2.Prompt.STATE_DRAFT, 1, "tester")
    preview = generation_pb2.PreviewPromptRequest(name=first.name, count=2, height=64, width=64, steps=2, seed=1)
    shown = client.wait(client.generation.PreviewPrompt(preview), generation_pb2.Prompt, timeout_s=200)
    assert (shown.state, shown.previewed_with) == (generation_pb2.Prompt.STATE_PREVIEWED, "mini")
    images = [decode_image(data) for data in client.download(shown.previews)]
    assert [image.shape for image in images] == [(64, 64, 3)] * 2
    assert not np.array_equal(*images)

    approve(client, first.name)
    second = client.generation.RevisePrompt(
        generation_pb2.RevisePromptRequest(name=first.name, text="brushed metal with one dark scratch")
    )
    assert (second.name, second.revises, second.version) == (f"{first.name}-v2", first.name, 2)
    assert second.state == generation_pb2.Prompt.STATE_DRAFT
    old = client.generation.GetPrompt(generation_pb2.GetPromptRequest(name=first.name))
    assert (old.state, old.revised_as, old.text) == (
        generation_pb2.Prompt.STATE_REVISED, second.name, "brushed metal, scratch",
    )  # fmt: skip
    for name in (first.name, second.name):
        with pytest.raises(FailedPreconditionError) as caught:
            client.generation.GenerateImages(painting(imported, name))
        assert caught.value.reason == "PROMPT_NOT_APPROVED"
    for call in (
        lambda: approve(client, first.name),
        lambda: client.generation.RevisePrompt(generation_pb2.RevisePromptRequest(name=first.name, text="x")),
        lambda: client.generation.PreviewPrompt(preview),
    ):
        with pytest.raises(FailedPreconditionError, match=second.name) as refused:
            call()
        assert refused.value.reason == "PROMPT_REVISED"
    assert approve(client, second.name).decided_by == "tester"
    third = client.generation.RevisePrompt(generation_pb2.RevisePromptRequest(name=second.name, text="y"))
    assert third.name == f"{first.name}-v3"
    with pytest.raises(
        FlawsmithError, match="known versions of it are scratches, scratches-v2, scratches-v3"
    ) as unknown:
        client.generation.GetPrompt(generation_pb2.GetPromptRequest(name=f"{first.name}-v9"))
    assert (unknown.value.code, unknown.value.reason) == ("NOT_FOUND", "UNKNOWN_PROMPT")


@pytest.mark.parametrize("layout", ["dsaii", "mvtec-ad"])
def test_batches_are_exported_and_only_what_was_accepted_where_asked(
    client: Client, platform: LocalPlatform, batch: generation_pb2.Batch, layout: str, tmp_path: Path
) -> None:
    parent = batch.name.partition("/batches/")[0]
    request = generation_pb2.ExportBatchRequest(parent=parent, batch=batch.name, layout=layout)
    made = client.wait(client.generation.ExportBatch(request), generation_pb2.BatchExport, timeout_s=60)
    paths = {path.relative_to(tmp_path).as_posix(): path for path in client.download_export(made, tmp_path)}
    product = parent.removeprefix("products/")
    assert made.anomaly_count == batch.image_count
    manifest = load(platform, batch.manifest)
    folder, mask = {
        "dsaii": ("anomaly/000.png", "mask/000.png"),
        "mvtec-ad": ("test/scratch/000.png", "ground_truth/scratch/000_mask.png"),
    }[layout]
    assert paths[f"{product}/{folder}"].read_bytes() == platform.store.get(manifest.images[0].image)
    assert manifest.images[0].mask is not None
    assert paths[f"{product}/{mask}"].read_bytes() == platform.store.get(manifest.images[0].mask)
    if layout == "dsaii":
        urls = json.loads(paths[f"{product}/img_url.json"].read_text())
        assert {entry["img_path"] for entry in urls} == {path for path in paths if "/mask/" not in path} - {
            f"{product}/img_url.json"
        }
        assert all(entry["url"].startswith("s3://") for entry in urls)
    request = generation_pb2.ExportBatchRequest(parent=parent, batch=batch.name, layout=layout, accepted_only=True)
    with pytest.raises(FailedPreconditionError) as caught:
        client.generation.ExportBatch(request)
    assert caught.value.reason == "NO_ACCEPTED_IMAGES"


def test_batches_without_masks_are_not_exported(
    client: Client, imported: tuple[str, common_pb2.ObjectRef], prompt: str
) -> None:
    drawn = client.wait(
        client.generation.GenerateImages(
            generation_pb2.GenerateImagesRequest(
                parent=imported[0], count=1, steps=2, height=67, width=66, round_size=True,
                text_to_image=generation_pb2.TextToImage(prompts=[prompt]),
            )
        ),
        generation_pb2.Batch, timeout_s=100,
    )  # fmt: skip
    listed = client.generation.ListBatchImages(generation_pb2.ListBatchImagesRequest(parent=drawn.name)).images
    assert [(image.record.height, image.record.width) for image in listed] == [(68, 64)]
    with pytest.raises(FailedPreconditionError) as caught:
        client.generation.ExportBatch(generation_pb2.ExportBatchRequest(parent=imported[0], batch=drawn.name))
    assert caught.value.reason == "NO_MASKS"


def test_bad_requests_start_nothing(
    client: Client, imported: tuple[str, common_pb2.ObjectRef], prompt: str
) -> None:  # fmt: skip
    before = len(client.list_operations("generation", 1000))
    for request, reason in (
        (painting(imported, f"{imported[0]}/prompts/nobody"), "UNKNOWN_PROMPT"),
        (painting(imported, prompt, strength=1.5), "INVALID_FIELDS"),
        (painting(imported, prompt, preset="magic"), "INVALID_FIELDS"),
        (painting(imported, prompt, defect_types=["moth"]), "UNKNOWN_DEFECT_TYPE"),
        (painting(imported, prompt, masks="imported", regime=common_pb2.REGIME_ZERO_SHOT), "NO_MASKS"),
        (reconstructing(imported, common_pb2.SPLIT_VALIDATION), "NO_NORMALS"),
        (reconstructing(imported, common_pb2.SPLIT_TEST, count=3), "TOO_FEW_NORMALS"),
        (reconstructing(imported, common_pb2.SPLIT_TEST, adapter=f"{imported[0]}/adapters/a"), "INVALID_FIELDS"),
        (reconstructing(imported, common_pb2.SPLIT_TEST, height=64), "INVALID_FIELDS"),
        (painting((imported[0], common_pb2.ObjectRef(uri="s3://flawsmith/none", sha256="0" * 64, size=1)), prompt),
         "OBJECT_NOT_FOUND"),
    ):  # fmt: skip
        with pytest.raises(FlawsmithError) as caught:
            client.generation.GenerateImages(request)
        assert caught.value.reason == reason
    request = painting(imported, prompt)
    request.base_model = "sd9"
    with pytest.raises(FlawsmithError) as caught:
        client.generation.GenerateImages(request)
    assert caught.value.reason == "UNKNOWN_BASE_MODEL"
    assert len(client.list_operations("generation", 1000)) == before
