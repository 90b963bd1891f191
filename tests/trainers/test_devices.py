"""Devices by name: a number alone is a card's, a size has a unit."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from trainers.devices import GIB, devices


def test_a_number_alone_is_the_card_whose_name_ends_in_it() -> None:
    found = devices(["4090", "200", " 4090 "])
    assert [device.name for device in found] == ["RTX 4090 24 GB", "H200 141 GB", "RTX 4090 24 GB"]
    with pytest.raises(InputError, match="several devices; expected one of A100 40 GB, A100 80 GB"):
        devices(["100"])


@pytest.mark.parametrize("name", ["48", "0.5", "24", "40", "0", "9" * 400])
def test_a_number_that_is_no_cards_needs_a_unit(name: str) -> None:
    with pytest.raises(InputError, match="a size needs a unit; expected a size such as") as caught:
        devices([name])
    assert caught.value.field == "--device"
    assert len(str(caught.value)) < 300


def test_sizes_have_a_unit() -> None:
    found = devices(["48GB", "48 gib", "0.5gb", "10000GB"])
    assert [device.bytes for device in found] == [48 * GIB, 48 * GIB, GIB // 2, 10_000 * GIB]


@pytest.mark.parametrize("size", ["0GB", "0.0gb", "10001GB", "9" * 400 + "GB"])
def test_sizes_that_no_card_has_are_refused(size: str) -> None:
    with pytest.raises(InputError, match="is the memory of no card; expected a size") as caught:
        devices([size])
    assert len(str(caught.value)) < 120
