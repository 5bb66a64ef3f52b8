"""The APIs that the relay serves, one file each."""
