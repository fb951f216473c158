"""What ``banger system install`` wrote down: whose machines these are and what the privileged helper may touch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .network import NetworkPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """``/etc/banger/install.toml``, which belongs to root: the helper believes nothing else."""

    owner: str
    uid: int
    gid: int
    home: Path
    network: NetworkPlan
    version: str
    """Of banger, as installed."""
    installed_at: str
    """RFC 3339, UTC."""
    reachable: tuple[str, ...] = ()
    """Networks (CIDR) among the host's own neighbours that guests with NAT may reach all the same."""
