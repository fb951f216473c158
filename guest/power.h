/* Ending the machine. */
#ifndef POWER_H
#define POWER_H

#include <stdbool.h>
#include <sys/types.h>

/* Who runs as pid 1 beside the agent, and so how to ask it to power off. */
enum init_kind { INIT_SYSTEMD, INIT_OURS, INIT_OTHER };

void power_set_init(enum init_kind kind);
/* On Firecracker, which has no power switch, a reboot is the way out. */
void power_off_by_reboot(void);

/* Flushes and freezes the disks, then leaves at once. */
void power_end(bool reboot) __attribute__((noreturn));
/* Ends all other processes (first politely, at most 2 s), then power_end. For pid 1. */
void power_stop_all(bool reboot) __attribute__((noreturn));

#endif
