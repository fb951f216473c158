"""The systemd units, each option with its reason where it is not plain. ``docs/system.md`` says what the two services may do."""

from __future__ import annotations

import hashlib
from string import Template
from typing import Final

from ..host.paths import HELPER_SOCKET
from ..model.installation import Installation
from .places import DAEMON_PROGRAM, DAEMON_UNIT, HELPER_PROGRAM, HELPER_SOCKET_UNIT, HELPER_UNIT

_WRITTEN: Final = "# Written by `banger system install`, which replaces it. Changes of your own belong into drop-ins: systemctl edit"

_DAEMON: Final = Template("""\
$written $daemon_unit
[Unit]
Description=banger's daemon for the machines of $owner
Documentation=man:banger(1)
Wants=$socket_unit
After=$socket_unit network.target systemd-resolved.service

[Service]
Type=notify
User=$owner
Group=$gid
${groups}\
ExecStart=$daemon --system
# Also after a clean end: `banger daemon stop` is how its owner has it read its configuration again.
Restart=always
RestartSec=500ms
# Machines are recovered before it is ready.
TimeoutStartSec=300
TimeoutStopSec=60
# Machines, and what serves them, outlive the daemon.
KillMode=process
UMask=0077
LimitNOFILE=65536

StateDirectory=banger
StateDirectoryMode=0700
CacheDirectory=banger
CacheDirectoryMode=0700
RuntimeDirectory=banger
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes

# Images are built in a user namespace with the owner's subordinate ids. That takes newuidmap and newgidmap, which are setuid: so no NoNewPrivileges, and
# these two capabilities can be reached, by them alone. It also takes a /proc that nothing is mounted on (so no ProtectKernelTunables, ProtectKernelLogs,
# ProtectProc or PrivateDevices), files with set-id bits (no RestrictSUIDSGID) and names of its own for the host (no ProtectHostname).
CapabilityBoundingSet=CAP_SETUID CAP_SETGID
RestrictNamespaces=user mnt pid uts ipc net
# Files of the owner's, anywhere, become images and go along to machines, and images are exported to where the owner says: so no ProtectHome, no PrivateTmp,
# and not "strict". What it may write elsewhere is what its owner may.
ProtectSystem=full
ProtectControlGroups=yes
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/net/tun rw
DeviceAllow=/dev/vhost-net rw
DeviceAllow=/dev/vhost-vsock rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_VSOCK
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
""")

_SOCKET: Final = Template("""\
$written $socket_unit
[Unit]
Description=Socket of banger's privileged helper

[Socket]
ListenSequentialPacket=$socket
SocketUser=$owner
SocketMode=0600
DirectoryMode=0711
RemoveOnStop=no

[Install]
WantedBy=sockets.target
""")

_HELPER: Final = Template("""\
$written $helper_unit
[Unit]
Description=banger's privileged helper: bridge, firewall, names and the processes of machines
Documentation=man:banger(1)
Requires=$socket_unit
After=$socket_unit

[Service]
Type=notify
ExecStart=$helper
Restart=on-failure
RestartSec=500ms
TimeoutStopSec=90
# Machines whose processes it has started outlive it, and get no signal from its end.
KillMode=process
SendSIGKILL=no
UMask=0077
RuntimeDirectory=banger-helper
RuntimeDirectoryMode=0711
RuntimeDirectoryPreserve=yes

# NET_ADMIN: bridge, taps, nftables, forwarding. NET_RAW: iptables-legacy, where Docker uses it. NET_BIND_SERVICE: port 53 of the bridge.
# SETUID, SETGID: a machine's process gets a uid of its own. SETPCAP: and an empty bounding set. KILL: that process is ended.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_SETPCAP CAP_KILL
NoNewPrivileges=yes
# What follows holds for the machines' processes too, which therefore see a host that they cannot write, and no home. Forwarding and cgroups are switched
# here (no ProtectKernelTunables, no ProtectControlGroups), processes are looked at (no ProtectProc), and emulated CPUs make code (no MemoryDenyWriteExecute).
ProtectSystem=strict
# The lock of iptables-legacy.
ReadWritePaths=-/run/xtables.lock
ProtectHome=yes
PrivateTmp=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/net/tun rw
DeviceAllow=/dev/vhost-net rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service seccomp
SystemCallErrorNumber=EPERM
""")


def units(installation: Installation, *, groups: str) -> dict[str, str]:
    """Text of every unit by its name. ``groups``: groups that the daemon has besides the owner's own, separated by spaces."""
    words = {
        "written": _WRITTEN,
        "daemon_unit": DAEMON_UNIT,
        "helper_unit": HELPER_UNIT,
        "socket_unit": HELPER_SOCKET_UNIT,
        "owner": _specifier_free(installation.owner),
        "gid": str(installation.gid),
        "groups": f"SupplementaryGroups={groups}\n" if groups else "",
        "daemon": str(DAEMON_PROGRAM),
        "helper": str(HELPER_PROGRAM),
        "socket": str(HELPER_SOCKET),
    }
    texts = {DAEMON_UNIT: _DAEMON, HELPER_SOCKET_UNIT: _SOCKET, HELPER_UNIT: _HELPER}
    return {name: text.substitute(words) for name, text in texts.items()}


def units_digest() -> str:
    """Hex SHA-256 of what the units are made from: another one means that an update writes them anew."""
    return hashlib.sha256("\0".join(text.template for text in (_DAEMON, _SOCKET, _HELPER)).encode()).hexdigest()


def _specifier_free(word: str) -> str:
    """``word`` as systemd.unit(5) reads it literally."""
    return word.replace("%", "%%")
