"""The command `span-electra`."""
