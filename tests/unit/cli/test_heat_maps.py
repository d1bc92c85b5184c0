"""Where heat maps go: beside pictures, never over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from flawsmith.classification.v1 import classification_pb2
from flawsmith.cli.main import Context, main


class Platform:
    """What a client sees of one whose heat maps are what was sent, turned round."""

    def __enter__(self) -> Platform:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def classify(
        self, classifier: str, images: Iterable[bytes], *, heat_map: bool
    ) -> Iterator[classification_pb2.ClassifyResponse]:
        for image in images:
            yield classification_pb2.ClassifyResponse(heat_map=classification_pb2.HeatMap(png=image[::-1]))


def test_pictures_stay_and_every_one_has_its_own_heat_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "client", lambda self: Platform())
    monkeypatch.chdir(tmp_path)
    pictures = ["part.png", "part.jpg", "line/part.png", "part-2.png", "part-3.heat-map.png"]
    for number, name in enumerate(pictures):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"picture %d" % number)
    command = ["classify", *pictures, "--classifier", "products/p/classifiers/c", "--heat-maps", "."]
    for _ in range(2):  # the same again replaces heat maps alone
        assert CliRunner().invoke(main, command, catch_exceptions=False).exit_code == 0
        assert [Path(name).read_bytes() for name in pictures] == [b"picture %d" % number for number in range(5)]
        made = {path.name: path.read_bytes() for path in tmp_path.glob("*.heat-map.png") if path.name not in pictures}
        assert made == {
            "part.heat-map.png": b"0 erutcip", "part-2.heat-map.png": b"1 erutcip", "part-4.heat-map.png": b"2 erutcip",
            "part-2-2.heat-map.png": b"3 erutcip", "part-3.heat-map.heat-map.png": b"4 erutcip",
        }  # fmt: skip
