"""``config.toml``: what it may say, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.host.config import MAX_CONFIG_BYTES, load_config
from banger.model.config import Config, FileSync, settings, size_defaults, with_log_level
from banger.model.errors import BadRequest
from banger.model.limits import defaults_for_host
from banger.model.sizes import GIB, MIB

FULL = """
log_level = "DEBUG"
release_url = "https://example.org/banger"
default_image_name = "debian-trixie"
auto_stop_stale_after = "2h"  # a comment

[[file_sync]]
host = "~/.netrc"
guest = "~/.netrc"

[[file_sync]]
host = "/srv/tools/"
guest = "/root/tools/"
mode = "755"

[network]
mode = "bridge"
bridge = "box0"
subnet = "10.77.0.0/24"
tap_pool_size = 0
reachable = ["192.168.1.0/24"]
dns_port = 5353

[qemu]
parallel = true
cpu_model = "max"

[vm_defaults]
vcpu = 3
memory_mib = 1024
disk_size = "16G"
system_overlay_size = "512M"
"""


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_no_file_means_the_built_in_values(tmp_path: Path) -> None:
    assert load_config(tmp_path / "config.toml") == Config()
    assert load_config(write(tmp_path, "")) == Config()


def test_every_key(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL))
    assert (config.log_level, config.default_image_name, config.auto_stop_stale_after) == ("debug", "debian-trixie", 7200.0)
    assert config.file_sync == (
        FileSync(host="~/.netrc", guest="/root/.netrc", mode=0o600), FileSync(host="/srv/tools/", guest="/root/tools", mode=0o755),
    )  # fmt: skip
    assert config.sizes == {"vcpu_count": 3, "memory_mib": 1024, "work_disk_bytes": 16 * GIB, "system_overlay_bytes": 512 * MIB}
    defaults = size_defaults(config, defaults_for_host(64, 256 * GIB))
    assert (defaults.vcpu_count, defaults.memory_mib, defaults.work_disk_bytes, defaults.image) == (3, 1024, 16 * GIB, "debian-trixie")
    assert set(defaults.provenance.values()) == {"config"}
    shown = {one.key: (one.value, one.source) for one in settings(config, defaults)}
    assert shown == {
        "release_url": ("https://example.org/banger", "config"),
        "log_level": ("debug", "config"), "default_image_name": ("debian-trixie", "config"), "auto_stop_stale_after": ("2h", "config"),
        "file_sync": ("~/.netrc -> /root/.netrc, /srv/tools/ -> /root/tools", "config"),
        "network.mode": ("bridge", "config"), "network.bridge": ("box0", "config"), "network.subnet": ("10.77.0.0/24", "config"),
        "network.tap_pool_size": (0, "config"), "network.reachable": ("192.168.1.0/24", "config"), "network.dns_port": (5353, "config"),
        "qemu.parallel": ("true", "config"), "qemu.cpu_model": ("max", "config"),
        "vm_defaults.vcpu": (3, "config"), "vm_defaults.memory_mib": (1024, "config"),
        "vm_defaults.disk_size": ("16G", "config"), "vm_defaults.system_overlay_size": ("512M", "config"),
    }  # fmt: skip


def test_each_value_says_where_it_comes_from(tmp_path: Path) -> None:
    config = with_log_level(load_config(write(tmp_path, "log_level = 'error'\n[vm_defaults]\nmemory_mib = 512")), "debug", "env")
    defaults = size_defaults(config, defaults_for_host(16, 4 * GIB))
    assert {one.key.rpartition(".")[2]: (one.value, one.source) for one in settings(config, defaults)} == {
        "release_url": ("none", "builtin"),
        "log_level": ("debug", "env"), "default_image_name": ("debian-bookworm", "builtin"), "auto_stop_stale_after": ("0", "builtin"),
        "file_sync": ("none", "builtin"), "mode": ("auto", "builtin"), "bridge": ("banger0", "builtin"), "subnet": ("172.30.86.0/24", "builtin"),
        "tap_pool_size": (4, "builtin"), "reachable": ("none", "builtin"), "dns_port": (42069, "builtin"),
        "parallel": ("by version", "builtin"), "cpu_model": ("by accelerator", "builtin"),
        "vcpu": (4, "auto"), "memory_mib": (512, "config"), "disk_size": ("8G", "builtin"), "system_overlay_size": ("8G", "builtin"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ('loglevel = "info"', "unknown key loglevel", "did you mean log_level?"),
        ("[vm_defaults]\nvcpus = 2", "unknown key vm_defaults.vcpus", "did you mean vm_defaults.vcpu?"),
        ("[vm_defaults]\nmemory = 2", "unknown key vm_defaults.memory", "did you mean vm_defaults.memory_mib?"),
        ("vcpu = 2", "unknown key vcpu", "did you mean vm_defaults.vcpu?"),
        ("[vm_default]\nvcpu = 2", "unknown key vm_default", "did you mean vm_defaults?"),
        ("zzz = 2", "unknown key zzz", "the keys are: log_level, "),
        ("log_level = 3", "log_level: a string is expected, not a whole number", 'for example "info", in quotes'),
        ('log_level = "loud"', "log_level: 'loud' is not a log level", "debug, info"),
        ("auto_stop_stale_after = 30", "auto_stop_stale_after: a string is expected, not a whole number", 'for example "2h"'),
        ('auto_stop_stale_after = "soon"', "auto_stop_stale_after: duration: 'soon' is not a duration", "90s"),
        ("auto_stop_stale_after = 07:32:00", "not a date or time", "2h"),
        ('default_image_name = "../x"', "default_image_name: bad image name", "letters"),
        ('[vm_defaults]\nvcpu = "2"', "vm_defaults.vcpu: a whole number is expected, not a string", "for example 2, without quotes"),
        ("[vm_defaults]\nvcpu = true", "not a boolean", "for example 2"),
        ("[vm_defaults]\nvcpu = 1.5", "not a number with a fraction", "for example 2"),
        ("[vm_defaults]\nvcpu = 0", "vm_defaults.vcpu: vcpu must be between 1 and 64", "for example 2"),
        ("[vm_defaults]\nmemory_mib = 1", "vm_defaults.memory_mib: memory must be between", "for example 2048"),
        ('[vm_defaults]\ndisk_size = "1K"', "vm_defaults.disk_size: disk-size must be between", 'for example "8G"'),
        ("[vm_defaults]\ndisk_size = [1]", "not an array", "8G"),
        ("[network]\nmode = 'nat'", "network.mode: 'nat' is not a network mode", "auto, user, bridge"),
        ("[network]\nbridge = 'br-0'", "network.bridge: 'br-0' cannot name a bridge", "lower-case"),
        ("[network]\nsubnet = '8.8.8.0/24'", "network.subnet: 8.8.8.0/24 cannot be", "private"),
        ("[network]\ntap_pool_size = 65", "network.tap_pool_size: 65 is not between 0 and 64", "for example 4"),
        ("[network]\nreachable = 'x'", "network.reachable: an array of strings", "192.168"),
        ("[network]\nreachable = ['x']", "network.reachable: not an IPv4 network", "192.168"),
        ("release_url = 'ftp://x'", "release_url: 'ftp://x' is neither", "https://example.org"),
        ("[qemu]\nparallel = 'yes'", "qemu.parallel: true or false is expected, not a string", "for example true"),
        ("[qemu]\ncpu_model = 'max,+x'", "qemu.cpu_model: 'max,+x' cannot be a CPU model", "-cpu help"),
        ("vm_defaults = 3", "vm_defaults is a table, not a whole number", "[vm_defaults]"),
        ("log_level = ", "is not TOML: Invalid value (at end of document)", "a line looks like"),
        ('log_level = "info"\nlog_level = "info"', "Cannot overwrite a value", "a line looks like"),
        (b"\xff\xfe", "is not TOML", "a line looks like"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "is larger than 1024 KiB", "a few lines"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_with_its_name_and_what_to_write(tmp_path: Path, text: str | bytes, key: str, hint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadRequest) as caught:
        load_config(path)
    assert caught.value.message.startswith(str(path))
    assert key in caught.value.message
    assert hint in caught.value.hint


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(BadRequest, match="cannot be read: Is a directory"):
        load_config(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ('host = ""\nguest = "~/a"', "[0].host is empty"),
        ('guest = "~/a"', "[0].host is empty"),
        ('host = "a/b"\nguest = "~/a"', "[0].host: 'a/b' is neither absolute"),
        ('host = "~other/b"\nguest = "~/a"', "[0].host: '~other/b' is neither absolute"),
        ('host = "~/"\nguest = "~/a"', "[0].host: '~/' is neither absolute"),
        ('host = "~/x/../../y"\nguest = "~/a"', "[0].host: '~/x/../../y' may not hold"),
        ('host = "~/a"\nguest = "/etc/passwd"', "[0].guest: '/etc/passwd' is not below /root"),
        ('host = "~/a"\nguest = "/root/../etc/passwd"', "[0].guest: '/root/../etc/passwd' may not hold"),
        ('host = "~/a"\nguest = "/root/"', "[0].guest: '/root/' is not below /root"),
        ('host = "~/a"\nguest = "/rootling/a"', "is not below /root"),
        ('host = "~/a"\nguest = "~/a"\nmode = "0888"', "[0].mode: '0888' is no mode"),
        ('host = "~/a"\nguest = "~/a"\nmode = "7777"', "[0].mode: '7777' is no mode"),
        ('host = "~/a"\nguest = "~/a"\nmode = 420', "[0].mode: a string is expected"),
        ('host = "~/a"\nguest = "~/a"\nuser = "x"', "[0]: unknown key user"),
    ],
)
def test_file_sync_names_the_entry(tmp_path: Path, entry: str, complaint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        load_config(write(tmp_path, f"[[file_sync]]\n{entry}\n"))
    assert complaint in caught.value.message and "file_sync" in caught.value.message and caught.value.hint


def test_the_second_entry_has_index_one(tmp_path: Path) -> None:
    good = '[[file_sync]]\nhost = "~/a"\nguest = "~/a"\n'
    with pytest.raises(BadRequest, match=r"\[1\]\.guest"):
        load_config(write(tmp_path, good + good.replace('guest = "~/a"', 'guest = "a"')))
    with pytest.raises(BadRequest, match="array of tables"):
        load_config(write(tmp_path, 'file_sync = "~/a"\n'))
