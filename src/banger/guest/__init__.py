"""Host side of the guest: initramfs builder and agent protocol."""
