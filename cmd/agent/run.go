package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/agent"
	"holdfast/config"
	"holdfast/internal/gcpace"
)

// node is what running an agent takes of *agent.Agent.
type node interface {
	Done() <-chan struct{}
	Err() error
	Stop(ctx context.Context) error
	Reload(cfg config.Config) (applied, needRestart []string, err error)
}

// stopMax bounds a stop that was asked for. The agent bounds each of its parts by less; this is for a fault of ours.
const stopMax = 60 * time.Second

func (p *program) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags]",
		Short: "Run a node; the default",
		Long: `Run a node until it is told to stop.

SIGTERM and SIGINT drain it, a second one ends it at once, SIGHUP loads the configuration again.
It exits with 0 when stopped on request, 78 when the configuration or the data directory does not
allow it to run, 75 when trying again may work, and 70 on a fault.`,
		Args:        noArgs(exitConfig),
		RunE:        p.run,
		Annotations: map[string]string{configures: "yes"},
	}
	config.AddFlags(cmd.Flags())
	return cmd
}

// run is `agent run`. The signals come first, so that none finds its default behaviour once the agent has begun.
func (p *program) run(cmd *cobra.Command, _ []string) error {
	received, stop := p.signals(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	loaded, err := config.Load(p.sources(cmd.Flags()))
	level := new(slog.LevelVar)
	setLevel(level, loaded.Config.LogLevel)
	log := p.newLog(loaded.Config, level)
	for _, w := range loaded.Warnings {
		log.Warn("configuration", "warning", w)
	}
	if err != nil {
		return &exitError{exitConfig, err}
	}
	agent.LogLibraries(log)
	if limit := gcpace.Bound(); limit > 0 {
		log.Info("memory is limited", "go_bytes", limit)
	}
	defer paceCollector(cmd.Context())()
	n, err := p.start(cmd.Context(), loaded.Config, agent.Options{
		Log: log, LogLevel: level, Getenv: p.getenv, Version: buildOf().Version,
	})
	if err != nil {
		log.Error("agent cannot start", "err", err)
		return &exitError{code: agent.ExitCode(err)}
	}
	r := &runner{program: p, node: n, log: log, flags: cmd.Flags()}
	return r.wait(cmd.Context(), received)
}

// paceCollector keeps the collector of garbage from running too often under load, until the function it returns is called.
func paceCollector(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { gcpace.Run(ctx, gcpace.Room(gcpace.Memory())) })
	return func() { cancel(); wg.Wait() }
}

func setLevel(level *slog.LevelVar, name string) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err == nil {
		level.Set(l) // else a fault was found in it, and info will do to report that
	}
}

// runner is an agent that runs, and what it is told meanwhile.
type runner struct {
	*program
	node  node
	log   *slog.Logger
	flags *pflag.FlagSet
}

// wait serves signals until the agent has ended.
func (r *runner) wait(ctx context.Context, received <-chan os.Signal) error {
	for {
		select {
		case <-r.node.Done():
			return r.ended(r.node.Err())
		case <-ctx.Done():
			return r.drain(received, context.Cause(ctx).Error())
		case s := <-received:
			if s != syscall.SIGHUP {
				return r.drain(received, s.String())
			}
			r.reload()
		}
	}
}

// drain stops the agent. A second signal to stop ends the wait.
func (r *runner) drain(received <-chan os.Signal, why string) error {
	r.log.Info("stopping", "because", why)
	ctx, cut := context.WithTimeout(context.Background(), stopMax)
	defer cut()
	stopped := make(chan error, 1)
	go func() { stopped <- r.node.Stop(ctx) }()
	forced := false
	for {
		select {
		case err := <-stopped:
			if forced && err != nil && errors.Is(err, context.Canceled) {
				r.log.Warn("stopped without waiting for the store: what was acknowledged is in the log, the next start replays it")
				return nil
			}
			return r.ended(err)
		case s := <-received:
			if s == syscall.SIGHUP {
				continue
			}
			r.log.Warn("stopping at once", "because", s.String()+" again")
			forced = true
			cut()
		}
	}
}

// ended reports how the agent ended.
func (r *runner) ended(err error) error {
	if err == nil {
		return nil
	}
	r.log.Error("agent failed", "err", err)
	return &exitError{code: agent.ExitCode(err)}
}

// reload loads everything again. What is faulty changes nothing.
func (r *runner) reload() {
	loaded, err := config.Load(r.sources(r.flags))
	for _, w := range loaded.Warnings {
		r.log.Warn("configuration", "warning", w)
	}
	if err == nil {
		_, _, err = r.node.Reload(loaded.Config) // it logs what it took over and what needs a restart
	}
	if err == nil {
		return
	}
	faults := config.Faults(err)
	for _, f := range faults {
		r.log.Error("configuration fault", "err", f)
	}
	if len(faults) == 0 {
		r.log.Error("configuration fault", "err", err)
	}
	r.log.Error("configuration not reloaded: the agent goes on with the one it has")
}

// noArgs refuses arguments of a command that takes none.
func noArgs(code int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return &exitError{code, fmt.Errorf("%s takes no arguments, and %q is one: a flag has two dashes, as --mode=auto", cmd.CommandPath(), args[0])}
	}
}
