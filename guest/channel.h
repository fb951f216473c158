/* The channel: the one byte pipe to the host, with its input buffer and bounded output queue. */
#ifndef CHANNEL_H
#define CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

/* What happens to the program when the other side closes. A virtio port stays; a socket is gone. */
enum channel_kind { CHANNEL_PORT, CHANNEL_SOCKET };

/* Takes over a descriptor, dropping the one before with all that was queued. False (errno) when it cannot be watched. */
bool channel_use(int fd, enum channel_kind kind);
/* After loop_start in a forked child: watch the same descriptor in the new epoll set. */
bool channel_rewatch(void);
/* Closes it. */
void channel_close(void);
bool channel_is_open(void);

/* Every frame written from now on carries this epoch. */
void channel_set_epoch(uint32_t epoch);
uint32_t channel_epoch(void);

/* Queues one whole frame. */
void channel_send(uint8_t type, uint8_t channel, uint32_t stream, const void *payload, size_t size);
/* Room for a payload of `size` bytes to be filled in place, then queued by channel_commit with what it really got;
 * NULL when the queue is full. Nothing else may be queued in between. */
uint8_t *channel_reserve(size_t size);
void channel_commit(uint8_t type, uint8_t channel, uint32_t stream, size_t size);

/* Forgets all queued output and queues zeros instead: they end the frame that the other side may have half of. */
void channel_restart_output(void);

/* Whether more output may be produced (the queue is below its mark). */
bool channel_has_room(void);
/* Writes what the other side takes now. */
void channel_flush(void);
/* The same, waiting at most this long until all of it is written. */
void channel_drain(int milliseconds);

/* Whether channel_receive has something to do right now. */
bool channel_has_input(void);
/* Reads what there is and hands every sound frame to `handle`. */
void channel_receive(void (*handle)(const struct frame *frame));

#endif
