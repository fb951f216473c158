/* The operation pack: what lies at one path becomes a tree stream. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "operations.h"
#include "program.h"
#include "tree_stream.h"
#include "worker.h"

enum { PATH = 16, FLAGS = 17, NAME = 18 };
enum { FOLLOW_TOP = 1, CONTENTS_ONLY = 2, WITH_XATTRS = 4, KNOWN_FLAGS = 7 };
enum {
    BUFFER = 256 * 1024,
    PIECE = 128 * 1024,
    DEPTH_MAX = 1000,      /* each directory on the way is open */
    LINKS_MAX = 64 * 1024, /* files with several names that are remembered */
    BUCKETS = 4096,
    WARNINGS_MAX = 64,
    SECOND = 1000000000,
};

struct request {
    char path[PATH_MAX], name[PATH_MAX];
    uint32_t flags;
};

/* The first path of a file that has several. */
struct link {
    struct link *next;
    dev_t device;
    ino_t inode;
    char path[];
};

static const struct request *request;
static struct writer *result;
static uint8_t buffer[BUFFER];
static size_t used;
static char path[PATH_MAX]; /* of the present entry, as it is in the stream */
static struct link *links[BUCKETS];
static size_t link_count, warning_count;
static uint64_t entry_count, byte_count, skipped_count;

static bool flush(void)
{
    bool good = write_whole(WORKER_OUTPUT, buffer, used) || refuse_errno(errno, "send the stream");
    used = 0;
    return good;
}

static bool room_for(size_t size)
{
    return BUFFER - used >= size || flush();
}

static void skip(const char *why)
{
    char text[200];
    skipped_count++;
    if (warning_count++ >= WARNINGS_MAX)
        return;
    snprintf(text, sizeof text, "%.150s: %s", path, why);
    put_text(result, 18, text);
}

/* ---- one entry ---- */

static int64_t nanoseconds(const struct timespec *time)
{
    return (int64_t)time->tv_sec * SECOND + time->tv_nsec;
}

static void put_xattrs(struct writer *entry, int fd)
{
    static char names[XATTRS_MAX];
    static uint8_t value[XATTRS_MAX], bytes[XATTRS_MAX];
    ssize_t size = flistxattr(fd, names, sizeof names);
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(names + at) + 1) {
        bool wanted = strncmp(names + at, "user.", 5) == 0 || strcmp(names + at, "security.capability") == 0;
        ssize_t length = wanted ? fgetxattr(fd, names + at, value, sizeof value) : -1;
        struct writer pair = {.at = bytes, .size = sizeof bytes};
        if (length < 0)
            continue;
        put_text(&pair, 1, names + at);
        put_bytes(&pair, 2, value, (size_t)length);
        if (!pair.full)
            put_bytes(entry, TREE_XATTR, bytes, pair.used);
    }
}

/* `fd` is that of a directory or regular file, for its extended attributes; -1 = it has none to tell. */
static bool put_entry(enum tree_type type, const struct stat *status, const char *target, int fd)
{
    if (!room_for(4 + RECORD_MAX))
        return false;
    struct writer entry = {.at = buffer + used + 4, .size = RECORD_MAX};
    put_u8(&entry, TREE_TYPE, type);
    put_text(&entry, TREE_PATH, path);
    if (type != TREE_HARDLINK) {
        put_u32(&entry, TREE_MODE, status->st_mode & 07777);
        put_u32(&entry, TREE_UID, status->st_uid);
        put_u32(&entry, TREE_GID, status->st_gid);
        put_u64(&entry, TREE_MTIME, (uint64_t)nanoseconds(&status->st_mtim));
    }
    if (type == TREE_REGULAR)
        put_u64(&entry, TREE_SIZE, (uint64_t)status->st_size);
    if (target)
        put_text(&entry, TREE_TARGET, target);
    if (fd >= 0 && request->flags & WITH_XATTRS)
        put_xattrs(&entry, fd);
    store_u32(buffer + used, (uint32_t)entry.used);
    used += 4 + entry.used;
    entry_count++;
    return true;
}

static void put_segment(uint64_t offset, uint32_t length)
{
    store_u64(buffer + used, offset);
    store_u32(buffer + used + 8, length);
    used += SEGMENT_HEADER + length;
}

