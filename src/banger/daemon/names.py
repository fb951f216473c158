"""Puts names of machines together for the composition root."""

from __future__ import annotations

from ..helper.protocol import NameOps
from ..model.config import NetworkSettings
from ..model.network import NetworkPlan
from ..vm.names import VmNames


def start_names(ops: NameOps, plan: NetworkPlan, settings: NetworkSettings) -> VmNames:
    """The capability of a daemon whose machines are on a bridge. It opens its ports when the daemon has recovered its machines, and closes them with it."""
    return VmNames(ops, plan, settings.dns_port)
