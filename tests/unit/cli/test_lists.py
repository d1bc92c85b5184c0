"""Lists are read to their end, however little a page holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf import timestamp_pb2

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.cli.main import Context, main
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.v1 import generation_pb2

BATCH = "products/p/batches/b"


def in_pages(response: type[Any], field: str, entries: Iterable[Any]) -> Callable[[Any], Any]:
    """A method that lists entries, two a page whatever was asked for."""
    known = list(entries)

    def answer(request: Any) -> Any:
        assert request.page_size <= 1000
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(known) else ""
        return response(**{field: known[start : start + 2], "next_page_token": token})

    return answer


def images(count: int) -> list[generation_pb2.ReviewedImage]:
    refs = [common_pb2.ObjectRef(uri=f"s3://b/{number}", sha256=f"{number:064x}") for number in range(count)]
    return [generation_pb2.ReviewedImage(record=common_pb2.ImageRecord(image=ref)) for ref in refs]


class Platform:
    """What a client sees of one that has five of everything."""

    def __enter__(self) -> Platform:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def download(self, refs: Iterable[common_pb2.ObjectRef]) -> Iterator[bytes]:
        return (ref.uri.encode() for ref in refs)

    generation = SimpleNamespace(
        ListAdapters=in_pages(
            generation_pb2.ListAdaptersResponse, "adapters", [generation_pb2.Adapter(name=f"n{n}") for n in range(5)]
        ),
        ListPrompts=in_pages(
            generation_pb2.ListPromptsResponse, "prompts", [generation_pb2.Prompt(name=f"n{n}") for n in range(5)]
        ),
        ListBaseModels=in_pages(
            generation_pb2.ListBaseModelsResponse, "base_models",
            [generation_pb2.BaseModel(id=f"n{n}") for n in range(5)],
        ),
        ListBatchImages=in_pages(generation_pb2.ListBatchImagesResponse, "images", images(5)),
    )  # fmt: skip
    augmentation = SimpleNamespace(
        ListMethods=in_pages(
            augmentation_pb2.ListMethodsResponse, "methods", [augmentation_pb2.Method(name=f"n{n}") for n in range(5)]
        )
    )
    # The newest comes last.
    assembly = SimpleNamespace(
        ListImports=in_pages(
            assembly_pb2.ListImportsResponse, "imports",
            [assembly_pb2.Import(name=f"n{n}", create_time=timestamp_pb2.Timestamp(seconds=n + 1)) for n in range(5)],
        )
    )  # fmt: skip


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.setattr(Context, "client", lambda self: Platform())

    def run(*arguments: str) -> list[str]:
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize(
    "command",
    [("adapters", "list", "--product", "p"), ("prompts", "list", "--product", "p"), ("models", "list"), ("methods",)],
)
def test_every_page_is_listed(invoke: Callable[..., list[str]], command: tuple[str, ...]) -> None:
    text = "\n".join(invoke(*command))
    assert all(f"n{number}" in text for number in range(5))


def test_every_image_of_a_batch_is_listed_and_saved(invoke: Callable[..., list[str]], tmp_path: Path) -> None:
    listed = invoke("review", "list", BATCH, "--save", str(tmp_path / "look"))
    assert [line.split()[1] for line in listed] == [f"{number:064x}" for number in range(5)]
    saved = {path.name: path.read_bytes() for path in (tmp_path / "look").iterdir()}
    assert saved == {f"{number:064x}.png": b"s3://b/%d" % number for number in range(5)}


def test_the_newest_import_is_found_on_whatever_page(
    invoke: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        """With the import's name."""

    def assemble(request: assembly_pb2.AssembleDatasetRequest) -> None:
        raise Asked(getattr(request, "import"))

    monkeypatch.setattr(Platform.assembly, "AssembleDataset", assemble, raising=False)
    with pytest.raises(Asked, match="n4"):
        invoke("assemble", "--product", "p")
