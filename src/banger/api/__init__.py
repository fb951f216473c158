"""The contract: routes, request and reply types, OpenAPI."""
