"""Work in processes of its own: answered, or killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any


def in_child(work: Callable[..., object], *arguments: Any) -> str:
    """Run work in a process of its own; returns its answer, or its error's text."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")

    def run() -> None:
        try:
            theirs.send(str(work(*arguments)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the parent
            theirs.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=run)
    child.start()
    theirs.close()
    answer = ours.recv() if ours.poll(60) else "no answer"
    child.join(60)
    return str(answer)


def killed_after(seconds: float, work: Callable[..., object], *arguments: Any) -> list[str]:
    """Run work in a process of its own and kill it; `work` gets a function that says what is done. Returns that."""
    reading, writing = os.pipe()
    context = multiprocessing.get_context("fork")

    def run() -> None:
        os.close(reading)
        work(lambda done: os.write(writing, f"{done}\n".encode()), *arguments)

    child = context.Process(target=run)
    child.start()
    os.close(writing)
    with os.fdopen(reading) as said:
        first = said.readline()  # so that the time is not spent on starting
        child.join(seconds)
        assert child.pid is not None
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        return [line.strip() for line in [first, *said]]
