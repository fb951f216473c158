/* Owners, modes, times and extended attributes as the entries of a tree stream give them. */
#ifndef ATTRIBUTES_H
#define ATTRIBUTES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "intake.h"

/* Whose everything shall be, whatever the stream says. */
struct owner_override {
    bool given;
    uid_t uid;
    gid_t gid;
};

/* `owner` must stay valid. */
void attributes_begin(const struct owner_override *owner);

/* The owner of a directory that the stream does not have but needs. False (errno). */
bool own_missing(int directory, const char *name);

/* The owner of an entry, by its name in `directory` or, with "", of `directory` itself. `ours`: it is known to have our uid and gid. False (errno). */
bool set_owner(const struct entry *entry, int directory, const char *name, bool ours);

/* All that a regular file just written has beside its name; permissions below 01000 it was made with. False (errno). */
bool set_file_attributes(const struct entry *entry, int fd, bool ours);

/* An entry's time for utimensat: the time of the last access stays. */
void times_of(int64_t mtime, struct timespec times[2]);

#endif
