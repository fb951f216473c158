/* The guest program: /init of the microVM, then its agent; or, natively, the agent alone on one descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "boot.h"
#include "channel.h"
#include "hotplug.h"
#include "port.h"
#include "power.h"
#include "program.h"
#include "session.h"

static void __attribute__((noreturn)) boot(void)
{
    hotplug_listen();
    boot_prepare();
    if (!agent_start() || !port_open()) {
        complain("no way to the host: %s", failure());
        power_end(true);
    }
    agent_run();
    abort();
}

static int usage(void)
{
    fprintf(stderr, "usage: banger-guest --serve-fd N [--root DIR] [--unconfigured]\n"
                    "Serves the agent protocol on descriptor N. DIR is put before the paths of read, write, configure's files,\n"
                    "/etc/passwd and /etc/group.\n");
    return 2;
}

static int serve(int fd, bool configured)
{
    program.native = true;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        complain("descriptor %d: %m", fd);
        return 1;
    }
    if (configured)
        session_set_state(STATE_READY);
    if (!agent_start() || !channel_use(fd, CHANNEL_SOCKET)) {
        complain("start: %m");
        return 1;
    }
    session_begin();
    agent_run();
    return 0;
}

int main(int count, char **arguments)
{
    program.arguments = arguments;
    if (getpid() == 1)
        boot();
    int fd = -1;
    bool configured = true;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--version") == 0)
            return printf("%s\n", BUILD_ID) < 0;
        if (strcmp(arguments[i], "--serve-fd") == 0 && i + 1 < count)
            fd = atoi(arguments[++i]);
        else if (strcmp(arguments[i], "--root") == 0 && i + 1 < count)
            program.root = arguments[++i];
        else if (strcmp(arguments[i], "--unconfigured") == 0)
            configured = false;
        else
            return usage();
    }
    return fd < 0 ? usage() : serve(fd, configured);
}
