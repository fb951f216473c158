/* The moment the agent leaves pid 1 to the image's init, and how it learns that the init is up. */
#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "hotplug.h"
#include "loop.h"
#include "port.h"
#include "power.h"
#include "program.h"
#include "session.h"

#define NOTIFY_NAME "org.banger.boot" /* abstract */

static struct watch notify = {.fd = -1};

/* ---- which init ---- */

static bool is_executable(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

bool handover_choose(const char *wanted, const char **init)
{
    static const char *const usual[] = {"/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/etc/init", "/bin/init"};
    *init = wanted;
    if (wanted[0])
        return is_executable(wanted) || failed("init %s: not an executable file", wanted);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (is_executable(usual[i])) {
            *init = usual[i];
            break;
        }
    return true;
}

static enum init_kind kind_of(const char *init)
{
    char real[PATH_MAX];
    if (!init[0])
        return INIT_OURS;
    const char *name = realpath(init, real) ? strrchr(real, '/') : NULL;
    return name && strcmp(name, "/systemd") == 0 ? INIT_SYSTEMD : INIT_OTHER;
}

/* ---- pid 1 ---- */

static socklen_t notify_address(struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path + 1, NOTIFY_NAME, sizeof NOTIFY_NAME - 1);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof NOTIFY_NAME);
}

static void say_ready(void)
{
    struct sockaddr_un address;
    socklen_t size = notify_address(&address);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    sendto(fd, "READY=1", 7, MSG_DONTWAIT, (struct sockaddr *)&address, size);
    close(fd);
}

/* Reaps what nobody else does and powers off when asked to. */
static void __attribute__((noreturn)) stay(void)
{
    sigset_t signals;
    close_range(3, ~0U, 0); /* a connection that the agent closes must be closed */
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGUSR2);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    say_ready();
    for (;;) {
        int number = sigwaitinfo(&signals, NULL);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (number == SIGTERM || number == SIGINT || number == SIGUSR2)
            power_stop_all(false);
    }
}

static void __attribute__((noreturn)) be_init(const char *init, enum init_kind kind)
{
    agent_undo_signals();
    if (kind == INIT_OTHER)
        say_ready();
    if (init[0]) {
        setenv("NOTIFY_SOCKET", "@" NOTIFY_NAME, 1);
        execl(init, init, NULL);
        complain("execute %s: %m", init);
    }
    stay();
}

/* ---- the agent ---- */

/* Only pid 1 is believed. */
static bool is_from_init(struct msghdr *message)
{
    struct ucred sender;
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    if (!control || control->cmsg_type != SCM_CREDENTIALS)
        return false;
    memcpy(&sender, CMSG_DATA(control), sizeof sender);
    return sender.pid == 1;
}

static void notify_ready(struct watch *watch)
{
    char text[4096];
    union {
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
        struct cmsghdr alignment;
    } control;
    struct iovec part = {text, sizeof text - 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(watch->fd, &message, MSG_CMSG_CLOEXEC);
    if (size < 0)
        return;
    text[size] = 0;
    if (!is_from_init(&message) || (strncmp(text, "READY=1", 7) != 0 && !strstr(text, "\nREADY=1")))
        return;
    loop_watch(watch, 0);
    close(watch->fd);
    watch->fd = -1;
    session_set_state(STATE_BOOTED);
}

static bool listen_to_init(void)
{
    int on = 1;
    struct sockaddr_un address;
    socklen_t size = notify_address(&address);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    notify = (struct watch){.fd = fd, .ready = notify_ready};
    return (fd >= 0 && bind(fd, (struct sockaddr *)&address, size) == 0 && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0) ||
           failed("notification socket: %m");
}

/* Neither the console nor the image's init has anything to do with us: systemd's last round of signals spares whoever's name begins with '@'. */
static void leave_init_alone(void)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; nothing >= 0 && i < 3; i++)
        dup2(nothing, i);
    if (nothing > 2)
        close(nothing);
    setsid();
    program.arguments[0][0] = '@';
    prctl(PR_SET_NAME, "banger-agent");
    int adjust = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (adjust >= 0) {
        write_whole(adjust, "-1000", 5);
        close(adjust);
    }
}

static void live_on(enum init_kind kind)
{
    hotplug_ignore();
    leave_init_alone();
    power_set_init(kind);
    if (!agent_start() || !port_rewatch() || !loop_watch(&notify, EPOLLIN))
        complain("the agent cannot go on: %m");
}

bool handover(const char *init)
{
    if (!listen_to_init())
        return false;
    enum init_kind kind = kind_of(init);
    pid_t pid = fork();
    if (pid < 0)
        return failed("fork: %m");
    if (pid > 0)
        be_init(init, kind);
    live_on(kind);
    return true;
}
