"""Drivers for virtual machine monitors."""
