"""The concurrency controller, on an endpoint that is a model and on whatever else may happen."""

from __future__ import annotations

from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.store.adaptive import START, Adjustment, ConcurrencyController
from tests.unit.store.endpoint_model import EndpointModel

BOUND = 192


def controller() -> ConcurrencyController:
    return ConcurrencyController(bound=BOUND)


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(
    ("knee", "low", "high"), [(8, 4, 12), (48, 40, 56), (100, 65, 115), (500, 150, BOUND)]
)
def test_it_finds_the_knee_and_stays_there(knee: float, low: int, high: int, spread: float) -> None:
    endpoint = EndpointModel(controller(), knee=knee, spread=spread)
    endpoint.run(until=60)
    assert low <= mean(endpoint.between(15, 60)) <= high
    assert len(endpoint.changes) < 30, "it comes to rest"


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_vary_widely_do_not_lead_it_astray(seed: int) -> None:
    endpoint = EndpointModel(controller(), knee=48, spread=1.0, seed=seed)
    endpoint.run(until=60)
    assert 25 <= mean(endpoint.between(15, 60)) <= 80


def test_the_way_up_is_short() -> None:
    endpoint = EndpointModel(controller(), knee=48)
    endpoint.run(until=8)
    assert endpoint.controller.window >= 40


def test_a_storm_halves_it_at_once_and_it_recovers() -> None:
    endpoint = EndpointModel(controller(), knee=48)
    endpoint.run(until=30)
    before = endpoint.controller.window
    endpoint.storm = (30.0, 31.0)
    endpoint.run(until=31)
    (first, halved), (second, _), *_ = [(at, change) for at, change in endpoint.changes if at >= 30]
    assert halved == Adjustment(before, before // 2, "halved: SlowDown")
    assert second > first, "all that were under way then are one cut"
    assert endpoint.controller.window <= before // 8
    endpoint.run(until=50)
    assert endpoint.controller.window >= 36
    endpoint.run(until=120)
    assert 40 <= mean(endpoint.between(60, 120)) <= 56


def test_a_limit_that_refuses_is_kept_below() -> None:
    endpoint = EndpointModel(controller(), knee=500)
    endpoint.refuse_above = 60
    endpoint.run(until=200)
    cuts = [at for at, change in endpoint.changes if "halved" in change.reason]
    assert len([at for at in cuts if at > 20]) < 20, "it does not run into the limit all the time"
    assert 30 <= mean(endpoint.between(20, 200)) <= 61


def test_an_endpoint_that_grows_slower_is_asked_for_less() -> None:
    endpoint = EndpointModel(controller(), knee=100)
    endpoint.run(until=30)
    assert endpoint.controller.window >= 80
    endpoint.knee = 20.0
    endpoint.run(until=90)
    assert endpoint.controller.window <= 32
    reasons = [change.reason for at, change in endpoint.changes if at > 30]
    assert any(reason.startswith("answers take") for reason in reasons)
    assert any("did as well as" in reason for reason in reasons)
    endpoint.knee = 100.0
    endpoint.run(until=200)
    assert endpoint.controller.window >= 80, "and for more again"


def test_a_run_that_has_little_to_send_changes_nothing() -> None:
    endpoint = EndpointModel(controller(), knee=500)
    endpoint.offered = 6
    endpoint.run(until=30)
    assert endpoint.controller.window == START
    assert endpoint.changes == []


def test_a_trial_that_the_run_cannot_fill_is_taken_back() -> None:
    endpoint = EndpointModel(controller(), knee=500)
    endpoint.offered = 20
    endpoint.run(until=30)
    assert endpoint.controller.window == START
    assert endpoint.changes[1][1].reason == "the run has no more to send"
    assert len(endpoint.changes) < 8, "it is not tried again and again"


def test_every_change_says_why() -> None:
    endpoint = EndpointModel(controller(), knee=48)
    endpoint.storm = (20.0, 20.5)
    endpoint.run(until=60)
    window = START
    for _, change in endpoint.changes:
        assert change.before == window != change.after
        assert change.reason
        window = change.after


@given(
    bound=st.integers(1, 300),
    start=st.integers(1, 400),
    data=st.lists(
        st.tuples(
            st.sampled_from(["answer", "answer", "answer", "trouble"]),
            st.floats(0, 2),
            st.floats(0, 5),
            st.integers(0, 10**8),
            st.booleans(),
            st.integers(1, 100),
        ),
        max_size=60,
    ),
)
def test_it_is_never_above_the_bound_nor_below_the_floor(
    bound: int, start: int, data: list[tuple[str, float, float, int, bool, int]]
) -> None:
    floor = min(4, bound)
    tried = ConcurrencyController(bound=bound, floor=floor, start=start)
    assert floor <= tried.window <= bound
    now = 0.0
    for what, passed, latency, size, full, times in data:
        for _ in range(times):
            now += passed
            before = tried.window
            if what == "trouble":
                change = tried.troubled(now=now, began=now - latency, reason="SlowDown")
                assert tried.window in {before, max(floor, before // 2)}
            else:
                change = tried.answered(now=now, began=now - latency, size=size, full=full)
            assert floor <= tried.window <= bound
            assert (
                (change.before, change.after) == (before, tried.window) if change else before == tried.window
            )


def test_a_floor_above_the_bound_is_none() -> None:
    with pytest.raises(ValueError, match="is none"):
        ConcurrencyController(bound=3, floor=4)
