"""Ways into a machine, and what goes along: ssh keys, host-key pins, ssh_config, forwards, synced files."""
