package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/api"
	"holdfast/config"
)

// finding is the outcome of one check.
type finding struct {
	Check  string `json:"check"`
	State  string `json:"state"` // ok, warn, fail, or skip: it could not be looked at
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"` // what to do about it
}

// The states of a finding. Only a failure changes the exit code.
const (
	checkOK   = "ok"
	checkWarn = "warn"
	checkFail = "fail"
	checkSkip = "skip"
)

func ok(format string, args ...any) finding {
	return finding{State: checkOK, Found: fmt.Sprintf(format, args...)}
}
func skip(format string, args ...any) finding {
	return finding{State: checkSkip, Found: fmt.Sprintf(format, args...)}
}
func warn(found, remedy string) finding {
	return finding{State: checkWarn, Found: found, Remedy: remedy}
}
func fail(found, remedy string) finding {
	return finding{State: checkFail, Found: found, Remedy: remedy}
}

// check is something that is looked at. It changes nothing but a file of a moment in the data dir.
type check struct {
	name  string
	about string
	look  func(context.Context, *checkup) finding
}

// checks are all there are, in the order in which one explains the next.
var checks = []check{
	{"config", "the settings that an agent would start with here", checkConfig},
	{"agent", "whether an agent answers, and what it says of itself", checkAgent},
	{"versions", "whether the agent that runs is the program that is installed", checkVersions},
	{"permissions", "who may read the data dir and its keys", checkPermissions},
	{"seal", "whether this node's keys are sealed on the disk", checkSeal},
	{"disk-space", "room in the data dir", checkSpace},
	{"disk-speed", "how long the disk takes to make something durable", checkSpeed},
	{"clock", "whether the time can be right, and something keeps it so", checkClock},
	{"certificate", "how long this node's certificate is good for", checkCertificate},
	{"ports", "whether the addresses to listen on can be had, or are had", checkPorts},
	{"mtu", "whether packets of QUIC fit through the interfaces", checkMTU},
	{"udp-buffers", "room for bursts of packets in the kernel", checkBuffers},
	{"udp", "whether UDP gets to the nodes that are joined through, and back", checkUDP},
	{"uplink", "whether this proxy has its cluster", checkUplink},
	{"keep-alive", "how long NATs on the way remember this node while it is at rest", checkKeepAlive},
	{"budget", "what the links have carried today, of what they may", checkBudget},
}

// checkup is what the checks look at.
type checkup struct {
	*program
	loaded    config.Loaded
	configErr error
	client    *client
	status    *api.Status // nil: no agent answers
	statusErr error
}

func (p *program) checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [CHECK...]",
		Short: "Look for what is wrong with this machine and its agent, and say what to do about it",
		Args: func(_ *cobra.Command, args []string) error {
			for _, name := range args {
				if !knownCheck(name) {
					return exitf(exitUsage, "there is no check %q: they are %s", name, strings.Join(checkNames(), ", "))
				}
			}
			return nil
		},
		ValidArgs: checkNames(),
	}
	cmd.Long = cmd.Short + `.

It needs no agent that runs, and changes nothing but a file in the data dir that is gone again when it
ends. As root or the agent's user it sees most. Exit code 1 means that something failed. The checks:

`
	for _, c := range checks {
		cmd.Long += fmt.Sprintf("  %-13s%s\n", c.name, c.about)
	}
	f := addClientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		found := p.lookAt(cmd.Context(), f, args)
		if err := p.printFindings(f.output, found); err != nil {
			return err
		}
		failed := 0
		for _, one := range found {
			if one.State == checkFail {
				failed++
			}
		}
		if failed > 0 {
			return exitf(exitRefused, "%d of %d checks failed", failed, len(found))
		}
		return nil
	}
	return cmd
}

func checkNames() []string {
	var names []string
	for _, c := range checks {
		names = append(names, c.name)
	}
	return names
}

func knownCheck(name string) bool {
	for _, c := range checks {
		if c.name == name {
			return true
		}
	}
	return false
}

// lookAt runs the checks that are named, all if none is.
func (p *program) lookAt(ctx context.Context, f *clientFlags, names []string) []finding {
	u := &checkup{program: p}
	u.loaded, u.configErr = config.Load(p.sources(nil))
	if f.dataDir != "" {
		u.loaded.Config.DataDir = f.dataDir
	}
	u.ask(ctx, f)
	if u.status != nil && f.endpoint == "" {
		u.loaded.Config.DataDir = u.status.DataDir // an agent that was started with flags knows better
	}
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	var found []finding
	at := p.steps("asking the agent")
	defer at.end()
	for _, c := range checks {
		if len(names) > 0 && !wanted[c.name] {
			continue
		}
		at.next("checking " + c.name)
		one := c.look(ctx, u)
		one.Check = c.name
		found = append(found, one)
	}
	return found
}

