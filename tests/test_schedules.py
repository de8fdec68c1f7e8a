from __future__ import annotations

import math
from itertools import pairwise

import pytest

from minidl.errors import ParameterError
from minidl.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    CosLog4,
    ExponentialDecay,
    LinearDecay,
    OneCycle,
    Schedule,
    StepDecay,
)

TOTAL, PER_EPOCH = 400, 10  # 40 epochs


def factors(schedule: Schedule, total: int = TOTAL) -> list[float]:
    return [schedule.factor(step, total, PER_EPOCH) for step in range(total)]


@pytest.mark.parametrize("make", SCHEDULES.values())
def test_factors_are_between_zero_and_one_and_no_step_is_wasted(make):
    for schedule in (make(),) if make.begins_low else (make(), make(warmup=2.5)):
        for total in (1, 2, 7, TOTAL):
            assert all(0 < factor <= 1 for factor in factors(schedule, total))


@pytest.mark.parametrize("make", SCHEDULES.values())
def test_a_longer_run_begins_alike_just_where_a_schedule_says_so(make):
    schedule = make() if make.begins_low else make(warmup=1)
    alike = factors(schedule, TOTAL) == factors(schedule, 2 * TOTAL)[:TOTAL]
    assert alike is not schedule.depends_on_total


@pytest.mark.parametrize("make", [one for one in SCHEDULES.values() if not one.begins_low])
def test_warmup_rises_to_one_and_the_schedule_starts_after_it(make):
    warm, plain = make(warmup=2.5), make()
    ramp, rest = factors(warm)[:25], factors(warm)[25:]
    assert ramp == pytest.approx([(i + 1) / 25 for i in range(25)])
    assert rest == pytest.approx(factors(plain, TOTAL - 25))


@pytest.mark.parametrize("make", SCHEDULES.values())
def test_a_warmup_never_makes_the_rate_rise_twice(make):
    """Rising to 1, falling to 0 and rising again is what nobody wants from a warmup."""
    first, *rest = factors(make())[: TOTAL // 5]
    assert make.begins_low is (first < 0.1 and max(rest) > 0.9)
    if make.begins_low:
        with pytest.raises(ParameterError, match=r"^warmup must be 0 for .*, got 2$") as caught:
            make(warmup=2)
        assert caught.value.parameter == "warmup"


def test_a_run_shorter_than_its_warmup_only_warms_up():
    assert factors(Cosine(warmup=4), 20) == pytest.approx([(i + 1) / 40 for i in range(20)])


def test_constant():
    assert set(factors(Constant())) == {1.0}


def test_step_goes_down_after_every_so_many_epochs():
    found = factors(StepDecay(every=15, gamma=0.5))
    assert found == [1.0] * 150 + [0.5] * 150 + [0.25] * 100


def test_exponential_goes_down_by_gamma_an_epoch():
    found = factors(ExponentialDecay(gamma=0.9))
    assert found[0] == 1
    for early, late in zip(found, found[PER_EPOCH:], strict=False):
        assert late == pytest.approx(0.9 * early)
    assert found[5] == pytest.approx(math.sqrt(0.9))


def test_linear_ends_at_final_along_a_line():
    found = factors(LinearDecay(final=0.2))
    steps = {round(a - b, 12) for a, b in pairwise(found)}
    assert steps == {round(0.8 / TOTAL, 12)}
    assert found[-1] - steps.pop() / 2 == pytest.approx(0.2)


def test_cosine_is_half_a_wave_to_final():
    found = factors(Cosine(final=0.1))
    middles = [(step + 0.5) / TOTAL for step in range(TOTAL)]
    assert found == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi * t)) for t in middles])


def test_one_cycle_is_a_triangle_with_its_peak_where_asked():
    found = factors(OneCycle(peak=0.25))
    assert found[:100] == pytest.approx([(i + 0.5) / 100 for i in range(100)])
    assert found[100:] == pytest.approx([(299.5 - i) / 300 for i in range(300)])


def test_coslog4_has_four_cycles_each_twice_as_long():
    found = [CosLog4().factor(step, 15000, 1) for step in range(15000)]
    lows = [0, 1000, 3000, 7000, 14999]
    assert all(found[low] < 1e-4 for low in lows)
    peaks = [
        i for i in range(1, 14999) if found[i - 1] < found[i] >= found[i + 1]
    ]  # where log2(1 + 15 t) is 0.5, 1.5, 2.5, 3.5
    assert peaks == pytest.approx([1000 * (2 ** (k + 0.5) - 1) for k in range(4)], abs=1)
    two = [CosLog4(cycles=2).factor(step, 3000, 1) for step in range(3000)]
    assert two == pytest.approx(found[:3000])


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Constant, {"warmup": -1.0}),
        (Constant, {"warmup": math.inf}),
        (StepDecay, {"every": 0}),
        (StepDecay, {"gamma": 0.0}),
        (ExponentialDecay, {"gamma": 1.5}),
        (LinearDecay, {"final": -0.1}),
        (Cosine, {"final": 1.1}),
        (OneCycle, {"peak": 0.0}),
        (OneCycle, {"peak": 1.0}),
        (CosLog4, {"cycles": 0}),
        (Cosine, {"warmup": math.nan}),
    ],
)
def test_bad_arguments_are_named(make, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make(**options)
