"""Generation through its public API: real S3 server, real Triton, real workers that are really killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flawsmith.client import Client, metadata_of
from flawsmith.common.checkpoints import Checkpoints
from flawsmith.common.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    FlawsmithError,
    InvalidArgumentError,
    NotFoundError,
)
from flawsmith.common.images import decode_image, encode_png
from flawsmith.common.manifests import (
    AdapterManifest,
    BatchManifest,
    ImageRecord,
    ImportManifest,
    Label,
    ObjectRef,
    Regime,
    Source,
    Split,
)
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.settings import Settings
from flawsmith.common.triton import TritonClient
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing import draw_sample
from flawsmith.generation import workflows
from flawsmith.generation.catalog import require_base_model
from flawsmith.generation.copies import MIN_HELD_OUT, MIN_WHOLE
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest, to_tensors
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, extract, inject, read_kohya, write_kohya
from flawsmith.generation.serving import triton_model
from flawsmith.generation.spec import Algorithm, FineTuneRun, FineTuneSpec
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.platform import LocalPlatform
from flawsmith.prepare import repository_root

SIZE = (48, 40)
TINY = {
    "rank": 2, "conv_rank": 1, "epochs": 1, "max_steps": 4, "batch_size": 1, "regularization_images": 1,
    "regularization_steps": 1, "height": SIZE[0], "width": SIZE[1],
}  # fmt: skip


@pytest.fixture(scope="session")
def imported(platform: LocalPlatform) -> tuple[str, common_pb2.ObjectRef]:
    """A product with real data of its own: its name and the import's reference."""
    resources, rng = Resources(platform.store), np.random.default_rng(3)
    product = f"products/plate-{uuid.uuid4().hex[:8]}"
    records = []
    for split, label, count in (
        (Split.TRAIN, Label.NORMAL, MIN_HELD_OUT),
        (Split.TRAIN, Label.DEFECT, 7),
        (Split.TEST, Label.DEFECT, 2),
    ):
        for _ in range(count):
            image, mask = draw_sample(rng, 60, 52, defective=label is Label.DEFECT)
            ref = platform.store.put_blob(encode_png(image), ".png")
            outline = platform.store.put_blob(encode_png(mask), ".png") if label is Label.DEFECT else None
            records.append(
                ImageRecord(image=ref, mask=outline, height=60, width=52, label=label, source=Source.REAL, split=split)
            )
    manifest = ImportManifest(
        name=f"{product}/imports/i1", product=product, layout="kolektorsdd2", split_rule="given", seed=0,
        images=tuple(records), create_time=datetime.now(UTC),
    )  # fmt: skip
    ref = resources.publish(manifest.name, manifest)
    return product, common_pb2.ObjectRef(**ref.model_dump())


@pytest.fixture(scope="session")
def adapter(platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]) -> generation_pb2.Adapter:
    with Client(platform.settings.peers, principal="tester") as client:
        operation = client.generation.FineTuneAdapter(fine_tuning(imported, adapter_id="first"))
        return client.wait(operation, generation_pb2.Adapter, timeout_s=200)


@pytest.fixture(scope="session")
def prompts(platform: LocalPlatform, adapter: generation_pb2.Adapter) -> list[str]:
    """Two approved prompts."""
    with Client(platform.settings.peers, principal="olga") as client:
        names = []
        for text in ("skt background", "skt background cracked"):
            made = client.generation.CreatePrompt(
                generation_pb2.CreatePromptRequest(parent=product_of(adapter), text=text, negative_text="blurred")
            )
            assert made.state == generation_pb2.Prompt.STATE_DRAFT
            client.generation.DecidePrompt(
                generation_pb2.DecidePromptRequest(
                    name=made.name, state=generation_pb2.Prompt.STATE_APPROVED, reason="looks right"
                )
            )
            names.append(made.name)
        return names


def fine_tuning(
    imported: tuple[str, common_pb2.ObjectRef], *, adapter_id: str = "", request_id: str = "", seed: int = 5,
    **config: object,
) -> generation_pb2.FineTuneAdapterRequest:  # fmt: skip
    return generation_pb2.FineTuneAdapterRequest(
        parent=imported[0], adapter_id=adapter_id, import_manifest=imported[1],
        regime=common_pb2.REGIME_FEW_SHOT, config=generation_pb2.FineTuneConfig(**{**TINY, **config}),
        seed=seed, request_id=request_id,
    )  # fmt: skip


