"""What the calls of the contract work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..host.paths import Layout
from .access import Access
from .attach import Opener
from .leases import Leases
from .operations import Operations
from .tokens import Tokens

if TYPE_CHECKING:
    from ..image.housekeeping import Housekeeping
    from ..image.kernels import KernelService
    from ..image.service import ImageService
    from ..store import Database
    from ..vm.service import Machines
    from ..vmm.protocol import Vmm


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The services of a running daemon. Built once by the composition root."""

    layout: Layout
    database: Database
    machines: Machines
    images: ImageService
    kernels: KernelService
    housekeeping: Housekeeping
    vmm: Vmm
    operations: Operations
    leases: Leases
    tokens: Tokens[Opener]
    access: Access
