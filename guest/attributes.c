/* Owners, times and extended attributes as a tree stream gives them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "attributes.h"
#include "program.h"

enum { SECOND = 1000000000 };

static const struct owner_override *override;

/* Whether an owner can be given at all: not by an ordinary user's native run. */
static bool gives_away(void)
{
    return !program.native || geteuid() == 0;
}

void attributes_begin(const struct owner_override *owner)
{
    override = owner;
}

bool own_missing(int directory, const char *name)
{
    return !override->given || !gives_away() || fchownat(directory, name, override->uid, override->gid, AT_SYMLINK_NOFOLLOW) == 0;
}

static void owner_of(const struct entry *entry, uid_t *uid, gid_t *gid)
{
    bool given = !override->given && entry->has_owner;
    *uid = override->given ? override->uid : given ? entry->uid : geteuid();
    *gid = override->given ? override->gid : given ? entry->gid : getegid();
}

bool set_owner(const struct entry *entry, int directory, const char *name, bool ours)
{
    uid_t uid;
    gid_t gid;
    owner_of(entry, &uid, &gid);
    if ((ours && uid == geteuid() && gid == getegid()) || !gives_away())
        return true;
    return fchownat(directory, name, uid, gid, AT_SYMLINK_NOFOLLOW | (name[0] ? 0 : AT_EMPTY_PATH)) == 0;
}

void times_of(int64_t mtime, struct timespec times[2])
{
    int64_t nanoseconds = mtime % SECOND;
    times[0] = (struct timespec){.tv_nsec = UTIME_OMIT};
    times[1] = (struct timespec){.tv_sec = mtime / SECOND - (nanoseconds < 0), .tv_nsec = nanoseconds + (nanoseconds < 0 ? SECOND : 0)};
}

static bool is_taken_xattr(const char *name)
{
    return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0;
}

/* A file system without them is no reason to fail. */
static bool set_xattrs(const struct entry *entry, int fd)
{
    size_t cursor = 0;
    struct bytes value;
    while (fields_each(&entry->fields, TREE_XATTR, &cursor, &value)) {
        struct fields pair = fields_open(value.at, value.size);
        char *name = fields_text(&pair, 1);
        struct bytes content = fields_bytes(&pair, 2);
        bool good = name && !pair.malformed && is_taken_xattr(name) && fsetxattr(fd, name, content.at, content.size, 0) == 0;
        bool unsupported = errno == ENOTSUP || errno == EPERM;
        bool skipped = name && !is_taken_xattr(name);
        free(name);
        if (!good && !skipped && !unsupported)
            return false;
    }
    return true;
}

bool set_file_attributes(const struct entry *entry, int fd, bool ours)
{
    struct timespec times[2];
    times_of(entry->mtime, times);
    return set_owner(entry, fd, "", ours) && set_xattrs(entry, fd) && (!(entry->mode & 07000) || fchmod(fd, entry->mode) == 0) &&
           (!entry->has_mtime || futimens(fd, times) == 0);
}
