/* Making, copying and removing files and directory trees. */
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

enum { DEPTH_MAX = 128, PIECE = 1024 * 1024 };

/* ---- single files ---- */

bool give_to(int fd, uid_t uid, gid_t gid)
{
    return (program.native && geteuid() != 0) || fchown(fd, uid, gid) == 0;
}

static bool make_directory(const char *path, const struct attributes *attributes)
{
    if (mkdir(path, attributes->mode) < 0)
        return errno == EEXIST;
    int made = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool good = made >= 0 && give_to(made, attributes->uid, attributes->gid) && fchmod(made, attributes->mode) == 0;
    int error = errno;
    if (made >= 0)
        close(made);
    errno = error;
    return good;
}

bool make_directories(const char *path, const struct attributes *attributes, bool whole)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(part, path, length + 1);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (!make_directory(part, attributes))
            return false;
        *slash = '/';
    }
    return !whole || make_directory(part, attributes);
}

int create_beside(const char *path, char *temporary, size_t size)
{
    static unsigned counter;
    const char *slash = strrchr(path, '/');
    int directory = slash ? (int)(slash - path) + 1 : 0;
    for (int attempt = 0; attempt < 100; attempt++) {
        int length = snprintf(temporary, size, "%.*s.banger-%d-%u", directory, path, getpid(), counter++);
        if (length < 0 || (size_t)length >= size) {
            errno = ENAMETOOLONG;
            return -1;
        }
        int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

static void sync_directory_of(const char *path)
{
    char name[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(name, sizeof name, "%.*s", slash && slash > path ? (int)(slash - path) : 1, path);
    int directory = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return;
    fsync(directory);
    close(directory);
}

bool install_file(int fd, const char *temporary, const char *path, const struct attributes *attributes, bool durable)
{
    if (give_to(fd, attributes->uid, attributes->gid) && fchmod(fd, attributes->mode) == 0 &&
        (!durable || fsync(fd) == 0) && rename(temporary, path) == 0) {
        if (durable)
            sync_directory_of(path);
        return true;
    }
    int error = errno;
    unlink(temporary);
    errno = error;
    return false;
}

/* ---- trees ---- */

static bool copy_into(int from, int to, int depth);

static bool copy_file(int from, int to, const char *name)
{
    int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int target = source < 0 ? -1 : openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    ssize_t moved = target < 0 ? -1 : 1;
    while (moved > 0)
        moved = sendfile(target, source, NULL, PIECE);
    int error = errno;
    if (source >= 0)
        close(source);
    if (target >= 0)
        close(target);
    errno = error;
    return moved == 0;
}

static bool copy_link(int from, int to, const char *name)
{
    char value[PATH_MAX];
    ssize_t length = readlinkat(from, name, value, sizeof value - 1);
    if (length < 0)
        return false;
    value[length] = 0;
    return symlinkat(value, to, name) == 0;
}

static bool copy_directory(int from, int to, const char *name, int depth)
{
    if (depth >= DEPTH_MAX) {
        errno = ELOOP;
        return false;
    }
    if (mkdirat(to, name, 0700) < 0)
        return false;
    int source = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int target = source < 0 ? -1 : openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool copied = target >= 0 && copy_into(source, target, depth + 1);
    int error = errno;
    if (source >= 0)
        close(source);
    if (target >= 0)
        close(target);
    errno = error;
    return copied;
}

static bool copy_attributes(const struct stat *status, int to, const char *name)
{
    const struct timespec times[2] = {status->st_atim, status->st_mtim};
    if (fchownat(to, name, status->st_uid, status->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    if (!S_ISLNK(status->st_mode) && fchmodat(to, name, status->st_mode & 07777, 0) < 0)
        return false;
    return utimensat(to, name, times, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool copy_entry(int from, int to, const char *name, int depth)
{
    struct stat status;
    if (fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    bool made;
    if (S_ISDIR(status.st_mode))
        made = copy_directory(from, to, name, depth);
    else if (S_ISREG(status.st_mode))
        made = copy_file(from, to, name);
    else if (S_ISLNK(status.st_mode))
        made = copy_link(from, to, name);
    else
        made = mknodat(to, name, status.st_mode, status.st_rdev) == 0;
    return made && copy_attributes(&status, to, name);
}

/* Calls `act` for every name in a directory until one fails. */
static bool each_entry(int directory, bool (*act)(int, int, const char *, int), int other, int depth)
{
    int again = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    if (!list)
        return false;
    bool good = true;
    const struct dirent *entry;
    while (good && (errno = 0, entry = readdir(list)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            good = act(directory, other, entry->d_name, depth);
    int error = errno;
    closedir(list);
    errno = error;
    return good && error == 0;
}

static bool copy_into(int from, int to, int depth)
{
    return each_entry(from, copy_entry, to, depth);
}

bool copy_tree(int from, int to)
{
    struct stat status;
    return copy_into(from, to, 0) && fstat(from, &status) == 0 && copy_attributes(&status, to, ".");
}

static bool refuse_entry(int directory, int unused, const char *name, int depth)
{
    (void)directory, (void)unused, (void)name, (void)depth;
    return false;
}

bool directory_is_empty(int directory)
{
    return each_entry(directory, refuse_entry, -1, 0);
}

static bool remove_entry(int directory, int unused, const char *name, int depth)
{
    (void)unused;
    if (unlinkat(directory, name, 0) == 0)
        return true;
    if (errno != EISDIR || depth >= DEPTH_MAX)
        return false;
    int inside = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool emptied = inside >= 0 && each_entry(inside, remove_entry, -1, depth + 1);
    int error = errno;
    if (inside >= 0)
        close(inside);
    errno = error;
    return emptied && unlinkat(directory, name, AT_REMOVEDIR) == 0;
}

bool empty_directory(int directory)
{
    return each_entry(directory, remove_entry, -1, 0);
}
