/* The operation unpack: a tree stream becomes files beneath one directory. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "intake.h"
#include "operations.h"
#include "program.h"
#include "tree.h"
#include "worker.h"

enum { DESTINATION = 16, OWNER_UID = 17, OWNER_GID = 18, FLAGS = 19 };
enum { MAKE_DESTINATION = 1, REPLACE_OTHER_KINDS = 2, KNOWN_FLAGS = 3 };
enum { SECOND = 1000000000, DEPTH_MAX = 256, TEMPORARY_MAX = 64, SMALL = 64 * 1024 };

struct request {
    char destination[PATH_MAX];
    bool has_owner;
    uid_t uid;
    gid_t gid;
    uint32_t flags;
};

/* A directory whose time is set when the stream has left it. */
struct open_directory {
    char *path;
    int64_t mtime;
};

/* The child's state. The directory that was used last stays open, because the next entry mostly lies there too. */
static const struct request *request;
static int destination = -1, parent = -1;
static bool made_destination, parent_gives_group;
static char parent_path[PATH_MAX], temporary[TEMPORARY_MAX];
static struct open_directory directories[DEPTH_MAX];
static size_t depth;
static uint64_t entry_count, byte_count;

static bool refuse_path(const char *path)
{
    int error = errno;
    if (error == ENOTDIR || error == EEXIST)
        return refuse("not_a_directory", "%s: %s", path, error == EEXIST ? "exists and is not a directory" : strerror(error));
    if (error == EISDIR || error == ENOTEMPTY)
        return refuse("is_a_directory", "%s: a directory is in the way", path);
    if (error == EXDEV || error == ELOOP)
        return refuse("permission", "%s: a symbolic link leads out of the destination", path);
    return refuse_errno(error, path);
}

/* ---- places ---- */

/* No symbolic link leads out: of "/" there is no outside, elsewhere such a link is an error. */
static int open_beneath(const char *path, uint64_t flags)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    how.resolve |= strcmp(request->destination, "/") == 0 ? RESOLVE_IN_ROOT : RESOLVE_BENEATH;
    int fd = -1;
    for (int attempt = 0; attempt < 100; attempt++) { /* EAGAIN: a rename somewhere, and there is ".." in a link */
        fd = (int)syscall(SYS_openat2, destination, path, &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd;
}

/* Whether an owner can be given at all: not by an ordinary user's native run. */
static bool gives_away(void)
{
    return !program.native || geteuid() == 0;
}

static void forget_parent(void)
{
    if (parent >= 0)
        close(parent);
    parent = -1;
}

/* Makes what is missing of a directory's path, each in its parent. */
static bool make_missing(const char *path)
{
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part, '/');; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = 0;
        char *name = strrchr(part, '/');
        int above = name ? -1 : destination, made;
        if (name) {
            *name = 0;
            above = open_beneath(part, O_PATH | O_DIRECTORY);
            *name = '/';
        }
        made = above < 0 ? -1 : mkdirat(above, name ? name + 1 : part, 0755);
        if (made == 0 && request->has_owner && gives_away())
            made = fchownat(above, name ? name + 1 : part, request->uid, request->gid, AT_SYMLINK_NOFOLLOW);
        int error = errno;
        if (above >= 0 && above != destination)
            close(above);
        errno = error;
        if (made < 0 && error != EEXIST)
            return false;
        if (!slash)
            return true;
        *slash = '/';
    }
}

/* The open directory that holds `path`, and the last word of it; -1 (errno). */
static int parent_of(const char *path, const char **name)
{
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    *name = slash ? slash + 1 : path;
    if (parent >= 0 && strncmp(parent_path, path, length) == 0 && !parent_path[length])
        return parent;
    forget_parent();
    memcpy(directory, path, length);
    memcpy(directory + length, "", 1);
    parent = open_beneath(length ? directory : ".", O_PATH | O_DIRECTORY);
    if (parent < 0 && errno == ENOENT && make_missing(directory))
        parent = open_beneath(directory, O_PATH | O_DIRECTORY);
    struct stat status;
    if (parent >= 0 && fstatat(parent, "", &status, AT_EMPTY_PATH) == 0)
        parent_gives_group = status.st_mode & S_ISGID;
    memcpy(parent_path, directory, length + 1);
    return parent;
}

