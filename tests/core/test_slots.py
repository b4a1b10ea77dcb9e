"""A slot's holder has a thread that the quick requests do not lose."""

import threading

from anyio import create_task_group, run, sleep, to_thread

from app.slots import Slots


def test_whoever_holds_a_slot_is_not_counted_among_the_servers_threads() -> None:
    slots, done = Slots(most=2, most_per_project=2), threading.Event()

    def slow() -> None:
        with slots.taken("a"):
            assert done.wait(30)

    async def serve() -> None:
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        async with create_task_group() as group:
            group.start_soon(to_thread.run_sync, slow)
            group.start_soon(to_thread.run_sync, slow)
            while limiter.total_tokens < 3:
                await sleep(0.001)
            await to_thread.run_sync(done.set)  # the one thread there is
        assert limiter.total_tokens == 1

    run(serve)
