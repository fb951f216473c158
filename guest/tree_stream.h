/* The tree stream: a forest of files as a stream of bytes (docs/agent-protocol.md, section 8). */
#ifndef TREE_STREAM_H
#define TREE_STREAM_H

enum {
    RECORD_MAX = 64 * 1024, /* bytes of an entry's fields */
    SEGMENT_HEADER = 12,    /* offset u64, length u32 */
    XATTRS_MAX = 32 * 1024, /* names and values of one file */
};

/* Field 1 of an entry. */
enum tree_type {
    TREE_OTHER = 0, /* in answers of stat alone */
    TREE_DIRECTORY = 1,
    TREE_REGULAR = 2,
    TREE_SYMLINK = 3,
    TREE_HARDLINK = 4,
    TREE_REMOVE = 5,
    TREE_PRUNE = 6,
};

/* The other fields. */
enum {
    TREE_TYPE = 1,
    TREE_PATH = 2,
    TREE_MODE = 3,
    TREE_UID = 4,
    TREE_GID = 5,
    TREE_MTIME = 6,
    TREE_SIZE = 7,
    TREE_TARGET = 8,
    TREE_XATTR = 9,
};

#endif