/* Removes whatever has that name; nothing there is success. */
static bool remove_tree(int directory, const char *name)
{
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR)
        return false;
    int inside = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool emptied = inside >= 0 && empty_directory(inside);
    int error = errno;
    if (inside >= 0)
        close(inside);
    errno = error;
    return emptied && unlinkat(directory, name, AT_REMOVEDIR) == 0;
}

/* ---- attributes ---- */

static void owner_of(const struct entry *entry, uid_t *uid, gid_t *gid)
{
    bool given = !request->has_owner && entry->has_owner;
    *uid = request->has_owner ? request->uid : given ? entry->uid : geteuid();
    *gid = request->has_owner ? request->gid : given ? entry->gid : getegid();
}

/* What was just made belongs to us already. */
static bool set_owner(const struct entry *entry, int directory, const char *name, bool fresh)
{
    uid_t uid;
    gid_t gid;
    owner_of(entry, &uid, &gid);
    if ((fresh && !parent_gives_group && uid == geteuid() && gid == getegid()) || !gives_away())
        return true;
    return fchownat(directory, name, uid, gid, AT_SYMLINK_NOFOLLOW | (name[0] ? 0 : AT_EMPTY_PATH)) == 0;
}

static void times_of(int64_t mtime, struct timespec times[2])
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

/* ---- kinds of entries ---- */

static void next_temporary(void)
{
    static unsigned counter;
    snprintf(temporary, sizeof temporary, ".banger-%d-%u", getpid(), counter++);
}

static int create_temporary(int directory, mode_t mode)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & 0777);
        if (fd >= 0 || errno != EEXIST)
            return fd;
        next_temporary();
    }
    return -1;
}

/* What was made under the temporary name gets its own. */
static bool take_name(int directory, const char *name)
{
    if (renameat(directory, temporary, directory, name) == 0)
        return true;
    if (errno != EISDIR && errno != ENOTEMPTY && errno != EEXIST)
        return false;
    if (!(request->flags & REPLACE_OTHER_KINDS)) {
        errno = EISDIR;
        return false;
    }
    return remove_tree(directory, name) && renameat(directory, temporary, directory, name) == 0;
}

/* The content of one segment. False after refuse(). */
static bool write_segment(const struct entry *entry, int fd, const struct segment *segment)
{
    uint32_t done = 0;
    while (done < segment->length) {
        uint32_t size;
        const uint8_t *bytes = intake_bytes(segment->length - done, &size);
        if (!bytes)
            return false;
        if (!write_whole(fd, bytes, size))
            return refuse_errno(errno, entry->path);
        done += size;
    }
    byte_count += done;
    return true;
}

/* The content of a file, with holes where it has none. False after refuse(). */
static bool write_content(const struct entry *entry, int fd)
{
    uint64_t at = 0;
    for (;;) {
        struct segment segment;
        if (!intake_segment(entry->path, at, entry->size, &segment))
            return false;
        bool gap = segment.offset > at;
        if (!segment.length)
            return !gap || ftruncate(fd, (off_t)segment.offset) == 0 || refuse_errno(errno, entry->path);
        if (gap && lseek(fd, (off_t)segment.offset, SEEK_SET) < 0)
            return refuse_errno(errno, entry->path);
        if (!write_segment(entry, fd, &segment))
            return false;
        at = segment.offset + segment.length;
    }
}

/* Everything but the name. */
static bool finish_file(const struct entry *entry, int fd)
{
    struct timespec times[2];
    times_of(entry->mtime, times);
    return set_owner(entry, fd, "", true) && set_xattrs(entry, fd) && (!(entry->mode & 07000) || fchmod(fd, entry->mode) == 0) &&
           (!entry->has_mtime || futimens(fd, times) == 0);
}

