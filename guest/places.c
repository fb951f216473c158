/* Names beneath one directory: opened, made and removed without ever leaving it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attributes.h"
#include "places.h"
#include "tree.h"
#include "worker.h"

/* The directory that was used last stays open, because the next entry mostly lies there too. */
static int destination = -1, parent = -1;
static bool beneath_root, replaces, real_only, gives_group;
static char parent_path[PATH_MAX];
char temporary[TEMPORARY_MAX];

bool refuse_path(const char *path)
{
    int error = errno;
    if (error == ENOTDIR || error == EEXIST)
        return refuse("not_a_directory", "%s: %s", path, error == EEXIST ? "exists and is not a directory" : strerror(error));
    if (error == EISDIR || error == ENOTEMPTY)
        return refuse("is_a_directory", "%s: a directory is in the way", path);
    if (error == ELOOP)
        return refuse(real_only ? "not_a_directory" : "permission", "%s: %s", path, real_only ? "a symbolic link is on the way" : "a loop of symbolic links");
    if (error == EXDEV)
        return refuse("permission", "%s: a symbolic link leads out of the destination", path);
    return refuse_errno(error, path);
}

int open_beneath(const char *path, uint64_t flags)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    how.resolve |= (beneath_root ? RESOLVE_IN_ROOT : RESOLVE_BENEATH) | (real_only ? RESOLVE_NO_SYMLINKS : 0);
    int fd = -1;
    for (int attempt = 0; attempt < 100; attempt++) { /* EAGAIN: a rename somewhere, and there is ".." in a link */
        fd = (int)syscall(SYS_openat2, destination, path, &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd;
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
        if (made == 0 && !own_missing(above, name ? name + 1 : part))
            made = -1;
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

int parent_of(const char *path, const char **name)
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
        gives_group = status.st_mode & S_ISGID;
    memcpy(parent_path, directory, length + 1);
    return parent;
}

bool parent_gives_group(void)
{
    return gives_group;
}

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

static void next_temporary(void)
{
    static unsigned counter;
    snprintf(temporary, sizeof temporary, ".banger-%d-%u", getpid(), counter++);
}

int create_temporary(int directory, mode_t mode)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & 0777);
        if (fd >= 0 || errno != EEXIST)
            return fd;
        next_temporary();
    }
    return -1;
}

bool take_name(int directory, const char *name)
{
    if (renameat(directory, temporary, directory, name) == 0)
        return true;
    if (errno != EISDIR && errno != ENOTEMPTY && errno != EEXIST)
        return false;
    if (!replaces) {
        errno = EISDIR;
        return false;
    }
    return remove_tree(directory, name) && renameat(directory, temporary, directory, name) == 0;
}

void places_begin(int directory, bool is_root, bool replace_other_kinds, bool real_directories)
{
    destination = directory;
    beneath_root = is_root;
    replaces = replace_other_kinds;
    real_only = real_directories;
    next_temporary();
}

/* The directory that something shall go from, reached without any link: what lies behind one is not what the sender means. -1: nothing there. */
static int open_above(const char *path, const char **name)
{
    char above[PATH_MAX];
    const char *slash = strrchr(path, '/');
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    snprintf(above, sizeof above, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    *name = slash ? slash + 1 : path;
    forget_parent(); /* it may be what goes */
    return (int)syscall(SYS_openat2, destination, above, &how, sizeof how);
}

bool remove_path(const char *path)
{
    const char *name;
    int directory = open_above(path, &name);
    if (directory < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP || refuse_path(path);
    bool good = remove_tree(directory, name) || refuse_path(path);
    close(directory);
    return good;
}

bool prune_path(const char *path)
{
    const char *name;
    int directory = open_above(path, &name);
    if (directory >= 0) {
        unlinkat(directory, name, AT_REMOVEDIR); /* what is in use, or no directory, stays */
        close(directory);
    }
    return true;
}
