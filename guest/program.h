/* What every part of the program may ask: how it runs, and where to complain. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct program {
    bool native;      /* a test build serving one descriptor: never mounts, powers off or sets clocks */
    const char *root; /* put before absolute paths of files; "" unless --root */
    char **arguments; /* main's argv */
};

extern struct program program;

/* One line for people: on the kernel log in a guest, on stderr in a native run. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Remembers why the present step failed; always returns false. `%m` is errno's text. */
bool failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *failure(void);

/* `path` below program.root; false (ENAMETOOLONG, EINVAL when not absolute) when there is no such thing. */
bool rooted(const char *path, char *result, size_t size);

/* Reads at most `limit` bytes of a file into memory to be freed, with a zero behind them; NULL (errno) on failure, EFBIG when longer. */
char *read_whole(const char *path, size_t limit, size_t *size);

/* Writes all of it, waiting if need be; false (errno) on failure. */
bool write_whole(int fd, const void *bytes, size_t size);

uint64_t uptime_us(void);

#endif
