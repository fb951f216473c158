"""Reading ``config.toml``. Every key is optional; what is unknown or of the wrong type is refused with the file, the key and what to write instead."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final, TypeVar

from ..model.config import LOG_LEVELS, NETWORK_MODES, SIZE_KEYS, Config, FileSync, NetworkSettings
from ..model.durations import parse_duration
from ..model.errors import BadRequest
from ..model.limits import check_disk, check_memory, check_vcpu
from ..model.names import check_artifact_name
from ..model.network import network_plan
from ..model.sizes import parse_size
from .file_sync import read_file_sync

MAX_CONFIG_BYTES: Final = 1024 * 1024

Value = TypeVar("Value")

Setting = str | int | float | tuple[FileSync, ...] | tuple[str, ...]

_TABLES: Final = ("vm_defaults", "network", "qemu")
_NETWORK: Final = "network."
_CPU_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


def load_config(path: Path) -> Config:
    """What the file says; the built-in configuration when there is none. Raises BadRequest for a file that cannot be read or understood."""
    document = _read(path)
    values: dict[str, Setting] = {}
    for key, untrusted in _flatten(document, path):
        if key not in _READERS:
            raise _unknown(path, key)
        try:
            values[key] = _READERS[key](untrusted)
        except BadRequest as error:
            raise BadRequest(f"{path}: {key}: {error.message}", hint=error.hint) from error
    return _config(values)


def _read(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            untrusted = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", hint=f"make it a readable file, or remove {path}") from error
    if len(untrusted) > MAX_CONFIG_BYTES:
        raise BadRequest(f"{path} is larger than {MAX_CONFIG_BYTES // 1024} KiB", hint="a configuration has a few lines")
    try:
        return tomllib.loads(untrusted.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"{path} is not TOML: {error}", hint='a line looks like: log_level = "debug"') from error


def _flatten(document: Mapping[str, object], path: Path) -> Iterable[tuple[str, object]]:
    for key, value in document.items():
        if key not in _TABLES:
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}.{inner}", one) for inner, one in value.items())
        else:
            raise BadRequest(f"{path}: {key} is a table, not {_kind(value)}", hint=f"write [{key}] on a line of its own and its keys below")


def _unknown(path: Path, key: str) -> BadRequest:
    nearest = [known for known in _READERS if known.rpartition(".")[2] == key] or difflib.get_close_matches(key, [*_READERS, *_TABLES], n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the keys are: {', '.join(_READERS)}"
    return BadRequest(f"{path}: unknown key {key}", hint=hint)


def _config(values: Mapping[str, Setting]) -> Config:
    plain = {key: value for key, value in values.items() if key not in SIZE_KEYS and not key.startswith(_NETWORK)}
    sizes = {field: values[key] for key, field in SIZE_KEYS.items() if key in values}
    network = NetworkSettings(**{key.removeprefix(_NETWORK): value for key, value in values.items() if key.startswith(_NETWORK)})  # type: ignore[arg-type]
    for key in [key for key in plain if key.startswith("qemu.")]:
        plain[key.replace(".", "_")] = plain.pop(key)
    return Config(**plain, network=network, sizes=sizes, sources=dict.fromkeys(values, "config"))  # type: ignore[arg-type]  # each reader returns its field's type


# -- one reader per key: from what TOML holds to the value, or BadRequest ----------------------------------------------------------------------------


def _kind(value: object) -> str:
    kinds = {bool: "a boolean", int: "a whole number", float: "a number with a fraction", str: "a string", dict: "a table", list: "an array"}
    return kinds.get(type(value), "a date or time")


def _text(read: Callable[[str], Value], example: str, untrusted: object) -> Value:
    if not isinstance(untrusted, str):
        raise BadRequest(f"a string is expected, not {_kind(untrusted)}", hint=f'for example "{example}", in quotes')
    return read(untrusted)


def _whole(check: Callable[[int], int], example: int, untrusted: object) -> int:
    if not isinstance(untrusted, int) or isinstance(untrusted, bool):
        raise BadRequest(f"a whole number is expected, not {_kind(untrusted)}", hint=f"for example {example}, without quotes")
    return _within(check, untrusted, f"for example {example}")


def _within(check: Callable[[int], int], number: int, hint: str) -> int:
    """``number`` when it passes; the check's own hint would name an option of the command line."""
    try:
        return check(number)
    except BadRequest as error:
        raise BadRequest(error.message, hint=hint) from error


