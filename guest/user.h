/* Users and groups, read from the image's files: a static program has no NSS. */
#ifndef USER_H
#define USER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { GROUPS_MAX = 256 };

struct user {
    uid_t uid;
    gid_t gid;
    char name[256], home[1024], shell[1024];
    gid_t groups[GROUPS_MAX];
    size_t group_count;
};

/* By name or number, perhaps with a group: `user:group`. Numbers (and root) need not be in /etc/passwd or /etc/group. False when there is no such user. */
bool user_find(const char *words, struct user *user);

#endif
