package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

const nodeListPath = "/v1/nodes"

func (p *program) nodesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the members and proxies of the cluster, and shut one out",
		Long: `List the members and proxies of the cluster, and shut one out.

It works over the administration socket only. A proxy asks the member that it is connected to; a node is
shut out on a member. Without a command it lists.`,
	}
	f := addClientFlags(cmd)
	list := p.nodesListCommand(f)
	cmd.RunE = alone(list.RunE)
	cmd.AddCommand(list, p.nodesRevokeCommand(f), p.nodesScopeCommand(f))
	return cmd
}

func (p *program) nodesListCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "ls [flags]",
		Short: "List every member and proxy with its version, link, lag and queue",
		Long: `List every member and proxy with its version, link, lag and queue.

Each node that is connected is asked when the command runs. When one was last seen is kept in the
memory of members, since they started; nothing is written for it. Where none of them knows, LAST SEEN
is after the time at which the node was given its certificate, which is every eight months. One that is
gone for good is listed until "agent nodes revoke"; a proxy, at the longest, until a week after it could
have come back, a year after its certificate has ended. The link is as the member sees it
that the node is connected to: LOSS of what that sends, SENT and RECEIVED by that since the node connected.
KEEP-ALIVE is how often the node speaks at rest, so that NATs do not forget it, once it has measured that on its network: at 15s that
takes 0.67 MB a day, at 60s 0.17 MB.`,
		Args: noArgs(exitUsage),
		RunE: p.show(f, nodeListPath, p.printNodes),
	}
}

// nodeList is what /v1/nodes answers.
type nodeList struct {
	Nodes   []nodeLine `json:"nodes"`
	Missing []string   `json:"missing"`
}

// nodeLine is a node as the table shows it.
type nodeLine struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Role       string     `json:"role"`
	State      string     `json:"state"`
	Version    string     `json:"version"`
	Via        string     `json:"via"`
	Address    string     `json:"address"`
	RTTMillis  float64    `json:"rtt_ms"`
	Loss       float64    `json:"loss"`
	Way        string     `json:"way"`
	Sent       uint64     `json:"bytes_sent"`
	Received   uint64     `json:"bytes_received"`
	Lag        *int64     `json:"lag"`
	QueueDepth *int64     `json:"queue_depth"`
	KeepAlive  float64    `json:"keep_alive_seconds"`
	Short      bool       `json:"keep_alive_short"`
	LastSeen   *time.Time `json:"last_seen"`
	Issued     *time.Time `json:"certificate_since"`
	Revoked    *time.Time `json:"revoked"`
}

var nodeHead = slices.Concat([]string{"NAME", "ID", "ROLE", "STATE", "VERSION", "VIA", "ADDRESS"}, linkHead, []string{"LAG", "QUEUE", "KEEP-ALIVE", "LAST SEEN"})

func (p *program) printNodes(doc []byte) error {
	var list nodeList
	if err := json.Unmarshal(doc, &list); err != nil {
		return exitf(exitRefused, "the list of nodes is no JSON: %w", err)
	}
	rows := make([][]string, len(list.Nodes))
	for i, n := range list.Nodes {
		rows[i] = n.cells()
	}
	if err := printTable(p.stdout, nodeHead, rows); err != nil {
		return err
	}
	for _, m := range list.Missing {
		p.note("not all of it is as of now: %s", m)
	}
	return nil
}

// cells are those below nodeHead.
func (n nodeLine) cells() []string {
	var l *link
	if n.Way != "" {
		l = &link{rttMillis: n.RTTMillis, loss: n.Loss, way: n.Way, sent: n.Sent, received: n.Received}
	}
	cells := slices.Concat([]string{n.Name, n.ID, n.Role, n.State, n.Version, n.Via, n.Address}, l.cells(),
		[]string{count(n.Lag), count(n.QueueDepth), n.keepAlive(), n.seen()})
	for i := range cells {
		if cells[i] == "" {
			cells[i] = "-"
		}
	}
	return cells
}

// count is a number, and nothing where there is none.
func count(n *int64) string {
	if n == nil {
		return ""
	}
	return number(*n)
}

// keepAlive is how often the node speaks at rest.
func (n nodeLine) keepAlive() string {
	text := ""
	if n.KeepAlive > 0 {
		text = fmt.Sprintf("%gs", n.KeepAlive)
	}
	if n.Short {
		text += ", NAT too short"
	}
	return text
}

// seen is when a node that is not there was there last, or was shut out.
func (n nodeLine) seen() string {
	switch {
	case n.Revoked != nil:
		return n.Revoked.Format(time.RFC3339)
	case n.LastSeen != nil:
		return n.LastSeen.Format(time.RFC3339)
	case n.State == "away" && n.Issued != nil: // the members have started since; it has fetched a certificate before that
		return "after " + n.Issued.Format(time.RFC3339)
	}
	return ""
}

func (p *program) nodesRevokeCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME [flags]",
		Short: "Shut a node out for good, as one that was stolen",
		Long: `Shut a node out for good, as one that was stolen: by its name, or by its id if several have the name.

Its connections end within seconds, and no member or proxy lets it in again, whatever certificate it
has. A box that is yours again joins with an empty data directory and a new token.`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := namedPath(nodeListPath, args[0])
			if err != nil {
				return err
			}
			return p.tell(cmd, f, call{method: http.MethodDelete, path: path}, func(a *answer) error {
				var r struct{ ID, Name, Role, Note string }
				if err := json.Unmarshal(a.body, &r); err != nil {
					return exitf(exitRefused, "the answer is no JSON: %w", err)
				}
				if r.Note != "" {
					p.note("%s", r.Note)
				}
				_, err = fmt.Fprintf(p.stdout, "revoked %s %s (%s)\n", r.Role, r.Name, r.ID)
				return err
			})
		},
	}
}
