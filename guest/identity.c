/* Host name, hosts, resolv.conf, files from the host, and the rule that keeps /tmp. */
#include "identity.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

enum { HOSTS_MAX = 1024 * 1024, RESOLV_MAX = 16 * 1024 };

static const struct attributes DIRECTORY = {.mode = 0755};
static const struct attributes TEXT = {.mode = 0644};

bool identity_put_file(const char *path, struct bytes content, const struct attributes *attributes)
{
    char place[PATH_MAX], temporary[PATH_MAX];
    if (!rooted(path, place, sizeof place) || !make_directories(place, &DIRECTORY, false))
        return failed("file %s: %m", path);
    int fd = create_beside(place, temporary, sizeof temporary);
    if (fd < 0)
        return failed("file %s: %m", path);
    bool good = write_whole(fd, content.at, content.size);
    int error = errno;
    if (good) {
        good = install_file(fd, temporary, place, attributes, false);
        error = errno;
    } else {
        unlink(temporary);
    }
    close(fd);
    errno = error;
    return good || failed("file %s: %m", path);
}

/* Writes only what changes, so that later boots touch nothing. */
static bool put_text_file(const char *path, const char *text)
{
    char place[PATH_MAX];
    size_t size = 0;
    char *old = rooted(path, place, sizeof place) ? read_whole(place, HOSTS_MAX, &size) : NULL;
    struct stat status;
    bool same = old && strcmp(old, text) == 0 && lstat(place, &status) == 0 && S_ISREG(status.st_mode);
    free(old);
    return same || identity_put_file(path, (struct bytes){(const uint8_t *)text, strlen(text)}, &TEXT);
}

/* The lines the user may have added stay; the one with our name is ours. */
static char *make_hosts(char *old, const char *name)
{
    char *text = NULL;
    size_t size;
    FILE *hosts = open_memstream(&text, &size);
    if (!hosts)
        return NULL;
    if (!old || !strstr(old, "localhost"))
        fprintf(hosts, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    while (old && *old) {
        const char *line = strsep(&old, "\n");
        if (strncmp(line, "127.0.1.1", 9) != 0)
            fprintf(hosts, "%s\n", line);
    }
    fprintf(hosts, "127.0.1.1\t%s\n", name);
    bool good = !ferror(hosts);
    if (fclose(hosts) != 0 || !good) {
        free(text);
        return NULL;
    }
    return text;
}

static bool put_hosts(const char *name)
{
    char place[PATH_MAX];
    size_t size;
    char *old = rooted("/etc/hosts", place, sizeof place) ? read_whole(place, HOSTS_MAX, &size) : NULL;
    char *text = make_hosts(old, name);
    bool good = text ? put_text_file("/etc/hosts", text) : failed("file /etc/hosts: out of memory");
    free(old);
    free(text);
    return good;
}

bool identity_set_hostname(const char *name)
{
    char line[HOST_NAME_MAX + 2];
    if (!name[0] || strlen(name) > HOST_NAME_MAX || strpbrk(name, " \t\n#"))
        return failed("hostname: malformed");
    if (!program.native && sethostname(name, strlen(name)) < 0)
        return failed("hostname: %m");
    snprintf(line, sizeof line, "%s\n", name);
    return put_text_file("/etc/hostname", line) && put_hosts(name);
}

bool identity_set_nameservers(char **addresses)
{
    char text[RESOLV_MAX];
    size_t used = 0;
    for (size_t i = 0; addresses[i]; i++) {
        if (strpbrk(addresses[i], " \t\n"))
            return failed("nameserver: malformed");
        used += (size_t)snprintf(text + used, sizeof text - used, "nameserver %s\n", addresses[i]);
        if (used >= sizeof text)
            return failed("nameserver: too many");
    }
    return used == 0 || put_text_file("/etc/resolv.conf", text);
}

/* Container images often have none, and no init that would make it. */
static bool make_tmp(void)
{
    char tmp[PATH_MAX];
    if (!rooted("/tmp", tmp, sizeof tmp) || (mkdir(tmp, 0700) == 0 ? chmod(tmp, 01777) < 0 : errno != EEXIST)) /* past the umask */
        return failed("make /tmp: %m");
    return true;
}

/* Debian's own rule is "D /tmp", which empties it at boot; a file of the same name in /run wins over it. */
bool identity_keep_tmp(void)
{
    char link[PATH_MAX];
    if (!put_text_file("/run/tmpfiles.d/tmp.conf", "d /tmp 1777 root root -\n"))
        return false;
    if (!rooted("/run/systemd/system/tmp.mount", link, sizeof link) || !make_directories(link, &DIRECTORY, false) ||
        (symlink("/dev/null", link) < 0 && errno != EEXIST))
        return failed("mask tmp.mount: %m");
    return make_tmp();
}