def drawing(made: generation_pb2.Adapter, prompts: list[str], **values: object) -> generation_pb2.GenerateImagesRequest:
    defaults = {
        "parent": product_of(made), "adapter": made.name, "count": 3, "steps": 2, "seed": 10,
        "text_to_image": generation_pb2.TextToImage(prompts=prompts),
    }  # fmt: skip
    return generation_pb2.GenerateImagesRequest(**{**defaults, **values})


def product_of(adapter: generation_pb2.Adapter) -> str:
    return adapter.name.partition("/adapters/")[0]


def to_ref(message: common_pb2.ObjectRef) -> ObjectRef:
    return ObjectRef(uri=message.uri, sha256=message.sha256, size=message.size)


def wait_until(ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_an_adapter_is_a_manifest_over_stored_files(
    client: Client, platform: LocalPlatform, adapter: generation_pb2.Adapter, tmp_path: Path
) -> None:
    resources = Resources(platform.store)
    manifest = resources.load(to_ref(adapter.manifest), AdapterManifest)
    assert (manifest.base_model, manifest.regime, manifest.algorithm) == ("mini", "few_shot", "c3lier")
    assert (manifest.steps, manifest.alpha) == (4, 0.95)
    assert (manifest.parameters["height"], manifest.parameters["width"]) == SIZE
    assert manifest.parameters["views"] == 5 * 20  # of the five defects, as the preset says
    imports = resources.get(f"{product_of(adapter)}/imports/i1", ImportManifest)[0]
    positives = {
        record.image.sha256 for record in imports.images if (record.split, record.label) == ("train", "defect")
    }
    assert len(manifest.training_images) == 5
    assert {ref.sha256 for ref in manifest.training_images} < positives
    weights = read_kohya(platform.store.get_file(manifest.weights, tmp_path / "a.safetensors"))
    assert any(layer.up.any() for layer in weights.layers.values())
    assert manifest.losses is not None
    assert len(json.loads(platform.store.get(manifest.losses))) == 4
    assert manifest.preview is not None
    assert decode_image(platform.store.get(manifest.preview)).shape == (SIZE[0], 4 * SIZE[1], 3)
    assert client.generation.GetAdapter(generation_pb2.GetAdapterRequest(name=adapter.name)) == adapter
    listed = client.generation.ListAdapters(generation_pb2.ListAdaptersRequest(parent=product_of(adapter)))
    assert adapter.name in [entry.name for entry in listed.adapters]
    wait_until(lambda: not any(platform.store.list_keys("checkpoints/")), 30)


def test_a_zero_shot_adapter_sees_defects_drawn_onto_good_images(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]
) -> None:
    request = fine_tuning(imported, defect_views=2)
    request.regime = common_pb2.REGIME_ZERO_SHOT
    adapter = client.wait(client.generation.FineTuneAdapter(request), generation_pb2.Adapter, timeout_s=200)
    manifest = Resources(platform.store).get(adapter.name, AdapterManifest)[0]
    assert manifest.parameters["views"] == 2 * len(manifest.training_images) > 0


def test_pictures_of_the_training_are_kept(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]
) -> None:
    request = fine_tuning(imported, preset="in-and-out-zero", precision="auto", preview_every=2, flips="vertical")
    adapter = client.wait(client.generation.FineTuneAdapter(request), generation_pb2.Adapter, timeout_s=200)
    assert [preview.step for preview in adapter.previews] == [2]
    for ref in (adapter.previews[0].image, adapter.preview):
        assert decode_image(platform.store.get(to_ref(ref))).shape == (SIZE[0], 4 * SIZE[1], 3)
    assert decode_image(platform.store.get(to_ref(adapter.loss_curve))).shape == (360, 640, 3)
    assert len(json.loads(platform.store.get(to_ref(adapter.losses)))) == 4
    assert adapter.alpha == 0.60
    parameters = Resources(platform.store).get(adapter.name, AdapterManifest)[0].parameters
    assert (parameters["preset"], parameters["unet_learning_rate"], parameters["clip_skip"], parameters["views"]) == (
        "in-and-out-zero", 1e-5, 2, 0,
    )  # fmt: skip
    error = error_of(lambda: client.generation.FineTuneAdapter(fine_tuning(imported, preset="in-and-out")))
    assert (error.reason, [field.field for field in error.fields]) == ("INVALID_FIELDS", ["config.preset"])


