/* The network card's static address. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdbool.h>
#include <stdint.h>

struct card {
    char *mac, *address, *gateway; /* gateway "" = none */
    uint8_t prefix;
};

/* False (failure()) when the kernel refuses. */
bool network_start_loopback(void);
/* Finds the card by its hardware address and gives it address and default route. */
bool network_start(const struct card *card);

#endif
