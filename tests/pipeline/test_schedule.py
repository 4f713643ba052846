"""Which steps run at once, and what never does."""

from pipeline.schedule import NUM_CLIENTS, Schedule
from pipeline.share import Share
from pipeline.stage import Needs
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


NODE = Share((0, 1, 2, 3), 100, ("GPU-a", "GPU-b"))


def side_by_side(steps: list[Step], max_parallel: int, **needs: Needs) -> Schedule:
    """A schedule on a described machine; a step needs what is said for its name, or one core."""
    return Schedule(steps, (), max_parallel, NODE, lambda step: needs.get(step.name.replace(" ", "_"), Needs()))


def test_independent_steps_run_side_by_side_up_to_a_number():
    schedule = side_by_side([model(value) for value in range(4)], 2)
    assert taken(schedule) == ["model 0", "model 1"]
    assert [schedule.share(step).cores for step in schedule.running] == [(0, 1), (2, 3)]
    assert taken(schedule) == []
    finish(schedule, "model 0")
    assert taken(schedule) == ["model 2"]
    assert schedule.share(schedule.running[-1]).cores == (0, 1)


def test_trainings_get_a_gpu_each_and_smaller_work_goes_on_beside_them():
    steps = [model(value) for value in range(5)]
    gpu = Needs(num_gpus=1)
    schedule = side_by_side(steps, 4, model_0=gpu, model_1=gpu, model_2=gpu, model_3=Needs(memory_bytes=60))
    assert taken(schedule) == ["model 0", "model 1", "model 3", "model 4"]
    assert [schedule.share(step).gpus for step in schedule.running] == [("GPU-a",), ("GPU-b",), (), ()]
    finish(schedule, "model 3", "model 4")
    assert taken(schedule) == []
    finish(schedule, "model 1")
    assert taken(schedule) == ["model 2"]
    assert schedule.share(steps[2]).gpus == ("GPU-b",)


def test_who_needs_the_machine_waits_for_it_and_has_it_alone():
    one, two = model(1), model(2)
    schedule = Schedule([one, two, total(one)], (), 3, NODE, lambda step: None if step is one else Needs())
    assert taken(schedule) == ["model 1"]
    assert taken(schedule) == []
    finish(schedule, "model 1")
    assert taken(schedule) == ["model 2", "total"]


def test_the_only_step_that_can_run_has_the_whole_machine():
    one, two = model(1), model(2)
    schedule = side_by_side([one, total(one), two], 3)
    assert taken(schedule) == ["model 1", "model 2"]
    finish(schedule, "model 1", "model 2")
    assert taken(schedule) == ["total"]
    assert schedule.share(schedule.running[0]) == NODE


def test_a_server_comes_after_what_runs_side_by_side_and_before_what_follows_it():
    one, two = model(1), model(2)
    schedule = side_by_side([one, two, client(one, "a"), client(one, "b"), total(one)], 4)
    assert taken(schedule) == ["model 1", "model 2"]
    finish(schedule, "model 1")
    assert taken(schedule) == []
    finish(schedule, "model 2")
    assert taken(schedule) == ["a", "b"]
    assert schedule.share(schedule.running[0]) == NODE
    finish(schedule, "a")
    assert taken(schedule) == []
    finish(schedule, "b")
    assert taken(schedule) == ["total"]


def test_after_a_failure_nothing_starts_and_what_runs_is_finished():
    one, two = model(1), model(2)
    schedule = side_by_side([one, two, total(one), total(two)], 2)
    taken(schedule)
    schedule.give_up(one)
    assert taken(schedule) == [] and not schedule.is_finished
    schedule.finish(two)
    assert taken(schedule) == [] and schedule.is_finished


def test_a_step_stopped_beside_others_gives_its_share_back():
    schedule = side_by_side([model(1), model(2), model(3)], 2)
    taken(schedule)
    schedule.put_back(schedule.running[:1])
    assert taken(schedule) == ["model 1"]
