/* The files that make an image this machine. All paths are below program.root. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

#include "fields.h"
#include "tree.h"

/* Each returns false (failure()) when a file cannot be written. */
bool identity_set_hostname(const char *name);
bool identity_set_nameservers(char **addresses);
bool identity_put_file(const char *path, struct bytes content, const struct attributes *attributes);
/* Keeps the image's boot from emptying or covering /tmp. */
bool identity_keep_tmp(void);

#endif
