"""Releases made by the tests: this very program under other version numbers, with some of its files replaced, signed with a key of the tests."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import banger
from banger.system import program
from banger.system.program import running_program
from banger.system.signature import NAMESPACE, PRINCIPAL
from banger.system.units import units_digest
from banger.system.wheel import python_version
from release.publish import Edition, publish

Contents = Mapping[str, bytes]


def make_wheel(path: Path, contents: Contents, *, executable: str = "-") -> Path:
    """A wheel with a proper RECORD; the distribution's name and version are those of the file's name. What is named RECORD in ``contents`` wins."""
    information = "-".join(path.name.split("-")[:2]) + ".dist-info"
    rows = [f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(one).digest()).rstrip(b'=').decode()},{len(one)}" for name, one in contents.items()]
    record = "\n".join([*rows, f"{information}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, one in {f"{information}/RECORD": record.encode(), **contents}.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o100755 if name.endswith(executable) else 0o100644) << 16
            archive.writestr(info, one)
    return path


def wheels(directory: Path, version: str, replaced: Contents | None = None) -> list[Path]:
    """The running program as wheels: banger as ``version``, and all that it needs."""
    directory.mkdir(parents=True, exist_ok=True)
    own = {str(name): path.read_bytes() for name, path in running_program().files.items() if name.parts[0] == "banger"}
    described = metadata.distribution("banger").read_text("METADATA") or ""
    own["banger/__init__.py"] = f'"""banger."""\n\n__version__ = "{version}"\n'.encode()
    own[f"banger-{version}.dist-info/METADATA"] = described.replace(f"\nVersion: {banger.__version__}\n", f"\nVersion: {version}\n").encode()
    assert "banger/guest/program/banger-guest" in own
    made = make_wheel(directory / f"banger-{version}-py3-none-linux_x86_64.whl", own | dict(replaced or {}), executable="banger-guest")
    return [made, *(_wheel_of(one, directory) for one in program._closure("banger") if one.metadata["Name"] != "banger")]


def _wheel_of(distribution: metadata.Distribution, directory: Path) -> Path:
    files = {str(name): path for name, path in program._files_of(distribution).items()}
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    path = directory / f"{record.removesuffix('.dist-info/RECORD')}-py3-none-any.whl"
    if path.exists():
        return path
    return make_wheel(path, {name: one.read_bytes() for name, one in files.items() if name != record})


def make_key(path: Path) -> Path:
    """A private key, and beside it (``.signers``) what makes it trusted."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    public = path.with_name(path.name + ".pub").read_text()
    path.with_name(path.name + ".signers").write_text(f'{PRINCIPAL} namespaces="{NAMESPACE}" {public}')
    return path


def release(out: Path, key: Path, version: str, replaced: Contents | None = None, **more: str) -> Path:
    """Publish such a release in ``out``."""
    paths = wheels(out.parent / "wheels", version, replaced)
    fields = {"units": units_digest(), "min_from": "0.0", **more}
    edition = Edition(version=version, epoch=1_700_000_000, pythons={python_version(): paths}, units=fields["units"], min_from=fields["min_from"])
    publish(out, edition, key=key, signers=key.with_name(key.name + ".signers"))
    return out


def sign_again(out: Path, key: Path, *names: str, namespace: str = NAMESPACE) -> None:
    """Sign files that were changed."""
    for name in names:
        with (out / name).open("rb") as document:
            done = subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", namespace], stdin=document, capture_output=True, check=True)
        (out / f"{name}.sig").write_bytes(done.stdout)
