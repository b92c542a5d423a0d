package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"holdfast/config"
)

// sourcesOf are the settings of the agent that runs as a process: its flags, and those of its variables that count. So
// a new program can say whether it would run with what an old one was given, before that one is stopped.
func (p *program) sourcesOf(pid int) (config.Sources, error) {
	args, err := p.procList(pid, "cmdline")
	if err != nil {
		return config.Sources{}, err
	}
	environ, err := p.procList(pid, "environ")
	if err != nil {
		return config.Sources{}, err
	}
	if len(args) > 0 {
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "run" {
		args = args[1:]
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return config.Sources{}, exitf(exitRefused, "process %d runs agent %s, which has no settings", pid, args[0])
	}
	flags, faults := config.ParseFlags(args, &pflag.Flag{Name: "help", Shorthand: "h", Value: new(boolValue), NoOptDefVal: "true"})
	if faults != nil {
		return config.Sources{}, &exitError{exitConfig, faults}
	}
	return config.Sources{Flags: flags, Environ: environ, Dir: p.configDir}, nil
}

// boolValue is a flag whose value does not matter.
type boolValue bool

func (*boolValue) String() string   { return "" }
func (*boolValue) Set(string) error { return nil }
func (*boolValue) Type() string     { return "bool" }

// procList reads a file of proc(5) that is a list of strings, each ended by a zero.
func (p *program) procList(pid int, name string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(p.procDir, fmt.Sprint(pid), name))
	if err != nil {
		return nil, exitf(exitRefused, "process %d: %w: --pid wants an agent that runs, and its user or root", pid, err)
	}
	var list []string
	for item := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte{0}), []byte{0}) {
		list = append(list, string(item))
	}
	return list, nil
}