def _log_level(untrusted: str) -> str:
    if untrusted.lower() not in LOG_LEVELS:
        raise BadRequest(f"{untrusted!r} is not a log level", hint=f"one of {', '.join(LOG_LEVELS)}")
    return untrusted.lower()


def _release_url(untrusted: str) -> str:
    if not re.fullmatch(r"(https?:/)?/[\x21-\x7e]{1,2000}", untrusted):
        raise BadRequest(f"{untrusted!r} is neither a URL nor an absolute path", hint="for example https://example.org/banger, or /srv/banger/release")
    return untrusted


def _size(what: str, untrusted: str) -> int:
    return _within(partial(check_disk, what=what), parse_size(untrusted), 'for example "8G"')


def _network_mode(untrusted: str) -> str:
    if untrusted not in NETWORK_MODES:
        raise BadRequest(f"{untrusted!r} is not a network mode", hint=f"one of {', '.join(NETWORK_MODES)}")
    return untrusted


def _cpu_model(untrusted: str) -> str:
    if not _CPU_MODEL.fullmatch(untrusted):
        raise BadRequest(f"{untrusted!r} cannot be a CPU model", hint="qemu-system-x86_64 -cpu help lists them")
    return untrusted


def _truth(untrusted: object) -> bool:
    if not isinstance(untrusted, bool):
        raise BadRequest(f"true or false is expected, not {_kind(untrusted)}", hint="for example true, without quotes")
    return untrusted


def _number(least: int, most: int, number: int) -> int:
    if not least <= number <= most:
        raise BadRequest(f"{number} is not between {least} and {most}")
    return number


def _networks(untrusted: object) -> tuple[str, ...]:
    if not isinstance(untrusted, list) or not all(isinstance(one, str) for one in untrusted):
        raise BadRequest("an array of strings is expected", hint='for example ["192.168.1.0/24"]')
    try:
        return tuple(str(IPv4Network(one)) for one in untrusted)
    except ValueError as error:
        raise BadRequest(f"not an IPv4 network: {error}", hint='for example ["192.168.1.0/24"]') from error


_READERS: Final[dict[str, Callable[[object], Setting]]] = {
    "log_level": partial(_text, _log_level, "info"),
    "release_url": partial(_text, _release_url, "https://example.org/banger"),
    "default_image_name": partial(_text, check_artifact_name, "debian-bookworm"),
    "auto_stop_stale_after": partial(_text, parse_duration, "2h"),
    "file_sync": read_file_sync,
    "network.mode": partial(_text, _network_mode, "bridge"),
    "network.bridge": partial(_text, lambda untrusted: network_plan(bridge=untrusted).bridge, "banger0"),
    "network.subnet": partial(_text, lambda untrusted: str(network_plan(subnet=untrusted).subnet), "172.30.86.0/24"),
    "network.tap_pool_size": partial(_whole, partial(_number, 0, 64), 4),
    "network.reachable": _networks,
    "network.dns_port": partial(_whole, partial(_number, 1024, 65535), 42069),
    "qemu.parallel": _truth,
    "qemu.cpu_model": partial(_text, _cpu_model, "max"),
    "vm_defaults.vcpu": partial(_whole, check_vcpu, 2),
    "vm_defaults.memory_mib": partial(_whole, check_memory, 2048),
    "vm_defaults.disk_size": partial(_text, partial(_size, "disk-size"), "8G"),
    "vm_defaults.system_overlay_size": partial(_text, partial(_size, "system-overlay-size"), "8G"),
}
