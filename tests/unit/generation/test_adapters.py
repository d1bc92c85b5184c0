"""Requests to import and export adapters, before anything is read."""

from __future__ import annotations

import pytest

from flawsmith.common.convert import to_model
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.adapters import ExportAdapterRequest, ImportAdapterRequest
from flawsmith.generation.spec import AdapterFormat
from flawsmith.generation.v1 import generation_pb2

FILE = common_pb2.ObjectRef(uri="s3://b/f", sha256="0" * 64, size=1)


def asked(*paths: str, **values: object) -> ImportAdapterRequest:
    request = generation_pb2.ImportAdapterRequest(
        parent="products/p", regime=common_pb2.REGIME_FEW_SHOT,
        files=[generation_pb2.AdapterFolderFile(path=path, object=FILE) for path in paths], **values,
    )  # fmt: skip
    return to_model(request, ImportAdapterRequest, name="products/p/adapters/a")


def test_an_adapter_is_a_file_or_a_folder() -> None:
    assert asked(file=FILE).source == asked(file=FILE).file
    paths = [f"{part}adapter_{name}" for part in ("", "unet/") for name in ("config.json", "model.safetensors")]
    assert [file.path for file in asked(*paths).source] == paths


@pytest.mark.parametrize(
    ("paths", "file", "says"),
    [
        ((), None, "either file, or files"),
        (("adapter_config.json",), FILE, "either file, or files"),
        (("unet/adapter_config.json",) * 2, None, "each path may be given once"),
        (("../adapter_config.json",), None, "files.0.path"),
        (("/adapter_config.json",), None, "files.0.path"),
        (("unet/deep/adapter_config.json",), None, "files.0.path"),
        (("unet/adapter_config.json\n",), None, "files.0.path"),
        (("unet/adapter_model.bin",), None, "files.0.path"),
        (tuple(f"part_{number}/adapter_config.json" for number in range(17)), None, "at most 16"),
    ],
)
def test_other_paths_are_refused(paths: tuple[str, ...], file: common_pb2.ObjectRef | None, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        asked(*paths, file=file)
    assert caught.value.reason == "INVALID_FIELDS"


def test_formats_of_an_export() -> None:
    def form(name: str) -> AdapterFormat:
        request = generation_pb2.ExportAdapterRequest(name="products/p/adapters/a", format=name)
        return to_model(request, ExportAdapterRequest).format

    assert form("") is AdapterFormat.KOHYA
    assert [form(name.value) for name in AdapterFormat] == list(AdapterFormat)
    with pytest.raises(InvalidArgumentError, match="'kohya', 'diffusers' or 'peft'"):
        form("pickle")