def test_an_adapter_goes_out_and_comes_back_and_draws_the_same(
    client: Client, platform: LocalPlatform, adapter: generation_pb2.Adapter, prompts: list[str], tmp_path: Path
) -> None:
    def export(name: str, form: str) -> generation_pb2.AdapterFile:
        request = generation_pb2.ExportAdapterRequest(name=name, format=form)
        return client.wait(client.generation.ExportAdapter(request), generation_pb2.AdapterFile, timeout_s=120)

    assert export(adapter.name, "kohya").file == adapter.weights
    parts = [
        f"{part}/adapter_{file}" for part in ("text_encoder", "unet") for file in ("config.json", "model.safetensors")
    ]
    origins = []
    for form, names in (("diffusers", ["."]), ("peft", parts)):
        exported = export(adapter.name, form)
        assert (exported.adapter, exported.format) == (adapter.name, form)
        written = client.download_adapter(exported, tmp_path / form)
        assert [path.relative_to(tmp_path / form).as_posix() for path in written] == names
        operation = client.generation.ImportAdapter(
            generation_pb2.ImportAdapterRequest(
                parent=product_of(adapter), **client.upload_adapter(tmp_path / form),
                regime=common_pb2.REGIME_FEW_SHOT, height=SIZE[0], width=SIZE[1],
            )
        )  # fmt: skip
        back = client.wait(operation, generation_pb2.Adapter, timeout_s=120)
        # Bit by bit: what was trained here, in the format that drawing reads.
        assert back.weights.sha256 == adapter.weights.sha256
        assert (back.algorithm, back.alpha, back.steps, back.base_model) == ("c3lier", 1.0, 0, "mini")
        origins.append(back.imported_from)
        if form == "diffusers":
            assert back.imported_from.sha256 == exported.file.sha256
    # Of a folder the listing is kept.
    listed = json.loads(platform.store.get(to_ref(origins[-1])))["files"]
    assert [(entry["path"], entry["object"]["sha256"]) for entry in listed] == [
        (file.path, file.object.sha256) for file in exported.files
    ]
    shas = []
    for made in (adapter, back):
        request = drawing(made, prompts[:1], count=1, alpha=0.5)
        batch = client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=120)
        shas.append(Resources(platform.store).load(to_ref(batch.manifest), BatchManifest).images[0].image.sha256)
    assert shas[0] == shas[1]


def test_an_adapter_that_does_not_fit_is_not_imported(
    client: Client, adapter: generation_pb2.Adapter, tmp_path: Path
) -> None:
    def load(tensors: dict[str, torch.Tensor], **values: object) -> FlawsmithError:
        save_file(tensors, tmp_path / "adapter.safetensors")
        defaults = {
            "parent": product_of(adapter), "adapter_id": "strange", "regime": common_pb2.REGIME_FEW_SHOT,
            "file": client.upload_file(tmp_path / "adapter.safetensors"),
        }  # fmt: skip
        request = generation_pb2.ImportAdapterRequest(**{**defaults, **values})
        return error_of(
            lambda: client.wait(client.generation.ImportAdapter(request), generation_pb2.Adapter, timeout_s=120)
        )

    (data,) = client.download([adapter.weights])
    (tmp_path / "ours.safetensors").write_bytes(data)
    ours = load_file(tmp_path / "ours.safetensors")
    error = load({**ours, "lora_unet_nowhere.alpha": torch.ones(1), "text_model.extra": torch.ones(1)})
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "ADAPTER_KEYS_UNMATCHED")
    assert {field.field for field in error.fields} == {"lora_unet_nowhere", "text_model.extra"}
    wide = {key: torch.ones(1 + len(tensor), *tensor.shape[1:]) for key, tensor in ours.items() if tensor.ndim}
    assert load(wide).reason == "ADAPTER_BASE_MISMATCH"
    assert load(ours, base_model="sd15").reason == "BASE_MODEL_NOT_INSTALLED"
    gone = common_pb2.ObjectRef(uri=f"{adapter.weights.uri}.gone", sha256="0" * 64, size=1)
    assert load(ours, file=gone).reason == "OBJECT_NOT_FOUND"
    name = f"{product_of(adapter)}/adapters/strange"
    missing = error_of(lambda: client.generation.GetAdapter(generation_pb2.GetAdapterRequest(name=name)))
    assert missing.reason == "RESOURCE_NOT_FOUND"
    export = generation_pb2.ExportAdapterRequest(name=adapter.name, format="pickle")
    assert error_of(lambda: client.generation.ExportAdapter(export)).reason == "INVALID_FIELDS"


