"""``banger vm``: the machines."""

from __future__ import annotations

import click

from .lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    entries={
        "run": (".vm_run:run", "Make a machine and run a command or a shell in it."),
        "create": (".vm_run:create", "Make a machine and start it."),
        "list": (".vm_show:list_command", "List machines."),
        "show": (".vm_show:show", "Show all about one machine."),
        "start": (".vm_change:start", "Start machines."),
        "stop": (".vm_change:stop", "Power machines off."),
        "restart": (".vm_change:restart", "Stop and start machines."),
        "kill": (".vm_change:kill", "End machines that do not stop."),
        "delete": (".vm_change:delete", "Remove machines and their disks."),
        "set": (".vm_set:set_command", "Change the size and the published ports of machines."),
        "prune": (".vm_prune:prune", "Remove all machines that do not run."),
        "exec": (".vm_exec:exec_command", "Run a command in a machine."),
        "shell": (".vm_exec:shell", "Open a shell in a machine."),
        "workspace": (".vm_workspace:workspace", "Bring a directory into a machine, and the work back."),
        "cp": (".vm_cp:cp", "Copy files into and out of a machine."),
        "jobs": (".vm_job:jobs", "List commands that run by themselves."),
        "job": (".vm_job:job", "Output, end and signals of such a command."),
        "ssh": (".vm_ssh:ssh", "Log in to a machine by ssh."),
        "connect": (".vm_connect:connect", "Connect stdin and stdout to a port of a machine."),
        "forward": (".vm_forward:forward", "Forward ports of this host to a machine while it runs."),
        "stats": (".vm_observe:stats", "Show what machines use."),
        "ports": (".vm_observe:ports", "Show what waits for connections in machines."),
        "health": (".vm_observe:health", "Say whether a machine runs and answers."),
        "ping": (".vm_observe:ping", "Say whether a machine is alive."),
        "touch": (".vm_observe:touch", "Note that machines are in use."),
        "logs": (".vm_logs:logs", "Print a machine's console."),
        "ls": (".vm_show:list_command", ""),
        "rm": (".vm_change:delete", ""),
    },
)
def vm() -> None:
    """Run, keep, inspect and delete machines. VM is a name, an id, or the unique beginning of an id."""
