"""Who is answered next: properties of the queue, for any class and any order of events."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, strategies as st

from magistral_nb.sharing.fair_queue import FairQueue

STUDENTS = st.sampled_from(["ada", "ben", "cleo", "dan"])
# What may happen: somebody joins, one of those who are there leaves, tokens arrive, time passes.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), STUDENTS, st.integers(1, 3)),
        st.tuples(st.just("leave"), st.integers(0, 30), st.none()),
        st.tuples(st.just("charge"), STUDENTS, st.integers(1, 5000)),
        st.tuples(st.just("wait"), st.integers(1, 2000), st.none()),
    ),
    max_size=60,
)


def played(queue, steps):
    """Play these steps; yields the time and what was admitted after each."""
    now, there = 0.0, []
    for kind, first, second in steps:
        if kind == "join":
            there.append(queue.join(first, min(second, queue.per_student)))
        elif kind == "leave" and there:
            queue.leave(there.pop(first % len(there)))
        elif kind == "charge":
            queue.charge(first, second, now)
        elif kind == "wait":
            now += first
        before = queue.order(now)
        yield now, there, before, queue.admit(now)


@given(steps=STEPS, seats=st.integers(1, 6), per_student=st.integers(1, 4))
def test_no_more_run_than_there_are_seats_nor_more_of_one_student_than_one_may_have(steps, seats, per_student):
    queue = FairQueue(seats=seats, per_student=per_student)
    for _, there, _, _ in played(queue, steps):
        taken = Counter()
        for turn in there:
            taken[turn.student] += turn.seats * turn.admitted
        assert taken.total() == queue.running <= seats
        assert all(number <= queue.per_student for number in taken.values())
        assert queue.waiting == sum(not turn.admitted for turn in there)


@given(steps=STEPS, seats=st.integers(1, 6), per_student=st.integers(1, 4))
def test_no_seat_stays_empty_while_somebody_may_take_it(steps, seats, per_student):
    queue = FairQueue(seats=seats, per_student=per_student)
    for now, there, _, _ in played(queue, steps):
        taken = Counter({turn.student: 0 for turn in there})
        for turn in there:
            taken[turn.student] += turn.seats * turn.admitted
        may = [turn for turn in queue.order(now) if taken[turn.student] + turn.seats <= queue.per_student]
        first_of = {}
        for turn in queue.order(now):
            first_of.setdefault(turn.student, turn)
        may = [turn for turn in may if first_of[turn.student] is turn]
        assert not may or queue.running + may[0].seats > seats


@given(steps=STEPS, seats=st.integers(1, 6))
def test_whoever_is_admitted_had_least_of_those_who_could_be(steps, seats):
    queue = FairQueue(seats=seats, per_student=seats)
    for _, _, before, admitted in played(queue, steps):
        assert admitted == before[: len(admitted)]


@given(costs=st.lists(st.integers(1, 4000), min_size=60, max_size=80), eager=st.integers(1, 8))
def test_who_asks_more_often_gets_no_more(costs, eager):
    """ben always has `eager` requests waiting, ada one; after each answer the seat goes to whoever has had less."""
    queue, had = FairQueue(seats=1, per_student=1), Counter()
    for student, number in (("ben", eager), ("ada", 1)):
        for _ in range(number):
            queue.join(student, 1)
    for cost in costs:
        [turn] = queue.admit(now=0.0)
        queue.charge(turn.student, cost, now=0.0)
        had[turn.student] += cost + 1  # the seat counts as well
        queue.leave(turn)
        queue.join(turn.student, 1)
    assert abs(had["ada"] - had["ben"]) <= max(costs) + 1


@given(st.lists(st.tuples(STUDENTS, st.integers(1, 2), st.integers(0, 3000)), min_size=1, max_size=40))
def test_everybody_gets_a_turn(asked):
    queue = FairQueue(seats=2, per_student=2)
    costs = {queue.join(student, seats): cost for student, seats, cost in asked}
    waiting, rounds = set(costs), 0
    while waiting:
        admitted = queue.admit(now=float(rounds))
        assert admitted
        for turn in admitted:
            queue.charge(turn.student, costs[turn], now=float(rounds))
            queue.leave(turn)
        waiting -= set(admitted)
        rounds += 1
    assert (queue.running, queue.waiting) == (0, 0)


def test_a_second_request_waits_behind_everybody_elses_first():
    queue = FairQueue(seats=2, per_student=2)
    first, second, third = (queue.join("ada", 1) for _ in range(3))
    assert queue.admit(0.0) == [first, second]
    ben = queue.join("ben", 1)
    assert queue.order(0.0) == [ben, third]
    queue.leave(second)
    assert queue.admit(0.0) == [ben]


def test_who_needs_two_seats_is_not_passed_over_for_ever():
    queue = FairQueue(seats=2, per_student=2)
    ada = queue.join("ada", 1)
    queue.admit(0.0)
    ben, cleo = queue.join("ben", 2), queue.join("cleo", 1)
    queue.charge("cleo", 100, 0.0)
    assert queue.admit(0.0) == [], "one seat is free, and kept for ben"
    queue.leave(ada)
    assert queue.admit(0.0) == [ben]
    queue.leave(ben)
    assert queue.admit(0.0) == [cleo]


def test_a_long_thought_is_forgotten_after_an_hour():
    queue = FairQueue(seats=1, per_student=1)
    queue.charge("ada", 8000, 0.0)
    assert queue.had("ada", 600.0) == 4000
    assert queue.had("ada", 3600.0) < 130
    assert queue.had("nobody", 0.0) == 0


def test_with_fewer_seats_nobody_waits_for_more_than_there_are():
    queue = FairQueue(seats=4, per_student=2)
    held = queue.join("ada", 2)
    queue.admit(0.0)
    waits = queue.join("ben", 2)
    queue.resize(1)
    assert (queue.admit(0.0), queue.running, queue.per_student) == ([], 2, 1), "who sits, stays"
    queue.leave(held)
    assert queue.admit(0.0) == [waits]
    queue.resize(4)
    assert queue.join("cleo", 3).seats == 2
