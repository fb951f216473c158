"""What the bridge costs a machine's connections, and what a deletion costs with it, in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from banger.helper.network.host_network import HostNetwork
from banger.model.network import NetworkPlan, network_plan
from bench.lifecycle import percentile
from bench.samples import Finding, interleaved, median
from tests.e2e.instance import BIN, Instance, wait_until
from tests.e2e.test_bridge import share_images
from tests.net.namespaces import Namespace, namespace

_ROUNDS: Final = 9
_PORT: Final = 7001
_SIZE: Final = 512 << 20
_DELETIONS: Final = 10
_SERVER: Final = """
import socket
server = socket.create_server(("0.0.0.0", 7001))
block = bytes(1 << 18)
while True:
    peer, _ = server.accept()
    with peer:
        word = peer.recv(1)
        if word == b"g":
            for _ in range((512 << 20) // len(block)):
                peer.sendall(block)
        else:
            left = 512 << 20
            while left > 0 and (data := peer.recv(1 << 18)):
                left -= len(data)
            peer.sendall(b".")
"""


def bridge(instance: Instance) -> list[Finding]:
    """TCP between host and guest over our bridge and over the bare tap of the same machine; and deletions with a card and without."""
    if os.geteuid() != 0:
        print("bridge needs root for a network namespace: left out", file=sys.stderr)
        return []
    plan = network_plan("bench0", "172.29.78.0/28")
    with namespace("bench") as host, _on_bridge(instance, host, plan) as bridged:
        rates = _rates(bridged, host, plan)
        ends = interleaved(_DELETIONS, bridge=lambda: _deletion(bridged), user=lambda: _deletion(instance))
    out, back = (median([ours / bare for ours, bare in zip(rates[f"{way} bridge"], rates[f"{way} bare"], strict=True)]) for way in ("to", "from"))
    slower = (median(ends["bridge"]) - median(ends["user"])) * 1000
    words = f"p95 {percentile(ends['bridge'], 0.95) * 1000:.3g} ms, without a card {percentile(ends['user'], 0.95) * 1000:.3g} ms"
    return [
        Finding(what="TCP to a guest over the bridge / over a bare tap", value=out, unit="", limit=0.97, at_least=True, samples=rates),
        Finding(what="TCP from a guest over the bridge / over a bare tap", value=back, unit="", limit=0.97, at_least=True),
        Finding(what=f"`vm delete` on the bridge: more than without ({words})", value=slower, unit="ms", limit=10, samples=ends),
    ]


@contextmanager
def _on_bridge(instance: Instance, host: Namespace, plan: NetworkPlan) -> Iterator[Instance]:
    place = Path(tempfile.mkdtemp(prefix="banger-bench-bridge-", dir="/var/tmp"))
    place.chmod(0o755)
    found = Instance(place / "home", program=("nsenter", f"--net=/run/netns/{host.name}", str(BIN / "banger")))
    share_images(instance, found)
    (found.home / "config").mkdir(mode=0o700, exist_ok=True)
    (found.home / "config/config.toml").write_text(f'[network]\nmode = "bridge"\nbridge = "{plan.bridge}"\nsubnet = "{plan.subnet}"\ndns_port = 42071\n')
    try:
        yield found
    finally:
        found.delete_everything()
        shutil.rmtree(place)


def _rates(instance: Instance, host: Namespace, plan: NetworkPlan) -> dict[str, list[float]]:
    """Bytes per second. The daemon is away meanwhile: it would put the bridge back."""
    instance.ok("vm", "run", "-d", "--name", "net", "--wait", "booted")
    address = instance.json("vm", "show", "net")["record"]["runtime"]["address"]
    instance.ok("vm", "exec", "-d", "net", "--", "python3", "-c", _SERVER)
    pid = instance.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: instance.daemon_pid() is None, "the daemon is gone")
    tap, network = plan.tap(plan.slot_of(address)), HostNetwork(plan)
    wait_until(lambda: host.call(_answers, address), "the guest's server answers", 60)
    samples: dict[str, list[float]] = {f"{way} {over}": [] for way in ("to", "from") for over in ("bridge", "bare")}
    for number in range(_ROUNDS + 1):
        for over in ("bridge", "bare"):
            if over == "bare":
                host.sh(f"nft flush ruleset; ip link set {tap} nomaster; ip addr del {plan.gateway}/{plan.subnet.prefixlen} dev {plan.bridge}")
                host.sh(f"ip addr add {plan.gateway}/{plan.subnet.prefixlen} dev {tap}")
            host.call(_transfer, address, b"s")  # who is where has to be asked first
            for way, word in (("to", b"s"), ("from", b"g")):
                rate = host.call(_transfer, address, word)
                if number > 0:
                    samples[f"{way} {over}"].append(rate)
        host.sh(f"ip addr flush dev {tap}")
        host.do(network.ensure_network())
    instance.ok("vm", "delete", "net")
    return samples


def _answers(address: str) -> bool:
    try:
        socket.create_connection((address, _PORT), timeout=2).close()
    except OSError:
        return False
    return True


def _transfer(address: str, word: bytes) -> float:
    block = bytes(1 << 18)
    with socket.create_connection((address, _PORT), timeout=120) as peer:
        begun = time.perf_counter()
        peer.sendall(word)
        if word == b"s":
            for _ in range(_SIZE // len(block)):
                peer.sendall(block)
            peer.recv(1)
        else:
            left = _SIZE
            while left > 0:
                left -= len(peer.recv(1 << 18))
        return _SIZE / (time.perf_counter() - begun)


def _deletion(instance: Instance) -> float:
    """Seconds that the daemon takes to delete a machine that runs: what its journal calls the clean-up."""
    instance.ok("vm", "run", "-d", "--name", "ends")
    instance.ok("vm", "delete", "ends")
    return _cleanup_seconds(instance)


def _cleanup_seconds(instance: Instance) -> float:
    lines = (instance.state / "bangerd.log").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"cleanup_runtime"' in line and '"vm.delete"' in line]
    return float(steps[-1]["ms"]) / 1000
