/* Pid 1 before the host is heard of: pseudo file systems, kernel modules, the probe. */
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "program.h"

enum { LIST_MAX = 1024 * 1024 };

struct pseudo {
    const char *type, *place, *options;
    unsigned long flags;
};

/* As systemd mounts them, so that it leaves them alone. */
static const struct pseudo pseudos[] = {
    {"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"devtmpfs", "/dev", "mode=755", MS_NOSUID},
    {"devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666", MS_NOSUID | MS_NOEXEC},
    {"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV},
    {"tmpfs", "/run", "mode=755", MS_NOSUID | MS_NODEV},
};

static void mount_pseudos(void)
{
    umask(0);
    for (size_t i = 0; i < sizeof pseudos / sizeof *pseudos; i++) {
        const struct pseudo *pseudo = &pseudos[i];
        mkdir(pseudo->place, 0755);
        if (mount(pseudo->type, pseudo->place, pseudo->type, pseudo->flags, pseudo->options) < 0 && errno != EBUSY)
            complain("mount %s: %m", pseudo->place);
    }
    umask(022);
}

/* The kernel opens no console when the initramfs has no device node for it. */
static void open_console(void)
{
    if (fcntl(0, F_GETFD) >= 0)
        return;
    int console = open("/dev/console", O_RDWR);
    for (int i = 0; console >= 0 && i < 3; i++)
        dup2(console, i);
}

static bool is_probe(void)
{
    size_t size;
    char *line = read_whole("/proc/cmdline", 64 * 1024, &size), *rest = line;
    bool probe = false;
    while (rest && !probe)
        probe = strcmp(strsep(&rest, " \n"), "banger.probe") == 0;
    free(line);
    return probe;
}

/* Waits for the last byte: a reboot would swallow it. */
static void answer_probe(void)
{
    static const char text[] = "\nbanger-probe-ok\n";
    write_whole(STDOUT_FILENO, text, sizeof text - 1);
    tcdrain(STDOUT_FILENO);
    reboot(RB_AUTOBOOT);
}

/* Frees the memory that the file takes in the initramfs, too. */
static void load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        complain("load module %s: %m", path);
    if (fd >= 0)
        close(fd);
    unlink(path);
}

static void load_modules(void)
{
    size_t size;
    char *list = read_whole("/modules", LIST_MAX, &size), *rest = list;
    if (!list)
        complain("/modules: %m");
    while (rest) {
        const char *path = strsep(&rest, "\n");
        if (path[0])
            load_module(path);
    }
    free(list);
}

void boot_prepare(void)
{
    mount_pseudos();
    open_console();
    if (is_probe())
        answer_probe();
    load_modules();
}
