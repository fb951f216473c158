"""Container images: from a registry, an OCI layout or a docker archive into a cache of verified blobs."""
