"""What a run says while it goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tasks.errors import GraftError, Terminated
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.values import EvaluationReport
from tasks.words import printable_lines

log = logging.getLogger(__name__)

OURS = ("tasks", "flows")
THEIRS = ("prefect", "mlflow")
OFF = logging.CRITICAL + 1
EXPLAINED = (GraftError, KeyboardInterrupt, Terminated)  # what went wrong is said in one line


class Screen:
    """Tells of a run in log lines; what Prefect's workers use."""

    report: EvaluationReport | None = None

    def step(self, progress: StepProgress) -> None:
        """Say nothing: a line a step is too much."""

    def epoch(self, record: EpochRecord) -> None:
        """Say how an epoch went."""
        left = (record.epochs - record.epoch) * record.seconds
        speed = f"{record.images_per_second:,.0f} images/s"
        _say(f"{_figures(record)}  {speed}  {duration(left)} left")

    def scored(self, report: EvaluationReport) -> None:
        """Keep the report for whoever sums the run up."""
        self.report = report


class BarScreen(Screen):
    """Shows a progress bar as well."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None

    def step(self, progress: StepProgress) -> None:
        """Move the bar; rich redraws it ten times a second at most."""
        done = (progress.epoch - 1) * progress.steps + progress.step
        total = progress.epochs * progress.steps
        facts: dict[str, Any] = {
            "epochs": f"epoch {progress.epoch}/{progress.epochs}",
            "speed": f"{progress.images_per_second:,.0f} images/s",
            "left": f"{duration(progress.seconds_left)} left",
        }
        if self._bar is None:
            self._bar = self._progress.add_task("finetune", total=total, **facts)
        self._progress.update(self._bar, completed=done, **facts)

    def epoch(self, record: EpochRecord) -> None:
        """Say how an epoch went on a line of 80 columns; speed and time left are in the bar."""
        _say(_figures(record))

    def scored(self, report: EvaluationReport) -> None:
        """Take the bar away; its epochs stay as lines."""
        super().scored(report)
        if self._bar is not None:
            self._progress.remove_task(self._bar)


def _figures(record: EpochRecord) -> str:
    return (
        f"epoch {record.epoch}/{record.epochs}  loss {record.train_loss:.4f}  "
        f"val loss {record.val_loss:.4f}  val accuracy {record.val_accuracy:.2%}"
    )


def _say(text: str) -> None:
    log.info(text, extra={"room": "finetune"})


# the flow's own parameters are what the user sets; who watches is not among them
screen: ContextVar[Screen] = ContextVar("screen", default=Screen())  # noqa: B039 - holds no state


class Lines(logging.Handler):
    """Prints graft's log as ``room  message`` on standard error, above any progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        words = record.name.split(".")
        room = getattr(record, "room", words[1] if len(words) > 1 else words[0])
        text = f"{room:<11} {printable_lines(record.getMessage())}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown(quiet: bool = False) -> Iterator[Screen]:
    """Show graft's log lines, and progress where standard error is a terminal."""
    console = Console(stderr=True, quiet=quiet)
    with lines_shown(console), _screen(console) as shown_screen:
        token = screen.set(shown_screen)
        try:
            yield shown_screen
        finally:
            screen.reset(token)


@contextmanager
def lines_shown(console: Console) -> Iterator[None]:
    """Show graft's log lines."""
    handler = Lines(console)
    loggers = [logging.getLogger(name) for name in OURS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def _screen(console: Console) -> Iterator[Screen]:
    if not console.is_terminal:
        yield Screen()
        return
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TextColumn("{task.fields[epochs]}  {task.fields[speed]}  {task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarScreen(progress)


def duration(seconds: float) -> str:
    """Return seconds as words: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def hide_prefect_lines() -> None:
    """Keep Prefect's own lines off the terminal; its server and its UI still get them."""
    for name in ["", *logging.root.manager.loggerDict]:
        for handler in logging.getLogger(name).handlers:
            # not by the logger: others listen to Prefect's as well, pytest for one
            of_prefect = type(handler).__module__.partition(".")[0] == "prefect"
            if of_prefect and isinstance(handler, logging.StreamHandler):
                handler.setLevel(OFF)
    logging.raiseExceptions = False  # or each batch of log lines tells that the server is lost


def ready_logs() -> None:
    """Let graft's log reach Prefect's UI, also on a worker, without tracebacks of known errors."""
    for name in OURS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)  # PREFECT_LOGGING_EXTRA_LOGGERS sets a handler alone
    _hide_explained_tracebacks()


def _hide_explained_tracebacks() -> None:
    """Take the traceback off what Prefect and MLflow log about an error that explains itself.

    A record factory, because filters on a logger do not see what its children log.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "hides_tracebacks", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401 - as the original
        record = make(*args, **kwargs)
        if record.name.partition(".")[0] in THEIRS and isinstance(_error(record), EXPLAINED):
            record.exc_info = None
        return record

    factory.hides_tracebacks = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if isinstance(record.exc_info, tuple) else None