def test_mini_is_installed_and_the_catalog_says_what_licences_limit(client: Client) -> None:
    models = client.generation.ListBaseModels(generation_pb2.ListBaseModelsRequest()).base_models
    by_id = {model.id: model for model in models}
    assert {"flux2-klein-4b", "mini", "sd15", "sd15-inpaint", "sdxl-inpaint"} <= set(by_id)
    assert by_id["mini"].installed
    assert len(by_id["mini"].sha256) == 64
    assert not by_id["sd15"].installed
    assert all(model.licence and model.licence_limits and model.origin for model in models)


def test_the_same_request_id_is_one_operation(
    client: Client, imported: tuple[str, common_pb2.ObjectRef], adapter: generation_pb2.Adapter
) -> None:
    key = uuid.uuid4().hex
    first = client.generation.FineTuneAdapter(fine_tuning(imported, request_id=key))
    second = client.generation.FineTuneAdapter(fine_tuning(imported, request_id=key))
    assert first.name == second.name
    with pytest.raises(InvalidArgumentError) as caught:
        client.generation.FineTuneAdapter(fine_tuning(imported, request_id=key, seed=6))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    again = client.wait(first, generation_pb2.Adapter, timeout_s=120)
    # Same images, seed and parameters: the same bytes.
    assert again.weights.sha256 == adapter.weights.sha256


def test_a_killed_worker_changes_nothing_in_the_result(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]
) -> None:
    request = {"max_steps": 32, "epochs": 32}  # a checkpoint is written every 25
    straight = client.wait(
        client.generation.FineTuneAdapter(fine_tuning(imported, **request)), generation_pb2.Adapter, timeout_s=250
    )
    operation = client.generation.FineTuneAdapter(fine_tuning(imported, **request))
    prefix = f"checkpoints/{operation.name.removeprefix('operations/')}/"
    wait_until(lambda: bool(list(platform.store.list_keys(prefix))), 120)
    platform.processes["generation-worker"].kill()
    platform.start_process("generation", "worker")
    resumed = client.wait(operation, generation_pb2.Adapter, timeout_s=250)
    assert resumed.steps == straight.steps == 32
    assert resumed.weights.sha256 == straight.weights.sha256
    wait_until(lambda: not any(platform.store.list_keys(prefix)), 30)


async def test_the_last_checkpoint_of_a_diverged_fine_tuning_outlives_it(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def diverge(module: str, run: FineTuneRun, *, on_event: Callable[..., Any], **_: object) -> dict[str, Any]:
        for step in (25, 50):
            file = run.work_folder / f"checkpoint-{step}.pt"
            file.write_text(f"after {step}")
            await on_event({"event": "checkpoint", "path": str(file), "step": step})
        raise AbortedError("TRAINING_DIVERGED", "the loss is not finite")

    monkeypatch.setattr(workflows, "run_child", diverge)
    monkeypatch.setattr(workflows, "download_base_model", lambda *_: tmp_path)
    operation = f"generation-{uuid.uuid4().hex[:8]}"
    platform = SimpleNamespace(store=store, resources=Resources(store))
    job: Any = SimpleNamespace(operation=operation, platform=platform, settings=Settings(state_dir=tmp_path))
    request: Any = SimpleNamespace(config=FineTuneSpec(), regime=Regime.FEW_SHOT)
    image = store.put_blob(b"x", ".png").model_dump()
    prepared = {"base_model": image, "images": [image], "masks": [None]}
    with pytest.raises(AbortedError, match="the loss is not finite; the last good checkpoint is kept as ") as error:
        await workflows._train(job, request, prepared, tmp_path)
    Checkpoints(store, operation).forget()  # as the API server does when the operation has ended
    assert not list(store.list_keys(f"checkpoints/{operation}/"))
    assert store.get_key(store.key(error.value.message.split()[-1])) == b"after 50"


def test_cancel_ends_a_fine_tuning_and_its_process(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]
) -> None:
    from google.longrunning import operations_pb2

    operation = client.generation.FineTuneAdapter(fine_tuning(imported, max_steps=5000, epochs=5000))
    stub = client.operations(operation.name)
    get = operations_pb2.GetOperationRequest(name=operation.name)
    wait_until(lambda: metadata_of(stub.GetOperation(get)).stage == "train", 120)
    children = child_processes(platform)
    assert children
    started = time.monotonic()
    stub.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    wait_until(lambda: not any(alive(pid) for pid in children), 10)
    assert time.monotonic() - started < 10
    done = stub.GetOperation(get)
    assert done.done
    assert metadata_of(done).state == common_pb2.OperationMetadata.STATE_CANCELLED


