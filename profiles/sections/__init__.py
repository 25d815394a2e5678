"""The sections of a profile, a file each."""
