"""Names and pages."""

from __future__ import annotations

import pytest

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.resources import check_name, page


def test_a_name_gives_its_parts() -> None:
    parts = check_name("products/p-1/adapters/a", "products/{product}/adapters/{adapter}", "name")
    assert parts == {"product": "p-1", "adapter": "a"}


@pytest.mark.parametrize(
    "name", ["", "products/", "products/A", "products/a/b", "products/../x", "products/-a", "products/" + "a" * 64]
)
def test_other_names_are_refused_with_the_pattern(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"products/\{product\}") as caught:
        check_name(name, "products/{product}", "parent")
    assert caught.value.reason == "INVALID_NAME"


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_pages_cover_everything_once(size: int) -> None:
    items, seen, token = [f"{number:02}" for number in range(20)], [], ""
    while True:
        part, token = page(items, page_size=size, page_token=token)
        assert len(part) <= size
        seen += part
        if not token:
            break
    assert seen == items


@pytest.mark.parametrize(("size", "token"), [(-1, ""), (0, "zz")])
def test_bad_pages_are_refused(size: int, token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        page([], page_size=size, page_token=token)
    assert caught.value.reason == "INVALID_PAGE"
