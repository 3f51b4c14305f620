"""The best mix, against trying every mix."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.searching.knapsack import NoFit, Option, cheapest, smallest, totals


def option(unit, scheme):
    return st.builds(
        Option,
        st.just(unit),
        st.just(scheme),
        st.floats(0, 2, allow_nan=False).map(lambda value: round(value, 6)),
        st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)),
    )


MIXES = st.tuples(*(option(f"u{unit}", scheme) for unit in range(4) for scheme in ("w4", "w8", "w6")))


def every_choice(options):
    units = {}
    for each in options:
        units.setdefault(each.unit, []).append(each)
    for choice in product(*units.values()):
        yield {each.unit: each.scheme for each in choice}


@given(MIXES, st.integers(1, 4 * 10**7))
def test_least_loss_within_every_limit(options, limit):
    limits = (limit, limit // 2)
    fitting = [
        totals(options, choice)[0]
        for choice in every_choice(options)
        if all(size <= most for size, most in zip(totals(options, choice)[1], limits, strict=True))
    ]
    if not fitting:
        with pytest.raises(NoFit):
            cheapest(options, limits)
        return
    loss, sizes = totals(options, cheapest(options, limits))
    assert sizes[0] <= limits[0] and sizes[1] <= limits[1]
    assert loss == pytest.approx(min(fitting), rel=1e-5, abs=1e-6)


@given(MIXES, st.floats(0, 6))
def test_fewest_bytes_within_a_loss(options, loss):
    fitting = [
        sum(found[1]) for choice in every_choice(options) if (found := totals(options, choice))[0] <= loss
    ]
    if not fitting:
        with pytest.raises(NoFit):
            smallest(options, loss)
        return
    found, sizes = totals(options, smallest(options, loss))
    assert found <= loss + 1e-6
    assert sum(sizes) <= min(fitting) * (1 + 1e-6) + 1