/* The bytes of a file up to `end`, in pieces of what could really be read. *at is where that ended. */
static bool put_data(int fd, uint64_t *at, uint64_t end)
{
    while (*at < end) {
        if (!room_for(SEGMENT_HEADER + PIECE))
            return false;
        uint64_t want = end - *at < PIECE ? end - *at : PIECE;
        ssize_t got = pread(fd, buffer + used + SEGMENT_HEADER, want, (off_t)*at);
        if (got < 0 && errno != EINTR)
            return refuse_errno(errno, path);
        if (got == 0) /* it became shorter */
            return true;
        if (got > 0) {
            put_segment(*at, (uint32_t)got);
            *at += (uint64_t)got;
            byte_count += (uint64_t)got;
        }
    }
    return true;
}

static bool put_content(int fd, const struct stat *status)
{
    uint64_t size = (uint64_t)status->st_size, at = 0;
    bool sparse = (uint64_t)status->st_blocks * 512 < size;
    while (at < size) {
        off_t data = sparse ? lseek(fd, (off_t)at, SEEK_DATA) : (off_t)at;
        off_t hole = sparse && data >= 0 ? lseek(fd, data, SEEK_HOLE) : (off_t)size;
        if (data < 0 && errno == ENXIO) {
            at = size; /* the rest is a hole */
        } else if (data < 0 || hole < 0) {
            sparse = false; /* a file system that cannot tell */
        } else {
            uint64_t end = (uint64_t)hole < size ? (uint64_t)hole : size;
            at = (uint64_t)data;
            if (at >= size)
                at = size;
            if (!put_data(fd, &at, end))
                return false;
            if (at < end)
                break;
        }
    }
    if (!room_for(SEGMENT_HEADER))
        return false;
    put_segment(at, 0);
    return true;
}

/* The path under which the stream has this file already; NULL when it is new, and then it is remembered. */
static const char *known_link(const struct stat *status)
{
    struct link **bucket = &links[status->st_ino % BUCKETS], *link = *bucket;
    while (link && (link->inode != status->st_ino || link->device != status->st_dev))
        link = link->next;
    if (link)
        return link->path;
    size_t length = strlen(path) + 1;
    link = link_count < LINKS_MAX ? malloc(sizeof *link + length) : NULL;
    if (!link)
        return NULL;
    *link = (struct link){.next = *bucket, .device = status->st_dev, .inode = status->st_ino};
    memcpy(link->path, path, length);
    *bucket = link;
    link_count++;
    return NULL;
}

/* ---- the walk ---- */

static bool pack_entry(int directory, const char *name, int level, bool follow);

/* Something that went away while we walked is no reason to fail. */
static bool vanished(void)
{
    if (errno != ENOENT)
        return refuse_errno(errno, path);
    skip("it went away");
    return true;
}

