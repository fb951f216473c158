"""Request and reply types of the routes of images and kernels."""

from __future__ import annotations

from .messages import Reply, Request


class PullImage(Request, frozen=True):
    """``POST /v1/images``: a catalog's name, a container reference, an absolute path, or a bundle's URL."""

    reference: str
    name: str = ""
    """Name of the image; "" = one that follows from the reference."""
    kernel: str = ""
    """"" = what the source asks for."""
    insecure_registries: tuple[str, ...] = ()
    """Hosts that may be spoken to without TLS."""
    digest: str = ""
    """``sha256:...`` that a bundle must have."""
    credentials: str = ""
    """Absolute path of the caller's file with logins for registries, asked before the daemon's own; "" = there is none."""
    spooled: bool = False
    """The file in ``reference`` only holds what came through a pipe: it is not remembered where the image came from."""


class BuildImage(Request, frozen=True):
    """``POST /v1/images/build``: from the recipe in the file with this absolute path."""

    recipe: str
    name: str = ""
    kernel: str = ""


class ImportImage(Request, frozen=True):
    """``POST /v1/images/import``: from the tar, ext4, bundle or docker archive with this absolute path."""

    file: str
    name: str
    kernel: str = ""
    digest: str = ""
    spooled: bool = False
    """The file only holds what came through a pipe: it is not remembered where the image came from."""


class RegisterImage(Request, frozen=True):
    """``POST /v1/images/register``: use the ext4 with this absolute path where it lies."""

    name: str
    rootfs: str
    kernel: str = ""


class ExportImage(Request, frozen=True):
    """``POST /v1/images/{name}/export``: as a bundle, to this absolute path."""

    file: str


class CollectImages(Request, frozen=True):
    """``POST /v1/images/gc``. ``budget_bytes``: what all images together may take."""

    dry_run: bool = False
    budget_bytes: int | None = None


class PruneImageCache(Request, frozen=True):
    """``POST /v1/images/prune-cache``."""

    dry_run: bool = False


class CatalogEntry(Reply, frozen=True):
    """One image that can be pulled by name."""

    name: str
    description: str
    kernel: str
    pulled: bool
    source: str = ""
    """``recipe``, a container reference, or a bundle's URL."""
    size_bytes: int = 0
    """0 = not known."""


class CollectedImage(Reply, frozen=True):
    """An image that ``gc`` removes. ``size_bytes`` is what it takes on the disk."""

    id: str
    name: str
    size_bytes: int
    reason: str
    removed: bool
    error: str = ""


class PrunedCache(Reply, frozen=True):
    """What was removed from the cache of container images, or would be."""

    count: int
    size_bytes: int
    removed: bool
    kept: int = 0
    """Blobs that stay because an image is being made that may need them."""


class PullKernel(Request, frozen=True):
    """``POST /v1/kernels``: a kernel of the catalog, or a bundle. ``force``: get it although a kernel of that name is here, which it replaces."""

    name: str
    bundle: str = ""
    """Absolute path, or https URL (which needs ``digest``); "" = the catalog's kernel of that name."""
    digest: str = ""
    """``sha256:...`` of the bundle."""
    force: bool = False


class ImportKernel(Request, frozen=True):
    """``POST /v1/kernels/{name}/import``: files of the caller's, as absolute paths. Either ``directory``, which holds them all, or ``vmlinux``."""

    directory: str = ""
    vmlinux: str = ""
    modules: str = ""
    config: str = ""
    force: bool = False


class ExportKernel(Request, frozen=True):
    """``POST /v1/kernels/{name}/export``: the absolute path of the bundle to write."""

    destination: str


class CatalogKernel(Reply, frozen=True):
    """One kernel that can be pulled by name."""

    name: str
    description: str
    source: str
    pulled: bool
