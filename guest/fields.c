/* Reading and writing tag-length-value fields. */
#include "fields.h"

#include <stdlib.h>
#include <string.h>

#include "frame.h"

enum { FIELD_HEADER = 6 };

/* Reads the field at *cursor and moves behind it; false at the end or where the rest is no field. */
static bool next_field(struct bytes all, size_t *cursor, uint16_t *tag, struct bytes *value)
{
    size_t left = all.size - *cursor;
    if (left < FIELD_HEADER)
        return false;
    const uint8_t *field = all.at + *cursor;
    uint32_t length = load_u32(field + 2);
    if (length > left - FIELD_HEADER)
        return false;
    *tag = (uint16_t)(field[0] | field[1] << 8);
    *value = (struct bytes){field + FIELD_HEADER, length};
    *cursor += FIELD_HEADER + length;
    return true;
}

struct fields fields_open(const uint8_t *bytes, size_t size)
{
    struct fields fields = {.all = {bytes, size}};
    size_t cursor = 0;
    uint16_t tag;
    struct bytes value;
    while (next_field(fields.all, &cursor, &tag, &value))
        ;
    if (cursor != size) {
        fields.malformed = true;
        fields.all.size = 0;
    }
    return fields;
}

bool fields_each(const struct fields *fields, uint16_t wanted, size_t *cursor, struct bytes *value)
{
    uint16_t tag;
    while (next_field(fields->all, cursor, &tag, value))
        if (tag == wanted)
            return true;
    return false;
}

bool fields_has(const struct fields *fields, uint16_t tag)
{
    size_t cursor = 0;
    struct bytes value;
    return fields_each(fields, tag, &cursor, &value);
}

struct bytes fields_bytes(const struct fields *fields, uint16_t tag)
{
    size_t cursor = 0;
    struct bytes value;
    return fields_each(fields, tag, &cursor, &value) ? value : (struct bytes){NULL, 0};
}

/* The first value of a tag if it has exactly this size. */
static const uint8_t *sized(struct fields *fields, uint16_t tag, size_t size)
{
    size_t cursor = 0;
    struct bytes value;
    if (!fields_each(fields, tag, &cursor, &value))
        return NULL;
    if (value.size == size)
        return value.at;
    fields->malformed = true;
    return NULL;
}

uint8_t fields_u8(struct fields *fields, uint16_t tag, uint8_t otherwise)
{
    const uint8_t *value = sized(fields, tag, 1);
    return value ? *value : otherwise;
}

uint32_t fields_u32(struct fields *fields, uint16_t tag, uint32_t otherwise)
{
    const uint8_t *value = sized(fields, tag, 4);
    return value ? load_u32(value) : otherwise;
}

int64_t fields_i64(struct fields *fields, uint16_t tag, int64_t otherwise)
{
    const uint8_t *value = sized(fields, tag, 8);
    return value ? (int64_t)load_u64(value) : otherwise;
}

char *fields_string(struct fields *fields, struct bytes value)
{
    char *text = malloc(value.size + 1);
    if (!text)
        return NULL;
    if (value.size)
        memcpy(text, value.at, value.size);
    text[value.size] = 0;
    if (strlen(text) != value.size)
        fields->malformed = true;
    return text;
}

char *fields_text(struct fields *fields, uint16_t tag)
{
    return fields_string(fields, fields_bytes(fields, tag));
}

void put_bytes(struct writer *writer, uint16_t tag, const void *value, size_t size)
{
    if (size > UINT32_MAX || FIELD_HEADER + size > writer->size - writer->used) {
        writer->full = true;
        return;
    }
    uint8_t *field = writer->at + writer->used;
    store_u16(field, tag);
    store_u32(field + 2, (uint32_t)size);
    if (size)
        memcpy(field + FIELD_HEADER, value, size);
    writer->used += FIELD_HEADER + size;
}

void put_text(struct writer *writer, uint16_t tag, const char *text)
{
    put_bytes(writer, tag, text, strlen(text));
}

void put_u8(struct writer *writer, uint16_t tag, uint8_t value)
{
    put_bytes(writer, tag, &value, 1);
}

void put_u32(struct writer *writer, uint16_t tag, uint32_t value)
{
    uint8_t bytes[4];
    store_u32(bytes, value);
    put_bytes(writer, tag, bytes, sizeof bytes);
}

void put_u64(struct writer *writer, uint16_t tag, uint64_t value)
{
    uint8_t bytes[8];
    store_u64(bytes, value);
    put_bytes(writer, tag, bytes, sizeof bytes);
}
