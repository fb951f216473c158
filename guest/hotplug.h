/* Waiting for devices without polling. */
#ifndef HOTPLUG_H
#define HOTPLUG_H

#include <stdbool.h>

/* Listens to the kernel's device events from now on. */
void hotplug_listen(void);

/* Waits until `there` says yes, asking again after every device event; false when the time is over. */
bool hotplug_wait(bool (*there)(void *argument), void *argument, int milliseconds);

/* Stops listening. */
void hotplug_ignore(void);

#endif
