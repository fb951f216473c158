/* The operation unpack: a tree stream becomes files beneath one directory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attributes.h"
#include "intake.h"
#include "operations.h"
#include "places.h"
#include "program.h"
#include "tree.h"
#include "worker.h"

enum { DESTINATION = 16, OWNER_UID = 17, OWNER_GID = 18, FLAGS = 19 };
enum { MAKE_DESTINATION = 1, REPLACE_OTHER_KINDS = 2, REAL_DIRECTORIES = 4, KNOWN_FLAGS = 7 };
enum { DEPTH_MAX = 256, SMALL = 64 * 1024 };

struct request {
    char destination[PATH_MAX];
    struct owner_override owner;
    uint32_t flags;
};

/* A directory whose time is set when the stream has left it. */
struct open_directory {
    char *path;
    int64_t mtime;
};

/* The child's state. */
static const struct request *request;
static int destination = -1;
static bool made_destination;
static struct open_directory directories[DEPTH_MAX];
static size_t depth;
static uint64_t entry_count, byte_count;

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
    if (good && !(set_file_attributes(entry, fd, !parent_gives_group()) && (small >= 0 || take_name(directory, name))))
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
    return (made && set_owner(entry, directory, name, !parent_gives_group()) &&
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
    bool good = directory >= 0 && (top || make_directory(directory, name, entry->mode, &fresh));
    bool plain = fresh && !parent_gives_group(); /* it has our owner, and the mode that mkdir was given */
    good = good && set_owner(entry, directory, name, plain) && ((plain && !(entry->mode & 07000)) || fchmodat(directory, name, entry->mode, 0) == 0);
    if (!good)
        return refuse_path(entry->path);
    if (entry->has_mtime && !top && depth < DEPTH_MAX) {
        char *path = strdup(entry->path);
        if (path)
            directories[depth++] = (struct open_directory){.path = path, .mtime = entry->mtime};
    }
    return true;
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
    case TREE_PRUNE:
        return prune_path(entry->path);
    default:
        return remove_path(entry->path);
    }
}

static bool open_destination(void)
{
    char place[PATH_MAX];
    const struct attributes attributes = {.mode = 0755, .uid = request->owner.uid, .gid = request->owner.gid};
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
    if (!open_destination())
        return false;
    places_begin(destination, strcmp(request->destination, "/") == 0, request->flags & REPLACE_OTHER_KINDS, request->flags & REAL_DIRECTORIES);
    attributes_begin(&request->owner);
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
        .owner =
            {
                .given = fields_has(fields, OWNER_UID) || fields_has(fields, OWNER_GID),
                .uid = fields_u32(fields, OWNER_UID, 0),
                .gid = fields_u32(fields, OWNER_GID, 0),
            },
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
