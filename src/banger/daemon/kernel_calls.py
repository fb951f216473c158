"""What the routes of kernels do."""

from __future__ import annotations

from typing import Final

from ..api import image_types as i
from ..api import types as t
from ..image import kernel_files
from ..model.errors import BadRequest
from ..model.records import KernelRecord
from .call import Answer, Call, Work, absolute_path
from .context import Context
from .operations import Operation


async def kernel_list(context: Context, call: Call) -> tuple[KernelRecord, ...]:
    return context.kernels.list()


async def kernel_catalog(context: Context, call: Call) -> tuple[i.CatalogKernel, ...]:
    return tuple(
        i.CatalogKernel(name=one.name, description=one.description, source=f"{one.suite}: {one.package}", pulled=context.kernels.has(one.name))
        for one in await context.kernels.catalog()
    )


async def kernel_show(context: Context, call: Call) -> KernelRecord:
    return context.kernels.show(call.path["name"])


async def kernel_pull(context: Context, call: Call, operation: Operation) -> KernelRecord:
    body: i.PullKernel = call.body
    if body.bundle:
        return await context.kernels.pull_bundle(body.name, body.bundle, body.digest, operation.report, force=body.force)
    return await context.kernels.pull(body.name, operation.report, force=body.force)


async def kernel_import(context: Context, call: Call, operation: Operation) -> KernelRecord:
    body: i.ImportKernel = call.body
    return await context.kernels.import_files(call.path["name"], _files(body), operation.report, force=body.force)


async def kernel_export(context: Context, call: Call, operation: Operation) -> KernelRecord:
    body: i.ExportKernel = call.body
    return await context.kernels.export(call.path["name"], absolute_path(body.destination), operation.report)


async def kernel_delete(context: Context, call: Call, operation: Operation) -> t.Deleted:
    operation.report("delete_kernel", call.path["name"])
    record = await context.kernels.delete(call.path["name"])
    return t.Deleted(id=record.id, name=record.name)


def _files(body: i.ImportKernel) -> kernel_files.KernelFiles:
    if bool(body.directory) == bool(body.vmlinux):
        raise BadRequest("a kernel is imported from a directory or from a vmlinux", hint="banger kernel import NAME --from DIR, or --vmlinux FILE")
    if body.directory:
        if body.modules or body.config:
            raise BadRequest("a directory holds modules and configuration itself", hint="give --vmlinux with --modules and --config, or --from alone")
        return kernel_files.find(absolute_path(body.directory))
    modules, config = (absolute_path(path) if path else None for path in (body.modules, body.config))
    return kernel_files.KernelFiles(vmlinux=absolute_path(body.vmlinux), modules=modules, config=config)


KERNEL_ANSWERS: Final[dict[str, Answer]] = {"kernel.list": kernel_list, "kernel.catalog": kernel_catalog, "kernel.show": kernel_show}
KERNEL_WORKS: Final[dict[str, Work]] = {
    "kernel.pull": kernel_pull,
    "kernel.import": kernel_import,
    "kernel.export": kernel_export,
    "kernel.delete": kernel_delete,
}
