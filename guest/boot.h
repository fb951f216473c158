/* The first moments of pid 1. */
#ifndef BOOT_H
#define BOOT_H

/* Mounts the pseudo file systems, loads the modules, answers a probe. Failures are said on the console; what can go on does. */
void boot_prepare(void);

#endif
