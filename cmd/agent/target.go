package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/config"
)

// clientFlags are the flags of every command that talks to an agent.
type clientFlags struct {
	socket, dataDir, endpoint string
	tls                       tlsFiles
	timeout                   time.Duration
	output                    output
	user, passwordFile        string
}

// timeoutDefault is longer than an agent waits for a leader, so that its own answer arrives.
const timeoutDefault = 10 * time.Second

func addClientFlags(cmd *cobra.Command) *clientFlags {
	f := &clientFlags{output: outputTable}
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.socket, "socket", "", "unix socket of the agent")
	flags.StringVar(&f.dataDir, "data-dir", "", "data directory of the agent, whose agent.sock is used")
	flags.StringVar(&f.endpoint, "endpoint", "", "URL of an agent instead, as http://host:2379 or https://host:2379")
	f.tls.add(flags)
	flags.StringVar(&f.user, "user", "", "user to act as, where authentication is on; the password is a line of standard input")
	flags.StringVar(&f.passwordFile, "password-file", "", "file with the password of --user instead")
	flags.DurationVar(&f.timeout, "timeout", timeoutDefault, "how long to wait for an answer")
	flags.VarP(&f.output, "output", "o", "form of the output: table, json or yaml")
	cmd.MarkFlagsMutuallyExclusive("socket", "data-dir", "endpoint")
	return f
}

// target is an agent to talk to.
type target struct {
	network, address string // for a dialer; empty network: as the URL says
	base             url.URL
	name             string // for messages
}

func socketTarget(path string) target {
	return target{network: "unix", address: path, base: url.URL{Scheme: "http", Host: "localhost"}, name: path}
}

// dial connects to where the target is, whatever host the URL names.
func (t target) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if t.network != "" {
		network, address = t.network, t.address
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// target finds the agent that the flags mean; without any, the one that would run here with the same configuration.
func (p *program) target(f *clientFlags) (target, error) {
	switch {
	case f.endpoint != "":
		return parseEndpoint(f.endpoint)
	case f.socket != "":
		return socketTarget(f.socket), nil
	case f.dataDir != "":
		return socketTarget(filepath.Join(f.dataDir, socketName)), nil
	}
	loaded, err := config.Load(p.sources(nil))
	if err != nil && !unreadable(err) {
		return target{}, &exitError{exitConfig, err}
	}
	_, socket := loaded.Provenance["socket"]
	if _, dir := loaded.Provenance["data-dir"]; socket || dir {
		return socketTarget(loaded.Config.Socket), nil
	}
	installed := filepath.Join(p.systemDir, socketName)
	for _, path := range []string{loaded.Config.Socket, installed} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return socketTarget(path), nil
		}
	}
	return target{}, exitf(exitUnavailable, "no agent here: there is neither %s nor %s (name the agent with --socket, --data-dir or --endpoint)", loaded.Config.Socket, installed)
}

const socketName = "agent.sock"

// unreadable reports whether all that is wrong is that this user may not read the configuration, as is usual for one
// who may use the socket: it says where that is, and the defaults may do.
func unreadable(err error) bool {
	for _, f := range config.Faults(err) {
		if !errors.Is(f, fs.ErrPermission) {
			return false
		}
	}
	return true
}

func parseEndpoint(text string) (target, error) {
	if u, err := config.ParseURL(text); err == nil && u.Network == "unix" {
		return socketTarget(u.Address), nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return target{}, exitf(exitUsage, "--endpoint %q must be http://host:port, https://host:port or unix:///path", text)
	}
	return target{base: url.URL{Scheme: u.Scheme, Host: u.Host}, name: text}, nil
}
