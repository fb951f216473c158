"""The route table: the router, the OpenAPI document and the client are all made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from ..model.records import ImageRecord, KernelRecord, VMEvent, VMRecord
from . import guest_types as g
from . import image_types as i
from . import stats_types as s
from . import types as t
from .messages import Request


@dataclass(frozen=True, slots=True)
class Route:
    """One call of the contract.

    ``read`` answers at once with ``reply``. ``operation`` answers 202 with an Operation, or with ``?wait`` streams Events whose last one
    carries ``reply`` as its result. ``call`` changes something small and answers at once.
    """

    name: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    kind: Literal["read", "operation", "call"]
    reply: Any
    request: type[Request] | None = None
    query: tuple[str, ...] = ()
    summary: str = ""


ROUTES: Final[tuple[Route, ...]] = (
    Route("daemon.status", "GET", "/v1/daemon", "read", t.DaemonStatus, summary="Who is the daemon"),
    Route("daemon.stop", "DELETE", "/v1/daemon", "call", t.DaemonStatus, summary="Stop the daemon; machines keep running"),
    Route("doctor", "GET", "/v1/doctor", "read", tuple[t.Check, ...], summary="What this host can do and what is missing"),
    Route("defaults", "GET", "/v1/defaults", "read", t.Defaults, summary="Sizes that omitted options take"),
    Route("config.show", "GET", "/v1/config", "read", t.ConfigReport, summary="Every setting and where it comes from"),
    Route("vm.list", "GET", "/v1/vms", "read", tuple[VMRecord, ...], summary="All machines"),
    Route("vm.create", "POST", "/v1/vms", "operation", VMRecord, t.CreateVM, summary="Make a machine and start it"),
    Route("vm.show", "GET", "/v1/vms/{ref}", "read", t.VMDetail, summary="One machine"),
    Route("vm.start", "POST", "/v1/vms/{ref}/start", "operation", VMRecord, t.StartVM, summary="Start a machine"),
    Route("vm.stop", "POST", "/v1/vms/{ref}/stop", "operation", VMRecord, t.StopVM, summary="Power a machine off"),
    Route("vm.restart", "POST", "/v1/vms/{ref}/restart", "operation", VMRecord, t.StartVM, summary="Stop and start a machine"),
    Route("vm.kill", "POST", "/v1/vms/{ref}/kill", "operation", VMRecord, t.KillVM, summary="End a machine's VMM"),
    Route("vm.set", "POST", "/v1/vms/{ref}/set", "operation", VMRecord, t.SetVM, summary="Change what a machine is"),
    Route("vm.prune", "POST", "/v1/vms/{ref}/prune", "operation", t.Deleted, summary="Remove a machine and its disks unless it runs"),
    Route("vm.delete", "DELETE", "/v1/vms/{ref}", "operation", t.Deleted, summary="Remove a machine and its disks"),
    Route("vm.exec", "POST", "/v1/vms/{ref}/exec", "call", t.StreamTicket, t.Exec, summary="Run a command; its streams are on attach.sock"),
    Route("vm.unpack", "POST", "/v1/vms/{ref}/unpack", "call", t.StreamTicket, g.Unpack, summary="Files into a machine; a tree stream on attach.sock"),
    Route("vm.pack", "POST", "/v1/vms/{ref}/pack", "call", t.StreamTicket, g.Pack, summary="Files out of a machine; a tree stream on attach.sock"),
    Route("vm.stat_path", "POST", "/v1/vms/{ref}/stat", "call", g.PathStatus, g.StatPath, summary="What is at a path of a machine"),
    Route("vm.jobs", "GET", "/v1/vms/{ref}/jobs", "read", tuple[g.Job, ...], query=("id",), summary="Detached commands of a machine"),
    Route("vm.job_start", "POST", "/v1/vms/{ref}/jobs", "call", g.StartedJob, g.StartJob, summary="Start a command that goes on by itself"),
    Route("vm.job_output", "POST", "/v1/vms/{ref}/jobs/{id}/output", "call", t.StreamTicket, g.JobOutput, summary="A job's output, on attach.sock"),
    Route("vm.job_signal", "POST", "/v1/vms/{ref}/jobs/{id}/signal", "call", g.Job, g.SignalJob, summary="Signal a job"),
    Route("vm.workspace", "POST", "/v1/vms/{ref}/workspace", "call", VMRecord, t.SetWorkspace, summary="Note what was prepared in a machine"),
    Route("vm.connect", "POST", "/v1/vms/{ref}/connect", "call", t.StreamTicket, t.ConnectVM, summary="Connect to a socket in a machine"),
    Route("vm.forward", "POST", "/v1/vms/{ref}/forward", "call", t.Forwarding, t.ForwardVM, summary="Forward ports for as long as the caller holds them"),
    Route("vm.logs", "GET", "/v1/vms/{ref}/logs", "read", t.LogChunk, query=("which", "offset"), summary="Console or VMM log (which=console|vmm)"),
    Route("vm.stats", "GET", "/v1/vms/{ref}/stats", "read", s.VMStats, summary="What a machine uses"),
    Route("vm.health", "GET", "/v1/vms/{ref}/health", "read", t.VMHealth, summary="Whether a machine runs and its agent answers"),
    Route("vm.ping", "GET", "/v1/vms/{ref}/ping", "read", t.VMPing, summary="Whether a machine runs"),
    Route("vm.ports", "GET", "/v1/vms/{ref}/ports", "read", t.VMPorts, query=("probe",), summary="What waits for connections in a machine"),
    Route("vm.touch", "POST", "/v1/vms/{ref}/touch", "call", VMRecord, summary="Note that a machine is in use"),
    Route("ssh.show", "GET", "/v1/ssh", "read", t.SshFiles, summary="What an ssh client needs"),
    Route("lease.create", "POST", "/v1/leases", "call", t.Lease, summary="A lease to make machines under"),
    Route("image.list", "GET", "/v1/images", "read", tuple[ImageRecord, ...], summary="Images on this host"),
    Route("image.catalog", "GET", "/v1/catalog/images", "read", tuple[i.CatalogEntry, ...], summary="Images that can be pulled by name"),
    Route("image.show", "GET", "/v1/images/{name}", "read", ImageRecord, summary="One image"),
    Route("image.pull", "POST", "/v1/images", "operation", ImageRecord, i.PullImage, summary="Get an image and its kernel"),
    Route("image.build", "POST", "/v1/images/build", "operation", ImageRecord, i.BuildImage, summary="Build an image from a recipe of one's own"),
    Route("image.import", "POST", "/v1/images/import", "operation", ImageRecord, i.ImportImage, summary="Make an image of a file"),
    Route("image.register", "POST", "/v1/images/register", "operation", ImageRecord, i.RegisterImage, summary="Use a root file system where it lies"),
    Route("image.gc", "POST", "/v1/images/gc", "operation", tuple[i.CollectedImage, ...], i.CollectImages, summary="Remove images by last use"),
    Route("image.prune_cache", "POST", "/v1/images/prune-cache", "operation", i.PrunedCache, i.PruneImageCache, summary="Empty the cache of layers"),
    Route("image.export", "POST", "/v1/images/{name}/export", "operation", ImageRecord, i.ExportImage, summary="Write an image as a bundle"),
    Route("image.promote", "POST", "/v1/images/{name}/promote", "operation", ImageRecord, summary="Copy what a registered image uses"),
    Route("image.delete", "DELETE", "/v1/images/{name}", "operation", t.Deleted, summary="Remove an image that no machine uses"),
    Route("kernel.list", "GET", "/v1/kernels", "read", tuple[KernelRecord, ...], summary="Kernels on this host"),
    Route("kernel.catalog", "GET", "/v1/catalog/kernels", "read", tuple[i.CatalogKernel, ...], summary="Kernels that can be pulled by name"),
    Route("kernel.show", "GET", "/v1/kernels/{name}", "read", KernelRecord, summary="One kernel"),
    Route("kernel.pull", "POST", "/v1/kernels", "operation", KernelRecord, i.PullKernel, summary="Get a kernel of the catalog, or a bundle"),
    Route("kernel.import", "POST", "/v1/kernels/{name}/import", "operation", KernelRecord, i.ImportKernel, summary="Take a kernel from files"),
    Route("kernel.export", "POST", "/v1/kernels/{name}/export", "operation", KernelRecord, i.ExportKernel, summary="Write a kernel as a bundle"),
    Route("kernel.delete", "DELETE", "/v1/kernels/{name}", "operation", t.Deleted, summary="Remove a kernel that nothing uses"),
    Route("gc", "POST", "/v1/gc", "operation", tuple[t.Leftover, ...], t.CollectGarbage, summary="Find and remove what no machine needs any more"),
    Route("operation.show", "GET", "/v1/operations/{id}", "read", t.Operation, summary="One operation"),
    Route("operation.list", "GET", "/v1/operations", "read", tuple[t.Operation, ...], summary="Recent operations"),
    Route("operation.events", "GET", "/v1/operations/{id}/events", "read", t.Event, summary="Events of an operation until it ends (NDJSON)"),
    Route("operation.cancel", "DELETE", "/v1/operations/{id}", "call", t.Operation, summary="Cancel an operation"),
    Route("events", "GET", "/v1/events", "read", VMEvent, query=("since", "follow"), summary="What happened to machines, after a cursor (NDJSON)"),
    Route("openapi", "GET", "/v1/openapi.json", "read", dict[str, Any], summary="This contract as OpenAPI 3.1"),
)

BY_NAME: Final = {route.name: route for route in ROUTES}
