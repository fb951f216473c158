/* The wall clock and the kernel's random pool. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nanoseconds since 1970. Does nothing in a native run. False (errno) on failure. */
bool clock_set(int64_t nanoseconds);

/* Mixes bytes into the kernel's pool and credits them as entropy. */
bool entropy_add(const void *bytes, size_t size);

#endif
