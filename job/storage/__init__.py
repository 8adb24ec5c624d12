"""Files and objects that are whole or absent, on disks and in buckets."""
