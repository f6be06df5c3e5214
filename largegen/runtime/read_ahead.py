"""Reading by threads, ahead of use and in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Yield `read(item)` of each item, in order, while threads read the next ones.

    An error of `read` is raised at its item's turn. Whoever stops early closes the generator (`contextlib.closing`),
    so that what was not begun is not read.

    Args:
        read: What the threads call.
        items: What to read; taken one by one, as there is room.
        workers: Threads; 0 or less reads in the caller's own, without looking ahead.
        ahead: Results that are kept at most, beside the one in use.
    """
    if workers < 1:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
