/* Reading a tree stream from a pipe: entries and segments, with every length checked before it is believed. */
#ifndef INTAKE_H
#define INTAKE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fields.h"
#include "tree_stream.h"

/* One entry, as far as it is given. `path` and `target` are checked: see intake_entry. */
struct entry {
    enum tree_type type;
    char path[PATH_MAX], target[PATH_MAX];
    mode_t mode;
    bool has_owner, has_mtime;
    uid_t uid;
    gid_t gid;
    int64_t mtime; /* ns since 1970 */
    uint64_t size;
    struct fields fields; /* all of it, valid until the next call */
};

struct segment {
    uint64_t offset;
    uint32_t length; /* 0 = the end of the file, `offset` its size */
};

/* The next entry; *end instead when that was all. Paths are relative, with neither "." nor ".." in them, but for a directory
 * that is "." itself. False after refuse(). */
bool intake_entry(struct entry *entry, bool *end);

/* Waits until so many bytes have come; false when the stream ends before, or there is no room for them. */
bool intake_await(size_t size);

/* The next segment's header, at least at `from` and within `size`. False after refuse(). */
bool intake_segment(const char *path, uint64_t from, uint64_t size, struct segment *segment);

/* Up to `most` bytes of a segment's content; NULL after refuse(). */
const uint8_t *intake_bytes(uint32_t most, uint32_t *size);

#endif
