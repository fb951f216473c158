/* Names beneath one destination: opened, made, replaced and removed without ever leaving it. */
#ifndef PLACES_H
#define PLACES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { TEMPORARY_MAX = 64 };

/* Where everything that follows happens. `is_root`: the destination is "/", which has no outside. `replace_other_kinds`: a directory makes room for what
 * is none. `real_directories`: no symbolic link is followed at all. */
void places_begin(int directory, bool is_root, bool replace_other_kinds, bool real_directories);

/* Says why errno kept us from `path`. False. */
bool refuse_path(const char *path);

/* No symbolic link leads out: of "/" there is no outside, elsewhere such a link is an error. -1 (errno). */
int open_beneath(const char *path, uint64_t flags);

/* The open directory that holds `path`, made if missing, and the last word of it; -1 (errno). Valid until the next call. */
int parent_of(const char *path, const char **name);

/* What is made in the directory that parent_of gave last gets that one's group. */
bool parent_gives_group(void);

/* The name that things have in their directory until they are complete. */
extern char temporary[TEMPORARY_MAX];

/* A new file with the temporary name; -1 (errno). */
int create_temporary(int directory, mode_t mode);

/* What was made under the temporary name gets its own. False (errno). */
bool take_name(int directory, const char *name);

/* Removes whatever has that path. No link is followed: nothing there, or a link on the way, is success. False after refuse(). */
bool remove_path(const char *path);

/* The same for a directory that is empty; anything else stays. */
bool prune_path(const char *path);

#endif
