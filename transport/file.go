package transport

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/internal/atrest"
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

// SecretFiles are the names of the files that Identity.Save, CA.Save and an Endpoint with a SessionDir write: those that
// Config.Seal and the like are for.
var SecretFiles = []string{identityFile, caFile, sessionsFile}

// writeSecret is writeFile for a file that holds a key; labels are what may be read of it without the seal.
func writeSecret(dir, name string, data []byte, seal *atrest.Seal, labels map[string]string) error {
	data, err := seal.Close(name, data, labels)
	if err != nil {
		return err
	}
	return writeFile(dir, name, data)
}

// readSecret reads a file that holds a private key and refuses one that others on the machine can read. An absent file
// is fs.ErrNotExist.
func readSecret(dir, name string, seal *atrest.Seal) ([]byte, error) {
	data, err := readPrivate(dir, name)
	if err != nil {
		return nil, err
	}
	plain, err := seal.Open(name, data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, name), err)
	}
	return plain, nil
}

func readPrivate(dir, name string) ([]byte, error) {
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
