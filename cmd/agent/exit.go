package main

import (
	"errors"
	"fmt"

	"holdfast/config"
)

// The exit codes of every command, from sysexits.h where it has one. `agent run` has 70, 75 and 78 for the same things.
const (
	exitDone        = 0
	exitRefused     = 1  // the server said no
	exitUsage       = 2  // the command line is wrong
	exitUnavailable = 69 // no agent there
	exitInternal    = 70 // a fault of the agent
	exitTemporary   = 75 // trying again may work
	exitConfig      = 78 // the configuration is wrong
)

// exitError is an error with the exit code it ends the program with.
type exitError struct {
	code int
	err  error // nil if everything has been said
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exitf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// asExit finds the exit code of an error. What has none comes from cobra, or from config.
func asExit(err error) *exitError {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e
	}
	if len(config.Faults(err)) > 0 {
		return &exitError{exitConfig, err}
	}
	return &exitError{exitUsage, err}
}
