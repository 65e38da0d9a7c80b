"""Log lines on stderr: sentences for people, or one JSON object a line for machines.

`log.info("the drive is full", extra={"fields": {"drive": path}})`: the sentence stands alone, the fields follow it.

Whoever logs never waits. The lines go to a thread of their own through a queue with a bound; where nobody reads the pipe
behind stderr, that thread alone stands still, what the queue has no room for is dropped, and a line in its place tells
how much that was when somebody reads again.
"""

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

ROOT = "cairn_dpu"
QUEUE_BYTES_MOST = 1024 * 1024
FLUSH_SECONDS_MOST = 1.0
LINES_A_SECOND_MOST = 1.0
LINES_AT_ONCE_MOST = 100.0
SENTENCES_MOST = 1024
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request to the admin API that is being answered: every line that is logged meanwhile carries it."""


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    found = dict(fields) if isinstance(fields, Mapping) else {}
    if request_id.get():
        found.setdefault("request_id", request_id.get())
    return found


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z info  sentence (key=value …)`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever a peer put into it; a traceback, where one was asked for, follows on its own lines."""
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        sentence = record.getMessage() + (f" ({fields})" if fields else "")
        line = f"{_time(record)} {record.levelname.lower():7} {sentence.translate(_CONTROL)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "message": …, …fields}`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line, always."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry.update(_fields(record))
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class Seldom(logging.Filter):
    """Lets through LINES_A_SECOND_MOST of each sentence (LINES_AT_ONCE_MOST after a rest), and tells with the next one how
    many there were in between: what a peer can cause does not fill a disk."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, float, int]] = {}  # sentence: tokens, when they were counted, left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        now = time.monotonic()
        with self._lock:
            if len(self._seen) > SENTENCES_MOST:
                self._seen.clear()
            tokens, counted, left_out = self._seen.get(str(record.msg), (LINES_AT_ONCE_MOST, now, 0))
            tokens = min(tokens + (now - counted) * LINES_A_SECOND_MOST, LINES_AT_ONCE_MOST)
            if tokens < 1:
                self._seen[str(record.msg)] = tokens, now, left_out + 1
                return False
            self._seen[str(record.msg)] = tokens - 1, now, 0
        if left_out:
            record.fields = {**_fields(record), "left_out": left_out}
        return True


class PatientHandler(logging.Handler):
    """Writes lines to a file descriptor without ever making their author wait."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._writing = False
        self._changed = threading.Condition(threading.Lock())
        threading.Thread(target=self._write, name="cairn-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the line, or counts it as dropped."""
        try:
            line = (self.format(record) + "\n").encode(errors="backslashreplace")
        except Exception:
            line = f"a line that could not be written out: {record.msg!r}\n".encode(errors="backslashreplace")
        self.queue(line)

    def queue(self, line: bytes) -> None:
        """Queues what was written out already, or counts it as dropped."""
        with self._changed:
            if self._bytes + len(line) > QUEUE_BYTES_MOST:
                self._dropped += 1
                return
            if self._dropped:
                self._append(self._about_dropped())
            self._append(line)
            self._changed.notify_all()

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)

    def flush(self) -> None:
        """Waits until everything is written, at most FLUSH_SECONDS_MOST."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, FLUSH_SECONDS_MOST)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                if self._dropped and not self._lines:
                    self._append(self._about_dropped())
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._writing = True
                line = self._lines.popleft()
            self._put(line)
            with self._changed:
                self._bytes -= len(line)

    def _about_dropped(self) -> bytes:
        message = f"{self._dropped} lines of the log were dropped: nobody read what stderr leads to"
        self._dropped = 0
        record = logging.LogRecord(ROOT, logging.WARNING, __file__, 0, message, None, None)
        return (self.format(record) + "\n").encode(errors="backslashreplace")

    def _put(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:
                time.sleep(0.05)  # somebody else made the pipe non-blocking
            except OSError:
                return  # nobody will ever read it


def configure(level: str, style: str) -> None:
    """Sets up the logger of this package, and what uvicorn has to say about itself when it is a warning or worse."""
    handler = PatientHandler(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(Seldom())
    for name, least in ((ROOT, level.upper()), ("uvicorn", "WARNING"), ("asyncio", "ERROR")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False
    threading.excepthook = _log_of_a_thread


def last_words(line: str) -> None:
    """Writes a line that stands for itself to stderr: behind what was logged, and without waiting for a pipe that nobody
    reads."""
    for handler in logging.getLogger(ROOT).handlers:
        if isinstance(handler, PatientHandler):
            handler.queue(line.encode(errors="backslashreplace"))
            handler.flush()
            return
    sys.stderr.write(line)


def _log_of_a_thread(broke: threading.ExceptHookArgs) -> None:
    if broke.exc_type is SystemExit or broke.exc_value is None:
        return
    name = broke.thread.name if broke.thread is not None else "unknown"
    trace = (broke.exc_type, broke.exc_value, broke.exc_traceback)
    logging.getLogger(ROOT).error("the thread %s broke; please report this", name, exc_info=trace)
