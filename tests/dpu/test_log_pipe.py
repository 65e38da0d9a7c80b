"""A log pipe that nobody reads. A log driver that stood still held up SIGTERM, the watchdog and the health probe."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from cairn_dpu.logs import LINES_AT_ONCE_MOST, QUEUE_BYTES_MOST, PatientHandler, Seldom, TextFormatter

READY_SECONDS_MOST = 30.0


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    try:
        for size in (4096, 1):
            while True:
                try:
                    os.write(pipe, b"x" * size)
                except BlockingIOError:
                    break
    finally:
        os.set_blocking(pipe, True)


def order(admin: str) -> int:
    request = urllib.request.Request(f"{admin}/api/v1/drives", b"{}", {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("read_again", [False, True])
def test_a_full_pipe_holds_up_nothing(tmp_path: Path, read_again: bool) -> None:
    reader, writer = os.pipe()
    ready_file, notify = tmp_path / "ready", str(tmp_path / "notify")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(notify)
    manager.settimeout(20)
    words = [sys.executable, "-m", "cairn_dpu", "serve", "--drive", f"{tmp_path}/drive:64MiB", "--slab", "256MiB"]
    words += ["--listen", "tcp://127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", str(ready_file)]
    environment = {**os.environ, "NOTIFY_SOCKET": notify, "WATCHDOG_USEC": "200000"}
    process = subprocess.Popen(words, stdout=writer, stderr=writer, env=environment)
    try:
        until = time.monotonic() + READY_SECONDS_MOST
        while not ready_file.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        admin = json.loads(ready_file.read_text())["admin"]
        fill(writer)
        for _ in range(5):
            assert order(admin) == 422, "each of them is a line in the log"
        with urllib.request.urlopen(f"{admin}/healthz", timeout=30) as response:
            assert response.status == 200
        for _ in range(30):  # more than were queued before
            while manager.recv(4096) != b"WATCHDOG=1":
                pass
        process.send_signal(signal.SIGTERM)
        if read_again:
            os.close(writer)
            text = b""
            while part := os.read(reader, 65536):
                text += part
            assert b"an order came to the admin API" in text
            assert b"every drive is sealed" in text
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        manager.close()
        os.close(reader)
        if not read_again:
            os.close(writer)


def record(text: str, number: int = 0) -> logging.LogRecord:
    return logging.LogRecord("cairn_dpu", logging.INFO, __file__, number, text, None, None)


def test_what_has_no_room_is_dropped_and_counted() -> None:
    reader, writer = os.pipe()
    fill(writer)
    handler = PatientHandler(writer)
    handler.setFormatter(TextFormatter())
    line = "y" * 1000
    lines = 2 * QUEUE_BYTES_MOST // len(line)
    began = time.monotonic()
    for number in range(lines):
        handler.emit(record(f"{number} {line}"))
    assert time.monotonic() - began < 5
    text = b""
    while b"lines of the log were dropped" not in text:
        text += os.read(reader, 65536)
    dropped = int(text.split(b" lines of the log were dropped")[0].split()[-1])
    written = text.count(line.encode())
    assert written + dropped == lines
    assert 0 < written < lines
    handler.emit(record("after"))
    while b"after" not in text:
        text += os.read(reader, 65536)
    os.close(reader)


def test_one_line_is_one_line_whatever_a_peer_writes() -> None:
    shown = TextFormatter().format(record("a\nb\x1b[31m\x85c"))
    assert shown.endswith("a\\x0ab\\x1b[31m\\x85c")


def test_a_sentence_that_a_peer_can_repeat_is_written_seldom() -> None:
    seldom = Seldom()
    let_through = [one for one in (record("again", number) for number in range(1000)) if seldom.filter(one)]
    assert len(let_through) <= LINES_AT_ONCE_MOST + 2
    assert seldom.filter(record("something else"))
