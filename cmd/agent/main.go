// Command agent runs a Holdfast node, and is the tool to talk to one.
//
// Without a subcommand it runs: `agent --mode=proxy` is `agent run --mode=proxy`. The other commands are clients of a
// running agent, over its unix socket unless told otherwise.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/config"
	"holdfast/internal/journald"
)

func main() {
	os.Exit(Main(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// Main is the whole program, but for the process around it. It returns the exit code. It may be called several times in
// one process, but only one call at a time gets the signals.
func Main(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{
		args: args, env: env, stdin: stdin, stdout: stdout, stderr: stderr,
		configDir: config.DefaultDir,
		systemDir: systemSocketDir,
		procDir:   "/proc",
		journal:   journald.Socket,
		signals:   osSignals,
		start: func(ctx context.Context, cfg config.Config, o agent.Options) (node, error) {
			return agent.Start(ctx, cfg, o)
		},
	}
	return p.main(ctx)
}

// systemSocketDir is where the packages put the socket.
const systemSocketDir = "/run/holdfast"

// program is one run of the program, and everything outside that it touches.
type program struct {
	args   []string
	env    []string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	configDir string // where configuration files are looked for
	journal   string // socket of systemd's journal
	procDir   string // where the processes are
	systemDir string // where the socket of an installed agent is
	signals   func(...os.Signal) (received <-chan os.Signal, stop func())
	start     func(context.Context, config.Config, agent.Options) (node, error)
}

func (p *program) main(ctx context.Context) int {
	root := p.rootCommand()
	root.SetArgs(p.args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	return p.exit(root.ExecuteContextC(ctx))
}

// exit prints what went wrong with a command, and where its use is explained if that was it, and returns the exit code.
func (p *program) exit(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	e := asExit(err)
	if e.code == exitUsage && e.err != nil && !strings.Contains(e.err.Error(), "--help") {
		e.err = fmt.Errorf("%w (see %s --help)", e.err, cmd.CommandPath())
	}
	if e.err != nil {
		p.complain(e.err)
	}
	return e.code
}

// complain prints an error for a person, one line for each that it joins.
func (p *program) complain(err error) {
	faults := config.Faults(err)
	if len(faults) == 0 {
		p.sayError(err.Error())
	}
	for _, f := range faults {
		p.sayError(f.Error())
	}
}

// sayError writes a line to standard error: for the journal, which knows the program, with a priority instead.
func (p *program) sayError(text string) {
	prefix := "agent: "
	if journalReads(p.env, p.stderr) {
		prefix = priority(slog.LevelError)
	}
	fmt.Fprintln(p.stderr, prefix+text)
}

// note writes a line for a person beside the output proper.
func (p *program) note(format string, args ...any) {
	fmt.Fprintf(p.stderr, "agent: "+format+"\n", args...)
}

func osSignals(which ...os.Signal) (<-chan os.Signal, func()) {
	// Room for the signals that matter: one to drain, one to force, and reloads, which may be lost when many are
	// waiting, since each reads everything.
	c := make(chan os.Signal, 4)
	signal.Notify(c, which...)
	return c, func() { signal.Stop(c) }
}

// getenv looks a name up in the environment that the program was given.
func (p *program) getenv(name string) string {
	value := ""
	for _, pair := range p.env {
		if v, ok := cutName(pair, name); ok {
			value = v
		}
	}
	return value
}

func cutName(pair, name string) (value string, ok bool) {
	if len(pair) > len(name) && pair[len(name)] == '=' && pair[:len(name)] == name {
		return pair[len(name)+1:], true
	}
	return "", false
}
