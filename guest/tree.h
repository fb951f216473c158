/* Files and directory trees, as the kernel's calls see them. */
#ifndef TREE_H
#define TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct attributes {
    mode_t mode;
    uid_t uid;
    gid_t gid;
};

/* fchown, which in an ordinary user's native run does nothing. False (errno). */
bool give_to(int fd, uid_t uid, gid_t gid);

/* Makes the missing directories of `path` up to its last slash, or all of it with `whole`. Existing ones are left alone. False (errno). */
bool make_directories(const char *path, const struct attributes *attributes, bool whole);

/* Creates an empty file with a fresh name beside `path`; its name goes to `temporary`. -1 (errno) on failure. */
int create_beside(const char *path, char *temporary, size_t size);

/* Gives a finished temporary file its attributes and its name; removes it on failure (errno). With `durable` it is on the disk before. */
bool install_file(int fd, const char *temporary, const char *path, const struct attributes *attributes, bool durable);

/* Copies what is in the directory `from` into the directory `to`, with modes, owners, times and links. False (errno) at the first failure. */
bool copy_tree(int from, int to);

bool directory_is_empty(int directory);

/* Removes what is in a directory. */
bool empty_directory(int directory);

#endif
