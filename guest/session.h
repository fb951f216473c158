/* The session with the host: greeting, epochs, and the guest's state. */
#ifndef SESSION_H
#define SESSION_H

#include <stdint.h>

#include "frame.h"

enum { PROTOCOL_VERSION = 1 };

enum state { STATE_WAITING = 0, STATE_CONFIGURING = 1, STATE_READY = 2, STATE_BOOTED = 3 };

enum state session_state(void);
/* The host hears of STATE_BOOTED by an EVENT, of the others when it asks. */
void session_set_state(enum state state);

/* A new connection: ends all streams of an earlier one and says HELLO unasked. */
void session_begin(void);
/* The connection is lost: ends all streams. */
void session_lost(void);
/* Every sound frame, of whatever epoch. */
void session_handle(const struct frame *frame);

#endif
