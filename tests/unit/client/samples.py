"""Replies as the daemon would send them."""

from __future__ import annotations

from typing import Any

from banger import __version__

RECORD: dict[str, Any] = {
    "id": "0" * 32,
    "name": "box",
    "image_id": "1" * 32,
    "image_name": "debian-bookworm",
    "state": "running",
    "created_at": 1.0,
    "updated_at": 2.0,
    "touched_at": 3.0,
    "spec": {"vcpu_count": 2, "memory_mib": 2048, "system_overlay_bytes": 1 << 33, "work_disk_bytes": 1 << 33},
}
STATUS: dict[str, Any] = {
    "pid": 1,
    "version": __version__,
    "api_version": 1,
    "socket": "/s",
    "log": "/l",
    "state_directory": "/d",
    "started_at": 1.0,
    "running_vms": 0,
}
