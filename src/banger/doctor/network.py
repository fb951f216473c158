"""What machines' networks need: passt without a bridge; with one nftables, a name and a subnet that are free, ports for names, a resolver that asks."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from ..helper.names import recipe
from ..helper.names.resolved import is_running
from ..helper.network.bridge import find_bridge
from ..helper.network.neighbours import conflict
from ..host.bound_ports import port_holder
from ..host.links import Links
from ..host.netlink import Netlink
from ..host.run import find_tool
from ..host.run_sync import run_sync
from ..model.errors import BangerError, CommandFailed
from ..model.network import NetworkPlan
from .ground import Ground
from .outcome import Fix, Result, commands, failed, passed, refused, skipped, warned
from .packages import missing_tools, no_tool
from .virtualisation import load_module

_NO_BRIDGE: Final = "machines of this instance have no bridge"
_FORWARDING: Final = "/proc/sys/net/ipv4/ip_forward"
_LISTEN: Final = "0A"
_LOOPBACK: Final = IPv4Address("127.0.0.1")


def mode(ground: Ground) -> Result:
    """Which network machines get, and why."""
    if ground.config is None:
        return skipped("not known: config.toml cannot be read")
    if ground.plan is not None:
        return passed(f"bridge {ground.plan.bridge}, {ground.plan.subnet}: each machine has an address and a name")
    if ground.config.network.mode == "bridge":
        return failed('[network] mode = "bridge" needs an installed system', f"sudo banger system install --owner {ground.user}; or remove the line")
    return passed("without privileges: published ports and ssh; sudo banger system install gives machines addresses and names")


def passt(ground: Ground) -> Result:
    """The program behind a card without privileges."""
    if ground.plan is not None:
        return skipped("machines are on a bridge")
    if no_tool("passt"):
        return missing_tools(["passt"], "with --nat a guest could reach services on this host's 127.0.0.1", "warn")
    return passed(str(find_tool("passt")))


def nftables(ground: Ground) -> Result:
    """The firewall that keeps guests apart, and the parts of the kernel that it needs."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    if no_tool("nft"):
        return missing_tools(["nft"], "no bridge without its firewall")
    if os.geteuid() == 0:
        try:
            run_sync(["nft", "list", "tables"], deadline=4.0)
        except CommandFailed as error:
            return failed(f"nft does not work here: {error.message}", load_module(ground, "nf_tables"))
    return passed(str(find_tool("nft")))


def bridge_module(ground: Ground) -> Result:
    """The kernel's bridges; a module is loaded by the kernel itself when the first one is made."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    if ground.at("/sys/module/bridge").exists() or ground.at(f"/sys/class/net/{ground.plan.bridge}/bridge").exists():
        return passed("the kernel makes bridges")
    modules = f"/lib/modules/{platform.release()}"
    if "/bridge.ko" in ground.read(f"{modules}/modules.builtin") + ground.read(f"{modules}/modules.dep"):
        return passed("the kernel loads the module with the first bridge")
    if not ground.at(modules).exists():
        return skipped("the kernel's modules cannot be seen from here")
    return failed("this kernel has no bridges", "use one with CONFIG_BRIDGE, as all distributions' are")


def bridge(ground: Ground) -> Result:
    """Whose the link of that name is, and whether it has what it needs."""
    plan = ground.plan
    if plan is None:
        return skipped(_NO_BRIDGE)
    with Netlink() as netlink:
        links = Links(netlink)
        try:
            found = find_bridge(links, plan)
        except BangerError as error:
            return refused(error)
        if found is None:
            return passed(f"{plan.bridge} is free; it is made with the first machine")
        addresses = {address.interface.ip for address in links.addresses() if address.index == found.index}
    if not found.up or plan.gateway not in addresses:
        trouble = "is down" if not found.up else f"has lost its address {plan.gateway}"
        return warned(f"{plan.bridge} {trouble}; the daemon repairs it within seconds while machines run", _repair(ground))
    return passed(f"{plan.bridge} is up with {plan.gateway}")


def _repair(ground: Ground) -> Fix:
    """A daemon that begins looks after its network."""
    return commands("banger system restart") if ground.system else commands("banger daemon stop", "banger vm list", who="owner")


def subnet(ground: Ground) -> Result:
    """Addresses of machines that something else on the host has too: a VPN, another bridge."""
    plan = ground.plan
    if plan is None:
        return skipped(_NO_BRIDGE)
    with Netlink() as netlink:
        links = Links(netlink)
        own = links.find(plan.bridge)
        trouble = conflict(plan, own.index if own else 0, links.addresses(), links.routes())
    if not trouble:
        return passed(f"{plan.subnet} is ours alone")
    change = "sudo banger system install --subnet CIDR" if ground.system else "set subnet below [network] in config.toml"
    return failed(trouble, f"{change} (machines that exist keep their addresses: delete them first), or end the other network")


def forwarding(ground: Ground) -> Result:
    """Switched on with the bridge, and back with its end."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    if ground.read(_FORWARDING).strip() == "1":
        return passed("on")
    if ground.at(f"/sys/class/net/{ground.plan.bridge}").exists():
        return warned("off, though the bridge is there: machines with --nat reach nothing", commands("sysctl -w net.ipv4.ip_forward=1"))
    return passed("off; switched on with the first machine")