/* A small file that has come whole and has no predecessor gets its name at once: a rename costs as much as all the rest. */
static int create_small(const struct entry *entry, int directory, const char *name)
{
    if (entry->size > SMALL || !intake_await(entry->size + SEGMENT_HEADER * (entry->size ? 2 : 1)))
        return -1;
    return openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, entry->mode & 0777);
}

static bool unpack_regular(struct entry *entry)
{
    const char *name;
    int directory = parent_of(entry->path, &name);
    int small = directory < 0 ? -1 : create_small(entry, directory, name);
    int fd = directory < 0 || small >= 0 ? small : create_temporary(directory, entry->mode);
    if (fd < 0)
        return refuse_path(entry->path);
    bool good = write_content(entry, fd);
    if (good && !(finish_file(entry, fd) && (small >= 0 || take_name(directory, name))))
        good = refuse_path(entry->path);
    close(fd);
    if (!good)
        unlinkat(directory, small >= 0 ? name : temporary, 0);
    return good;
}

static bool unpack_symlink(const struct entry *entry)
{
    const char *name;
    int directory = parent_of(entry->path, &name);
    bool made = directory >= 0 && symlinkat(entry->target, directory, name) == 0;
    if (!made && directory >= 0 && errno == EEXIST) {
        made = symlinkat(entry->target, directory, temporary) == 0 && take_name(directory, name);
        if (!made) {
            int error = errno;
            unlinkat(directory, temporary, 0);
            errno = error;
        }
    }
    struct timespec times[2];
    times_of(entry->mtime, times);
    return (made && set_owner(entry, directory, name, true) &&
            (!entry->has_mtime || utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW) == 0)) ||
           refuse_path(entry->path);
}

/* A link to a regular file that is beneath the destination already. */
static bool unpack_hardlink(const struct entry *entry)
{
    char source[64];
    const char *name;
    struct stat status;
    int directory = parent_of(entry->path, &name);
    int target = directory < 0 ? -1 : open_beneath(entry->target, O_PATH | O_NOFOLLOW);
    if (target < 0 || fstat(target, &status) < 0)
        return refuse_path(entry->path);
    snprintf(source, sizeof source, "/proc/self/fd/%d", target);
    bool good = S_ISREG(status.st_mode) || (errno = EPERM, false);
    good = good && linkat(AT_FDCWD, source, directory, temporary, AT_SYMLINK_FOLLOW) == 0 && take_name(directory, name);
    int error = errno;
    close(target);
    unlinkat(directory, temporary, 0); /* it stays when both are the same file already */
    errno = error;
    return good || refuse_path(entry->path);
}

static void leave_directory(void)
{
    const char *name;
    struct timespec times[2];
    struct open_directory *left = &directories[--depth];
    int directory = parent_of(left->path, &name);
    times_of(left->mtime, times);
    if (directory >= 0)
        utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW); /* it may be gone by now */
    free(left->path);
}

static void leave_directories(const char *path)
{
    while (depth) {
        size_t length = strlen(directories[depth - 1].path);
        if (strncmp(directories[depth - 1].path, path, length) == 0 && path[length] == '/')
            return;
        leave_directory();
    }
}

