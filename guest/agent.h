/* The running agent. */
#ifndef AGENT_H
#define AGENT_H

#include <stdbool.h>

/* Signals, limits and a fresh event loop; also in a forked child that becomes the agent. False (errno) on failure. */
bool agent_start(void);

/* Serves the host. Returns in a native run when the other side has closed, else never. */
void agent_run(void);

/* Before another program is executed in our place. */
void agent_undo_signals(void);

#endif
