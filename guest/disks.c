/* Directories of the new root that lie on plain ext4: the work disk on /root, and paths that overlayfs serves badly. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "program.h"
#include "root.h"
#include "tree.h"

/* On the work disk's root directory. Absent on a fresh disk, and on one that somebody else filled. */
#define MARK "trusted.banger.work"
#define FILLING "filling"
#define FILLED "filled"

static const struct attributes ROOT_HOME = {.mode = 0700};
static const struct attributes PLAIN = {.mode = 0755};

static int open_directory(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* ---- the work disk ---- */

static bool has_mark(int disk, const char *mark)
{
    char value[16];
    ssize_t length = fgetxattr(disk, MARK, value, sizeof value);
    return length == (ssize_t)strlen(mark) && memcmp(value, mark, (size_t)length) == 0;
}

static bool set_mark(int disk, const char *mark)
{
    return syncfs(disk) == 0 && fsetxattr(disk, MARK, mark, strlen(mark), 0) == 0;
}

/* mke2fs leaves lost+found, which nobody wants to see at home; e2fsck makes it again when it needs it. */
static bool is_fresh(int disk)
{
    struct stat status;
    unlinkat(disk, "lost+found", AT_REMOVEDIR);
    return fstat(disk, &status) == 0 && status.st_nlink == 2 && directory_is_empty(disk);
}

/* A copy that was cut off (a crash in the middle) is begun again; what has no mark and is not empty is left as it is. */
static bool fill(int home, int disk)
{
    if (has_mark(disk, FILLED))
        return true;
    bool again = has_mark(disk, FILLING);
    if (!again && !is_fresh(disk))
        return true;
    if (again ? !empty_directory(disk) : fsetxattr(disk, MARK, FILLING, strlen(FILLING), 0) < 0)
        return failed("prepare work disk: %m");
    return (copy_tree(home, disk) && set_mark(disk, FILLED)) || failed("fill work disk: %m");
}

bool work_disk_mount(const char *device, const char *place)
{
    if (!make_directories(place, &ROOT_HOME, true))
        return failed("make %s: %m", place);
    int home = open_directory(place);
    if (home < 0)
        return failed("open %s: %m", place);
    int disk = mount(device, place, "ext4", 0, NULL) < 0 ? -1 : open_directory(place);
    bool good = disk >= 0 ? fill(home, disk) : failed("mount disk work: %m");
    close(home);
    if (disk >= 0)
        close(disk);
    return good;
}

/* ---- paths on the overlay disk itself ---- */

/* "/var/lib/docker" is kept in "var-lib-docker"; a '-' in the path is doubled. False when the path is not plain. */
static bool name_of(const char *path, char name[NAME_MAX + 1])
{
    size_t used = 0;
    if (path[0] != '/' || !path[1] || strstr(path, "//") || strstr(path, "/../") || strstr(path, "/./"))
        return false;
    for (const char *at = path + 1; *at; at++) {
        if (used + 2 > NAME_MAX - sizeof ".partial")
            return false;
        if (*at == '-')
            name[used++] = '-';
        name[used++] = *at == '/' ? '-' : *at;
    }
    name[used] = 0;
    return name[used - 1] != '-' && name[0] != '.';
}

/* The image's content is copied under another name first, so that a crash in the middle leaves nothing that counts. */
static int make_source(int directory, const char *name, int content)
{
    char partial[NAME_MAX + sizeof ".partial"];
    int source = openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (source >= 0)
        return source;
    snprintf(partial, sizeof partial, "%s.partial", name);
    if (mkdirat(directory, partial, 0755) < 0 && errno != EEXIST)
        return -1;
    source = openat(directory, partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (source < 0 || !empty_directory(source) || !copy_tree(content, source) ||
        (!directory_is_empty(source) && syncfs(source) < 0) || renameat(directory, partial, directory, name) < 0) {
        if (source >= 0)
            close(source);
        return -1;
    }
    return source;
}

static bool bind_one(int directory, const char *path)
{
    char name[NAME_MAX + 1], origin[64];
    if (!name_of(path, name))
        return failed("ext4 path %s is not a plain absolute path", path);
    if (!make_directories(path, &PLAIN, true))
        return failed("make %s: %m", path);
    int content = open_directory(path);
    int source = content < 0 ? -1 : make_source(directory, name, content);
    snprintf(origin, sizeof origin, "/proc/self/fd/%d", source);
    bool bound = (source >= 0 && mount(origin, path, NULL, MS_BIND, NULL) == 0) || failed("bind %s: %m", path);
    if (content >= 0)
        close(content);
    if (source >= 0)
        close(source);
    return bound;
}

bool ext4_bind_all(int directory, char **paths)
{
    for (size_t i = 0; paths[i]; i++)
        if (!bind_one(directory, paths[i]))
            return false;
    return true;
}
