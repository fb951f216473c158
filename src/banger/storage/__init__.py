"""Drivers for root disks, and ext4."""
