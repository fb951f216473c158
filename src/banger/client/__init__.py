"""The daemon seen from outside, synchronous and quick to import; the SDK's root."""

from .client import Client

__all__ = ["Client"]
