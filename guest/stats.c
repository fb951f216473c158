/* The operation stats: memory, load, file systems, processes. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "operations.h"
#include "program.h"

enum { PROC_FILE_MAX = 64 * 1024 };

/* A line "Name:   123 kB" of /proc/meminfo, in bytes. */
static uint64_t memory_of(const char *text, const char *name)
{
    const char *line = text ? strstr(text, name) : NULL;
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

static void put_memory(struct writer *result)
{
    size_t size;
    char *text = read_whole("/proc/meminfo", PROC_FILE_MAX, &size);
    put_u64(result, 17, memory_of(text, "MemTotal:"));
    put_u64(result, 18, memory_of(text, "MemAvailable:"));
    free(text);
}

static void put_load(struct writer *result)
{
    size_t size;
    char *text = read_whole("/proc/loadavg", PROC_FILE_MAX, &size);
    put_u32(result, 19, text ? (uint32_t)(strtod(text, NULL) * 1000 + 0.5) : 0);
    free(text);
}

static void put_file_system(struct writer *result, const char *path)
{
    uint8_t bytes[128];
    struct writer fields = {.at = bytes, .size = sizeof bytes};
    struct statvfs status;
    if (statvfs(path, &status) < 0)
        return;
    put_text(&fields, 1, path);
    put_u64(&fields, 2, (uint64_t)status.f_blocks * status.f_frsize);
    put_u64(&fields, 3, (uint64_t)status.f_bavail * status.f_frsize);
    put_bytes(result, 20, bytes, fields.used);
}

/* The root, and /root when it is a file system of its own. */
static void put_file_systems(struct writer *result)
{
    struct stat root, home;
    put_file_system(result, "/");
    if (stat("/", &root) == 0 && stat("/root", &home) == 0 && root.st_dev != home.st_dev)
        put_file_system(result, "/root");
}

static uint32_t count_processes(void)
{
    uint32_t count = 0;
    DIR *processes = opendir("/proc");
    if (!processes)
        return 0;
    for (const struct dirent *entry; (entry = readdir(processes));)
        count += isdigit((unsigned char)entry->d_name[0]) != 0;
    closedir(processes);
    return count;
}

static void stats_open(struct stream *stream, struct fields *request)
{
    (void)request;
    uint8_t bytes[1024];
    struct writer result = {.at = bytes, .size = sizeof bytes};
    put_u64(&result, 16, uptime_us());
    put_memory(&result);
    put_load(&result);
    put_file_systems(&result);
    put_u32(&result, 21, count_processes());
    stream_result(stream, &result);
}

const struct operation stats_operation = {.number = 6, .open = stats_open};