static bool make_directory(int directory, const char *name, mode_t mode, bool *fresh)
{
    struct stat status;
    *fresh = mkdirat(directory, name, mode & 0777) == 0;
    if (*fresh)
        return true;
    if (errno != EEXIST || fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    if (S_ISDIR(status.st_mode))
        return true;
    errno = EEXIST;
    *fresh = request->flags & REPLACE_OTHER_KINDS;
    return *fresh && unlinkat(directory, name, 0) == 0 && mkdirat(directory, name, mode & 0777) == 0;
}

/* An existing destination stays as it is; other existing directories become as they are in the stream. */
static bool unpack_directory(const struct entry *entry)
{
    const char *name;
    bool top = strcmp(entry->path, ".") == 0, fresh = false;
    if (top && !made_destination)
        return true;
    int directory = top ? destination : parent_of(entry->path, &name);
    if (top)
        name = ".";
    bool good = directory >= 0 && (top || make_directory(directory, name, entry->mode, &fresh)) && set_owner(entry, directory, name, fresh) &&
                ((fresh && !(entry->mode & 07000) && !parent_gives_group) || fchmodat(directory, name, entry->mode, 0) == 0);
    if (!good)
        return refuse_path(entry->path);
    if (entry->has_mtime && !top && depth < DEPTH_MAX) {
        char *path = strdup(entry->path);
        if (path)
            directories[depth++] = (struct open_directory){.path = path, .mtime = entry->mtime};
    }
    return true;
}

static bool unpack_remove(const struct entry *entry)
{
    char above[PATH_MAX];
    const char *slash = strrchr(entry->path, '/');
    snprintf(above, sizeof above, "%.*s", slash ? (int)(slash - entry->path) : 1, slash ? entry->path : ".");
    forget_parent(); /* it may be what goes */
    int directory = open_beneath(above, O_PATH | O_DIRECTORY);
    if (directory < 0)
        return errno == ENOENT || errno == ENOTDIR || refuse_path(entry->path);
    bool good = remove_tree(directory, slash ? slash + 1 : entry->path) || refuse_path(entry->path);
    close(directory);
    return good;
}

static bool unpack_entry(struct entry *entry)
{
    entry_count++;
    leave_directories(entry->path);
    switch (entry->type) {
    case TREE_DIRECTORY:
        return unpack_directory(entry);
    case TREE_REGULAR:
        return unpack_regular(entry);
    case TREE_SYMLINK:
        return unpack_symlink(entry);
    case TREE_HARDLINK:
        return unpack_hardlink(entry);
    default:
        return unpack_remove(entry);
    }
}

/* ---- the operation ---- */

static bool open_destination(void)
{
    char place[PATH_MAX];
    const struct attributes attributes = {.mode = 0755, .uid = request->uid, .gid = request->gid};
    if (!rooted(request->destination, place, sizeof place))
        return refuse_errno(errno, request->destination);
    destination = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (destination < 0 && errno == ENOENT && request->flags & MAKE_DESTINATION) {
        made_destination = make_directories(place, &attributes, true);
        destination = made_destination ? open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    }
    return destination >= 0 || refuse_path(request->destination);
}

static bool unpack(const void *argument, struct writer *result)
{
    static struct entry entry;
    bool over = false;
    request = argument;
    umask(0);
    next_temporary();
    if (!open_destination())
        return false;
    while (!over)
        if (!intake_entry(&entry, &over) || (!over && !unpack_entry(&entry)))
            return false;
    while (depth)
        leave_directory();
    put_u64(result, 16, entry_count);
    put_u64(result, 17, byte_count);
    return true;
}

static void unpack_open(struct stream *stream, struct fields *fields)
{
    static struct request wanted;
    char *path = fields_text(fields, DESTINATION);
    wanted = (struct request){
        .has_owner = fields_has(fields, OWNER_UID) || fields_has(fields, OWNER_GID),
        .uid = fields_u32(fields, OWNER_UID, 0),
        .gid = fields_u32(fields, OWNER_GID, 0),
        .flags = fields_u32(fields, FLAGS, 0),
    };
    bool good = path && path[0] == '/' && strlen(path) < PATH_MAX && !fields->malformed && !(wanted.flags & ~(uint32_t)KNOWN_FLAGS);
    if (good)
        memcpy(wanted.destination, path, strlen(path) + 1);
    free(path);
    if (good)
        worker_open(stream, unpack, &wanted, TAKES_INPUT);
    else
        stream_error(stream, "bad_request", "malformed fields or no absolute path");
}

const struct operation unpack_operation = {.number = 11, .open = unpack_open, WORKER_OPERATION};
