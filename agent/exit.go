package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// The exit codes of `agent run`, as in sysexits.h. A service manager may be told to restart after any of them but
// ExitConfig, which only a person can mend.
const (
	ExitOK        = 0
	ExitInternal  = 70 // a fault of ours, or of the disk while running
	ExitTemporary = 75 // trying again may work: port in use, data dir locked
	ExitConfig    = 78 // the configuration is wrong, or the data dir does not allow it
)

// ExitCode is the exit code that err asks for. Errors say it themselves, by a method ExitCode() int on any error in the
// chain; all others are internal.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if e, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		return e.ExitCode()
	}
	return ExitInternal
}

// exitError is an error that knows its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }
func (e *exitError) ExitCode() int { return e.code }

// refusef is an error that a person has to mend: exit 78.
func refusef(format string, args ...any) error {
	return &exitError{ExitConfig, fmt.Errorf(format, args...)}
}

// temporaryf is an error that may go away: exit 75.
func temporaryf(format string, args ...any) error {
	return &exitError{ExitTemporary, fmt.Errorf(format, args...)}
}

// storageError gives a failed operation on the data dir its exit code: what the file system does not allow is for a
// person, what it has no room for may pass, the rest is a fault.
func storageError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR),
		errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP):
		return &exitError{ExitConfig, err}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &exitError{ExitTemporary, err}
	}
	return err
}
