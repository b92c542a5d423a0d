package member

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// datasync makes what was written durable, and the size of the file, but not its times.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) {
		for {
			if serr = syscall.Fdatasync(int(fd)); serr != syscall.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", serr)
}

// allocate reserves n bytes from off on without changing the size of the file.
func allocate(f *os.File, off, n int64) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) {
		for {
			serr = syscall.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, off, n)
			if serr != syscall.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fallocate", serr)
}
