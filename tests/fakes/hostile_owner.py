"""A daemon's process that was taken over: with the owner's uid and nothing else it tries what it can at the helper's socket.

Prints a list of what was granted to it and should not have been. Started as root by the test, it gives that up first.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from banger.helper.wire import MAX_DESCRIPTORS, MAX_REQUEST_BYTES
from banger.host.process import start_time_of
from tests.fakes.privileged import QEMU_ARGUMENTS, VM
from tests.fakes.requests import BAD, GOOD, MALFORMED, request

INFO = request("info", {})
GRANTED: list[str] = []


@contextlib.contextmanager
def connection(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(60)
        sock.connect(path)
        yield sock


def ask(path: str, payload: bytes, descriptors: Iterable[int] = ()) -> dict[str, Any]:
    """The reply; {} for none."""
    with connection(path) as sock:
        numbers = array.array("i", descriptors)
        with contextlib.suppress(BrokenPipeError):
            sock.sendmsg([payload], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else [])
        with contextlib.suppress(ConnectionResetError):
            reply: dict[str, Any] = json.loads(sock.recv(1 << 18) or b"{}")
            return reply
    return {}


def must_refuse(path: str, payload: bytes, descriptors: Iterable[int] = ()) -> None:
    reply = ask(path, payload, descriptors)
    if "ok" in reply or reply.get("error", {}).get("message") == "the helper failed unexpectedly":
        GRANTED.append(f"{payload[:200]!r}: {reply}")


def wrong_requests(path: str) -> None:
    for verb, wrong in BAD:
        must_refuse(path, request(verb, GOOD[verb] | wrong), [0] * 3 if verb == "launch_vmm" else [])
    for payload in MALFORMED:
        must_refuse(path, payload)
    for size in (MAX_REQUEST_BYTES + 1, 2 * MAX_REQUEST_BYTES, 200_000):
        must_refuse(path, INFO + b" " * (size - len(INFO)))


def descriptors(path: str) -> None:
    for verb in GOOD:
        if verb != "launch_vmm":
            must_refuse(path, request(verb, GOOD[verb]), [0, 0])
    for number in (1, MAX_DESCRIPTORS, MAX_DESCRIPTORS + 1, 253):
        must_refuse(path, INFO, [0] * number)
        must_refuse(path, b"junk", [0] * number)
    must_refuse(path, request("launch_vmm", GOOD["launch_vmm"]), [0] * (MAX_DESCRIPTORS + 1))


def foreign_processes(path: str, victims: list[list[int]]) -> None:
    for pid, start_time in victims:
        for vm_id in (VM, "0" * 32):
            for signal in ("TERM", "KILL"):
                reply = ask(path, request("signal_vmm", {"vm_id": vm_id, "process": {"pid": pid, "start_time": start_time}, "signal": signal}))
                if reply.get("ok"):
                    GRANTED.append(f"{signal} to {pid}")


def foreign_programs(path: str) -> None:
    """QEMU's arguments that would open a file of the host's, or start a program, in otherwise good ones."""
    extra = (
        ("-drive", "file=/etc/shadow,format=raw"),
        ("-blockdev", "driver=file,node-name=x,filename=/etc/shadow"),
        ("-blockdev", "driver=file,node-name=x,filename=/dev/fdset/../../etc/shadow,auto-read-only=off,read-only=on,locking=off"),
        ("-chardev", "file,id=console,path=/etc/passwd,append=on"),
        ("-chardev", "socket,id=control,path=/tmp/x,server=on,wait=off"),
        ("-netdev", "tap,id=network,ifname=victim0,script=/tmp/evil"),
        ("-netdev", "bridge,id=network,br=victim0"),
        ("-add-fd", "fd=0,set=2"),
        ("-add-fd", "fd=@fd2@,set=2"),
        ("-incoming", "exec:/bin/sh"),
        ("-pidfile", "/etc/passwd"),
        ("-D", "/etc/passwd"),
        ("-runas", "root"),
        ("-readconfig", "/tmp/evil"),
        ("-sandbox", "off"),
        ("-name", "banger-" + "f" * 32),
        ("-plugin", "/tmp/evil.so"),
    )
    for words in extra:
        must_refuse(path, request("launch_vmm", GOOD["launch_vmm"] | {"arguments": [*QEMU_ARGUMENTS, *words]}), [0] * 3)
    for number, word in enumerate(QEMU_ARGUMENTS):
        if word.startswith("/proc/self/fd/"):
            arguments = [*QEMU_ARGUMENTS[:number], "/etc/shadow", *QEMU_ARGUMENTS[number + 1 :]]
            must_refuse(path, request("launch_vmm", GOOD["launch_vmm"] | {"arguments": arguments}), [0] * 3)


def half_open(path: str, number: int) -> None:
    """Say nothing and hold the line; close without a word; ask and never take the answer."""
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(number)]
    for index, sock in enumerate(silent):
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # the backlog is full
            sock.connect(path)
            if index % 3 == 1:
                sock.shutdown(socket.SHUT_WR)
            if index % 3 == 2:
                sock.send(INFO)
    for sock in silent:
        sock.close()


def flood(path: str, number: int) -> None:
    """Many at once, each many times, the same op id again and again."""

    def one() -> None:
        for _ in range(number // 20):
            ask(path, INFO)
            ask(path, b"[" * 60000, [0] * 8)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def lingering_descriptor(path: str) -> None:
    """Closing its last copy takes seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(b"x" * 65536)
        with connection(path) as sock:
            socket.send_fds(sock, [b"junk"], [sender.fileno()])
            sender.close()
            if "ok" not in ask(path, INFO):
                GRANTED.append("one descriptor stopped the helper")
        receiver.close()


