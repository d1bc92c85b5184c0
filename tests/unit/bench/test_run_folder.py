"""State that a run continues from."""

from pathlib import Path

import pytest

from flawsmith.bench.run_folder import Settings, digest_data, open_run_folder
from flawsmith.common.errors import AbortedError, FailedPreconditionError, InvalidArgumentError
from flawsmith.generation.v1 import generation_pb2

SETTINGS = Settings(data="d" * 64)
REQUEST = generation_pb2.GenerateImagesRequest(parent="products/p", count=3, seed=1)
OTHER = generation_pb2.GenerateImagesRequest(parent="products/p", count=3, seed=2)


def test_a_request_keeps_its_id_from_start_to_start_until_it_fails(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, SETTINGS) as folder:
        first, other = folder.request_id(REQUEST), folder.request_id(OTHER)
        assert first != other
    with open_run_folder(tmp_path, SETTINGS) as folder:
        assert folder.request_id(REQUEST) == first
        folder.add_failure(REQUEST, "draw 3", AbortedError("DIVERGED", "it diverged"))
        second = folder.request_id(REQUEST)
        assert second != first
        assert folder.request_id(OTHER) == other
    with open_run_folder(tmp_path, SETTINGS) as folder:
        assert folder.request_id(REQUEST) == second
    assert "it diverged" in (tmp_path / "failures.jsonl").read_text()


def test_runs_in_two_folders_share_no_operation(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "a", SETTINGS) as one, open_run_folder(tmp_path / "b", SETTINGS) as two:
        assert one.request_id(REQUEST) != two.request_id(REQUEST)


def test_a_line_that_a_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, SETTINGS) as folder:
        folder.add_failure(REQUEST, "draw 3", AbortedError("DIVERGED", "it diverged"))
        second = folder.request_id(REQUEST)
    with (tmp_path / "failures.jsonl").open("a") as file:
        file.write('{"request": "')
    with open_run_folder(tmp_path, SETTINGS) as folder:
        assert folder.request_id(REQUEST) == second


def test_uploads_are_remembered(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, SETTINGS) as folder:
        assert folder.upload("data") is None
        folder.add_upload("data", "s3://b/uploads/1/")
    with open_run_folder(tmp_path, SETTINGS) as folder:
        assert folder.upload("data") == "s3://b/uploads/1/"


def test_without_results_other_settings_begin_another_run(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, SETTINGS) as folder:
        before = folder.id
    with open_run_folder(tmp_path, Settings(data="d" * 64, steps=7)) as folder:
        assert folder.id != before
        assert folder.settings.steps == 7


def test_two_benchmarks_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, SETTINGS):
        with pytest.raises(FailedPreconditionError) as caught, open_run_folder(tmp_path, SETTINGS):
            pass
        assert caught.value.reason == "BENCH_FOLDER_IN_USE"
    with open_run_folder(tmp_path, SETTINGS):
        pass  # it is free again


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"id": 3}')
    with pytest.raises(InvalidArgumentError) as caught, open_run_folder(tmp_path, SETTINGS):
        pass
    assert caught.value.reason == "BENCH_FOLDER_UNREADABLE"
    assert "--out" in caught.value.message


def test_the_digest_of_a_data_set_follows_its_paths_and_bytes(tmp_path: Path) -> None:
    def write(folder: str, name: str, data: bytes) -> Path:
        path = tmp_path / folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return tmp_path / folder

    base = digest_data(write("a", "1.png", b"x"))
    assert digest_data(write("b", "1.png", b"x")) == base
    assert digest_data(write("c", "2.png", b"x")) != base
    assert digest_data(write("d", "1.png", b"y")) != base
