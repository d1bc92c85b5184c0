"""Names and pages."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.resources import PAGE_BYTES, Resources, check_name, page
from tests.unit.memory_store import MemoryStore


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


def test_a_page_of_large_items_ends_early_and_the_next_goes_on() -> None:
    sizes, pages, token = [PAGE_BYTES // 2] * 3 + [2 * PAGE_BYTES] + [1] * 4, [], ""
    while True:
        part, token = page(sizes, page_size=3, page_token=token, size_of=lambda size: size)
        pages.append(part)
        if not token:
            break
    half = PAGE_BYTES // 2
    # What fits on no page has one of its own.
    assert pages == [[half, half], [half], [2 * PAGE_BYTES], [1, 1, 1], [1]]


class Large(BaseModel):
    """A manifest whose images are not described."""

    text: str
    images: list[str] = []


def test_pages_of_resources_hold_what_fits() -> None:
    resources = Resources(MemoryStore())
    for number in range(6):
        text = "\u00fc" * (PAGE_BYTES // 5 if number < 5 else 1)  # two bytes each
        resources.publish(f"products/p/things/t{number}", Large(text=text, images=["i" * 100] * number * 1000))
    resources.store.put("products/p/things/t2x/manifest.json.partial", b"not published")
    seen, token = [], ""
    while True:
        found, token = resources.list_page("products/p", "things", Large, page_size=50, page_token=token)
        seen.append([len(large.images) // 1000 for large, _ in found])
        if not token:
            break
    assert seen == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(("size", "token"), [(-1, ""), (0, "zz")])
def test_bad_pages_are_refused(size: int, token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        page([], page_size=size, page_token=token)
    assert caught.value.reason == "INVALID_PAGE"