static bool pack_regular(int directory, const char *name, bool follow)
{
    struct stat status;
    int fd = openat(directory, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
    if (fd < 0)
        return vanished();
    bool good = fstat(fd, &status) == 0 || refuse_errno(errno, path);
    const char *known = good && status.st_nlink > 1 ? known_link(&status) : NULL;
    if (good && !S_ISREG(status.st_mode))
        skip("it became something else");
    else if (good && known)
        good = put_entry(TREE_HARDLINK, &status, known, -1);
    else if (good)
        good = put_entry(TREE_REGULAR, &status, NULL, fd) && put_content(fd, &status);
    close(fd);
    return good;
}

static bool pack_symlink(int directory, const char *name, const struct stat *status)
{
    char target[PATH_MAX];
    ssize_t length = readlinkat(directory, name, target, sizeof target - 1);
    if (length < 0)
        return vanished();
    target[length] = 0;
    return put_entry(TREE_SYMLINK, status, target, -1);
}

/* Packs what is in an open directory, which it closes. */
static bool pack_inside(int fd, int level)
{
    DIR *list = fdopendir(fd);
    if (!list) {
        refuse_errno(errno, path);
        close(fd);
        return false;
    }
    bool good = true;
    size_t length = strlen(path);
    const struct dirent *one;
    while (good && (errno = 0, one = readdir(list))) {
        if (strcmp(one->d_name, ".") == 0 || strcmp(one->d_name, "..") == 0)
            continue;
        if (strcmp(path, ".") == 0)
            length = 0;
        size_t more = strlen(one->d_name);
        if (length + more + 2 > sizeof path) {
            skip("something in it has too long a path");
            continue;
        }
        memcpy(path + length, "/", length ? 1 : 0);
        memcpy(path + length + (length ? 1 : 0), one->d_name, more + 1);
        good = pack_entry(dirfd(list), one->d_name, level + 1, false);
        memcpy(path + length, length ? "" : ".", length ? 1 : 2);
    }
    if (good && errno)
        good = refuse_errno(errno, path);
    closedir(list);
    return good;
}

static bool pack_directory(int directory, const char *name, int level, bool follow)
{
    struct stat status;
    if (level > DEPTH_MAX)
        return refuse("bad_request", "%.200s...: directories more than %d deep", path, DEPTH_MAX);
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
    if (fd < 0)
        return vanished();
    if (fstat(fd, &status) == 0 && put_entry(TREE_DIRECTORY, &status, NULL, fd))
        return pack_inside(fd, level);
    refuse_errno(errno, path);
    close(fd);
    return false;
}

static bool pack_entry(int directory, const char *name, int level, bool follow)
{
    struct stat status;
    if (fstatat(directory, name, &status, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
        return level ? vanished() : refuse_errno(errno, request->path);
    if (!S_ISDIR(status.st_mode) && level == 0 && request->flags & CONTENTS_ONLY)
        return refuse("not_a_directory", "%s is not a directory", request->path);
    if (S_ISDIR(status.st_mode))
        return pack_directory(directory, name, level, follow);
    if (S_ISREG(status.st_mode))
        return pack_regular(directory, name, follow);
    if (S_ISLNK(status.st_mode))
        return pack_symlink(directory, name, &status);
    skip(S_ISSOCK(status.st_mode) ? "a socket" : S_ISFIFO(status.st_mode) ? "a fifo" : "a device");
    return true;
}

/* ---- the operation ---- */

static bool pack(const void *argument, struct writer *fields)
{
    char place[PATH_MAX];
    request = argument;
    result = fields;
    bool contents = request->flags & CONTENTS_ONLY;
    snprintf(path, sizeof path, "%s", contents ? "." : request->name);
    if (!rooted(request->path, place, sizeof place))
        return refuse_errno(errno, request->path);
    if (!pack_entry(AT_FDCWD, place, 0, contents || request->flags & FOLLOW_TOP) || !room_for(4))
        return false;
    store_u32(buffer + used, 0);
    used += 4;
    if (!flush())
        return false;
    put_u64(fields, 16, entry_count);
    put_u64(fields, 17, byte_count);
    put_u64(fields, 19, skipped_count);
    return true;
}

/* The last word of a path, as the name of what is there. */
static void name_after(const char *from, char name[PATH_MAX])
{
    size_t length = strlen(from);
    while (length > 1 && from[length - 1] == '/')
        length--;
    size_t first = length;
    while (first && from[first - 1] != '/')
        first--;
    snprintf(name, PATH_MAX, "%.*s", (int)(length - first), from + first);
    if (!name[0] || strcmp(name, "..") == 0)
        snprintf(name, PATH_MAX, ".");
}

static void pack_open(struct stream *stream, struct fields *fields)
{
    static struct request wanted;
    char *from = fields_text(fields, PATH), *name = fields_text(fields, NAME);
    wanted.flags = fields_u32(fields, FLAGS, 0);
    bool good = from && name && from[0] == '/' && strlen(from) < PATH_MAX && strlen(name) <= NAME_MAX && !strchr(name, '/') && !fields->malformed &&
                !(wanted.flags & ~(uint32_t)KNOWN_FLAGS);
    if (good) {
        memcpy(wanted.path, from, strlen(from) + 1);
        name_after(name[0] ? name : from, wanted.name);
    }
    free(from);
    free(name);
    if (good)
        worker_open(stream, pack, &wanted, GIVES_OUTPUT);
    else
        stream_error(stream, "bad_request", "malformed fields or no absolute path");
}

const struct operation pack_operation = {.number = 12, .open = pack_open, WORKER_OPERATION};
