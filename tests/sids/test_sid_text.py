"""The text behind a semantic ID."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.records.types import Item
from crsearch.sids import item_text
from crsearch.sids.text import price_level

FULL = Item(
    item_id="i7", title="手机壳", brand="Elnova", category=("电子", "手机配件"), price=49.0, sales=3200.0,
    attributes={"colour": "black", "age": "adult"}, description="long praise",
)  # fmt: skip


def test_all_fields_stand_in_a_fixed_order_and_id_and_description_do_not():
    expected = "手机壳 | Elnova | 电子 / 手机配件 | price50 | sales1000 | age: adult | colour: black"
    assert item_text(FULL) == expected


def test_absent_fields_leave_no_trace():
    assert item_text(Item(item_id="i1", title="red dress")) == "red dress"
    assert item_text(Item(item_id="i1", title="", price=0.0, sales=0.0)) == ""


@given(st.floats(1e-6, 1e9))
def test_price_level_is_a_step_within_a_factor_of_two(price):
    level = price_level(price)
    assert max(level / price, price / level) < math.sqrt(2.5) + 1e-6
    mantissa = level / 10 ** math.floor(math.log10(level * 1.000001))
    assert mantissa == pytest.approx(1) or mantissa == pytest.approx(2) or mantissa == pytest.approx(5)


@pytest.mark.parametrize("price", [5e-324, 2.3e-308, 1.7e308])
def test_every_float_above_zero_has_a_price_level(price):
    assert price_level(price) > 0


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9))
def test_price_levels_rise_with_the_price(one, other):
    low, high = sorted((one, other))
    assert price_level(low) <= price_level(high) * (1 + 1e-9)
