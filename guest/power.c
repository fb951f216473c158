/* The operation shutdown, and leaving the machine with clean disks. */
#include "power.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "operations.h"
#include "program.h"

enum {
    MODE_ASK = 0,
    MODE_OFF = 1,
    MODE_REBOOT = 2,
    ANSWER_MS = 500,  /* to get the RESULT out */
    POLITE_MS = 2000, /* between SIGTERM and SIGKILL */
    FREEZE_MS = 1000,
    STEP_MS = 10,
    ASK_MS = 500,
};

static enum init_kind init_kind = INIT_OURS;
static bool reboot_is_off;

void power_set_init(enum init_kind kind)
{
    init_kind = kind;
}

void power_off_by_reboot(void)
{
    reboot_is_off = true;
}

static void pause_ms(int milliseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000L}, NULL);
}

/* The kernel's emergency remount makes every file system read-only, also those that cannot be seen from here and those with open files: their
 * journals are empty afterwards. It works in the background; its last word in the kernel log is the only sign that it is done. */
static void freeze_disks(void)
{
    sync();
    int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int trigger = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
    if (log < 0 || trigger < 0 || lseek(log, 0, SEEK_END) < 0 || write(trigger, "u", 1) != 1)
        return;
    uint64_t end = uptime_us() + FREEZE_MS * 1000;
    while (uptime_us() < end) {
        char record[8192];
        ssize_t size = read(log, record, sizeof record - 1);
        record[size < 0 ? 0 : size] = 0;
        if (strstr(record, "Emergency Remount complete"))
            return;
        if (size < 0)
            poll(&(struct pollfd){.fd = log, .events = POLLIN}, 1, STEP_MS);
    }
}

void power_end(bool reboot_wanted)
{
    if (program.native)
        exit(0);
    freeze_disks();
    reboot(reboot_wanted || reboot_is_off ? RB_AUTOBOOT : RB_POWER_OFF);
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}

/* Processes with a program, apart from ourselves and the agent, whose name begins with '@'. */
static bool others_live(void)
{
    bool found = false;
    DIR *processes = opendir("/proc");
    if (!processes)
        return false;
    for (const struct dirent *entry; !found && (entry = readdir(processes));) {
        char path[300], *command;
        size_t size = 0;
        if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        command = read_whole(path, 1024 * 1024, &size);
        found = size && command[0] != '@';
        free(command);
    }
    closedir(processes);
    return found;
}

void power_stop_all(bool reboot_wanted)
{
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
    for (int waited = 0; waited < POLITE_MS && others_live(); waited += STEP_MS) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        pause_ms(STEP_MS);
    }
    kill(-1, SIGKILL);
    power_end(reboot_wanted);
}

/* The kernel drops signals that pid 1 has no handler for, and systemd has none until it has loaded its units. So a child asks again and again; an
 * order that systemd already follows changes nothing. */
static void ask_systemd(void)
{
    const int order = SIGRTMIN + (reboot_is_off ? 5 : 4); /* systemd(1): start reboot.target, poweroff.target */
    kill(1, order);
    if (fork() != 0)
        return;
    for (;;) {
        pause_ms(ASK_MS);
        kill(1, order);
    }
}

static void ask_init(void)
{
    if (init_kind == INIT_SYSTEMD)
        ask_systemd();
    else if (init_kind == INIT_OURS || access("/sbin/poweroff", X_OK) < 0)
        kill(1, reboot_is_off ? SIGTERM : SIGUSR2); /* busybox's init means the same */
    else if (fork() == 0) {
        execl("/sbin/poweroff", "poweroff", NULL);
        _exit(127);
    }
}

static void shutdown_open(struct stream *stream, struct fields *request)
{
    uint8_t mode = fields_u8(request, 16, MODE_ASK);
    if (request->malformed || mode > MODE_REBOOT) {
        stream_error(stream, "bad_request", "malformed mode");
        return;
    }
    stream_result(stream, NULL);
    channel_drain(ANSWER_MS);
    if (mode == MODE_ASK && !program.native)
        ask_init();
    else
        power_end(mode == MODE_REBOOT);
}

const struct operation shutdown_operation = {.number = 7, .open = shutdown_open};
