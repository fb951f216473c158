/* Finding and opening the way to the host. */
#ifndef PORT_H
#define PORT_H

#include <stdbool.h>

/* Waits for the device, opens it and begins the session there: a virtio-serial port, else vsock. False (failure()) when there is neither. */
bool port_open(void);

/* After loop_start in a forked child. */
bool port_rewatch(void);

#endif
