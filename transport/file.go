package transport

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxFileBytes bounds what is read from an identity or CA file: a key and all certificates are below 16 KiB.
const maxFileBytes = 64 << 10

// writeFile replaces dir/name by data in one step: after a crash at any instant the file is the old or the new one.
// It returns once the new one is on disk. dir exists.
func writeFile(dir, name string, data []byte) (err error) {
	path := filepath.Join(dir, name)
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	f, err := os.CreateTemp(dir, "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	tmp := f.Name()
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(dir)
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readSecret reads a file that holds a private key and refuses one that others on the machine can read. An absent file
// is fs.ErrNotExist.
func readSecret(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path) //nolint:gosec // the caller's own data dir
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("read %s: mode %04o lets others read the private key: run chmod 600 %s", path, mode, path)
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("read %s: %d bytes: want at most %d", path, info.Size(), maxFileBytes)
	}
	return os.ReadFile(path) //nolint:gosec // the same
}
