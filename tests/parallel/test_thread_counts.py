"""Thread counts of libraries that concurrent dubs change."""

from __future__ import annotations

import threading

import torch

from wav2lip_npu.parallel.thread_counts import SharedThreadCount, one_core_each


def test_concurrent_changes_of_a_thread_count_are_undone():
    count = 8

    def write(value: int) -> None:
        nonlocal count
        count = value

    threads = SharedThreadCount(lambda: count, write)
    first, second = threads.borrowed(1), threads.borrowed(1)
    assert first.__enter__() == 8
    assert second.__enter__() == 8
    first.__exit__(None, None, None)
    assert count == 1  # the second one still needs it
    second.__exit__(None, None, None)
    assert count == 8


def test_threads_that_share_cores_restore_the_default_of_new_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    entered = threading.Barrier(2, timeout=60)
    counts: list[int] = []

    def dub(wait: bool) -> None:
        with one_core_each(torch.device("cpu")) as prepare:
            lane = threading.Thread(target=prepare)
            lane.start()
            lane.join()
            entered.wait()
            if wait:
                entered.wait()
        counts.append(torch.get_num_threads())
        if not wait:
            entered.wait()

    try:
        dubs = [threading.Thread(target=dub, args=(wait,)) for wait in (True, False)]
        for thread in dubs:
            thread.start()
        for thread in dubs:
            thread.join()
        fresh = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        fresh.start()
        fresh.join()
        assert counts == [2, 2, 2]
    finally:
        torch.set_num_threads(before)