def network(path: str, slots: list[int]) -> None:
    """What the owner may do, with foreign things of such names around, and again and again."""
    for _ in range(2):
        for verb, arguments in (
            ("ensure_network", {}),
            ("warm_taps", {"slots": slots}),
            ("attach_tap", {"vm_id": VM, "slot": slots[0], "nat": True}),
            ("release_taps", {"slots": slots, "keep": False}),
            ("release_taps", {"slots": slots, "keep": False}),
            ("set_nat", {"addresses": {"10.213.0.2": True}}),
            ("remove_network", {}),
            ("remove_network", {}),
            ("release_vmm", {"vm_id": VM}),
            ("limit_vmm", {"vm_id": VM, "limits": GOOD["limit_vmm"]["limits"]}),
        ):
            reply = ask(path, request(verb, arguments))
            if reply.get("error", {}).get("message") == "the helper failed unexpectedly":
                GRANTED.append(f"{verb}: {reply}")


def garbage_vmm(path: str) -> None:
    """A good command line over descriptors that hold nothing: the program ends, and so does its group.

    Meanwhile the helper is asked to end itself: a thread of it is in the machine's group for a moment.
    """
    pid = ask(path, INFO)["ok"]["pid"]
    itself = request("signal_vmm", {"vm_id": VM, "process": {"pid": pid, "start_time": start_time_of(pid)}, "signal": "KILL"})
    launched = threading.Event()

    def end_helper() -> None:
        while not launched.is_set():
            must_refuse(path, itself)

    thread = threading.Thread(target=end_helper)
    thread.start()
    try:
        with open("/dev/null", "r+b") as null:
            for _ in range(5):
                ask(path, request("launch_vmm", GOOD["launch_vmm"] | {"kvm": False}), [null.fileno()] * 3)
                end_vmm(path)
    finally:
        launched.set()
        thread.join()


def end_vmm(path: str) -> None:
    for _ in range(100):
        listed = ask(path, request("list_vmms", {}))["ok"]
        if VM in listed:
            pid, start_time = listed[VM]
            ask(path, request("signal_vmm", {"vm_id": VM, "process": {"pid": pid, "start_time": start_time}, "signal": "KILL"}))
        if "ok" in ask(path, request("release_vmm", {"vm_id": VM})):
            return
        threading.Event().wait(0.1)
    GRANTED.append("a group that does not go away")


def main(path: str, uid: int, plan: dict[str, Any]) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    attacks = {
        "wrong": lambda: wrong_requests(path),
        "descriptors": lambda: descriptors(path),
        "processes": lambda: foreign_processes(path, plan["victims"]),
        "programs": lambda: foreign_programs(path),
        "half open": lambda: half_open(path, 200),
        "flood": lambda: flood(path, plan["flood"]),
        "linger": lambda: lingering_descriptor(path),
        "network": lambda: network(path, plan["slots"]),
        "vmm": lambda: garbage_vmm(path),
        "info": lambda: GRANTED.append(json.dumps(ask(path, INFO))),
    }
    for name in plan["attacks"]:
        attacks[name]()
    print(json.dumps(GRANTED))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
