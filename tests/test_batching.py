"""The batcher: many sessions, one model."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stt_core.batching import UPLOAD_PATIENCE_S, Batcher, Job, Priority
from stt_core.errors import ModelError, Overloaded

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Model:
    """Doubles numbers. While `may_run` is cleared it is busy; some numbers are poison."""

    def __init__(self, poison: Sequence[int] = ()) -> None:
        self.poison = poison
        self.batches: list[list[int]] = []
        self.may_run = threading.Event()
        self.may_run.set()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        assert self.may_run.wait(timeout=10)
        for number in numbers:
            if number in self.poison:
                raise ValueError(f"{number} is poison")
        return [2 * number for number in numbers]

    async def is_running(self, batches: int) -> None:
        """Wait until this many batches have begun."""
        with anyio.fail_after(10):
            while len(self.batches) < batches:
                await anyio.sleep(0.001)


@asynccontextmanager
async def serving(batcher: Batcher[int, int], model: Model) -> AsyncIterator[None]:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.serve)
            try:
                yield
            finally:
                model.may_run.set()
                group.cancel_scope.cancel()


async def all_wait(batcher: Batcher[int, int], numbers: Sequence[int]) -> "list[asyncio.Task[int]]":
    """A task for each number, all in the queue."""
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await anyio.wait_all_tasks_blocked()
    return tasks


async def outcome(task: "asyncio.Task[int]") -> int | str:
    try:
        return await task
    except ValueError as error:
        return str(error)


async def test_each_request_gets_its_own_result() -> None:
    model = Model()
    batcher = Batcher(model, max_batch_size=3)
    async with serving(batcher, model):
        tasks = await all_wait(batcher, range(10))
        assert [2 * number for number in range(10)] == [await task for task in tasks]


async def test_what_queues_up_while_the_model_is_busy_becomes_the_next_batch() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, max_batch_size=8)
    async with serving(batcher, model):
        first = asyncio.create_task(batcher.submit(1))
        await model.is_running(1)
        others = await all_wait(batcher, [2, 3, 4])
        model.may_run.set()
        assert [2, 4, 6, 8] == [await task for task in [first, *others]]
    assert [[1], [2, 3, 4]] == model.batches


async def test_a_batch_is_never_larger_than_its_limit() -> None:
    model = Model()
    batcher = Batcher(model, max_batch_size=4)
    tasks = await all_wait(batcher, range(10))
    async with serving(batcher, model):
        await asyncio.gather(*tasks)
    assert [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] == model.batches


async def test_workers_share_what_waits() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, workers=2, max_batch_size=8)
    tasks = await all_wait(batcher, [1, 2, 3, 4])
    async with serving(batcher, model):
        await model.is_running(2)
        model.may_run.set()
        await asyncio.gather(*tasks)
    assert {1, 2, 3, 4} == {number for batch in model.batches for number in batch}
    assert [1, 1, 2] == sorted(map(len, model.batches))


async def test_no_more_batches_run_at_once_than_there_are_workers() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, workers=2, max_batch_size=1)
    tasks = await all_wait(batcher, range(5))
    async with serving(batcher, model):
        await model.is_running(2)
        await anyio.wait_all_tasks_blocked()
        assert 2 == len(model.batches)
        model.may_run.set()
        await asyncio.gather(*tasks)


async def test_a_cancelled_request_never_runs() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, max_batch_size=1)
    async with serving(batcher, model):
        first, gone, last = await all_wait(batcher, [1, 2, 3])
        await model.is_running(1)
        gone.cancel()
        model.may_run.set()
        assert [2, 6] == [await first, await last]
        assert gone.cancelled()
    assert [[1], [3]] == model.batches


async def test_a_request_that_is_cancelled_while_it_runs_harms_nobody() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model)
    async with serving(batcher, model):
        gone, other = await all_wait(batcher, [1, 2])
        await model.is_running(1)
        gone.cancel()
        model.may_run.set()
        assert 4 == await other
        assert 6 == await batcher.submit(3)


async def test_a_failing_batch_fails_only_the_poisonous_request() -> None:
    model = Model(poison=[2])
    batcher = Batcher(model)
    tasks = await all_wait(batcher, [1, 2, 3])
    async with serving(batcher, model):
        assert [2, "2 is poison", 6] == [await outcome(task) for task in tasks]
        assert 8 == await batcher.submit(4)
    assert [[1, 2, 3], [1], [2], [3], [4]] == model.batches


async def test_a_poisonous_request_alone_is_not_tried_again() -> None:
    model = Model(poison=[2])
    batcher = Batcher(model)
    async with serving(batcher, model):
        with pytest.raises(ValueError, match="2 is poison"):
            await batcher.submit(2)
    assert [[2]] == model.batches


async def test_a_request_that_is_cancelled_before_its_retry_never_runs_again() -> None:
    model = Model(poison=[1])
    model.may_run.clear()
    batcher = Batcher(model)
    tasks = await all_wait(batcher, [1, 2, 3])
    async with serving(batcher, model):
        await model.is_running(1)
        tasks[1].cancel()
        model.may_run.set()
        assert ["1 is poison", 6] == [await outcome(tasks[0]), await outcome(tasks[2])]
    assert [[1, 2, 3], [1], [3]] == model.batches


async def test_a_model_that_loses_a_result_fails_its_requests_and_not_the_loop() -> None:
    model = Model()

    def loses_zero(numbers: Sequence[int]) -> list[int]:
        return [result for result in model(numbers) if result]

    batcher = Batcher(loses_zero)
    tasks = await all_wait(batcher, [0, 1])
    async with serving(batcher, model):
        with pytest.raises(ValueError):
            await tasks[0]
        assert 2 == await tasks[1]


async def test_a_full_queue_refuses_the_next_request() -> None:
    model = Model()
    batcher = Batcher(model, max_waiting=2)
    tasks = await all_wait(batcher, [1, 2])
    with pytest.raises(Overloaded, match="2 utterances are waiting"):
        await batcher.submit(3)
    async with serving(batcher, model):
        assert [2, 4] == [await task for task in tasks]
        assert 6 == await batcher.submit(3)


async def test_cancelled_requests_leave_room_in_the_queue() -> None:
    model = Model()
    batcher = Batcher(model, max_waiting=2)
    first, gone = await all_wait(batcher, [1, 2])
    gone.cancel()
    await anyio.wait_all_tasks_blocked()
    [third] = await all_wait(batcher, [3])
    async with serving(batcher, model):
        assert [2, 6] == [await first, await third]


async def test_fail_answers_what_waits_and_what_comes_later() -> None:
    batcher = Batcher(Model())
    tasks = await all_wait(batcher, [1, 2])
    batcher.fail(ModelError("There is no model."))
    for submission in [*tasks, batcher.submit(3)]:
        with pytest.raises(ModelError, match="There is no model"), anyio.fail_after(10):
            await submission


@pytest.mark.parametrize("is_busy", [False, True])
async def test_serve_ends_with_its_cancellation_and_leaves_no_task(is_busy: bool) -> None:
    model = Model()
    batcher = Batcher(model, workers=3)
    before = asyncio.all_tasks()
    serve = asyncio.create_task(batcher.serve())
    await anyio.wait_all_tasks_blocked()
    if is_busy:
        model.may_run.clear()
        [request] = await all_wait(batcher, [1])
        await model.is_running(1)
        request.cancel()
    serve.cancel()
    model.may_run.set()
    with anyio.fail_after(10), pytest.raises(asyncio.CancelledError):
        await serve
    await anyio.wait_all_tasks_blocked()
    assert before == asyncio.all_tasks()


# ---- who goes first ----------------------------------------------------------------------------------------


async def order_of(batcher: Batcher[int, int], model: Model, jobs: "Sequence[Job[int, int]]") -> list[list[int]]:
    """The batches that these waiting jobs become."""
    async with serving(batcher, model):
        for job in jobs:
            with suppress(asyncio.CancelledError):
                await job.result()
    return model.batches


async def test_finals_go_before_guesses_and_guesses_before_partials() -> None:
    model = Model()
    batcher = Batcher(model)
    kinds = [Priority.PARTIAL, Priority.SPECULATIVE, Priority.FINAL]
    jobs = [batcher.enqueue(number, session=number, priority=kind) for number, kind in enumerate(kinds)]

    assert [[2], [1], [0]] == await order_of(batcher, model, jobs)


@pytest.mark.parametrize(
    ("waited_s", "batches"), [(0.0, [[0], [4], [3], [2], [1]]), (UPLOAD_PATIENCE_S + 1, [[0], [4], [1], [3], [2]])]
)
async def test_a_file_goes_after_everybody_but_not_for_ever(waited_s: float, batches: list[list[int]]) -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model)
    async with serving(batcher, model):
        batcher.enqueue(0)
        await model.is_running(1)
        kinds = [Priority.UPLOAD, Priority.PARTIAL, Priority.SPECULATIVE, Priority.FINAL]
        jobs = [batcher.enqueue(number, session=number, priority=kind) for number, kind in enumerate(kinds, 1)]
        jobs[0].since_s -= waited_s
        model.may_run.set()
        for job in jobs:
            await job.result()

    assert batches == model.batches


async def test_a_promoted_guess_is_a_final() -> None:
    model = Model()
    batcher = Batcher(model)
    guesses = [batcher.enqueue(number, priority=Priority.SPECULATIVE) for number in range(3)]
    guesses[1].promote()

    assert [[1], [0, 2]] == await order_of(batcher, model, guesses)


async def test_sessions_take_turns() -> None:
    model = Model()
    batcher = Batcher(model, max_batch_size=1)
    jobs = [batcher.enqueue(number, session="greedy") for number in range(3)]
    jobs += [batcher.enqueue(10, session="modest")]

    assert [[0], [10], [1], [2]] == await order_of(batcher, model, jobs)


async def test_a_session_has_one_partial_waiting_the_latest() -> None:
    model = Model()
    batcher = Batcher(model)
    jobs = [batcher.enqueue(number, session="a", priority=Priority.PARTIAL) for number in range(3)]
    jobs += [batcher.enqueue(10, session="b", priority=Priority.PARTIAL)]

    assert [[2, 10]] == await order_of(batcher, model, jobs)


async def test_a_withdrawn_request_never_runs() -> None:
    model = Model()
    batcher = Batcher(model)
    jobs = [batcher.enqueue(number) for number in range(2)]
    jobs[0].withdraw()

    assert [[1]] == await order_of(batcher, model, jobs)


async def test_who_waited_too_long_is_told_so() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, max_wait_s=1000.0, max_batch_size=1)
    async with serving(batcher, model):
        running = batcher.enqueue(1)
        await model.is_running(1)
        late = batcher.enqueue(2)
        late.since_s -= 1001
        model.may_run.set()
        assert 2 == await running.result()
        with pytest.raises(Overloaded, match="no answer within"):
            await late.result()


async def test_the_expected_wait_is_known_and_bounded() -> None:
    model = Model()
    batcher = Batcher(model, max_wait_s=1000.0)
    async with serving(batcher, model):
        assert 0.0 == batcher.expected_wait_s(0)
        assert not batcher.players_need_all
        await batcher.submit(1)
        batcher._cost_s = 400.0  # as if that had been slow
        model.may_run.clear()
        jobs = [batcher.enqueue(number) for number in range(2, 5)]
        assert [400, 1200] == pytest.approx([batcher.expected_wait_s(turn) for turn in (0, 3)])
        assert batcher.players_need_all
        with pytest.raises(Overloaded, match="the wait is over 1000 s"):
            batcher.enqueue(5)
        model.may_run.set()
        assert [4, 6, 8] == [await job.result() for job in jobs]


@given(
    st.lists(
        st.tuples(st.sampled_from(Priority), st.integers(0, 3), st.booleans()),
        max_size=30,
    ),
    st.integers(1, 3),
    st.integers(1, 4),
)
@settings(max_examples=30)
def test_everything_that_is_not_withdrawn_is_answered_once(
    requests: list[tuple[Priority, int, bool]], workers: int, max_batch_size: int
) -> None:
    async def run() -> None:
        model = Model()
        batcher = Batcher(model, workers=workers, max_batch_size=max_batch_size)
        jobs = [
            batcher.enqueue(number, session=session, priority=priority)
            for number, (priority, session, _) in enumerate(requests)
        ]
        for job, (_, _, withdrawn) in zip(jobs, requests, strict=True):
            if withdrawn:
                job.withdraw()
        wanted = [job for job in jobs if not job.future.done()]
        async with serving(batcher, model):
            assert [2 * job.request for job in wanted] == [await job.result() for job in wanted]
        ran = [number for batch in model.batches for number in batch]
        assert sorted(job.request for job in wanted) == sorted(ran)
        assert all(len(batch) <= max_batch_size for batch in model.batches)

    anyio.run(run)


async def test_a_batch_holds_only_so_much_work_but_always_something() -> None:
    model = Model()
    batcher = Batcher(model, size=float, max_batch_work=10)
    jobs = [batcher.enqueue(number, session=number) for number in (4, 5, 6, 50, 1)]

    assert [[4, 5], [6], [50], [1]] == await order_of(batcher, model, jobs)


async def test_long_requests_do_not_make_short_ones_look_slow() -> None:
    model = Model()
    batcher = Batcher(model, size=float, max_wait_s=1000.0)
    async with serving(batcher, model):
        batcher._cost_s = 100.0  # for a unit of work
        model.may_run.clear()
        running = batcher.enqueue(100)  # ten thousand seconds of it
        await model.is_running(1)
        jobs = [batcher.enqueue(1) for _ in range(5)]
        assert 500 == pytest.approx(batcher.expected_wait_s(5))
        model.may_run.set()
        assert 200 == await running.result()
        assert [2] * 5 == [await job.result() for job in jobs]


# ---- hurry


def hurrying(model: Model, cost_s: float) -> Batcher[int, int]:
    """A batcher that believes in this cost and makes 1,000 times as much of what it hurries."""
    batcher = Batcher(
        model, max_batch_size=2, max_wait_s=1000.0, hurry=lambda number: 1000 * number, hurry_after_s=60.0
    )
    batcher._cost_s = cost_s
    return batcher


async def test_finals_that_would_wait_long_are_hurried() -> None:
    model = Model()
    batcher = hurrying(model, cost_s=18.0)
    async with serving(batcher, model):
        model.may_run.clear()
        first = await all_wait(batcher, [1])
        await model.is_running(1)
        later = await all_wait(batcher, range(2, 8))
        model.may_run.set()
        results = await asyncio.gather(*first, *later)

    assert [[1], [2000, 3000]] == model.batches[:2]
    assert 2 == results[0] and 4000 == results[1]


async def test_finals_that_need_not_wait_long_are_not_hurried() -> None:
    model = Model()
    batcher = hurrying(model, cost_s=0.6)
    async with serving(batcher, model):
        model.may_run.clear()
        first = await all_wait(batcher, [1])
        await model.is_running(1)
        later = await all_wait(batcher, range(2, 6))
        model.may_run.set()
        await asyncio.gather(*first, *later)

    assert [[1], [2, 3], [4, 5]] == model.batches


async def test_a_final_by_itself_is_never_hurried_however_long_it_is() -> None:
    model = Model()
    batcher = hurrying(model, cost_s=100.0)
    async with serving(batcher, model):
        assert 14 == await batcher.submit(7)

    assert [[7]] == model.batches


@pytest.mark.parametrize(
    ("priority", "running"),
    [(Priority.FINAL, 2), (Priority.SPECULATIVE, 2), (Priority.PARTIAL, 1), (Priority.UPLOAD, 1)],
)
async def test_one_worker_is_kept_free_of_what_nobody_waits_for(priority: Priority, running: int) -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, workers=2, max_batch_size=1)
    jobs = [batcher.enqueue(number, session=number, priority=priority) for number in range(4)]
    async with serving(batcher, model):
        await model.is_running(running)
        await anyio.wait_all_tasks_blocked()
        assert running == len(model.batches)
        final = batcher.enqueue(9)
        model.may_run.set()
        assert 18 == await final.result()
        assert [0, 2, 4, 6] == [await job.result() for job in jobs]


async def test_a_guess_leaves_the_worker_free_that_partials_may_take() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, workers=2, max_batch_size=1)
    guess = batcher.enqueue(1, priority=Priority.SPECULATIVE)
    async with serving(batcher, model):
        await model.is_running(1)
        partial = batcher.enqueue(2, priority=Priority.PARTIAL)
        await model.is_running(2)
        model.may_run.set()
        assert [2, 4] == [await guess.result(), await partial.result()]


async def test_files_never_take_all_workers_however_long_they_have_waited() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, workers=2, max_batch_size=1)
    files = [batcher.enqueue(number, session=number, priority=Priority.UPLOAD) for number in (1, 2)]
    async with serving(batcher, model):
        await model.is_running(1)
        files[1].since_s -= UPLOAD_PATIENCE_S + 1
        guess = batcher.enqueue(3, priority=Priority.SPECULATIVE)
        await model.is_running(2)
        assert [[1], [3]] == model.batches
        model.may_run.set()
        assert [2, 4, 6] == [await job.result() for job in (*files, guess)]


@pytest.mark.parametrize(
    ("priority", "wait"), [(Priority.FINAL, True), (Priority.SPECULATIVE, True), (Priority.PARTIAL, False)]
)
async def test_players_need_all_where_a_worker_is_wanting(priority: Priority, wait: bool) -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model)
    async with serving(batcher, model):
        running = batcher.enqueue(1)
        await model.is_running(1)
        assert not batcher.players_need_all
        waiting = batcher.enqueue(2, session=2, priority=priority)
        assert wait == batcher.players_need_all
        waiting.withdraw()
        assert not batcher.players_need_all
        model.may_run.set()
        assert 2 == await running.result()


async def test_players_need_all_where_they_have_all_of_several_workers() -> None:
    model = Model()
    model.may_run.clear()
    batcher = Batcher(model, workers=2)
    async with serving(batcher, model):
        first = batcher.enqueue(1)
        await model.is_running(1)
        assert not batcher.players_need_all
        second = batcher.enqueue(2, session=2, priority=Priority.SPECULATIVE)
        await model.is_running(2)
        assert batcher.players_need_all
        model.may_run.set()
        assert [2, 4] == [await job.result() for job in (first, second)]
        await anyio.wait_all_tasks_blocked()
        assert not batcher.players_need_all


async def test_who_has_waited_long_is_hurried_even_alone() -> None:
    model = Model()
    batcher = hurrying(model, cost_s=0.6)
    async with serving(batcher, model):
        model.may_run.clear()
        first = batcher.enqueue(1)
        await model.is_running(1)
        second = batcher.enqueue(2)
        second.since_s -= 61
        model.may_run.set()
        assert [2, 4000] == [await first.result(), await second.result()]


@pytest.mark.parametrize(
    ("priority", "batches"),
    [
        (Priority.SPECULATIVE, [[1], [2000, 3000], [4, 5], [6, 7]]),
        (Priority.PARTIAL, [[1], [2, 3], [4, 5], [6, 7]]),
        (Priority.UPLOAD, [[1], [2, 3], [4, 5], [6, 7]]),
    ],
)
async def test_guesses_are_hurried_like_the_finals_that_they_become(
    priority: Priority, batches: list[list[int]]
) -> None:
    model = Model()
    batcher = hurrying(model, cost_s=18.0)
    async with serving(batcher, model):
        model.may_run.clear()
        first = await all_wait(batcher, [1])
        await model.is_running(1)
        guesses = [batcher.enqueue(n, session=n, priority=priority) for n in range(2, 8)]
        model.may_run.set()
        await asyncio.gather(*first, *(guess.result() for guess in guesses))

    assert batches == model.batches


async def test_a_session_with_much_to_say_makes_nobody_else_wait_beyond_the_limit() -> None:
    batcher: Batcher[int, int] = Batcher(lambda numbers: list(numbers), size=float, max_wait_s=30.0)
    batcher._cost_s = 0.1
    for _ in range(6):
        batcher.enqueue(60, session="long")
    with pytest.raises(Overloaded):
        batcher.enqueue(60, session="long")

    assert 0 == batcher.enqueue(1, session="short").turn


async def test_a_crowd_makes_everybody_wait() -> None:
    batcher: Batcher[int, int] = Batcher(lambda numbers: list(numbers), size=float, max_wait_s=30.0)
    batcher._cost_s = 0.1
    for session in range(6):
        batcher.enqueue(60, session=session)

    with pytest.raises(Overloaded):
        batcher.enqueue(1, session="one more")
