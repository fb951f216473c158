/* The operations stat and user: what is at a path, and who somebody is. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "operations.h"
#include "program.h"
#include "tree_stream.h"
#include "user.h"
#include "worker.h"

enum { SECOND = 1000000000 };

struct request {
    char path[PATH_MAX];
    bool follow;
};

static enum tree_type type_of(mode_t mode)
{
    return S_ISDIR(mode) ? TREE_DIRECTORY : S_ISREG(mode) ? TREE_REGULAR : S_ISLNK(mode) ? TREE_SYMLINK : TREE_OTHER;
}

/* The path without links; the kernel tells it for an open file. */
static void put_real_path(struct writer *result, int fd)
{
    char link[64], text[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, text, sizeof text);
    size_t root = strlen(program.root);
    if (length > 0 && (size_t)length >= root)
        put_bytes(result, 23, (size_t)length == root ? "/" : text + root, (size_t)length == root ? 1 : (size_t)length - root);
}

static bool look(const void *argument, struct writer *result)
{
    const struct request *request = argument;
    char place[PATH_MAX], target[PATH_MAX];
    struct stat status;
    if (!rooted(request->path, place, sizeof place))
        return refuse_errno(errno, request->path);
    int fd = open(place, O_PATH | O_CLOEXEC | (request->follow ? 0 : O_NOFOLLOW));
    if (fd < 0 || fstat(fd, &status) < 0)
        return refuse_errno(errno, request->path);
    put_u8(result, 16, type_of(status.st_mode));
    put_u32(result, 17, status.st_mode & 07777);
    put_u64(result, 18, (uint64_t)status.st_size);
    put_u32(result, 19, status.st_uid);
    put_u32(result, 20, status.st_gid);
    put_u64(result, 21, (uint64_t)((int64_t)status.st_mtim.tv_sec * SECOND + status.st_mtim.tv_nsec));
    ssize_t length = S_ISLNK(status.st_mode) ? readlinkat(fd, "", target, sizeof target) : -1;
    if (length >= 0)
        put_bytes(result, 22, target, (size_t)length);
    put_real_path(result, fd);
    return true;
}

static void stat_open(struct stream *stream, struct fields *fields)
{
    static struct request wanted;
    char *path = fields_text(fields, 16);
    wanted.follow = fields_u8(fields, 17, 0);
    bool good = path && path[0] == '/' && strlen(path) < PATH_MAX && !fields->malformed;
    if (good)
        memcpy(wanted.path, path, strlen(path) + 1);
    free(path);
    if (good)
        worker_open(stream, look, &wanted, 0);
    else
        stream_error(stream, "bad_request", "malformed fields or no absolute path");
}

const struct operation stat_operation = {.number = 13, .open = stat_open, WORKER_OPERATION};

static void user_open(struct stream *stream, struct fields *fields)
{
    static uint8_t bytes[4096];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    static struct user user;
    char *name = fields_text(fields, 16);
    bool malformed = fields->malformed || !name;
    bool found = !malformed && user_find(name[0] ? name : "root", &user);
    if (found) {
        put_u32(&result, 16, user.uid);
        put_u32(&result, 17, user.gid);
        put_text(&result, 18, user.home);
        put_text(&result, 19, user.shell);
        put_text(&result, 20, user.name);
        stream_result(stream, &result);
    } else if (malformed) {
        stream_error(stream, "bad_request", "malformed fields");
    } else {
        stream_error(stream, "no_user", "no user %s", name);
    }
    free(name);
}

const struct operation user_operation = {.number = 14, .open = user_open};