def child_processes(platform: LocalPlatform) -> list[int]:
    parent = platform.processes["generation-worker"].pid
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listing.stdout.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_batch_holds_what_it_says_and_who_approved_it(
    client: Client, platform: LocalPlatform, adapter: generation_pb2.Adapter, prompts: list[str]
) -> None:
    batch = client.wait(
        client.generation.GenerateImages(drawing(adapter, prompts, count=5)), generation_pb2.Batch, timeout_s=120
    )
    assert (batch.image_count, batch.seed) == (5, 10)
    manifest = Resources(platform.store).load(to_ref(batch.manifest), BatchManifest)
    assert manifest.source == Source.IN_DISTRIBUTION
    training = Resources(platform.store).get(adapter.name, AdapterManifest)[0].training_images
    for index, record in enumerate(manifest.images):
        assert decode_image(platform.store.get(record.image)).shape == (*SIZE, 3)
        assert (record.height, record.width, record.label, record.split) == (*SIZE, "defect", "train")
        assert record.parents == tuple(ref.sha256 for ref in training)
        assert record.sidecar is not None
        sidecar = json.loads(platform.store.get(record.sidecar))
        assert sidecar["seed"] == 10 + index
        assert sidecar["prompt"]["name"] == prompts[index % 2]
        assert (sidecar["prompt"]["decided_by"], sidecar["prompt"]["reason"]) == ("olga", "looks right")
        assert sidecar["adapter_sha256"] == adapter.weights.sha256
        assert sidecar["alpha"] == 0.95
        assert sidecar["versions"]["torch"]
    assert len({record.image.sha256 for record in manifest.images}) == 5
    found = batch.copy_check
    assert (found.training_images, found.note) == (5, "")
    assert MIN_WHOLE <= found.threshold < 1
    assert bool(found.copies) == (found.highest_similarity > found.threshold)
    # The k-th image depends on seed + k and its prompt only, whatever was drawn beside it.
    shifted = client.wait(
        client.generation.GenerateImages(drawing(adapter, prompts, count=1, seed=12)), generation_pb2.Batch
    )
    other = Resources(platform.store).load(to_ref(shifted.manifest), BatchManifest).images[0]
    first, second = (decode_image(platform.store.get(item.image)).astype(int) for item in (manifest.images[2], other))
    assert np.abs(first - second).mean() < 1.0


def test_triton_draws_what_the_merged_model_draws(
    client: Client, platform: LocalPlatform, adapter: generation_pb2.Adapter, prompts: list[str], tmp_path: Path
) -> None:
    """Through the API with the adapter swapped in, against a model of our own with the same adapter."""
    weights = platform.store.get_file(to_ref(adapter.weights), tmp_path / "a.safetensors")
    local = Drawer(load_model(repository_root() / "models/mini"), "same", lambda uri, sha256: weights)
    for alpha in (0.0, 1.0):
        request = drawing(adapter, prompts[:1], count=1, alpha=alpha, steps=3)
        batch = client.wait(client.generation.GenerateImages(request), generation_pb2.Batch, timeout_s=120)
        record = Resources(platform.store).load(to_ref(batch.manifest), BatchManifest).images[0]
        theirs = decode_image(platform.store.get(record.image)).astype(int)
        ours = local.draw(
            DrawingRequest(
                prompt="skt background", negative_prompt="blurred", base_model_sha256="same", adapter_uri="x",
                adapter_sha256="x", alpha=alpha, height=SIZE[0], width=SIZE[1], steps=3, guidance=1.0, seeds=(10,),
            )
        )[0]  # fmt: skip
        assert np.abs(theirs - ours).mean() < 1.0


