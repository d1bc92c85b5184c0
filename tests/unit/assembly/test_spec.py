"""Requests as checked values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flawsmith.assembly.spec import GenerationOptions, ImportSpec, RequestDatasetSpec, UploadSpec
from flawsmith.common.manifests import Regime


@given(n_aug=st.integers(1, 10_000), share=st.floats(0, 1))
def test_shares_add_up(n_aug: int, share: float) -> None:
    spec = RequestDatasetSpec(
        name="n", parent="products/p", regime=Regime.FULL_SHOT, n_aug=n_aug, in_distribution_share=share
    )
    assert spec.in_distribution + spec.out_of_distribution == n_aug
    assert abs(spec.in_distribution - n_aug * share) < 1 + 1e-6


@pytest.mark.parametrize(
    ("n_aug", "share", "drawn"), [(100, 0.5, 50), (5, 0.5, 3), (10, 0.3, 3), (10, 0.0, 0), (10, 1.0, 10), (0, 0.5, 0)]
)
def test_an_odd_one_goes_to_the_diffusion_model(n_aug: int, share: float, drawn: int) -> None:
    spec = RequestDatasetSpec(
        name="n", parent="products/p", regime="few_shot", n_aug=n_aug, in_distribution_share=share
    )
    assert spec.in_distribution == drawn


@pytest.mark.parametrize(
    "bad",
    [
        {"n_aug": -1}, {"n_aug": 10_001}, {"in_distribution_share": 1.1}, {"seed": -1}, {"regime": "one_shot"},
        {"regime": "zero_shot", "n_aug": 0}, {"colour": "red"},
    ],
)  # fmt: skip
def test_ranges_of_a_request(bad: dict) -> None:
    with pytest.raises(ValidationError):
        RequestDatasetSpec(**{"name": "n", "parent": "products/p", "regime": "few_shot", "n_aug": 2} | bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": 1.5}, {"height": 64}, {"prompts": ["ok", " "]}, {"steps": 0}, {"strategy": "telepathy"},
        {"preset": "diag"}, {"foreground": "object"}, {"masks": "drawn"},
        {"adapter": "products/p/adapters/a", "without_adapter": True},
        {"tuning_preset": "in-and-out"}, {"flips": "sideways"}, {"flips": "both", "without_adapter": True},
        {"tuning_preset": "mini-few", "adapter": "products/p/adapters/a"},
    ],
)  # fmt: skip
def test_ranges_of_generation(bad: dict) -> None:
    with pytest.raises(ValidationError):
        GenerationOptions(**bad)


@pytest.mark.parametrize("bad", [{"validation_share": 0.0}, {"validation_share": 0.5}, {"prefix": ""}])
def test_ranges_of_an_import(bad: dict) -> None:
    with pytest.raises(ValidationError):
        ImportSpec(**{"name": "n", "parent": "products/p", "prefix": "s3://b/u/"} | bad)


def test_uploads_take_relative_paths() -> None:
    assert len(UploadSpec(paths=["train/10000.png", "test/x y (copy).png"]).paths) == 2


def test_uploads_go_on_where_they_began_and_nowhere_else() -> None:
    begun = f"s3://bucket/uploads/{'0a' * 8}/"
    assert UploadSpec(paths=["a"], prefix=begun).prefix == begun
    for other in ("s3://bucket/uploads/", "s3://bucket/blobs/0a/", f"{begun}../", begun.removesuffix("/"), "uploads/"):
        with pytest.raises(ValidationError, match="CreateUpload returned"):
            UploadSpec(paths=["a"], prefix=other)


@pytest.mark.parametrize(
    "paths", [[], ["/etc/passwd"], ["a/../b"], ["a//b"], ["a\nb"], ["x" * 501], ["a", "a"], ["a"] * 10_001]
)
def test_uploads_refuse_other_paths(paths: list[str]) -> None:
    with pytest.raises(ValidationError):
        UploadSpec(paths=paths)
