/* The event loop: one epoll set for everything, and inside it one for what produces output. */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stdint.h>

/* A descriptor somebody waits for. `ready` must tolerate being called without reason: it only does non-blocking work
 * and believes what read and write say. */
struct watch {
    int fd;
    bool produces; /* what it yields goes to the channel: not looked at while the output queue is full */
    uint32_t events;
    void (*ready)(struct watch *watch);
};

/* Makes fresh epoll sets; the watches known before are forgotten. False (errno) on failure. */
bool loop_start(void);

/* Waits for these epoll events from now on; 0 = no longer. False (errno) when the kernel refuses. */
bool loop_watch(struct watch *watch, uint32_t events);

/* One round: wait until something is due (at most `timeout` ms, -1 = for ever), then let the watches' owners work.
 * Producers only get their turn while `may_produce` says so. */
void loop_round(int timeout, bool (*may_produce)(void));

#endif
