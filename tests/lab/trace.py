"""What a host shows of itself that an installation could leave behind: files, accounts, links, routes, firewall, units, processes."""

from __future__ import annotations

from tests.lab.laboratory import Laboratory

# What systemd, the tests and the installed program's own runs write all the time.
_PASSING = (
    "/proc /sys /dev /opt /root /tmp /var/tmp /var/log /var/lib/systemd/timers /run/systemd /run/udev /run/log /run/user /run/sudo /run/utmp"
    " /run/lock /run/credentials /run/mount /run/tmpfiles.d"
)
_LOOK = f"""
prune=$(for place in {_PASSING}; do printf ' -path %s -prune -o' "$place"; done)
find / $prune ! -type s -printf 'file %p %y %m %U:%G %l\\n' -o -printf 'socket %p\\n'
find /etc /usr/local -type f -exec sha256sum {{}} + | sed 's/^/content /'
getent passwd | sed 's/^/passwd /'
getent group | sed 's/^/group /'
ip -o link show | sed 's/^[0-9]*: \\([^:@]*\\).*/link \\1/'
ip -o address show | sed 's/^[0-9]*: *\\([^ ]*\\) *\\([^ ]*\\) *\\([^ ]*\\).*/address \\1 \\3/'
ip route show table all | sed 's/^/route /'
nft list tables
iptables-save | grep -v '^#' | sed 's/^/iptables /' || :
systemctl list-unit-files --no-legend --no-pager | grep -v transient | sed 's/^/unit file /'
systemctl list-units --all --no-legend --no-pager --plain 'banger*' | sed 's/^/unit /'
sysctl net.ipv4.ip_forward
find /sys/fs/cgroup -type d -name '*banger*' | sed 's/^/cgroup /'
resolvectl domain --no-pager | sed 's/^/resolver /'
grep -l bangerd /proc/[0-9]*/comm 2>/dev/null | sed 's/^/process /' || :
"""


def trace(laboratory: Laboratory) -> frozenset[str]:
    """One line per thing."""
    lines = laboratory.sh(f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin; {_LOOK}").splitlines()
    # `systemctl disable` removes a directory of links that it leaves empty, whoever made it.
    return frozenset(" ".join(line.split()) for line in lines if line.strip() and ".target.wants d " not in line)
