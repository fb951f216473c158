/* Finding the disks, mounting base and overlay, and changing to the new root. */
#include "root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "errand.h"
#include "hotplug.h"
#include "program.h"

#define NEW_ROOT "/newroot"
#define BASE "/disks/base"
#define OVERLAY "/disks/overlay"

enum { DISK_MS = 5000 };

struct disk {
    const char *serial;
    char device[300];
};

static bool has_serial(const char *block, const char *serial)
{
    char path[300];
    size_t size;
    snprintf(path, sizeof path, "/sys/block/%s/serial", block);
    char *text = read_whole(path, 4096, &size);
    bool same = false;
    if (text) {
        text[strcspn(text, "\n")] = 0;
        same = strcmp(text, serial) == 0;
    }
    free(text);
    return same;
}

static bool find_disk(void *argument)
{
    struct disk *disk = argument;
    DIR *blocks = opendir("/sys/block");
    bool found = false;
    if (!blocks)
        return false;
    for (const struct dirent *entry; !found && (entry = readdir(blocks));)
        if (entry->d_name[0] != '.' && has_serial(entry->d_name, disk->serial)) {
            snprintf(disk->device, sizeof disk->device, "/dev/%s", entry->d_name);
            found = access(disk->device, F_OK) == 0;
        }
    closedir(blocks);
    return found;
}

static bool await_disk(struct disk *disk)
{
    return hotplug_wait(find_disk, disk, DISK_MS) || failed("find disk %s: there is none with this serial", disk->serial);
}

static bool mount_disk(const char *serial, const char *place, unsigned long flags, const char *options)
{
    struct disk disk = {.serial = serial};
    mkdir("/disks", 0700);
    if (mkdir(place, 0755) < 0 && errno != EEXIST)
        return failed("make %s: %m", place);
    if (!await_disk(&disk))
        return false;
    return mount(disk.device, place, "ext4", flags, options) == 0 || failed("mount disk %s: %m", serial);
}

static struct errand work_errand = {.report = -1};

static bool mount_overlay_disk(void)
{
    return mount_disk("overlay", OVERLAY, 0, NULL);
}

static bool mount_work_disk(void)
{
    struct disk work = {.serial = "work"};
    return await_disk(&work) && work_disk_mount(work.device, "/root");
}

/* noload: a base that was not unmounted cleanly cannot replay its journal on a read-only disk. */
static bool mount_base(void)
{
    return mount_disk("base", BASE, MS_RDONLY, NULL) || mount_disk("base", BASE, MS_RDONLY, "noload");
}

/* The upper directory is the root itself, so it needs the attributes of the image's. */
static bool make_upper(void)
{
    struct stat status;
    if (mkdir(OVERLAY "/upper", 0755) < 0)
        return errno == EEXIST || failed("make upper directory: %m");
    if (stat(BASE, &status) < 0 || chown(OVERLAY "/upper", status.st_uid, status.st_gid) < 0 ||
        chmod(OVERLAY "/upper", status.st_mode & 07777) < 0)
        return failed("make upper directory: %m");
    return true;
}

static bool mount_overlay(void)
{
    struct errand overlay_disk;
    errand_begin(&overlay_disk, mount_overlay_disk);
    bool base = mount_base();
    if (!errand_join(&overlay_disk) || !base || !make_upper())
        return false;
    if (mkdir(OVERLAY "/work", 0700) < 0 && errno != EEXIST)
        return failed("make overlay work directory: %m");
    /* redirect_dir: renaming a directory of the image works as on any other file system. */
    return mount("overlay", NEW_ROOT, "overlay", 0,
                 "lowerdir=" BASE ",upperdir=" OVERLAY "/upper,workdir=" OVERLAY "/work,redirect_dir=on") == 0 ||
           failed("mount overlay: %m");
}

static bool move_into_new_root(const char *place)
{
    char target[64];
    snprintf(target, sizeof target, NEW_ROOT "%s", place);
    if (mkdir(target, 0755) < 0 && errno != EEXIST)
        return failed("make %s: %m", place);
    return mount(place, target, NULL, MS_MOVE, NULL) == 0 || failed("move %s: %m", place);
}

static bool change_root(void)
{
    const char *const places[] = {"/dev", "/proc", "/sys", "/run"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (!move_into_new_root(places[i]))
            return false;
    if (chdir(NEW_ROOT) < 0 || mount(NEW_ROOT, "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return failed("change root: %m");
    return true;
}

static bool mount_root(const struct root_plan *plan, int *ext4)
{
    if (mkdir(NEW_ROOT, 0755) < 0 && errno != EEXIST)
        return failed("make " NEW_ROOT ": %m");
    if (plan->mode == ROOT_PLAIN)
        return mount_disk("base", NEW_ROOT, 0, NULL);
    if (plan->mode != ROOT_OVERLAY)
        return failed("root mode %d is unknown", plan->mode);
    if (!mount_overlay())
        return false;
    mkdir(OVERLAY "/ext4", 0700);
    *ext4 = open(OVERLAY "/ext4", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ext4 >= 0 || failed("make ext4 directory: %m");
}

bool root_assemble(const struct root_plan *plan)
{
    int ext4 = -1;
    bool good = mount_root(plan, &ext4) && change_root();
    if (good && plan->work_disk)
        errand_begin(&work_errand, mount_work_disk);
    good = good && (ext4 < 0 || ext4_bind_all(ext4, plan->ext4_paths));
    if (ext4 >= 0)
        close(ext4);
    return good;
}

bool root_complete(void)
{
    return errand_join(&work_errand);
}
