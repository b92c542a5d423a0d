package mvcc

// restorePath is where a restore builds the new file, beside the old one.
func restorePath(path string) string { return path + ".restore" }
