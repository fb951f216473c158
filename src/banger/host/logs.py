"""JSON-line logs with the op id on every record."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import time
from pathlib import Path
from typing import Final

from ..model.opid import current_op_id

_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, message, op_id, everything given as ``extra``, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if op_id := current_op_id.get():
            entry["op_id"] = op_id
        entry |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def log_to_file(path: Path, level: str) -> None:
    """Send all logging of this process to ``path`` as JSON lines (four files of 8 MiB at most)."""
    _install(_RotatingFile(path, maxBytes=8 * 1024 * 1024, backupCount=3, encoding="utf-8"), level)


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """Looks at the file's size alone. The original formats every record a second time to know whether the file would become too long."""

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        return self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self.maxBytes


def log_to_stderr(level: str) -> None:
    """Send all logging of this process to standard error as JSON lines."""
    _install(logging.StreamHandler(sys.stderr), level)


def _install(handler: logging.Handler, level: str) -> None:
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
