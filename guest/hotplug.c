/* Waiting for devices, told by the kernel's uevents. */
#include "hotplug.h"

#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "program.h"

enum { LOOK_AGAIN_MS = 50 }; /* should an event be lost */

static int events = -1;

void hotplug_listen(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    events = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    if (events >= 0 && bind(events, (struct sockaddr *)&address, sizeof address) < 0)
        hotplug_ignore();
}

static void drain_events(void)
{
    char event[8192];
    while (recv(events, event, sizeof event, 0) > 0)
        ;
}

bool hotplug_wait(bool (*there)(void *), void *argument, int milliseconds)
{
    uint64_t end = uptime_us() + (uint64_t)milliseconds * 1000;
    for (;;) {
        drain_events();
        if (there(argument))
            return true;
        if (uptime_us() >= end)
            return false;
        poll(&(struct pollfd){.fd = events, .events = POLLIN}, 1, LOOK_AGAIN_MS);
    }
}

void hotplug_ignore(void)
{
    if (events >= 0)
        close(events);
    events = -1;
}
