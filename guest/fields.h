/* Fields: the tag-length-value payloads of the agent protocol (docs/agent-protocol.md, section 3). */
#ifndef FIELDS_H
#define FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
    const uint8_t *at;
    size_t size;
};

/* A sequence that was checked as a whole by fields_open. `malformed` is set by a getter that finds a value of the wrong
 * size; look at it once, after the last getter. */
struct fields {
    struct bytes all;
    bool malformed;
};

struct fields fields_open(const uint8_t *bytes, size_t size);

/* The first value of a tag; `otherwise` when there is none. */
uint8_t fields_u8(struct fields *fields, uint16_t tag, uint8_t otherwise);
uint32_t fields_u32(struct fields *fields, uint16_t tag, uint32_t otherwise);
int64_t fields_i64(struct fields *fields, uint16_t tag, int64_t otherwise);
bool fields_has(const struct fields *fields, uint16_t tag);
struct bytes fields_bytes(const struct fields *fields, uint16_t tag);

/* The next value of a list; start with *cursor = 0. */
bool fields_each(const struct fields *fields, uint16_t tag, size_t *cursor, struct bytes *value);

/* A copy with a terminating zero, to be freed; NULL when memory is short. A zero inside makes the message malformed. */
char *fields_string(struct fields *fields, struct bytes value);
/* The same for the first value of a tag, "" when there is none. */
char *fields_text(struct fields *fields, uint16_t tag);

/* Writes fields into a buffer; what does not fit is left out whole and `full` is set. */
struct writer {
    uint8_t *at;
    size_t size, used;
    bool full;
};

void put_bytes(struct writer *writer, uint16_t tag, const void *value, size_t size);
void put_text(struct writer *writer, uint16_t tag, const char *text);
void put_u8(struct writer *writer, uint16_t tag, uint8_t value);
void put_u32(struct writer *writer, uint16_t tag, uint32_t value);
void put_u64(struct writer *writer, uint16_t tag, uint64_t value);

#endif
