/* Bringing up the loopback and one card, with the old ioctls. */
#include "network.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hotplug.h"
#include "program.h"

enum { CARD_MS = 3000 };

struct wanted {
    const char *mac;
    char name[IFNAMSIZ];
};

static bool has_mac(const char *name, const char *mac)
{
    char path[300];
    size_t size;
    snprintf(path, sizeof path, "/sys/class/net/%s/address", name);
    char *text = read_whole(path, 4096, &size);
    bool same = false;
    if (text) {
        text[strcspn(text, "\n")] = 0;
        same = strcasecmp(text, mac) == 0;
    }
    free(text);
    return same;
}

static bool find_card(void *argument)
{
    struct wanted *wanted = argument;
    DIR *cards = opendir("/sys/class/net");
    bool found = false;
    if (!cards)
        return false;
    for (const struct dirent *entry; !found && (entry = readdir(cards));)
        if (strlen(entry->d_name) < IFNAMSIZ && has_mac(entry->d_name, wanted->mac)) {
            memcpy(wanted->name, entry->d_name, strlen(entry->d_name) + 1);
            found = true;
        }
    closedir(cards);
    return found;
}

static bool bring_up(int control, const char *name)
{
    struct ifreq request = {0};
    memcpy(request.ifr_name, name, strlen(name));
    if (ioctl(control, SIOCGIFFLAGS, &request) < 0)
        return false;
    request.ifr_flags |= IFF_UP;
    return ioctl(control, SIOCSIFFLAGS, &request) == 0;
}

static void put_address(struct sockaddr *where, uint32_t network_order)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = network_order};
    memcpy(where, &address, sizeof address);
}

static bool set_address(int control, const char *name, uint32_t address, uint8_t prefix)
{
    struct ifreq request = {0};
    memcpy(request.ifr_name, name, strlen(name));
    put_address(&request.ifr_addr, address);
    if (ioctl(control, SIOCSIFADDR, &request) < 0)
        return false;
    put_address(&request.ifr_netmask, htonl(prefix ? UINT32_MAX << (32 - prefix) : 0));
    return ioctl(control, SIOCSIFNETMASK, &request) == 0;
}

static bool set_default_route(int control, char *name, uint32_t gateway)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = name};
    put_address(&route.rt_dst, 0);
    put_address(&route.rt_genmask, 0);
    put_address(&route.rt_gateway, gateway);
    return ioctl(control, SIOCADDRT, &route) == 0 || errno == EEXIST;
}

static int control_socket(void)
{
    return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

bool network_start_loopback(void)
{
    int control = control_socket();
    bool up = (control >= 0 && bring_up(control, "lo")) || failed("bring up lo: %m");
    if (control >= 0)
        close(control);
    return up;
}

bool network_start(const struct card *card)
{
    struct wanted wanted = {.mac = card->mac};
    struct in_addr address, gateway = {0};
    if (inet_pton(AF_INET, card->address, &address) != 1 || card->prefix > 32 ||
        (card->gateway[0] && inet_pton(AF_INET, card->gateway, &gateway) != 1))
        return failed("network: malformed address");
    if (!hotplug_wait(find_card, &wanted, CARD_MS))
        return failed("network: there is no card %s", card->mac);
    int control = control_socket();
    bool good = control >= 0 && set_address(control, wanted.name, address.s_addr, card->prefix) && bring_up(control, wanted.name) &&
                (!card->gateway[0] || set_default_route(control, wanted.name, gateway.s_addr));
    if (!good)
        failed("network %s: %m", wanted.name);
    if (control >= 0)
        close(control);
    return good;
}
