"""Several loops in one process take turns, and what they ask of a shared model is answered for all of them at once.

Each loop runs in a thread of its own, but only one of them at a time, and only until it calls a gate: a function that
takes the calls of several loops and answers them together. When every loop waits, the gate with most calls is opened.

    loop a   ── draft ──┐        ┌── draft ──┐
    loop b   ── draft ──┤  gate  ├── verify ─┼─ …        a gate: dict of loop number -> argument, to dict of answers
    loop c   ── draft ──┘        └── draft ──┘
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["Gate", "Turn", "take_turns"]

T = TypeVar("T")
Gate = Callable[[dict[int, Any]], dict[int, Any]]
_END = object()


class _EndedError(BaseException):
    """Another loop failed, or the user has interrupted: not for a loop's own handlers of exceptions."""


class Turn:
    """A loop's view of the others: it calls gates and waits for its answer."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls: SimpleQueue[Any] = SimpleQueue()
        self.answers: SimpleQueue[Any] = SimpleQueue()

    def call(self, gate: Gate, argument: Any) -> Any:
        """Ask a gate; returns when it was opened for this loop and those that asked the same."""
        self.calls.put((gate, argument))
        return self.wait()

    def wait(self) -> Any:
        answer = self.answers.get()
        if answer is _END:
            raise _EndedError
        return answer


class _Loop(Generic[T]):
    """One loop's thread and how it ended."""

    def __init__(self, number: int, body: Callable[[Turn], T]) -> None:
        self.turn = Turn(number)
        self.result: T | None = None
        self.error: BaseException | None = None
        self._body = body
        self._thread = threading.Thread(target=self._run, name=f"loop {number}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.turn.wait()
            self.result = self._body(self.turn)
        except BaseException as error:  # raised again where the loops were started
            self.error = error
        self.turn.calls.put(None)

    def go_on(self, answer: Any) -> tuple[Gate, Any] | None:
        """Let it run until it calls a gate; None if it ended instead."""
        self.turn.answers.put(answer)
        called: tuple[Gate, Any] | None = self.turn.calls.get()
        if called is None and self.error is not None:
            raise self.error
        return called

    def end(self) -> None:
        self.turn.answers.put(_END)
        self._thread.join()


def take_turns(bodies: Sequence[Callable[[Turn], T]]) -> list[T]:
    """Run the loops to their ends, one at a time, and return what they return.

    The order of turns depends on nothing but the loops, so a run can be repeated exactly.

    Raises:
        BaseException: whatever a loop or a gate raises, as soon as it does; the other loops end then.
    """
    loops = [_Loop(number, body) for number, body in enumerate(bodies)]
    answers: dict[int, Any] = dict.fromkeys(range(len(loops)))
    waiting: dict[Gate, dict[int, Any]] = {}
    try:
        while answers:
            for number, answer in answers.items():
                if (called := loops[number].go_on(answer)) is not None:
                    waiting.setdefault(called[0], {})[number] = called[1]
            answers = {}
            if waiting:
                gate = max(waiting, key=lambda gate: len(waiting[gate]))
                answers = gate(waiting.pop(gate))
    finally:
        for loop in loops:
            loop.end()
    return [loop.result for loop in loops]  # type: ignore[misc]
