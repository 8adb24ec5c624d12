"""`twofold drill`: a job killed on purpose, again and again, and compared bit for bit with one that was left alone."""
