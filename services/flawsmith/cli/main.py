"""`flawsmith`: every step of the main job as a command, and the platform on one machine."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
from google.longrunning import operations_pb2
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message

from flawsmith import __version__
from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.bench.cells import Accounting, Arm, Regime, enumerate_cells
from flawsmith.classification.v1 import classification_pb2
from flawsmith.cli.output import RunLog, console, fail, progress_bar, show
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FailedPreconditionError, FlawsmithError, InvalidArgumentError, NotFoundError
from flawsmith.common.settings import SERVICES, PeerSettings, load_settings
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.v1 import generation_pb2

UPLOAD_PART_BYTES = 2 * 2**30
"""S3 takes at most 5 GiB at once."""
REGIMES = {
    "zero": common_pb2.REGIME_ZERO_SHOT,
    "few": common_pb2.REGIME_FEW_SHOT,
    "full": common_pb2.REGIME_FULL_SHOT,
}
RESPONSES: dict[str, type[Message]] = {
    "ImportImages": assembly_pb2.Import,
    "RequestDataset": assembly_pb2.Dataset,
    "AssembleDataset": assembly_pb2.Dataset,
    "PullBaseModel": generation_pb2.BaseModel,
    "ImportBaseModel": generation_pb2.BaseModel,
    "VerifyBaseModel": generation_pb2.BaseModelVerification,
    "FineTuneAdapter": generation_pb2.Adapter,
    "ImportAdapter": generation_pb2.Adapter,
    "ExportAdapter": generation_pb2.AdapterFile,
    "PreviewPrompt": generation_pb2.Prompt,
    "GenerateImages": generation_pb2.Batch,
    "ExportBatch": generation_pb2.BatchExport,
    "AugmentImages": augmentation_pb2.AugmentedBatch,
    "TrainClassifier": classification_pb2.ClassifierVersion,
    "EvaluateClassifier": classification_pb2.Evaluation,
    "DeployClassifier": classification_pb2.Deployment,
    "ExportClassifier": classification_pb2.ClassifierExport,
}


class Context:
    """What every command gets: how to reach the platform and how to print."""

    def __init__(self, state: Path, as_json: bool, principal: str, token: str) -> None:
        self.state = state
        self.json = as_json
        self.principal = principal
        self.token = token

    def client(self) -> Client:
        """A client of the platform that runs on this state folder, else of the addresses in the settings."""
        return Client(self.addresses(), principal=self.principal, token=self.token, tls=load_settings().rpc.tls)

    def addresses(self) -> PeerSettings:
        """gRPC addresses of the services."""
        described = self.state / "platform.json"
        if described.exists():
            return PeerSettings(**json.loads(described.read_text())["services"])
        return load_settings().peers

    def finish(self, client: Client, operation: operations_pb2.Operation, *, detach: bool, title: str) -> Any:
        """Wait for an operation with a progress bar, print its response and return it; or only print its name."""
        if detach:
            show(operation, as_json=self.json)
            return None
        kind = metadata_of(operation).kind
        try:
            with progress_bar(title) as update:
                response = client.wait(operation, RESPONSES[kind], on_progress=update)
        except KeyboardInterrupt:
            console.print(
                f"{operation.name} goes on; `flawsmith operations wait {operation.name}` follows it, "
                f"`flawsmith operations cancel {operation.name}` stops it"
            )
            sys.exit(130)
        show(response, as_json=self.json)
        return response


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FlawsmithError as error:
            fail(error)


@click.group(cls=_Group)
@click.version_option(__version__)
@click.option("--state", type=click.Path(path_type=Path), default=Path(".state"), help="Folder of the local platform.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON.")
@click.option("--principal", default="cli", show_default=True, help="Who calls; recorded with every decision.")
@click.option("--token", default="", envvar="FLAWSMITH_TOKEN", help="Bearer token, where the platform wants one.")
@click.pass_context
def main(ctx: click.Context, state: Path, as_json: bool, principal: str, token: str) -> None:
    """Defect-inspection training data on demand."""
    ctx.obj = Context(state, as_json, principal, token)


def _operation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--detach", is_flag=True, help="Start it and return its operation at once.")(command)
    return click.option("--request-id", default="", help="The same id twice makes one operation.")(command)


def _product(product: str) -> str:
    return product if product.startswith("products/") else f"products/{product}"


product_option = click.option("--product", required=True, help="Id of the product.")
regime_option = click.option(
    "--regime", type=click.Choice(sorted(REGIMES)), default="few", show_default=True, help="Real positives to use."
)
clip_skip_option = click.option(
    "--clip-skip",
    type=click.IntRange(1, 12),
    help="Text encoder layer from the end, 1 is the last; the adapter's own by default.",
)
seed_option = click.option("--seed", default=1234, show_default=True, help="Seed of everything random.")
import_option = click.option("--import", "import_name", default="", help="Name of the import; the newest by default.")


@main.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@product_option
@seed_option
@click.option("--validation-share", type=float, help="Share of train held out for validation.")
@click.option("--licence", default="", help="Licence of the data.")
@_operation_options
@click.pass_obj
def import_images(
    context: Context, folder: Path, product: str, seed: int, validation_share: float | None, licence: str,
    detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Import a folder in KolektorSDD2, MVTec AD or DSAII layout."""
    with context.client() as client:
        with console.status(f"uploading {folder}"):
            prefix = client.upload_folder(folder)
        operation = client.assembly.ImportImages(
            assembly_pb2.ImportImagesRequest(
                parent=_product(product), prefix=prefix, validation_share=validation_share, seed=seed,
                licence=licence, request_id=request_id,
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="import")


@main.group()
def models() -> None:
    """List, fetch, check and import base models."""


@models.command("list")
@click.pass_obj
def models_list(context: Context) -> None:
    """List the base models with their licences and what these limit."""
    with context.client() as client:
        found = _base_models(client)
        show(list(found.values()), as_json=context.json, text="\n".join(map(_describe_model, found.values())))


@models.command("pull")
@click.argument("model")
@_operation_options
@click.pass_obj
def models_pull(context: Context, model: str, detach: bool, request_id: str) -> None:
    """Fetch a base model of the catalog from the model hub, at the catalog's commit and with its hashes."""
    with context.client() as client:
        found = _base_models(client).get(model)
        if found is not None:
            console.print(_describe_model(found), markup=False, soft_wrap=True)
        operation = client.generation.PullBaseModel(
            generation_pb2.PullBaseModelRequest(id=model, request_id=request_id)
        )
        context.finish(client, operation, detach=detach, title="pull")


@models.command("verify")
@click.argument("model")
@_operation_options
@click.pass_obj
def models_verify(context: Context, model: str, detach: bool, request_id: str) -> None:
    """Hash the stored files of a base model again; exit code 1 if one is not what was installed."""
    with context.client() as client:
        operation = client.generation.VerifyBaseModel(
            generation_pb2.VerifyBaseModelRequest(id=model, request_id=request_id)
        )
        found = context.finish(client, operation, detach=detach, title="verify")
        if found is not None and found.problems:
            sys.exit(1)


@models.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--id", "model", required=True, help="An id of the catalog, or one of your own.")
@click.option("--licence", default="", help="Licence of a model of your own, by its SPDX name where it has one.")
@click.option("--licence-url", default="", help="Where its text is.")
@click.option("--licence-limits", default="", help="What it limits, in words.")
@click.option("--commercial-use", is_flag=True, help="The licence lets products be made with the model.")
@click.option("--origin", default="", help="Where the model comes from, in words.")
@_operation_options
@click.pass_obj
def models_import(
    context: Context, folder: Path, model: str, licence: str, licence_url: str, licence_limits: str,
    commercial_use: bool, origin: str, detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Install a base model from a folder in diffusers' layout, for platforms without a way to the hub."""
    with context.client() as client:
        with console.status(f"uploading {folder}"):
            prefix = client.upload_model(folder, model, part_bytes=UPLOAD_PART_BYTES)
        operation = client.generation.ImportBaseModel(
            generation_pb2.ImportBaseModelRequest(
                id=model, prefix=prefix, licence=licence, licence_url=licence_url, licence_limits=licence_limits,
                commercial_use=commercial_use, origin=origin, request_id=request_id,
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="import")


@main.command()
@product_option
@import_option
@regime_option
@seed_option
@click.option("--base-model", default="mini", show_default=True)
@click.option(
    "--preset", default="", help="in-and-out-zero, -few or -full, or mini-zero, -few or -full; the regime's by default."
)
@click.option("--algorithm", type=click.Choice(["c3lier", "lierla"]), default="c3lier", show_default=True)
@click.option(
    "--flips",
    type=click.Choice(["none", "horizontal", "vertical", "both"]),
    default="none",
    show_default=True,
    help="Turn images over, where the product looks the same afterwards.",
)
@click.option("--preview-every", type=int, help="Optimiser steps between pictures of samples.")
@click.option("--max-steps", type=int, help="Stop after this many optimiser steps.")
@click.option("--height", type=int, help="Pixels; the product's own by default.")
@click.option("--width", type=int, help="Pixels; the product's own by default.")
@click.option("--config", default="", help="More of FineTuneConfig as JSON, e.g. '{\"rank\": 16}'.")
@_operation_options
@click.pass_obj
def finetune(
    context: Context, product: str, import_name: str, regime: str, seed: int, base_model: str, preset: str,
    algorithm: str, flips: str, preview_every: int | None, max_steps: int | None, height: int | None,
    width: int | None, config: str, detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Fine-tune an adapter on a product's images."""
    values = generation_pb2.FineTuneConfig(
        base_model=base_model, preset=preset, algorithm=algorithm, flips=flips, preview_every=preview_every,
        max_steps=max_steps, height=height, width=width,
    )  # fmt: skip
    values.MergeFrom(_parse_json(config, generation_pb2.FineTuneConfig, "--config"))
    with context.client() as client:
        operation = client.generation.FineTuneAdapter(
            generation_pb2.FineTuneAdapterRequest(
                parent=_product(product), import_manifest=_find_import(client, product, import_name).manifest,
                regime=REGIMES[regime], config=values, seed=seed, request_id=request_id,
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="fine-tune")


@main.group()
def adapters() -> None:
    """List, import and export adapters."""


@adapters.command("list")
@product_option
@click.pass_obj
def adapters_list(context: Context, product: str) -> None:
    """List a product's adapters."""
    with context.client() as client:
        found = _list_all(
            client.generation.ListAdapters, generation_pb2.ListAdaptersRequest(parent=_product(product)), "adapters"
        )
        text = "\n".join(
            f"{adapter.name}  {adapter.base_model} {adapter.algorithm}  "
            + ("imported" if adapter.imported_from.uri else f"{adapter.steps} steps, loss {adapter.final_loss:.4f}")
            for adapter in found
        )
        show(found, as_json=context.json, text=text or "no adapters")


@adapters.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@product_option
@regime_option
@click.option("--adapter-id", default="", help="Last part of its name; made by the service by default.")
@click.option("--base-model", default="mini", show_default=True)
@click.option("--alpha", type=float, help="Merge weight of batches that name none; 1 by default.")
@click.option("--instance-prompt", default="", help="Prompt that it was trained with.")
@click.option("--clip-skip", type=int, help="Text encoder layer from the end that it was trained with.")
@click.option("--height", type=int, help="Of batches that name none; the base model's own by default.")
@click.option("--width", type=int, help="Of batches that name none; the base model's own by default.")
@_operation_options
@click.pass_obj
def adapters_import(
    context: Context, path: Path, product: str, regime: str, adapter_id: str, base_model: str, alpha: float | None,
    instance_prompt: str, clip_skip: int | None, height: int | None, width: int | None, detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Make an adapter of a safetensors file of kohya's scripts or of diffusers, or of a folder of peft's."""
    with context.client() as client:
        with console.status(f"uploading {path}"):
            uploaded = client.upload_adapter(path)
        operation = client.generation.ImportAdapter(
            generation_pb2.ImportAdapterRequest(
                parent=_product(product), adapter_id=adapter_id, base_model=base_model, **uploaded,
                regime=REGIMES[regime], alpha=alpha, instance_prompt=instance_prompt, clip_skip=clip_skip,
                height=height, width=width, request_id=request_id,
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="import")


@adapters.command("export")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["kohya", "diffusers", "peft"]), default="kohya", show_default=True)
@click.option("--request-id", default="", help="The same id twice makes one operation.")
@click.pass_obj
def adapters_export(context: Context, name: str, path: Path, form: str, request_id: str) -> None:
    """Write an adapter into a safetensors file for other tools, or as peft into a folder."""
    if path.exists() and path.is_dir() is not (form == "peft"):
        kind, other = ("folder", "file") if form == "peft" else ("file", "folder")
        raise InvalidArgumentError(f"NOT_A_{kind.upper()}", f"{path} is a {other}; {form} is written into a {kind}")
    with context.client() as client:
        operation = client.generation.ExportAdapter(
            generation_pb2.ExportAdapterRequest(name=name, format=form, request_id=request_id)
        )
        exported = context.finish(client, operation, detach=False, title="export")
        client.download_adapter(exported, path)


@main.group()
def prompts() -> None:
    """Write, list and decide prompts."""


@prompts.command("create")
@product_option
@click.argument("text")
@click.option("--negative", default="", help="What the pictures must not look like.")
@click.pass_obj
def prompts_create(context: Context, product: str, text: str, negative: str) -> None:
    """Write down a prompt as a draft."""
    with context.client() as client:
        request = generation_pb2.CreatePromptRequest(parent=_product(product), text=text, negative_text=negative)
        show(client.generation.CreatePrompt(request), as_json=context.json)


@prompts.command("list")
@product_option
@click.pass_obj
def prompts_list(context: Context, product: str) -> None:
    """List a product's prompts with their states."""
    with context.client() as client:
        found = _list_all(
            client.generation.ListPrompts, generation_pb2.ListPromptsRequest(parent=_product(product)), "prompts"
        )
        state = generation_pb2.Prompt.State
        text = "\n".join(f"{state.Name(p.state)[6:].lower():9} {p.name}  {p.text!r}" for p in found)
        show(found, as_json=context.json, text=text or "no prompts")


@prompts.command("preview")
@click.argument("name")
@click.option("--adapter", default="", help="Name of the adapter to draw with; the base model alone by default.")
@click.option("--base-model", default="", help="Draw with this one; the adapter's, or mini, by default.")
@click.option("--count", type=click.IntRange(1, 16), default=4, show_default=True)
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", type=float)
@clip_skip_option
@seed_option
@click.option("--save", type=click.Path(path_type=Path), help="Folder to put the images into, for a look.")
@click.option("--request-id", default="", help="The same id twice makes one operation.")
@click.pass_obj
def prompts_preview(
    context: Context, name: str, adapter: str, base_model: str, count: int, steps: int | None, guidance: float | None,
    clip_skip: int | None, seed: int, save: Path | None, request_id: str,
) -> None:  # fmt: skip
    """Draw a few images from a prompt and store them with it, for whoever decides."""
    with context.client() as client:
        operation = client.generation.PreviewPrompt(
            generation_pb2.PreviewPromptRequest(
                name=name, adapter=adapter, base_model=base_model, count=count, steps=steps, guidance=guidance,
                clip_skip=clip_skip, seed=seed, request_id=request_id,
            )
        )  # fmt: skip
        with progress_bar("preview") as update:
            prompt = client.wait(operation, generation_pb2.Prompt, on_progress=update)
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            for ref, data in zip(prompt.previews, client.download(prompt.previews), strict=True):
                (save / f"{ref.sha256}.png").write_bytes(data)
        show(prompt, as_json=context.json, text="\n".join(ref.uri for ref in prompt.previews))


@prompts.command("revise")
@click.argument("name")
@click.argument("text")
@click.option("--negative", default="", help="What the pictures must not look like.")
@click.pass_obj
def prompts_revise(context: Context, name: str, text: str, negative: str) -> None:
    """Write the next version of a prompt, which replaces it."""
    with context.client() as client:
        request = generation_pb2.RevisePromptRequest(name=name, text=text, negative_text=negative)
        show(client.generation.RevisePrompt(request), as_json=context.json)


@prompts.command("approve")
@click.argument("name")
@click.option("--reason", default="")
@click.pass_obj
def prompts_approve(context: Context, name: str, reason: str) -> None:
    """Approve a prompt for batches."""
    _decide(context, name, generation_pb2.Prompt.STATE_APPROVED, reason)


@prompts.command("reject")
@click.argument("name")
@click.option("--reason", default="")
@click.pass_obj
def prompts_reject(context: Context, name: str, reason: str) -> None:
    """Reject a prompt."""
    _decide(context, name, generation_pb2.Prompt.STATE_REJECTED, reason)


@main.group()
def review() -> None:
    """Look at the images of a generated batch, accept and reject them."""


@review.command("list")
@click.argument("batch")
@click.option("--save", type=click.Path(path_type=Path), help="Folder to put the images into, for a look.")
@click.pass_obj
def review_list(context: Context, batch: str, save: Path | None) -> None:
    """List a batch's images with their reviews."""
    with context.client() as client:
        found = _list_all(
            client.generation.ListBatchImages, generation_pb2.ListBatchImagesRequest(parent=batch), "images"
        )
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            for item, data in zip(found, client.download(item.record.image for item in found), strict=True):
                (save / f"{item.record.image.sha256}.png").write_bytes(data)
        name = common_pb2.Review.Name
        lines = [f"{name(item.review)[7:].lower():9} {item.record.image.sha256}" for item in found]
        show(found, as_json=context.json, text="\n".join(lines))


@review.command("require")
@click.argument("product")
@click.option("--off", is_flag=True, help="Leave it to each request again.")
@click.pass_obj
def review_require(context: Context, product: str, off: bool) -> None:
    """Let a product's data sets hold only accepted images of generated batches, whatever a request says."""
    with context.client() as client:
        found = client.assembly.UpdateProduct(
            assembly_pb2.UpdateProductRequest(name=_product(product), review_required=not off)
        )
        text = f"{found.name} {'requires' if found.review_required else 'does not require'} review"
        show(found, as_json=context.json, text=text)


@review.command("accept")
@click.argument("batch")
@click.argument("images", nargs=-1)
@click.option("--reason", default="")
@click.pass_obj
def review_accept(context: Context, batch: str, images: tuple[str, ...], reason: str) -> None:
    """Accept images by their sha256, or all of the batch."""
    _review(context, batch, images, common_pb2.REVIEW_ACCEPTED, reason)


@review.command("reject")
@click.argument("batch")
@click.argument("images", nargs=-1)
@click.option("--reason", default="")
@click.pass_obj
def review_reject(context: Context, batch: str, images: tuple[str, ...], reason: str) -> None:
    """Reject images by their sha256, or all of the batch."""
    _review(context, batch, images, common_pb2.REVIEW_REJECTED, reason)


@main.command()
@product_option
@import_option
@click.option("--adapter", default="", help="Name of the adapter; the base model draws alone by default.")
@click.option("--base-model", default="", help="The adapter's, or mini, by default.")
@click.option("--prompt", "prompt_names", multiple=True, help="Name of an approved prompt; repeatable.")
@click.option("--count", type=int, help="16 by default; with --reconstruct all normals of the split.")
@click.option("--alpha", type=float, help="Merge weight, 0 to 1; the adapter's own by default.")
@click.option("--height", type=int)
@click.option("--width", type=int)
@click.option("--round-size", is_flag=True, help="Take the nearest size that the model can make.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", type=float)
@clip_skip_option
@click.option("--inpaint", "inpainted", is_flag=True, help="Paint the defects into the import's good images.")
@click.option("--preset", type=click.Choice(["dsaii", "diag"]), help="Published values for --inpaint.")
@click.option("--foreground", type=click.Choice(["texture", "object"]), help="Where --inpaint puts defects.")
@click.option("--masks", type=click.Choice(["imported", "drawn"]), help="Whose masks --inpaint places.")
@click.option("--options", default="", help='More of Inpaint as JSON, e.g. \'{"strength": 0.9, "max_area": 0.02}\'.')
@click.option(
    "--reconstruct", type=click.Choice(["train", "validation", "test"]),
    help="Draw nothing: send the normals of this split through the autoencoder, as a control.",
)  # fmt: skip
@seed_option
@_operation_options
@click.pass_obj
def generate(
    context: Context, product: str, import_name: str, adapter: str, base_model: str, prompt_names: tuple[str, ...],
    count: int | None, alpha: float | None, height: int | None, width: int | None, round_size: bool, steps: int | None,
    guidance: float | None, clip_skip: int | None, inpainted: bool, preset: str | None, foreground: str | None,
    masks: str | None, options: str, reconstruct: str | None, seed: int, detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Draw in-distribution defects: whole images, or with --inpaint into images of good parts."""
    if not inpainted and (preset or foreground or masks or options):
        raise InvalidArgumentError("NOT_INPAINTING", "--preset, --foreground, --masks and --options need --inpaint")
    if reconstruct and (inpainted or prompt_names):
        raise InvalidArgumentError("NOT_DRAWING", "--reconstruct draws nothing: leave out --prompt and --inpaint")
    if not reconstruct and not prompt_names:
        raise InvalidArgumentError("NO_PROMPT", "name an approved prompt with --prompt; see flawsmith prompts list")
    if count is None:
        count = 0 if reconstruct else 16
    with context.client() as client:
        request = generation_pb2.GenerateImagesRequest(
            parent=_product(product), adapter=adapter, base_model=base_model, alpha=alpha, count=count, height=height,
            width=width, round_size=round_size, steps=steps, guidance=guidance, clip_skip=clip_skip, seed=seed,
            request_id=request_id,
        )  # fmt: skip
        if inpainted:
            values = generation_pb2.Inpaint(
                prompts=prompt_names, import_manifest=_find_import(client, product, import_name).manifest,
                preset=preset, foreground=foreground, masks=masks,
            )  # fmt: skip
            values.MergeFrom(_parse_json(options, generation_pb2.Inpaint, "--options"))
            request.inpaint.CopyFrom(values)
        elif reconstruct:
            request.reconstruct.CopyFrom(
                generation_pb2.Reconstruct(
                    import_manifest=_find_import(client, product, import_name).manifest,
                    split=f"SPLIT_{reconstruct.upper()}",
                )
            )
        else:
            request.text_to_image.prompts.extend(prompt_names)
        context.finish(client, client.generation.GenerateImages(request), detach=detach, title="generate")


@main.command("export-batch")
@click.argument("batch")
@click.option("--layout", type=click.Choice(["dsaii", "mvtec-ad"]), default="dsaii", show_default=True)
@click.option("--accepted-only", is_flag=True, help="Only images that a person accepted; rejected ones never.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write into.")
@click.option("--request-id", default="", help="The same id twice makes one operation.")
@click.pass_obj
def export_batch(
    context: Context, batch: str, layout: str, accepted_only: bool, out: Path, request_id: str
) -> None:  # fmt: skip
    """Lay an inpainted batch out as a folder in DSAII's or MVTec AD's layout."""
    with context.client() as client:
        operation = client.generation.ExportBatch(
            generation_pb2.ExportBatchRequest(
                parent=batch.partition("/batches/")[0], batch=batch, layout=layout, accepted_only=accepted_only,
                request_id=request_id,
            )
        )  # fmt: skip
        with progress_bar("export") as update:
            exported = client.wait(operation, generation_pb2.BatchExport, on_progress=update)
        client.download_export(exported, out)
        text = (
            f"{out}: {exported.anomaly_count} anomalies, {exported.normal_count} normals, {exported.left_out} left out"
        )
        show(exported, as_json=context.json, text=text)


def _method_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--parameters", default="", help="Several parameters at once, as JSON.")(command)
    command = click.option(
        "--parameter", "parameter", multiple=True, metavar="NAME=VALUE",
        help="A parameter of the method; repeatable. VALUE is JSON, or text.",
    )(command)  # fmt: skip
    return click.option("--method", default="memseg", show_default=True, help="See `flawsmith methods`.")(command)


@main.command()
@click.pass_obj
def methods(context: Context) -> None:
    """List the per-region methods with their parameters."""
    with context.client() as client:
        found = _list_all(client.augmentation.ListMethods, augmentation_pb2.ListMethodsRequest(), "methods")
        lines = []
        for method in found:
            lines.append(f"{method.name}: {method.description}")
            properties = json_format.MessageToDict(method.parameters_schema).get("properties", {})
            lines += [f"  {name} = {json.dumps(value.get('default'))}" for name, value in sorted(properties.items())]
        show(found, as_json=context.json, text="\n".join(lines))


@main.command()
@product_option
@import_option
@_method_options
@click.option("--texture-prefix", default="", help="Textures in the object store: s3://bucket/folder.")
@click.option(
    "--textures", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of textures to upload; procedural ones by default.",
)  # fmt: skip
@click.option("--generated-batch", default="", help="Name of a generated batch that realnet draws anomalies from.")
@click.option("--count", default=16, show_default=True)
@seed_option
@_operation_options
@click.pass_obj
def augment(
    context: Context, product: str, import_name: str, method: str, parameter: tuple[str, ...], parameters: str,
    texture_prefix: str, textures: Path | None, generated_batch: str, count: int, seed: int, detach: bool,
    request_id: str,
) -> None:  # fmt: skip
    """Draw per-region defects with masks into normals."""
    if texture_prefix and textures is not None:
        raise InvalidArgumentError("TWO_TEXTURE_SOURCES", "give --texture-prefix or --textures, not both")
    values = _method_parameters(parameters, parameter)
    with context.client() as client:
        imported = _find_import(client, product, import_name).manifest
        if textures is not None:
            with console.status(f"uploading {textures}"):
                texture_prefix = client.upload_folder(textures)
        batch = _find_batch(client, generated_batch).manifest if generated_batch else None
        operation = client.augmentation.AugmentImages(
            augmentation_pb2.AugmentImagesRequest(
                parent=_product(product), import_manifest=imported, method=method, parameters=values, count=count,
                seed=seed, request_id=request_id, texture_prefix=texture_prefix, generated_batch=batch,
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="augment")


@main.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_method_options
@click.option("--count", type=click.IntRange(1, 16), default=8, show_default=True, help="Defects to outline.")
@seed_option
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="PNG file; beside the image by default.")
@click.pass_obj
def preview(
    context: Context, image: Path, method: str, parameter: tuple[str, ...], parameters: str, count: int, seed: int,
    out: Path | None,
) -> None:  # fmt: skip
    """Show where a method would put defects into an image: outlined, and dark where none may be."""
    out = out or image.with_name(f"{image.stem}-preview.png")
    with context.client() as client:
        answer = client.augmentation.PreviewPlacement(
            augmentation_pb2.PreviewPlacementRequest(
                image=common_pb2.ImageSource(content=image.read_bytes()), method=method,
                parameters=_method_parameters(parameters, parameter), seed=seed, count=count,
            )
        )  # fmt: skip
    out.write_bytes(answer.overlay)
    print(json.dumps({"overlay": str(out)}) if context.json else out)


@main.command()
@product_option
@import_option
@regime_option
@click.option("--batch", "batches", multiple=True, help="Name of a batch, generated or augmented; repeatable.")
@click.option(
    "--review-required",
    is_flag=True,
    help="Take only accepted images of generated batches; rejected ones are never used.",
)
@seed_option
@_operation_options
@click.pass_obj
def assemble(
    context: Context, product: str, import_name: str, regime: str, batches: tuple[str, ...], review_required: bool,
    seed: int, detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Assemble a training set from batches that exist."""
    with context.client() as client:
        generated = [name for name in batches if "/augmentedBatches/" not in name]
        operation = client.assembly.AssembleDataset(
            assembly_pb2.AssembleDatasetRequest(
                **{"import": _find_import(client, product, import_name).name},
                parent=_product(product), regime=REGIMES[regime], seed=seed, request_id=request_id,
                batches=[_find_batch(client, name).manifest for name in batches],
                review_required=generated if review_required else [],
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="assemble")


@main.command()
@product_option
@import_option
@regime_option
@click.option("--n-aug", default=40, show_default=True, help="Synthetic positives in all.")
@click.option("--mix", type=float, help="Share that the diffusion model draws, 0 to 1; half by default.")
@click.option("--review-required", is_flag=True, help="A person accepts every drawn image.")
@click.option("--prompt", "texts", multiple=True, help="Text to draw from; repeatable.")
@click.option("--max-steps", type=int, help="Stop fine-tuning after this many steps.")
@click.option("--height", type=int, help="Height of what is drawn, pixels; the product's own by default.")
@click.option("--width", type=int, help="Width of what is drawn, pixels; the product's own by default.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--inpaint", "inpainted", is_flag=True, help="Paint the drawn defects into the import's good images.")
@click.option("--preset", type=click.Choice(["dsaii", "diag"]), help="Published values for --inpaint.")
@click.option("--without-adapter", is_flag=True, help="Draw with the base model alone; nothing is fine-tuned.")
@click.option("--tuning-preset", default="", help="As finetune's --preset; the regime's by default.")
@click.option("--flips", default="", help="As finetune's --flips; none by default.")
@seed_option
@_operation_options
@click.pass_obj
def request(
    context: Context, product: str, import_name: str, regime: str, n_aug: int, mix: float | None,
    review_required: bool, texts: tuple[str, ...], max_steps: int | None, height: int | None, width: int | None,
    steps: int | None, inpainted: bool, preset: str | None, without_adapter: bool, tuning_preset: str, flips: str,
    seed: int, detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Request a training set in one call: fine-tune, draw, augment, wait for people, assemble."""
    with context.client() as client:
        operation = client.assembly.RequestDataset(
            assembly_pb2.RequestDatasetRequest(
                **{"import": import_name}, parent=_product(product), regime=REGIMES[regime], n_aug=n_aug,
                in_distribution_share=mix, review_required=review_required, seed=seed, request_id=request_id,
                generation=assembly_pb2.GenerationOptions(
                    prompts=texts, max_steps=max_steps, height=height, width=width, steps=steps,
                    strategy="inpaint" if inpainted else "", preset=preset, without_adapter=without_adapter,
                    tuning_preset=tuning_preset, flips=flips,
                ),
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="request")


@main.command()
@product_option
@click.option("--classifier", default="main", show_default=True, help="Id of the classifier.")
@click.option("--dataset", required=True, help="Name of the data set.")
@click.option("--recipe", default="in-and-out", show_default=True)
@click.option("--epochs", type=int)
@click.option("--steps", type=int, help="Optimiser steps, instead of epochs.")
@click.option("--height", type=int)
@click.option("--width", type=int)
@click.option("--exclude-synthetic", is_flag=True, help="Train on real images only (the baseline).")
@click.option("--false-alarm-rate", type=float, help="Threshold rule: at most this share of normals is refused.")
@click.option("--recall", type=float, help="Threshold rule: at least this share of defects is found.")
@click.option(
    "--cost", type=(float, float), metavar="RATIO SHARE",
    help="Threshold rule: a missed defect costs RATIO false alarms, SHARE of the line's parts are defective.",
)  # fmt: skip
@click.option(
    "--two-thresholds", type=(float, float), metavar="RECALL RATE",
    help="Threshold rule: RECALL of the defects are not called OK, RATE of the normals defective, the rest unknown.",
)  # fmt: skip
@click.option("--backbone", default="", help="resnet18, resnet34 or resnet50; the recipe's by default.")
@click.option(
    "--initial-weights", default="none", show_default=True, metavar="none|FILE|hub:OWNER/NAME@COMMIT",
    help="What the backbone starts from: random weights; a safetensors file, or a JSON file with the reference of a "
    "stored one; a model of the hub, which the worker downloads.",
)  # fmt: skip
@seed_option
@_operation_options
@click.pass_obj
def train(
    context: Context, product: str, classifier: str, dataset: str, recipe: str, epochs: int | None, steps: int | None,
    height: int | None, width: int | None, exclude_synthetic: bool, false_alarm_rate: float | None,
    recall: float | None, cost: tuple[float, float] | None, two_thresholds: tuple[float, float] | None, backbone: str,
    initial_weights: str, seed: int, detach: bool, request_id: str,
) -> None:  # fmt: skip
    """Train a classifier on a data set and evaluate it on the real test split."""
    if sum(rule is not None for rule in (false_alarm_rate, recall, cost, two_thresholds)) > 1:
        raise InvalidArgumentError(
            "TWO_RULES", "give one of --false-alarm-rate, --recall, --cost and --two-thresholds, not several"
        )
    rule = classification_pb2.ThresholdRule(false_alarm_rate=false_alarm_rate, recall=recall)
    if cost is not None:
        rule.cost.MergeFrom(classification_pb2.CostRule(ratio=cost[0], defect_share=cost[1]))
    if two_thresholds is not None:
        pair = classification_pb2.TwoThresholdsRule(recall=two_thresholds[0], false_alarm_rate=two_thresholds[1])
        rule.two_thresholds.MergeFrom(pair)
    with context.client() as client:
        initial = _initial_weights(client, initial_weights)
        found = client.assembly.GetDataset(assembly_pb2.GetDatasetRequest(name=dataset))
        operation = client.classification.TrainClassifier(
            classification_pb2.TrainClassifierRequest(
                parent=f"{_product(product)}/classifiers/{classifier}", dataset_manifest=found.manifest, recipe=recipe,
                exclude_synthetic=exclude_synthetic, epochs=epochs, steps=steps, height=height, width=width,
                threshold_rule=rule if rule.WhichOneof("rule") else None, seed=seed, request_id=request_id,
                backbone=backbone, **initial,
            )
        )  # fmt: skip
        context.finish(client, operation, detach=detach, title="train")


def _initial_weights(client: Client, text: str) -> dict[str, Any]:
    """The request's field that `--initial-weights` fills; a local file is uploaded."""
    if text == "none":
        return {}
    if text.startswith("hub:"):
        return {"initial_hub_model": text.removeprefix("hub:")}
    path = _weights_file(text)
    if path.suffix == ".json":
        return {"initial_weights": _parse_json(path.read_text(), common_pb2.ObjectRef, "--initial-weights")}
    return {"initial_weights": client.upload_file(path)}


def _identify_weights(text: str) -> str:
    """What `--initial-weights` stands for, wherever the file lies."""
    if text == "none" or text.startswith("hub:"):
        return text
    path = _weights_file(text)
    if path.suffix == ".json":
        return f"sha256:{_parse_json(path.read_text(), common_pb2.ObjectRef, '--initial-weights').sha256}"
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _weights_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise NotFoundError(
            "FILE_NOT_FOUND", f"--initial-weights {text}: no such file; or write none, or hub:OWNER/NAME@COMMIT"
        )
    return path


@main.command()
@click.argument("version")
@click.option("--dataset", required=True, help="Name of the data set.")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="HTML file for the report.")
@_operation_options
@click.pass_obj
def evaluate(
    context: Context, version: str, dataset: str, split: str, save: Path | None, detach: bool, request_id: str
) -> None:
    """Evaluate a classifier version on a split of a data set."""
    if detach and save is not None:
        raise InvalidArgumentError("SAVE_NEEDS_WAITING", "--save takes the finished report: leave --detach out")
    with context.client() as client:
        found = client.assembly.GetDataset(assembly_pb2.GetDatasetRequest(name=dataset))
        operation = client.classification.EvaluateClassifier(
            classification_pb2.EvaluateClassifierRequest(
                name=version, dataset_manifest=found.manifest, request_id=request_id,
                split=f"SPLIT_{split.upper()}",
            )
        )  # fmt: skip
        evaluation = context.finish(client, operation, detach=detach, title="evaluate")
        if save is not None:
            _save(client, evaluation.report, save)


@main.command()
@click.argument("name")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), required=True, help="HTML file to write.")
@click.option(
    "--predictions", type=click.Path(dir_okay=False, path_type=Path),
    help="Parquet file to write: what the classifier says of each image (of a version: of each test image).",
)  # fmt: skip
@click.pass_obj
def report(context: Context, name: str, save: Path, predictions: Path | None) -> None:
    """Save the report of a classifier version (products/P/classifiers/C/versions/V) or of one of its evaluations."""
    with context.client() as client:
        if "/evaluations/" in name:
            found = client.classification.GetEvaluation(classification_pb2.GetEvaluationRequest(name=name))
            table = found.predictions
        else:
            found = client.classification.GetClassifierVersion(
                classification_pb2.GetClassifierVersionRequest(name=name)
            )
            table = found.test.predictions
        _save(client, found.report, save)
        if predictions is not None:
            if not table.uri:
                raise FailedPreconditionError("NO_PREDICTIONS", f"{name} was not evaluated on a test split")
            _save(client, table, predictions)


def _save(client: Client, ref: common_pb2.ObjectRef, path: Path) -> None:
    (data,) = client.download([ref])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    console.print(f"wrote {path}", markup=False)


@main.command()
@click.argument("version")
@click.option(
    "--as",
    "alias",
    type=click.Choice(["champion", "candidate"]),
    default="champion",
    show_default=True,
    help="champion answers; candidate judges the same images in the background.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="int8 needs `flawsmith export --format onnx-int8` first.",
)
@click.option(
    "--other-sizes",
    type=click.Choice(["resize", "refuse"]),
    default="resize",
    show_default=True,
    help="What happens to images of other sizes than the product's.",
)
@_operation_options
@click.pass_obj
def deploy(
    context: Context, version: str, alias: str, precision: str, other_sizes: str, detach: bool, request_id: str
) -> None:  # fmt: skip
    """Deploy a classifier version to Triton, as champion or candidate."""
    with context.client() as client:
        message = classification_pb2.DeployClassifierRequest(
            name=version,
            alias=f"ALIAS_{alias.upper()}",
            precision=f"PRECISION_{precision.upper()}",
            size_policy=f"SIZE_POLICY_{other_sizes.upper()}",
            request_id=request_id,
        )
        context.finish(client, client.classification.DeployClassifier(message), detach=detach, title="deploy")


@main.group()
def candidate() -> None:
    """Compare the candidate with the champion, promote or withdraw it."""


@candidate.command("show")
@click.argument("classifier")
@click.pass_obj
def candidate_show(context: Context, classifier: str) -> None:
    """Show what champion and candidate said of the same images."""
    with context.client() as client:
        report = client.classification.GetShadowReport(classification_pb2.GetShadowReportRequest(name=classifier))
        lines = [
            f"champion  {report.champion}",
            f"candidate {report.candidate}",
            f"{report.agreeing} of {report.images} verdicts agree (95 % interval {report.agreement_low:.1%} to "
            f"{report.agreement_high:.1%}); scores differ by {report.mean_abs_diff:.4f} on average",
            *(
                f"{_verdict(score.champion_verdict):9} {score.champion_score:.4f}  "
                f"{_verdict(score.candidate_verdict):9} {score.candidate_score:.4f}  {score.image_sha256}"
                for score in report.disagreements
            ),
        ]
        show(report, as_json=context.json, text="\n".join(lines))


@candidate.command("promote")
@click.argument("version")
@click.pass_obj
def candidate_promote(context: Context, version: str) -> None:
    """Make the candidate champion; VERSION is its name."""
    with context.client() as client:
        message = classification_pb2.PromoteClassifierRequest(
            name=version.partition("/versions/")[0], version=version
        )  # fmt: skip
        done = client.classification.PromoteClassifier(message)
        show(done, as_json=context.json, text=done.version)


@candidate.command("withdraw")
@click.argument("classifier")
@click.pass_obj
def candidate_withdraw(context: Context, classifier: str) -> None:
    """Take the candidate away."""
    with context.client() as client:
        left = client.classification.WithdrawCandidate(classification_pb2.WithdrawCandidateRequest(name=classifier))
        show(left, as_json=context.json, text=f"champion {left.champion.version or 'none'}, no candidate")


@main.command("roll-back")
@click.argument("classifier")
@click.pass_obj
def roll_back(context: Context, classifier: str) -> None:
    """Make the version before the champion again."""
    with context.client() as client:
        message = classification_pb2.RollBackClassifierRequest(name=classifier)
        done = client.classification.RollBackClassifier(message)
        show(done, as_json=context.json, text=done.version)


@main.command()
@click.argument("version")
@click.option(
    "--format",
    "export_format",
    type=click.Choice(["onnx", "onnx-int8", "openvino", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="onnx-int8 is also what `deploy --precision int8` serves.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the files; their places in the object store are printed without it.",
)
@_operation_options
@click.pass_obj
def export(
    context: Context, version: str, export_format: str, out: Path | None, detach: bool, request_id: str
) -> None:  # fmt: skip
    """Make files of a classifier version for other runtimes: preprocessing inside, gated by what they answer."""
    with context.client() as client:
        message = classification_pb2.ExportClassifierRequest(
            name=version,
            format=f"EXPORT_FORMAT_{export_format.replace('-', '_').upper()}",
            request_id=request_id,
        )
        operation = client.classification.ExportClassifier(message)
        if detach or out is None:
            context.finish(client, operation, detach=detach, title="export")
            return
        with progress_bar("export") as update:
            made = client.wait(operation, classification_pb2.ClassifierExport, on_progress=update)
        out.mkdir(parents=True, exist_ok=True)
        for item, data in zip(made.files, client.download(item.file for item in made.files), strict=True):
            (out / item.name).write_bytes(data)
        show(made, as_json=context.json, text="\n".join(str(out / item.name) for item in made.files))


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--classifier", required=True, help="Name: products/P/classifiers/C.")
@click.option(
    "--heat-maps",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for pictures STEM.heat-map.png of where each score comes from (explanations, not masks).",
)
@click.pass_obj
def classify(context: Context, images: tuple[Path, ...], classifier: str, heat_maps: Path | None) -> None:
    """Say which parts are defective."""
    failed = False
    with context.client() as client:
        contents = (path.read_bytes() for path in images)
        answers = client.classify(classifier, contents, heat_map=heat_maps is not None)
        files = _heat_map_files(heat_maps or Path(), images)
        for path, answer, file in zip(images, answers, files, strict=True):
            text = f"{_verdict(answer.verdict):9} {answer.score:.4f}  {path}"
            if answer.HasField("error"):
                failed, text = True, f"{'error':9} {path}: {answer.error.message}"
            show(answer, as_json=context.json, text=text)
            if heat_maps is not None and answer.heat_map.png:
                heat_maps.mkdir(parents=True, exist_ok=True)
                file.write_bytes(answer.heat_map.png)
    if failed:
        sys.exit(1)


def _heat_map_files(folder: Path, images: Sequence[Path]) -> list[Path]:
    """Where each image's heat map goes: STEM.heat-map.png, for the next image of a stem STEM-2.heat-map.png and so on;
    never one of the images themselves."""
    taken = {image.resolve() for image in images}
    files: list[Path] = []
    for image in images:
        names = (f"{image.stem}{f'-{number}' if number > 1 else ''}.heat-map.png" for number in itertools.count(1))
        file = next(path for name in names if (path := folder / name).resolve() not in taken)
        taken.add(file.resolve())
        files.append(file)
    return files


@main.group()
def operations() -> None:
    """List, await and cancel operations."""


@operations.command("list")
@click.option("--service", type=click.Choice(SERVICES), help="Only this service's.")
@click.option("--limit", default=20, show_default=True)
@click.pass_obj
def operations_list(context: Context, service: str | None, limit: int) -> None:
    """List the newest operations."""
    with context.client() as client:
        found = [
            operation
            for name in ([service] if service else SERVICES)
            for operation in client.list_operations(name, limit)
        ]
        found.sort(key=lambda operation: metadata_of(operation).create_time.ToNanoseconds(), reverse=True)
        show(found[:limit], as_json=context.json, text="\n".join(map(_describe, found[:limit])) or "no operations")


@operations.command("wait")
@click.argument("name")
@click.pass_obj
def operations_wait(context: Context, name: str) -> None:
    """Follow an operation to its end and print its response."""
    with context.client() as client:
        operation = client.operations(name).GetOperation(operations_pb2.GetOperationRequest(name=name))
        context.finish(client, operation, detach=False, title=metadata_of(operation).kind)


@operations.command("cancel")
@click.argument("name")
@click.pass_obj
def operations_cancel(context: Context, name: str) -> None:
    """Stop an operation."""
    with context.client() as client:
        client.operations(name).CancelOperation(operations_pb2.CancelOperationRequest(name=name))
        console.print(f"{name} stops")


@main.command()
@click.option("--free-ports", is_flag=True, help="Take any free ports instead of the default ones.")
@click.option("--database-url", default="", help="Postgres for the jobs instead of SQLite files.")
@click.pass_obj
def up(context: Context, free_ports: bool, database_url: str) -> None:
    """Start the platform on this machine and stay until Ctrl-C."""
    from flawsmith.local.platform import LocalPlatform

    platform = LocalPlatform(
        context.state, free_ports=free_ports, database_url=database_url or None, say=lambda text: console.print(text)
    )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    platform.start()
    for name, value in platform.describe().items():
        console.print(f"{name}: {value}", markup=False, soft_wrap=True)
    console.print("the platform is up; Ctrl-C stops it")
    while not stopped.wait(1.0):
        for process in platform.processes.values():
            if process.pid is None:
                console.print(f"{process.name} ended; starting it again (see {process.log})", markup=False)
                process.start()
    console.print("stopping")
    platform.stop()


@main.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A real data set.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--regime", type=click.Choice(sorted(REGIMES)), default="few", show_default=True)
@click.option(
    "--strategy", type=click.Choice(["inpaint", "text-to-image"]), default="inpaint", show_default=True,
    help="Defects painted into good images, or whole images, as the paper draws them.",
)  # fmt: skip
@click.option("--recipe", default="mixed", show_default=True, help="Of the classifiers; see `flawsmith train`.")
@click.option("--n-aug", type=click.IntRange(min=2), default=40, show_default=True, help="Synthetic positives in all.")
@click.option("--adapter-steps", type=int, help="Optimiser steps of the adapter.")
@click.option("--denoising-steps", type=int, default=20, show_default=True)
@click.option("--train-steps", type=int, help="Optimiser steps of the classifier.")
@click.option("--height", type=int, help="Height of the classifier's input, pixels.")
@click.option("--width", type=int, help="Width of the classifier's input, pixels.")
@click.option("--drawn-height", type=int, help="Height of what the adapter draws, pixels.")
@click.option("--drawn-width", type=int, help="Width of what the adapter draws, pixels.")
@click.option(
    "--sample-size", type=int, nargs=4, default=(120, 24, 60, 20), show_default=True,
    help="Images of the sample product: train normals, train defects, test normals, test defects.",
)  # fmt: skip
@seed_option
@click.pass_obj
def demo(context: Context, **options: Any) -> None:
    """Run the whole job once: on the sample product, or on --data; the platform starts and stops with it."""
    from flawsmith.local.demo import DemoOptions, run_demo
    from flawsmith.local.platform import LocalPlatform

    out = options["out"]
    platform = LocalPlatform(out / "state", free_ports=True, fresh=True, say=lambda text: console.print(text))
    platform.start()
    try:
        with Client(platform.settings.peers, principal="demo", tls=platform.settings.rpc.tls) as client:
            summary = run_demo(client, DemoOptions(**options))
    finally:
        platform.stop()
    if context.json:
        print(json.dumps(summary, indent=1))


class _ListsCommand(click.Command):
    """Options that may be repeated also take several values at once: `--n-aug 80 100 120`. No positional arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spelt: list[str] = []
        current, has_value = "", False
        for word in args:
            if word.startswith("--"):
                name, _, value = word.partition("=")
                current, has_value = name if name in repeatable else "", bool(value)
            elif current:
                spelt += [current] if has_value else []
                has_value = True
            spelt.append(word)
        return super().parse_args(ctx, spelt)


def _values(members: Iterable[StrEnum]) -> list[str]:
    return [member.value for member in members]


@main.group()
def bench() -> None:
    """Experiments of papers, run as jobs on the platform."""


@bench.command("in-and-out", cls=_ListsCommand)
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
    help="Data set, laid out as KolektorSDD2 is.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out/in-and-out"), show_default=True
)
@click.option(
    "--regimes", type=click.Choice(_values(Regime)), multiple=True, default=_values(Regime), show_default=True,
    help="Real positives: none, five, all.",
)  # fmt: skip
@click.option(
    "--arms", type=click.Choice(_values(Arm)), multiple=True, show_default=True,
    default=_values(arm for arm in Arm if arm is not Arm.CONTROL),
    help="What training gets besides; control: normals that went through encoder and decoder.",
)  # fmt: skip
@click.option(
    "--n-aug", type=int, multiple=True, default=(80, 100, 120), show_default=True, help="Synthetic positives in all."
)
@click.option("--seeds", type=click.IntRange(1, 100), default=4, show_default=True, help="Trainings of each cell.")
@click.option(
    "--accounting", type=click.Choice([*_values(Accounting), "both"]), default="both", show_default=True,
    help="Equal optimiser steps for every arm, or the recipe's epochs (with which more positives train longer).",
)  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(min=1),
    help="Optimiser steps of equal accounting; by default what 50 epochs with 120 synthetic positives come to: 2400 "
    "(zero), 2500 (few). On CPUs take some hundred.",
)  # fmt: skip
@click.option(
    "--vary", type=click.Choice(["training", "everything"]), default="training", show_default=True,
    help="What seeds change: training alone, or also the few positives, the adapter and the synthetic defects.",
)  # fmt: skip
@click.option(
    "--height", type=click.IntRange(32, 2048), default=600, show_default=True, help="Of the classifier's input."
)
@click.option(
    "--width", type=click.IntRange(32, 2048), default=200, show_default=True, help="Of the classifier's input."
)
@click.option("--recipe", default="in-and-out", show_default=True)
@click.option("--backbone", default="", help="resnet18, resnet34 or resnet50; the recipe's by default.")
@click.option(
    "--initial-weights", default="none", show_default=True, metavar="none|FILE|hub:OWNER/NAME@COMMIT",
    help="What backbones start from; as for `flawsmith train`.",
)  # fmt: skip
@_method_options
@click.option("--base-model", default="mini", show_default=True)
@click.option(
    "--strategy", type=click.Choice(["text-to-image", "inpaint"]), default="text-to-image", show_default=True,
    help="Whole images, as the paper draws them, or defects painted into good ones.",
)  # fmt: skip
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT",
    help="What defects are drawn from; repeatable. The paper's by default: few-shot \"skt background\".",
)  # fmt: skip
@click.option("--drawn-height", type=int, help="Height of what the adapter draws, pixels; made to fit by default.")
@click.option("--drawn-width", type=int, help="Width of what the adapter draws, pixels; made to fit by default.")
@click.option("--denoising-steps", type=int, help="The base model's own by default.")
@click.option("--adapter-config", default="", help="More of FineTuneConfig as JSON, e.g. '{\"max_steps\": 200}'.")
@click.option(
    "--drawing-config", default="",
    help="More of GenerateImagesRequest as JSON, e.g. '{\"guidance\": 2, \"inpaint\": {\"defect_types\": "
    "[\"crack\"]}}'.",
)  # fmt: skip
@click.option("--validation-share", type=float, help="Share of train held out for validation.")
@click.option(
    "--control-images/--no-control-images", default=True, show_default=True,
    help="Test also on test normals that went through the diffusion model's encoder and decoder.",
)  # fmt: skip
@click.option("--parallel", type=click.IntRange(1, 64), default=1, show_default=True, help="Cells at once.")
@seed_option
@click.pass_obj
def in_and_out(
    context: Context, data: Path, out: Path, regimes: tuple[str, ...], arms: tuple[str, ...], n_aug: tuple[int, ...],
    seeds: int, accounting: str, initial_weights: str, method: str, parameter: tuple[str, ...], parameters: str,
    adapter_config: str, drawing_config: str, parallel: int, **settings: Any,
) -> None:  # fmt: skip
    """Run In&Out's grid and write its tables with ours beside them; the same command continues a run.

    OUT/report.html, report.md and cells.jsonl hold what came out. Regimes, arms, N_aug, seeds and accounting may grow
    from start to start; everything else is fixed with the first.
    """
    missing = [name for name in ("cv2", "matplotlib", "numpy", "pyarrow") if importlib.util.find_spec(name) is None]
    if missing:
        raise FailedPreconditionError(
            "BENCH_NOT_INSTALLED", f"{', '.join(missing)} are missing; install flawsmith with its extra `bench`"
        )
    from flawsmith.bench.driver import check_drawing_config, run_cells
    from flawsmith.bench.report import write_report
    from flawsmith.bench.run_folder import Settings, digest_data, open_run_folder

    cells = enumerate_cells(
        [Regime(regime) for regime in regimes], [Arm(arm) for arm in arms], n_aug,
        list(Accounting) if accounting == "both" else [Accounting(accounting)], seeds,
    )  # fmt: skip
    if (settings["drawn_height"] is None) != (settings["drawn_width"] is None):
        raise InvalidArgumentError("ONE_SIDE_ONLY", "give --drawn-height and --drawn-width, or neither")
    digest = digest_data(data)
    config = _parse_json(adapter_config, generation_pb2.FineTuneConfig, "--adapter-config")
    drawing = _parse_json(drawing_config, generation_pb2.GenerateImagesRequest, "--drawing-config")
    check_drawing_config(drawing, settings["strategy"])
    wanted = Settings(
        data=digest, method=method, initial_weights=_identify_weights(initial_weights),
        parameters=json_format.MessageToDict(_method_parameters(parameters, parameter)),
        adapter_config=json_format.MessageToDict(config, preserving_proto_field_name=True),
        drawing_config=json_format.MessageToDict(drawing, preserving_proto_field_name=True), **settings,
    )  # fmt: skip
    with open_run_folder(out, wanted) as folder, context.client() as client, RunLog() as log:
        log.expect(len(cells), len(folder.done().intersection(cells)))
        try:
            failed = run_cells(
                client, folder, f"products/bench-{digest[:12]}", cells,
                upload_data=lambda: client.upload_folder(data),
                initial_weights=lambda: _initial_weights(client, initial_weights),
                watch=log, parallel=parallel,
            )  # fmt: skip
        except KeyboardInterrupt:
            console.print(
                "stopped; what the platform has begun goes on (`flawsmith operations list`), and the same command "
                "continues the run"
            )
            sys.exit(130)
        results = folder.results()
    if results:
        written = write_report(results, out, data=data)
        show_path = {"report": str(written), "cells": len(results), "failed": [str(cell) for cell in failed]}
        print(json.dumps(show_path, indent=1) if context.json else written)
    if failed:
        console.print(
            f"{len(failed)} of {len(cells)} cells failed ({out / 'failures.jsonl'} says why); the same command tries "
            "them again",
            markup=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(1)


@main.command()
@click.pass_obj
def doctor(context: Context) -> None:
    """Say what is missing, unsuitable or unreachable, and how to mend it."""
    from flawsmith.local.doctor import examine

    findings = examine(context.state, context.addresses(), load_settings().rpc.tls)
    if context.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            colour = {"ok": "green", "warning": "yellow", "problem": "red"}[finding.level]
            console.print(f"[{colour}]{finding.level:7}[/{colour}] {finding.what}", soft_wrap=True)
            if finding.mend:
                console.print(f"        {finding.mend}", markup=False, soft_wrap=True)
    if any(finding.level == "problem" for finding in findings):
        sys.exit(1)


def _base_models(client: Client) -> dict[str, generation_pb2.BaseModel]:
    found = _list_all(client.generation.ListBaseModels, generation_pb2.ListBaseModelsRequest(), "base_models")
    return {model.id: model for model in found}


def _list_all(method: Callable[[Any], Any], request: Any, field: str) -> list[Any]:
    """The entries of a list in all of its pages. field: of the response, that holds them."""
    request.page_size = 1000
    entries: list[Any] = []
    while True:
        answer = method(request)
        entries += getattr(answer, field)
        if not answer.next_page_token:
            return entries
        request.page_token = answer.next_page_token


def _describe_model(model: generation_pb2.BaseModel) -> str:
    state = f"installed, {model.stored_bytes / 1e9:.2f} GB" if model.installed else "not installed"
    if not model.installed and model.download_bytes:
        state += f", {model.download_bytes / 1e9:.1f} GB to pull"
    use = "" if model.commercial_use else "NO COMMERCIAL USE; "
    return "\n".join(
        [
            f"{model.id:16} {state}; {', '.join(model.capabilities)}",
            *([f"  for      {model.good_for}"] if model.good_for else []),
            f"  from     {model.source or model.origin}",
            f"  licence  {model.licence}  {model.licence_url}".rstrip(),
            f"           {use}{model.licence_limits}",
        ]
    )


def _verdict(value: Any) -> str:
    return classification_pb2.Verdict.Name(value).removeprefix("VERDICT_").lower()


def _decide(context: Context, name: str, state: Any, reason: str) -> None:
    with context.client() as client:
        message = generation_pb2.DecidePromptRequest(name=name, state=state, reason=reason)
        show(client.generation.DecidePrompt(message), as_json=context.json)


def _review(context: Context, batch: str, images: tuple[str, ...], review: Any, reason: str) -> None:
    with context.client() as client:
        message = generation_pb2.ReviewImagesRequest(parent=batch, images=images, review=review, reason=reason)
        done = client.generation.ReviewImages(message)
        text = f"pending {done.pending}, accepted {done.accepted}, rejected {done.rejected}"
        show(done, as_json=context.json, text=text)


def _find_import(client: Client, product: str, name: str) -> assembly_pb2.Import:
    if name:
        return client.assembly.GetImport(assembly_pb2.GetImportRequest(name=name))
    found: list[assembly_pb2.Import] = _list_all(
        client.assembly.ListImports, assembly_pb2.ListImportsRequest(parent=_product(product)), "imports"
    )
    if not found:
        raise NotFoundError("NO_IMPORT", f"{product} has no imports; run `flawsmith import FOLDER --product {product}`")
    return max(found, key=lambda item: item.create_time.ToNanoseconds())


def _find_batch(client: Client, name: str) -> Any:
    if "/augmentedBatches/" in name:
        return client.augmentation.GetAugmentedBatch(augmentation_pb2.GetAugmentedBatchRequest(name=name))
    return client.generation.GetBatch(generation_pb2.GetBatchRequest(name=name))


def _parse_json(text: str, cls: type[Message], option: str) -> Any:
    try:
        return json_format.Parse(text or "{}", cls())
    except json_format.ParseError as error:
        raise InvalidArgumentError("INVALID_JSON", f"{option}: {error}") from error


def _method_parameters(text: str, pairs: tuple[str, ...]) -> struct_pb2.Struct:
    values: struct_pb2.Struct = _parse_json(text, struct_pb2.Struct, "--parameters")
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise InvalidArgumentError("INVALID_PARAMETER", f"--parameter {pair!r}: write NAME=VALUE")
        try:
            values.update({name: json.loads(value)})
        except ValueError:
            values.update({name: value})
    return values


def _describe(operation: operations_pb2.Operation) -> str:
    metadata = metadata_of(operation)
    state = common_pb2.OperationMetadata.State.Name(metadata.state).removeprefix("STATE_").lower()
    where = f"{metadata.stage} {metadata.step}/{metadata.total}" if metadata.stage and not operation.done else ""
    return f"{operation.name}  {metadata.kind:16} {state:20} {metadata.target}  {where}".rstrip()


if __name__ == "__main__":
    main()
