/* Looking up users in /etc/passwd and their groups in /etc/group. */
#include "user.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

enum { DATABASE_MAX = 4 * 1024 * 1024, COLUMNS_MAX = 7 };

static char *read_database(const char *path)
{
    char place[PATH_MAX];
    size_t size;
    return rooted(path, place, sizeof place) ? read_whole(place, DATABASE_MAX, &size) : NULL;
}

static bool parse_id(const char *text, id_t *id)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || number >= UINT32_MAX)
        return false;
    *id = (id_t)number;
    return true;
}

/* Splits one line at its colons; how many columns there are. */
static size_t split(char *line, char *columns[COLUMNS_MAX])
{
    size_t count = 0;
    while (line && count < COLUMNS_MAX)
        columns[count++] = strsep(&line, ":");
    return count;
}

static void copy_text(char *to, size_t size, const char *from)
{
    strncpy(to, from, size - 1);
    to[size - 1] = 0;
}

/* A line of /etc/passwd: name, password, uid, gid, comment, home, shell. */
static bool take_user(char *line, const char *name, struct user *user)
{
    char *columns[COLUMNS_MAX];
    id_t uid, gid, wanted;
    if (split(line, columns) < COLUMNS_MAX || !parse_id(columns[2], &uid) || !parse_id(columns[3], &gid))
        return false;
    if (strcmp(columns[0], name) != 0 && !(parse_id(name, &wanted) && wanted == uid))
        return false;
    user->uid = uid;
    user->gid = gid;
    copy_text(user->name, sizeof user->name, columns[0]);
    copy_text(user->home, sizeof user->home, columns[5][0] ? columns[5] : "/");
    copy_text(user->shell, sizeof user->shell, columns[6][0] ? columns[6] : "/bin/sh");
    return true;
}

static bool find_in_passwd(const char *name, struct user *user)
{
    char *database = read_database("/etc/passwd"), *rest = database;
    bool found = false;
    while (rest && !found)
        found = take_user(strsep(&rest, "\n"), name, user);
    free(database);
    return found;
}

/* Somebody who has a number but no entry. */
static bool make_up(const char *name, struct user *user)
{
    id_t uid = 0;
    if (strcmp(name, "root") != 0 && !parse_id(name, &uid))
        return false;
    user->uid = uid;
    user->gid = uid;
    copy_text(user->name, sizeof user->name, name);
    copy_text(user->home, sizeof user->home, uid ? "/" : "/root");
    copy_text(user->shell, sizeof user->shell, "/bin/sh");
    return true;
}

static bool is_member(char *members, const char *name)
{
    while (members)
        if (strcmp(strsep(&members, ","), name) == 0)
            return true;
    return false;
}

/* Lines of /etc/group: name, password, gid, members. */
static void find_groups(struct user *user)
{
    char *database = read_database("/etc/group"), *rest = database;
    user->groups[0] = user->gid;
    user->group_count = 1;
    while (rest && user->group_count < GROUPS_MAX) {
        char *columns[COLUMNS_MAX];
        id_t gid;
        if (split(strsep(&rest, "\n"), columns) >= 4 && parse_id(columns[2], &gid) && gid != user->gid &&
            is_member(columns[3], user->name))
            user->groups[user->group_count++] = gid;
    }
    free(database);
}

/* A group by name or number. A number need not be in /etc/group. */
static bool find_group(const char *name, gid_t *gid)
{
    char *database = read_database("/etc/group"), *rest = database;
    bool found = false;
    while (rest && !found) {
        char *columns[COLUMNS_MAX];
        found = split(strsep(&rest, "\n"), columns) >= 4 && strcmp(columns[0], name) == 0 && parse_id(columns[2], gid);
    }
    free(database);
    return found || parse_id(name, gid);
}

bool user_find(const char *words, struct user *user)
{
    char name[255];
    size_t length = strcspn(words, ":");
    memset(user, 0, sizeof *user);
    if (length >= sizeof name)
        return false;
    memcpy(name, words, length);
    name[length] = 0;
    if (!find_in_passwd(length ? name : "root", user) && !make_up(length ? name : "root", user))
        return false;
    if (words[length] && words[length + 1]) {
        user->group_count = 1; /* as containers do: this group alone */
        bool found = find_group(words + length + 1, &user->gid);
        user->groups[0] = user->gid;
        return found;
    }
    find_groups(user);
    return true;
}
