/* The two transports: the virtio-serial port of QEMU, and vsock, where the host calls us. */
#include "port.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "channel.h"
#include "hotplug.h"
#include "loop.h"
#include "power.h"
#include "program.h"
#include "session.h"

#define PORT_NAME "org.banger.agent"
#define PORT_CLASS "/sys/class/virtio-ports"

enum {
    GUEST_PORT = 42070,
    HOST_PORT = 42071,
    DEVICE_MS = 10000,
    RING_MS = 1000,
};

struct found {
    char device[300]; /* "" = vsock */
};

static struct watch listener = {.fd = -1};

static bool is_ours(const char *port)
{
    char path[300];
    size_t size;
    snprintf(path, sizeof path, PORT_CLASS "/%s/name", port);
    char *name = read_whole(path, 4096, &size);
    bool ours = name && strcmp(name, PORT_NAME "\n") == 0;
    free(name);
    return ours;
}

static bool find_port(struct found *found, bool *any)
{
    *any = false;
    DIR *ports = opendir(PORT_CLASS);
    if (!ports)
        return false;
    bool ours = false;
    for (const struct dirent *entry; !ours && (entry = readdir(ports));) {
        if (entry->d_name[0] == '.')
            continue;
        *any = true;
        ours = is_ours(entry->d_name);
        if (ours)
            snprintf(found->device, sizeof found->device, "/dev/%s", entry->d_name);
    }
    closedir(ports);
    return ours;
}

/* Whether a vsock device gives this machine an address. */
static bool has_vsock(void)
{
    unsigned cid = VMADDR_CID_ANY;
    int device = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
    if (device < 0)
        return false;
    int answer = ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid);
    close(device);
    return answer == 0 && cid > VMADDR_CID_HOST && cid != VMADDR_CID_ANY;
}

static bool find_device(void *argument)
{
    bool any_port;
    return find_port(argument, &any_port) || (!any_port && has_vsock());
}

/* Everybody but the host is turned away. A new connection replaces the one before. */
static void listener_ready(struct watch *watch)
{
    struct sockaddr_vm peer;
    socklen_t size = sizeof peer;
    int fd = accept4(watch->fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (peer.svm_cid != VMADDR_CID_HOST)
        close(fd);
    else if (channel_use(fd, CHANNEL_SOCKET))
        session_begin();
}

/* Tells the host that somebody listens now; whether it hears is its own business. */
static void ring_host(void)
{
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = HOST_PORT};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&host, sizeof host) < 0 && errno == EINPROGRESS)
        poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, RING_MS);
    close(fd);
}

static bool listen_vsock(void)
{
    struct sockaddr_vm any = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = GUEST_PORT};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    listener = (struct watch){.fd = fd, .ready = listener_ready};
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) < 0 || listen(fd, 8) < 0 || !loop_watch(&listener, EPOLLIN))
        return failed("vsock port %d: %m", GUEST_PORT);
    power_off_by_reboot();
    ring_host();
    return true;
}

bool port_open(void)
{
    struct found found = {.device = ""};
    if (!hotplug_wait(find_device, &found, DEVICE_MS))
        return failed("there is neither a virtio port " PORT_NAME " nor vsock");
    if (!found.device[0])
        return listen_vsock();
    int fd = open(found.device, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || !channel_use(fd, CHANNEL_PORT))
        return failed("%s: %m", found.device);
    session_begin();
    return true;
}

bool port_rewatch(void)
{
    listener.events = 0;
    return (listener.fd < 0 || loop_watch(&listener, EPOLLIN)) && (!channel_is_open() || channel_rewatch());
}
