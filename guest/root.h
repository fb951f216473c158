/* Assembling the root file system from the machine's disks. */
#ifndef ROOT_H
#define ROOT_H

#include <stdbool.h>
#include <stdint.h>

struct root_plan {
    uint8_t mode; /* ROOT_OVERLAY or ROOT_PLAIN */
    bool work_disk;
    char **ext4_paths; /* NULL at the end */
};

enum { ROOT_OVERLAY = 1, ROOT_PLAIN = 2 };

/* Mounts it all and makes it the root of this process. False (failure()) when a step fails. The work disk may still be on its way. */
bool root_assemble(const struct root_plan *plan);
/* Waits for the work disk; false (failure()) when it could not be mounted or filled. */
bool root_complete(void);

/* Puts a path of the writable disk itself on each of these paths. Called by root_assemble. */
bool ext4_bind_all(int directory, char **paths);

/* Mounts the work disk on the directory `place`; the first time with what is there. Called by root_assemble. */
bool work_disk_mount(const char *device, const char *place);

#endif