// ask gets the status of the agent, if there is one.
func (u *checkup) ask(ctx context.Context, f *clientFlags) {
	if u.client, u.statusErr = u.connect(f); u.statusErr != nil {
		return
	}
	a, err := u.client.do(ctx, call{method: http.MethodGet, path: "/v1/status"})
	if err != nil {
		u.statusErr = err
		return
	}
	u.status = new(api.Status)
	if u.statusErr = json.Unmarshal(a.body, u.status); u.statusErr != nil {
		u.status = nil
	}
}

func (p *program) printFindings(form output, found []finding) error {
	if form != outputTable {
		return form.print(p.stdout, found)
	}
	rows := make([][]string, len(found))
	for i, one := range found {
		rows[i] = []string{one.Check, one.State, one.Found}
	}
	if err := printTable(p.stdout, []string{"CHECK", "STATE", "FOUND"}, rows); err != nil {
		return err
	}
	for _, one := range found {
		if one.Remedy != "" {
			if _, err := fmt.Fprintf(p.stdout, "\n%s: %s\n", one.Check, one.Remedy); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkConfig(_ context.Context, u *checkup) finding {
	if err := errors.Join(u.configErr, agent.Supports(u.loaded.Config)); err != nil {
		return fail(firstLine(err), "mend it; agent config check lists everything that is wrong, agent config doc explains every setting")
	}
	if len(u.loaded.Warnings) > 0 {
		return warn(u.loaded.Warnings[0], "see agent config check for all of it")
	}
	if len(u.loaded.Files) == 0 {
		return ok("good; there is no file")
	}
	return ok("good: %s", strings.Join(u.loaded.Files, ", "))
}

func checkAgent(_ context.Context, u *checkup) finding {
	switch {
	case u.status == nil:
		return fail(firstLine(u.statusErr), "systemctl start holdfast; if it does not stay up, journalctl -u holdfast says why")
	case !u.status.Ready:
		return warn(fmt.Sprintf("%s, not ready: %s", u.status.State, u.status.Reason), "wait while it replays its log; a member without a quorum needs the others: agent members ls")
	case u.status.Member != nil && u.status.Member.LogHeldSeconds > 0:
		return fail(fmt.Sprintf("its disk has held back a write of the raft log for %.0f s, and it takes no part in the cluster", u.status.Member.LogHeldSeconds),
			"see dmesg for what the disk of "+u.status.DataDir+" says; if it comes again, replace it")
	case u.status.Member != nil && u.status.Member.WritesRefused != "":
		return fail("refuses writes: "+u.status.Member.WritesRefused, "make room in "+u.status.DataDir+"; writes are taken again by themselves then")
	case u.status.Member != nil && u.status.Member.Leader == "":
		return fail("no quorum: local reads only", "bring the other members back (agent members ls); if they are gone for good: agent recover --help")
	}
	return ok("%s, %s, since %s", u.status.Mode, u.status.State, u.status.Started.Format("2006-01-02 15:04:05"))
}

func checkVersions(_ context.Context, u *checkup) finding {
	here := buildOf().Version
	switch {
	case u.status == nil:
		return skip("this program is %s; no agent answers", here)
	case u.status.Version != here:
		return warn(fmt.Sprintf("the agent runs %s, installed is %s", u.status.Version, here),
			"an upgrade whose configuration was refused leaves the old one running: agent config check, then systemctl restart holdfast")
	}
	return ok("%s", here)
}

func checkUplink(_ context.Context, u *checkup) finding {
	switch {
	case u.status == nil || u.status.Proxy == nil:
		return skip("no proxy answers here")
	case !u.status.Proxy.Joined:
		return fail("not joined: "+u.status.Proxy.UplinkError, "see udp above, and the token: agent token create on a member makes a new one for --token-file")
	case u.status.Proxy.UplinkLost:
		return fail("lost: "+cmp.Or(u.status.Proxy.UplinkError, "nothing comes back from "+u.status.Proxy.Upstream), "nothing need be done if the link comes back by itself; else see udp above, and agent nodes ls on a member")
	}
	return ok("connected to %s", u.status.Proxy.Upstream)
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