async def test_concurrent_requests_for_different_adapters_get_their_own_images(
    platform: LocalPlatform, tmp_path: Path
) -> None:
    base = require_base_model(Resources(platform.store), "mini")
    refs = []
    for seed in range(2):
        model = load_model(repository_root() / "models/mini")
        torch.manual_seed(seed)
        for network in model.networks.values():
            inject(network, Algorithm.C3LIER, rank=4, alpha=4.0, conv_rank=2, conv_alpha=2.0)
        layers = extract(model.networks).layers
        path = tmp_path / f"{seed}.safetensors"
        write_kohya(
            LoraWeights(
                {name: LoraLayerWeights(w.down, 0.05 * torch.randn_like(w.up), w.alpha) for name, w in layers.items()}
            ),
            path,
        )
        refs.append(platform.store.put_file(path))
    without = {"adapter_uri": "", "adapter_sha256": ""}
    adapters = [without, *({"adapter_uri": ref.uri, "adapter_sha256": ref.sha256} for ref in refs)]
    wanted = [(adapter, alpha) for adapter in adapters for alpha in (0.4, 1.0)]
    triton = TritonClient(platform.settings.triton)

    async def draw(adapter: dict[str, str], alpha: float) -> np.ndarray:
        request = DrawingRequest(
            prompt="a scratch on brushed steel", base_model_sha256=base.sha256, alpha=alpha, height=64, width=64,
            steps=2, seeds=(7,), **adapter,
        )  # fmt: skip
        return (await triton.infer(triton_model("mini", base.sha256), to_tensors(request), ["images"]))["images"]

    try:
        alone = [await draw(*one) for one in wanted]
        together = await asyncio.gather(*(draw(*one) for _ in range(3) for one in wanted))
    finally:
        await triton.close()
    assert np.array_equal(alone[0], alone[1])  # no adapter: whatever its weight
    assert len({image.tobytes() for image in alone}) == 5
    for number, image in enumerate(together):
        assert np.array_equal(image, alone[number % len(wanted)])


def test_only_approved_prompts_make_batches(
    client: Client, adapter: generation_pb2.Adapter, prompts: list[str]
) -> None:
    draft = client.generation.CreatePrompt(
        generation_pb2.CreatePromptRequest(parent=product_of(adapter), prompt_id="a-draft", text="skt background torn")
    )
    request = drawing(adapter, [prompts[0], draft.name])
    with pytest.raises(FailedPreconditionError, match="a-draft") as caught:
        client.generation.GenerateImages(request)
    assert caught.value.reason == "PROMPT_NOT_APPROVED"
    assert [field.field for field in caught.value.fields] == [draft.name]
    decided = client.generation.DecidePrompt(
        generation_pb2.DecidePromptRequest(
            name=draft.name, state=generation_pb2.Prompt.STATE_REJECTED, reason="tears do not happen here"
        )
    )
    assert (decided.decided_by, decided.reason) == ("tester", "tears do not happen here")
    with pytest.raises(FailedPreconditionError, match="rejected"):
        client.generation.GenerateImages(request)
    with pytest.raises(AlreadyExistsError):
        client.generation.CreatePrompt(
            generation_pb2.CreatePromptRequest(parent=product_of(adapter), prompt_id="a-draft", text="another text")
        )
    with pytest.raises(InvalidArgumentError):
        client.generation.DecidePrompt(generation_pb2.DecidePromptRequest(name=draft.name))
    listed = client.generation.ListPrompts(generation_pb2.ListPromptsRequest(parent=product_of(adapter))).prompts
    assert {prompt.name: prompt.state for prompt in listed}[draft.name] == generation_pb2.Prompt.STATE_REJECTED


