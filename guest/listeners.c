/* The operation listeners: which sockets wait for somebody, and whose they are. */
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "operations.h"
#include "program.h"
#include "task.h"

enum {
    LISTENERS_MAX = 512,
    TABLE_MAX = 16 * 1024 * 1024,
    COMMAND_MAX = 255, /* of a command line */
    TCP_LISTEN = 0x0a,
    UDP_UNCONNECTED = 0x07,
};

struct listener {
    const char *protocol;
    char address[INET6_ADDRSTRLEN];
    unsigned port;
    unsigned long inode;
    pid_t pid;
};

struct list {
    struct listener items[LISTENERS_MAX];
    size_t count;
};

/* /proc writes addresses as 32-bit words in the machine's order. */
static bool parse_address(const char *hex, bool v6, char address[INET6_ADDRSTRLEN])
{
    uint32_t words[4] = {0};
    for (int i = 0; i < (v6 ? 4 : 1); i++)
        if (sscanf(hex + 8 * i, "%8x", &words[i]) != 1)
            return false;
    return inet_ntop(v6 ? AF_INET6 : AF_INET, words, address, INET6_ADDRSTRLEN) != NULL;
}

static void take_line(struct list *list, const char *line, const char *protocol)
{
    char local[40], remote[40];
    unsigned port, remote_port, state;
    unsigned long inode;
    bool v6 = protocol[3] == '6', udp = protocol[0] == 'u';
    if (sscanf(line, " %*u: %32[0-9A-F]:%x %32[0-9A-F]:%x %x %*s %*s %*s %*u %*u %lu", local, &port, remote, &remote_port,
               &state, &inode) != 6)
        return;
    if (state != (udp ? UDP_UNCONNECTED : TCP_LISTEN) || remote_port != 0 || list->count == LISTENERS_MAX)
        return;
    struct listener *listener = &list->items[list->count];
    *listener = (struct listener){.protocol = protocol, .port = port, .inode = inode};
    if (strlen(local) == (v6 ? 32 : 8) && parse_address(local, v6, listener->address))
        list->count++;
}

static void take_table(struct list *list, const char *protocol)
{
    char path[32];
    size_t size;
    snprintf(path, sizeof path, "/proc/net/%s", protocol);
    char *text = read_whole(path, TABLE_MAX, &size), *rest = text;
    while (rest)
        take_line(list, strsep(&rest, "\n"), protocol);
    free(text);
}

static void note_owner(struct list *list, const char *link, pid_t pid)
{
    unsigned long inode;
    if (sscanf(link, "socket:[%lu]", &inode) != 1)
        return;
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].inode == inode && !list->items[i].pid)
            list->items[i].pid = pid;
}

static void look_into(struct list *list, pid_t pid)
{
    char path[64], link[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *descriptors = opendir(path);
    if (!descriptors)
        return;
    for (const struct dirent *entry; (entry = readdir(descriptors));) {
        ssize_t length = readlinkat(dirfd(descriptors), entry->d_name, link, sizeof link - 1);
        link[length < 0 ? 0 : length] = 0;
        note_owner(list, link, pid);
    }
    closedir(descriptors);
}

static void find_owners(struct list *list)
{
    DIR *processes = opendir("/proc");
    if (!processes)
        return;
    for (const struct dirent *entry; (entry = readdir(processes));)
        if (isdigit((unsigned char)entry->d_name[0]))
            look_into(list, atoi(entry->d_name));
    closedir(processes);
}

/* The start of a file of a process; the zeros between arguments become spaces. */
static void read_line_of(pid_t pid, const char *file, char text[COMMAND_MAX + 1])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    int fd = pid ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = fd < 0 ? 0 : read(fd, text, COMMAND_MAX);
    if (fd >= 0)
        close(fd);
    length = length < 0 ? 0 : length;
    while (length && (text[length - 1] == 0 || text[length - 1] == '\n'))
        length--;
    for (ssize_t i = 0; i < length; i++)
        if (text[i] == 0)
            text[i] = ' ';
    text[length] = 0;
}

static void put_listener(struct writer *result, const struct listener *listener)
{
    uint8_t bytes[1024];
    char process[COMMAND_MAX + 1], command[COMMAND_MAX + 1];
    struct writer fields = {.at = bytes, .size = sizeof bytes};
    read_line_of(listener->pid, "comm", process);
    read_line_of(listener->pid, "cmdline", command);
    put_text(&fields, 1, listener->protocol);
    put_text(&fields, 2, listener->address);
    put_u32(&fields, 3, listener->port);
    put_u32(&fields, 4, (uint32_t)listener->pid);
    put_text(&fields, 5, process);
    put_text(&fields, 6, command);
    put_bytes(result, 16, bytes, fields.used);
}

static int list_listeners(void *argument, int fd, struct writer *result)
{
    (void)argument, (void)fd;
    struct list *list = calloc(1, sizeof *list);
    if (!list)
        return ENOMEM;
    const char *const protocols[] = {"tcp", "tcp6", "udp", "udp6"};
    for (size_t i = 0; i < 4; i++)
        take_table(list, protocols[i]);
    find_owners(list);
    for (size_t i = 0; i < list->count && !result->full; i++)
        put_listener(result, &list->items[i]);
    free(list);
    return 0;
}

static void listeners_open(struct stream *stream, struct fields *request)
{
    (void)request;
    task_open(stream, list_listeners);
}

const struct operation listeners_operation = {
    .number = 5,
    .open = listeners_open,
    .reaped = task_reaped,
    .release = task_release,
};
