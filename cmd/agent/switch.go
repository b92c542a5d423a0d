package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/api"
)

const nodesPath = "/v1/nodes/"

// switchTurn is how long one request waits for the end of a change; then the command asks again.
const switchTurn = 2 * time.Second

// switching is a command that changes what a node is.
type switching struct {
	kind      string
	tokenFile string
	force     bool
	wait      time.Duration
}

func (p *program) switchCommands() []*cobra.Command {
	promote := &switching{kind: api.SwitchPromote}
	first := p.switchCommand(promote, "promote [NODE] [flags]", "Make a proxy a member",
		`Make a proxy a member, while it runs: the cluster gives it a seat, a learner catches up beside the
proxy, and takes over as a voter. Clients stay connected, watches and queued writes go on.

On a member, NODE names another one, by name or id, that is connected to any member. That needs no token. On
the proxy itself its certificate is enough if it joined with a token for a member, or has been one; else it
needs one: that of --token-file, or the one in its configuration.`)
	first.Flags().StringVar(&promote.tokenFile, "token-file", "", "file with a join token for a member, made by agent token create on one")
	second := p.switchCommand(&switching{kind: api.SwitchDemote}, "demote [NODE] [flags]", "Make a member a proxy",
		`Make a member a proxy, while it runs: a proxy with a cache filled from the member's own data takes
over, and the cluster removes the member. Clients stay connected, watches and queued writes go on.

The last voter is refused: its data is the cluster's. On a member, NODE names another one, by name or id.`)
	leave := &switching{kind: api.SwitchLeave}
	third := p.switchCommand(leave, "leave [flags]", "Take this node out of its cluster",
		`Take this node out of its cluster and stop it. What it had is moved into left/ in the data directory,
so that a start from then on begins anew.`)
	third.Args = noArgs(exitUsage)
	third.Flags().BoolVar(&leave.force, "force", false, "do not ask the cluster: for the last member, or when the cluster is gone")
	return []*cobra.Command{first, second, third}
}

func (p *program) switchCommand(s *switching, use, short, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long: long + `

With --data-dir of an agent that does not run the change is recorded there, and carried out by the
next start.`,
		Args: atMostOne,
	}
	f := addClientFlags(cmd)
	cmd.Flags().DurationVar(&s.wait, "wait", 5*time.Minute, "how long to wait for the end; the change goes on without this command")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		node := api.SwitchSelf
		if len(args) > 0 {
			node = args[0]
			if _, err := namedPath(nodeListPath, node); err != nil {
				return err
			}
		}
		return p.switchMode(cmd, f, s, node)
	}
	return cmd
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) <= 1 {
		return nil
	}
	return exitf(exitUsage, "%s takes at most one node, by id or name, and was given %d", cmd.CommandPath(), len(args))
}

// switchMode asks for a change and waits for its end, or records it for an agent that does not run.
func (p *program) switchMode(cmd *cobra.Command, f *clientFlags, s *switching, node string) error {
	r := api.SwitchRequest{Kind: s.kind, Node: node, Force: s.force}
	if s.tokenFile != "" {
		b, err := os.ReadFile(s.tokenFile)
		if err != nil {
			return &exitError{exitConfig, fmt.Errorf("--token-file: %w", err)}
		}
		r.Token = strings.TrimSpace(string(b))
	}
	err := p.followSwitch(cmd, f, s, r)
	if e, ok := errors.AsType[*exitError](err); !ok || e.code != exitUnavailable || f.dataDir == "" {
		return err
	}
	said, err := agent.Journal(f.dataDir, r, time.Now())
	if err != nil {
		return &exitError{agent.ExitCode(err), err}
	}
	p.note("%s", said)
	return nil
}

// followSwitch asks until the change is done, and says on a terminal what it is at whenever that is something else.
func (p *program) followSwitch(cmd *cobra.Command, f *clientFlags, s *switching, r api.SwitchRequest) error {
	body, err := json.Marshal(struct {
		Token string `json:"token,omitempty"`
		Force bool   `json:"force,omitempty"`
	}{r.Token, r.Force})
	if err != nil {
		return err
	}
	ctx, c, done, err := p.session(cmd, f)
	if err != nil {
		return err
	}
	defer done()
	deadline := time.Now().Add(s.wait)
	said := ""
	for {
		turn := max(min(switchTurn, time.Until(deadline)), time.Millisecond)
		a, err := c.do(ctx, call{method: http.MethodPost, path: nodesPath + r.Node + "/" + r.Kind, query: url.Values{"wait": {turn.String()}},
			header: http.Header{"Content-Type": {"application/json"}}, body: body})
		if err != nil {
			return err
		}
		var now api.SwitchStatus
		if err := json.Unmarshal(a.body, &now); err != nil {
			return exitf(exitRefused, "the answer is no JSON: is it an agent?")
		}
		step := now.Step
		if now.Trouble != "" {
			step += ": " + now.Trouble
		}
		switch {
		case now.Done:
			return p.switched(f, now, a.body)
		case time.Now().After(deadline):
			return exitf(exitTemporary, "%s of node %s is still under way (%s) and goes on: agent status shows it", now.Kind, now.NodeID, step)
		case step != said && isTerminal(p.stderr):
			said = step
			p.note("%s", step)
		}
	}
}

func (p *program) switched(f *clientFlags, s api.SwitchStatus, body []byte) error {
	if f.output != outputTable {
		return f.output.printJSON(p.stdout, body)
	}
	is := map[string]string{
		api.SwitchPromote: "is a member", api.SwitchDemote: "is a proxy", api.SwitchLeave: "has left its cluster, and its agent stops",
	}[s.Kind]
	_, err := fmt.Fprintf(p.stdout, "node %s %s\n", s.NodeID, is)
	return err
}
