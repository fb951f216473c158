"""The QEMU driver: microvm machines under KVM or TCG."""
