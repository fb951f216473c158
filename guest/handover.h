/* Giving pid 1 to the image's init while the agent lives on. */
#ifndef HANDOVER_H
#define HANDOVER_H

#include <stdbool.h>

/* Which program becomes pid 1: `wanted`, or the first usual one there is; "" = none. False (failure()) when `wanted` cannot be executed. */
bool handover_choose(const char *wanted, const char **init);

/* Forks. Returns in the child, which is the agent from now on; pid 1 executes `init` or, when it is "", stays and reaps.
 * False (failure()) when nothing has happened. */
bool handover(const char *init);

#endif