def br_netfilter(ground: Ground) -> Result:
    """Where it is loaded, frames between ports pass iptables as well."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    if ground.read("/proc/sys/net/bridge/bridge-nf-call-iptables").strip() != "1":
        return passed("frames on the bridge do not pass iptables")
    return passed("frames on the bridge pass iptables too (br_netfilter is loaded, as Docker and Kubernetes want it); our rules hold for both ways")


def dns_port(ground: Ground) -> Result:
    """127.0.0.1, where the host's resolver asks."""
    if ground.plan is None or ground.config is None:
        return skipped(_NO_BRIDGE)
    return _port(ground, _LOOPBACK, ground.config.network.dns_port, "set dns_port below [network] in config.toml to a free one, and restart the daemon")


def guest_dns_port(ground: Ground) -> Result:
    """Port 53 of the bridge's address, where guests ask."""
    if ground.plan is None:
        return skipped(_NO_BRIDGE)
    name = ground.plan.bridge
    return _port(
        ground, ground.plan.gateway, 53, f"keep it from {name}: except-interface={name} and bind-dynamic for dnsmasq; unbound, named: list the interfaces"
    )


def _port(ground: Ground, address: IPv4Address, port: int, remedy: str) -> Result:
    where = f"port {port} of {address}"
    for protocol in ("udp", "tcp"):
        if not _is_taken(ground, protocol, address, port):
            continue
        holder = port_holder(protocol, address, port)
        if ground.daemon is not None and (f"(pid {ground.daemon.pid})" in holder or _could_be_the_daemon(ground, holder)):
            return passed(f"{where} is the daemon's")
        return warned(f"{protocol} {where} is held by {holder}: machines' names are not answered there", remedy)
    return passed(f"{where} is free")


def _could_be_the_daemon(ground: Ground, holder: str) -> bool:
    """Another user's process shows no more than its uid. Port 53 is bound by the helper, who is root, and handed over."""
    return holder in (f"a process of uid {ground.uid}", "a process of uid 0")


def _is_taken(ground: Ground, protocol: str, address: IPv4Address, port: int) -> bool:
    """By /proc/net (proc(5)); a bind to try it would be in the way of a daemon that starts just now."""
    wanted = {f"{address.packed[::-1].hex().upper()}:{port:04X}", f"00000000:{port:04X}", f"{'0' * 32}:{port:04X}"}
    lines = [line.split() for table in (protocol, f"{protocol}6") for line in ground.read(f"/proc/net/{table}").splitlines()[1:]]
    return any(fields[1] in wanted and (protocol == "udp" or fields[3] == _LISTEN) for fields in lines)


def resolver(ground: Ground) -> Result:
    """Who looks up names for this host's programs; whether lookups arrive, the daemon tries."""
    plan = ground.plan
    if plan is None or ground.config is None:
        return skipped(f"{_NO_BRIDGE}, and so no names")
    port = ground.config.network.dns_port
    if is_running():
        return _stub(ground, plan)
    return warned("no systemd-resolved here to be told of NAME.vm; ssh, exec and published ports work without", recipe(plan.bridge, port))


def _stub(ground: Ground, plan: NetworkPlan) -> Result:
    servers = [line.split()[1] for line in ground.read("/etc/resolv.conf").splitlines() if line.startswith("nameserver") and len(line.split()) > 1]
    by_library = any(line.startswith("hosts:") and "resolve" in line.split() for line in ground.read("/etc/nsswitch.conf").splitlines())
    if by_library or any(server.startswith("127.0.0.5") for server in servers):
        return passed(f"systemd-resolved, which is told of {plan.bridge} with the first machine")
    link = commands("ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf", foreign=True)
    return warned(f"systemd-resolved runs, but programs ask {', '.join(servers) or 'nobody'} (/etc/resolv.conf)", link)


CHECKS: Final[tuple[tuple[str, str, Callable[[Ground], Result]], ...]] = (
    ("network.mode", "network", mode),
    ("network.passt", "passt", passt),
    ("network.nftables", "nftables", nftables),
    ("network.bridge-module", "bridges", bridge_module),
    ("network.bridge", "bridge", bridge),
    ("network.subnet", "subnet", subnet),
    ("network.forwarding", "forwarding", forwarding),
    ("network.br-netfilter", "br_netfilter", br_netfilter),
    ("network.dns-port", "port for names", dns_port),
    ("network.guest-dns-port", "port for guests' names", guest_dns_port),
    ("network.resolver", "resolver", resolver),
)
