//go:build !linux

package queue

import "syscall"

func fdatasync(fd int) error { return syscall.Fsync(fd) }
