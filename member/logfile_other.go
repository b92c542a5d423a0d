//go:build !linux

package member

import (
	"errors"
	"os"
)

func datasync(f *os.File) error { return f.Sync() }

// allocate is not to be had here; makeRoom does without.
func allocate(*os.File, int64, int64) error { return errors.ErrUnsupported }