def test_people_accept_and_reject_images(client: Client, adapter: generation_pb2.Adapter, prompts: list[str]) -> None:
    batch = client.wait(client.generation.GenerateImages(drawing(adapter, prompts)), generation_pb2.Batch)
    page = generation_pb2.ListBatchImagesRequest(parent=batch.name, page_size=2)
    first = client.generation.ListBatchImages(page)
    page.page_token = first.next_page_token
    images = [*first.images, *client.generation.ListBatchImages(page).images]
    assert [image.review for image in images] == [common_pb2.REVIEW_PENDING] * 3
    digest = images[1].record.image.sha256
    counts = client.generation.ReviewImages(
        generation_pb2.ReviewImagesRequest(
            parent=batch.name, images=[digest], review=common_pb2.REVIEW_REJECTED, reason="no defect to see"
        )
    )
    assert (counts.pending, counts.accepted, counts.rejected) == (2, 0, 1)
    counts = client.generation.ReviewImages(
        generation_pb2.ReviewImagesRequest(parent=batch.name, review=common_pb2.REVIEW_ACCEPTED)
    )
    assert (counts.pending, counts.accepted, counts.rejected) == (0, 3, 0)
    with pytest.raises(InvalidArgumentError) as caught:
        client.generation.ReviewImages(
            generation_pb2.ReviewImagesRequest(parent=batch.name, images=["0" * 64], review=common_pb2.REVIEW_ACCEPTED)
        )
    assert caught.value.reason == "UNKNOWN_IMAGES"


def error_of(call: Callable[[], object]) -> FlawsmithError:
    with pytest.raises(FlawsmithError) as caught:
        call()
    return caught.value


def test_bad_requests_start_nothing(
    client: Client, imported: tuple[str, common_pb2.ObjectRef], adapter: generation_pb2.Adapter, prompts: list[str]
) -> None:
    before = len(client.list_operations("generation", 1000))
    generate, tune = client.generation.GenerateImages, client.generation.FineTuneAdapter
    unknown = f"{product_of(adapter)}/adapters/nobody"
    error = error_of(lambda: generate(drawing(adapter, prompts, adapter=unknown)))
    assert isinstance(error, NotFoundError)
    assert unknown in error.message
    error = error_of(lambda: generate(drawing(adapter, prompts, alpha=1.5, count=0)))
    assert isinstance(error, InvalidArgumentError)
    assert {field.field for field in error.fields} == {"alpha", "count"}
    error = error_of(lambda: generate(drawing(adapter, ["products/other/prompts/p"])))
    assert error.reason == "OTHER_PRODUCT"
    error = error_of(lambda: tune(fine_tuning(imported, alpha=-0.1, rank=0)))
    assert {field.field for field in error.fields} == {"config.alpha", "config.rank"}
    assert error_of(lambda: tune(fine_tuning(imported, base_model="none"))).reason == "UNKNOWN_BASE_MODEL"
    assert error_of(lambda: tune(fine_tuning(imported, base_model="sd15"))).reason == "BASE_MODEL_NOT_INSTALLED"
    assert (
        error_of(lambda: tune(fine_tuning(imported, base_model="flux2-klein-4b"))).reason == "BASE_MODEL_NOT_INSTALLED"
    )
    assert error_of(lambda: tune(fine_tuning(imported, adapter_id="Not An Id"))).reason == "INVALID_NAME"
    assert error_of(lambda: tune(fine_tuning(("products/other", imported[1])))).reason == "IMPORT_OF_OTHER_PRODUCT"
    assert error_of(lambda: tune(fine_tuning(imported, adapter_id="first"))).reason == "RESOURCE_EXISTS"
    assert len(client.list_operations("generation", 1000)) == before


def test_a_size_that_the_model_cannot_make_ends_the_operation_with_the_nearest(
    client: Client, adapter: generation_pb2.Adapter, prompts: list[str]
) -> None:
    operation = client.generation.GenerateImages(drawing(adapter, prompts, height=50, width=41))
    error = error_of(lambda: client.wait(operation, generation_pb2.Batch))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "BAD_SIZE")
    assert "48 x 40" in error.message


def test_no_positives_in_a_few_shot_regime_is_said(
    client: Client, platform: LocalPlatform, imported: tuple[str, common_pb2.ObjectRef]
) -> None:
    resources = Resources(platform.store)
    manifest, _ = resources.get(f"{imported[0]}/imports/i1", ImportManifest)
    normals = tuple(record for record in manifest.images if record.label is Label.NORMAL)
    name = f"{imported[0]}/imports/normals"
    ref = resources.publish(name, manifest.model_copy(update={"name": name, "images": normals}))
    request = fine_tuning((imported[0], common_pb2.ObjectRef(**ref.model_dump())))
    error = error_of(lambda: client.wait(client.generation.FineTuneAdapter(request), generation_pb2.Adapter))
    assert error.reason == "NO_POSITIVES"
