/* A tree stream's decoder, in the child that unpacks it. */
#include "intake.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "frame.h"
#include "worker.h"

enum { BUFFER = 256 * 1024, MODE_BITS = 07777 };

static uint8_t buffer[BUFFER], kept[RECORD_MAX];
static size_t start, end;

/* Makes room for `size` bytes in all and reads more once; as read(2). */
static ssize_t fill(size_t size)
{
    if (BUFFER - start < size || start == end) {
        memmove(buffer, buffer + start, end - start);
        end -= start;
        start = 0;
    }
    ssize_t got = read(WORKER_INPUT, buffer + end, BUFFER - end);
    end += got > 0 ? (size_t)got : 0;
    return got;
}

/* Reads until `size` bytes wait. */
static bool need(size_t size)
{
    while (end - start < size) {
        ssize_t got = fill(size);
        if (got == 0)
            return refuse("bad_request", "the stream ends in the middle");
        if (got < 0 && errno != EINTR)
            return refuse_errno(errno, "read the stream");
    }
    return true;
}

bool intake_await(size_t size)
{
    ssize_t got = 1;
    while (end - start < size && size <= BUFFER && got > 0)
        got = fill(size);
    return end - start >= size;
}

static bool is_good_component(const char *name, size_t length)
{
    return length && length <= NAME_MAX && !(length == 1 && name[0] == '.') && !(length == 2 && name[0] == '.' && name[1] == '.');
}

static bool is_good_path(const char *path)
{
    for (;;) {
        size_t length = strcspn(path, "/");
        if (!is_good_component(path, length))
            return false;
        if (!path[length])
            return true;
        path += length + 1;
    }
}

/* Copies a text field; false when it is absent, too long or holds a zero. */
static bool take_text(const struct fields *fields, uint16_t tag, char text[PATH_MAX])
{
    struct bytes value = fields_bytes(fields, tag);
    if (!value.size || value.size >= PATH_MAX || memchr(value.at, 0, value.size))
        return false;
    memcpy(text, value.at, value.size);
    text[value.size] = 0;
    return true;
}

static bool check_entry(struct entry *entry)
{
    bool top = entry->type == TREE_DIRECTORY && strcmp(entry->path, ".") == 0;
    if (entry->type < TREE_DIRECTORY || entry->type > TREE_PRUNE)
        return refuse("bad_request", "%s: entries of type %d are not taken", entry->path, entry->type);
    if (!top && !is_good_path(entry->path))
        return refuse("bad_request", "%s: not a path below the destination", entry->path);
    bool has_target = take_text(&entry->fields, TREE_TARGET, entry->target);
    if ((entry->type == TREE_SYMLINK || entry->type == TREE_HARDLINK) && !has_target)
        return refuse("bad_request", "%s: a link without a target", entry->path);
    if (entry->type == TREE_HARDLINK && !is_good_path(entry->target))
        return refuse("bad_request", "%s: a hard link to something outside", entry->path);
    if (entry->fields.malformed || entry->size > INT64_MAX)
        return refuse("bad_request", "%s: malformed fields", entry->path);
    return true;
}

bool intake_entry(struct entry *entry, bool *over)
{
    if (!need(4))
        return false;
    uint32_t length = load_u32(buffer + start);
    start += 4;
    *over = length == 0;
    if (*over)
        return true;
    if (length > RECORD_MAX)
        return refuse("bad_request", "an entry of %u bytes", length);
    if (!need(length))
        return false;
    memcpy(kept, buffer + start, length); /* extended attributes are needed after the content */
    start += length;
    struct fields fields = fields_open(kept, length);
    if (fields.malformed || !take_text(&fields, TREE_PATH, entry->path))
        return refuse("bad_request", "malformed entry");
    entry->type = fields_u8(&fields, TREE_TYPE, 0);
    entry->mode = fields_u32(&fields, TREE_MODE, entry->type == TREE_DIRECTORY ? 0755 : 0644) & MODE_BITS;
    entry->has_owner = fields_has(&fields, TREE_UID) && fields_has(&fields, TREE_GID);
    entry->uid = fields_u32(&fields, TREE_UID, 0);
    entry->gid = fields_u32(&fields, TREE_GID, 0);
    entry->has_mtime = fields_has(&fields, TREE_MTIME);
    entry->mtime = fields_i64(&fields, TREE_MTIME, 0);
    entry->size = (uint64_t)fields_i64(&fields, TREE_SIZE, 0);
    entry->fields = fields;
    return check_entry(entry);
}

bool intake_segment(const char *path, uint64_t from, uint64_t size, struct segment *segment)
{
    if (!need(SEGMENT_HEADER))
        return false;
    segment->offset = load_u64(buffer + start);
    segment->length = load_u32(buffer + start + 8);
    start += SEGMENT_HEADER;
    if (segment->offset < from || segment->offset > size || segment->length > size - segment->offset)
        return refuse("bad_request", "%s: a segment outside of the file", path);
    return true;
}

const uint8_t *intake_bytes(uint32_t most, uint32_t *size)
{
    if (!need(1))
        return NULL;
    *size = end - start < most ? (uint32_t)(end - start) : most;
    start += *size;
    return buffer + start - *size;
}
