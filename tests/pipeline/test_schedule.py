"""Which steps run at once, and what never does."""

from pipeline.schedule import NUM_CLIENTS, Schedule
from pipeline.step import Service, Step
from tests.pipeline.toy import add, ask, count, number, server

SCORING = {"count"}


def model(value: int) -> Step:
    return Step("number", number.Config(value=value), name=f"model {value}")


def client(served: Step, question: str, before: Step | None = None) -> Step:
    service = Service("server", server.Config(), {"model": served})
    return Step(
        "ask", ask.Config(question=question), {"model": served, "before": before}, name=question, service=service
    )


def score(answers: Step) -> Step:
    return Step("count", count.Config(), {"answers": answers}, name=f"score of {answers.name}")


def total(*numbers: Step) -> Step:
    return Step("add", add.Config(), {"numbers": {step.name: step for step in numbers}}, name="total")


def taken(schedule: Schedule) -> list[str]:
    return [step.name for step in schedule.take()]


def finish(schedule: Schedule, *names: str) -> None:
    for step in [step for step in schedule.running if step.name in names]:
        schedule.finish(step)


def test_clients_of_one_server_run_side_by_side_up_to_a_number():
    base = model(1)
    schedule = Schedule([client(base, f"q{index}") for index in range(NUM_CLIENTS + 2)])
    assert taken(schedule) == ["q0", "q1", "q2", "q3"]
    assert taken(schedule) == []
    finish(schedule, "q2")
    assert taken(schedule) == ["q4"]


def test_a_client_waits_for_what_it_reads_and_later_ones_do_not():
    base = model(1)
    first = client(base, "first")
    schedule = Schedule([first, client(base, "judge", before=first), client(base, "other")])
    assert taken(schedule) == ["first", "other"]
    finish(schedule, "first")
    assert taken(schedule) == ["judge"]


def test_two_servers_never_serve_at_once_and_nothing_overtakes_the_second():
    one, two = model(1), model(2)
    schedule = Schedule([client(one, "a"), client(one, "b"), client(two, "c"), client(one, "d")])
    assert taken(schedule) == ["a", "b"]
    finish(schedule, "a")
    assert taken(schedule) == []
    finish(schedule, "b")
    assert taken(schedule) == ["c"]
    finish(schedule, "c")
    assert taken(schedule) == ["d"]
    finish(schedule, "d")
    assert schedule.is_finished


def test_what_asks_no_server_runs_alone_in_its_turn():
    one, two = model(1), model(2)
    schedule = Schedule([one, two, client(one, "a"), total(one, two), client(one, "b")])
    for names in (["model 1"], ["model 2"], ["a"], ["total"], ["b"]):
        assert taken(schedule) == names
        assert taken(schedule) == []
        finish(schedule, *names)
    assert schedule.is_finished


def test_one_scoring_step_goes_on_beside_clients_and_into_the_next_servers_time():
    one, two = model(1), model(2)
    a, b = client(one, "a"), client(one, "b")
    schedule = Schedule([a, b, score(a), score(b), client(two, "c"), total(a)], SCORING)
    assert taken(schedule) == ["a", "b"]
    finish(schedule, "a")
    assert taken(schedule) == ["score of a"]
    finish(schedule, "b")
    assert taken(schedule) == ["c"]
    finish(schedule, "score of a")
    assert taken(schedule) == ["score of b"]
    finish(schedule, "c")
    assert taken(schedule) == []
    finish(schedule, "score of b")
    assert taken(schedule) == ["total"]


def test_without_room_beside_a_server_scoring_runs_alone():
    base = model(1)
    a, b = client(base, "a"), client(base, "b")
    schedule = Schedule([a, b, score(a), score(b)])
    assert taken(schedule) == ["a", "b"]
    finish(schedule, "a")
    assert taken(schedule) == []
    finish(schedule, "b")
    assert taken(schedule) == ["score of a"]


def test_stopped_clients_run_again_in_their_order():
    base = model(1)
    schedule = Schedule([client(base, f"q{index}") for index in range(NUM_CLIENTS + 2)])
    taken(schedule)
    schedule.put_back(schedule.running[1:3])
    assert [step.name for step in schedule.waiting] == ["q1", "q2", "q4", "q5"]
    assert taken(schedule) == ["q1", "q2"]


def test_what_is_neither_planned_nor_sealed_does_not_keep_a_step_waiting():
    assert taken(Schedule([total(model(1))])) == ["total"]
