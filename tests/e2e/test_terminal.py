"""What a person at a terminal sees: prompt, resize, Ctrl-C, Ctrl-D, exit status, and a terminal that is as it was afterwards."""

from __future__ import annotations

import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.terminal import Terminal, on_terminal

pytestmark = pytest.mark.timeout(200)

PROMPT = "# "

KEYS = """
import os, select, signal, tty
tty.setraw(0)
woken, wake = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(wake)
signal.signal(signal.SIGWINCH, lambda *_: None)
keys = ""
print("ready", flush=True)
while not keys.endswith("."):
    for fd in select.select([0, woken], [], [])[0]:
        if fd == 0:
            keys += os.read(0, 512).decode()
        else:
            os.read(woken, 512)
            size = os.get_terminal_size(0)
            print((size.lines, size.columns), flush=True)
print("keys:", keys, "done", flush=True)
"""


def ask(terminal: Terminal, command: str) -> str:
    """Type a command at the prompt; returns its output. The words are split so that the echo of the input is not mistaken for output."""
    terminal.type(f"{command}; echo en''d-of-output\n")
    out = terminal.expect("end-of-output")
    terminal.expect(PROMPT)
    return out


def test_interactive_run(instance: Instance) -> None:
    """`banger vm run --rm` without a command, as a newcomer uses it."""
    with on_terminal(instance, "vm", "run", "--rm", "--name", "talk", rows=30, columns=100) as terminal:
        terminal.expect(PROMPT, 150)
        assert terminal.is_raw()
        assert "30 100" in ask(terminal, "stty size")
        terminal.resize(41, 133)
        wait_until(lambda: "41 133" in ask(terminal, "stty size"), "the guest sees the new size")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3
        assert not terminal.is_raw()


def test_shell_in_a_machine(instance: Instance, box: str) -> None:
    with on_terminal(instance, "vm", "shell", box) as terminal:
        terminal.expect(PROMPT)
        assert "/dev/pts/" in ask(terminal, "tty")
        assert box in ask(terminal, "hostname")


def test_a_full_screen_program(instance: Instance, box: str) -> None:
    """`less` asks for the size, draws, draws anew at a resize, takes single keys, and gives the screen back; the shell has the new size afterwards."""
    with on_terminal(instance, "vm", "shell", box, rows=20, columns=60) as terminal:
        terminal.expect(PROMPT)
        terminal.type("seq -f 'line-%g' 500 >/tmp/lines; TERM=xterm less /tmp/lines\n")
        drawn = terminal.expect("line-19")
        assert "\x1b[?1049h" in drawn and "line-20" not in drawn
        terminal.type("G")
        assert "line-482" in terminal.expect("(END)")
        wait_until(lambda: "wait_woken" in instance.run("vm", "exec", box, "--", "sh", "-c", "cat /proc/$(pidof less)/wchan").out, "less waits for a key")
        terminal.resize(40, 60)
        # Not a key before it has drawn: a SIGWINCH makes less 590 leave its read by longjmp, and a key that it had just read is gone, on any terminal.
        redrawn = terminal.expect("(END)")
        assert "\x1b[2J" in redrawn and redrawn.count("\r\n") == 39, redrawn
        terminal.type("q")
        terminal.expect("\x1b[?1049l")
        assert "40 60" in ask(terminal, "stty size")


def test_no_key_is_lost_while_the_window_changes(instance: Instance, box: str) -> None:
    """A program that takes keys and SIGWINCH without a race gets every key, in order, and the last size."""
    instance.ok("vm", "exec", "-i", box, "--", "sh", "-c", "cat >/tmp/keys.py", stdin=KEYS.encode())
    typed = "".join(chr(ord("a") + i % 26) for i in range(200)) + "!"
    with on_terminal(instance, "vm", "exec", box, "--", "python3", "/tmp/keys.py") as terminal:
        terminal.expect("ready")
        for i, key in enumerate(typed):
            terminal.resize(20 + i % 40, 60)
            terminal.type(key)
        terminal.resize(41, 133)
        terminal.expect("(41, 133)")
        terminal.type(".")
        assert f"keys: {typed}." in terminal.expect("done")


def test_control_c_ends_the_foreground_command_alone(instance: Instance, box: str) -> None:
    with on_terminal(instance, "vm", "shell", box) as terminal:
        terminal.expect(PROMPT)
        # The child itself says that it runs: bash loses its terminal when Ctrl-C falls between its fork and the child's exec.
        terminal.type("sh -c 'echo sl\"\"eeping; exec sleep 500'\n")
        terminal.expect("sleeping")
        terminal.type("\x03")
        terminal.expect(PROMPT)
        assert "130" in ask(terminal, "echo $?")


def test_control_d_leaves(instance: Instance, box: str) -> None:
    with on_terminal(instance, "vm", "shell", box) as terminal:
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.wait() == 0


def test_exit_status_of_a_command_on_a_terminal(instance: Instance, box: str) -> None:
    with on_terminal(instance, "vm", "exec", box, "--", "sh", "-c", "tty; exit 9") as terminal:
        assert terminal.wait() == 9
        assert "/dev/pts/" in terminal.seen


def test_a_terminal_that_closes_hangs_up(instance: Instance, box: str) -> None:
    script = "rm -f /tmp/bye; trap 'echo bye > /tmp/bye; exit' HUP; echo ready; while :; do sleep 0.1; done"
    with on_terminal(instance, "vm", "exec", box, "--", "sh", "-c", script) as terminal:
        terminal.expect("ready")
    wait_until(lambda: instance.run("vm", "exec", box, "--", "cat", "/tmp/bye").out == "bye\n", "the command got SIGHUP")


def test_rm_holds_when_the_terminal_closes(instance: Instance) -> None:
    with on_terminal(instance, "vm", "run", "--rm", "--name", "hung-up") as terminal:
        terminal.expect(PROMPT, 150)
    wait_until(lambda: not [row for row in instance.rows("vms") if row["name"] == "hung-up"], "the machine is gone", 40)


def test_stages_are_drawn(instance: Instance) -> None:
    with on_terminal(instance, "vm", "run", "--rm", "--", "true") as terminal:
        assert terminal.wait(150) == 0
        assert "\x1b" in terminal.seen or "\r" in terminal.seen
