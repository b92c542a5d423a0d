package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const membersPath = "/v1/members"

func (p *program) membersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the members of the cluster, add and remove them",
		Long: `List the members of the cluster, add and remove them.

It works on a member, and changes over its administration socket only. Where more voters are wanted
than there are, a box that joins becomes one by itself. Without a command it lists.`,
	}
	f := addClientFlags(cmd)
	list := p.membersListCommand(f)
	cmd.RunE = alone(list.RunE)
	cmd.AddCommand(list, p.membersAddCommand(f), p.membersRemoveCommand(f), p.membersSetCommand(f))
	return cmd
}

// memberList is what /v1/members answers.
type memberList struct {
	Voters       int    `json:"voters"`
	ReplaceAfter string `json:"replace_after"`
	Members      []struct {
		ID         string   `json:"id"`
		NodeID     string   `json:"node_id"`
		Name       string   `json:"name"`
		Role       string   `json:"role"`
		Leader     bool     `json:"leader"`
		Away       bool     `json:"away"`
		PeerURLs   []string `json:"peer_urls"`
		ClientURLs []string `json:"client_urls"`
	} `json:"members"`
}

func (p *program) membersListCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the members, and how the one that is asked is connected to each",
		Long: `List the members, and how the one that is asked is connected to each.

LOSS is a moving average of what is sent to it and does not arrive, WAY is udp, or tcp where that does
not get through, SENT and RECEIVED count since the connections there now were opened.`,
		Args: noArgs(exitUsage),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cl, done, err := p.session(cmd, f)
			if err != nil {
				return err
			}
			defer done()
			a, err := cl.do(ctx, call{method: http.MethodGet, path: membersPath})
			if err != nil {
				return err
			}
			if f.output != outputTable {
				return f.output.printJSON(p.stdout, a.body)
			}
			status, err := cl.do(ctx, call{method: http.MethodGet, path: statusPath})
			if err != nil {
				p.note("how it is connected to them is not known: %v", err)
				return p.printMembers(a.body, nil)
			}
			links, err := linksOf(status.body)
			if err != nil {
				return exitf(exitRefused, "%w", err)
			}
			return p.printMembers(a.body, links)
		},
	}
}

func (p *program) printMembers(doc []byte, links map[string]*link) error {
	var list memberList
	if err := json.Unmarshal(doc, &list); err != nil {
		return exitf(exitRefused, "the list of members is no JSON: %w", err)
	}
	voters := 0
	rows := make([][]string, len(list.Members))
	for i, m := range list.Members {
		role := m.Role
		if m.Role == "voter" {
			voters++
		}
		if m.Leader {
			role = "leader"
		}
		if m.Away {
			role += ", away"
		}
		rows[i] = slices.Concat([]string{m.ID, m.Name, role}, links[strings.ReplaceAll(m.NodeID, "-", "")].cells(),
			[]string{m.NodeID, dashed(m.PeerURLs), dashed(m.ClientURLs)})
	}
	if err := printTable(p.stdout, slices.Concat([]string{"ID", "NAME", "ROLE"}, linkHead, []string{"NODE", "PEERS", "CLIENTS"}), rows); err != nil {
		return err
	}
	if voters < list.Voters {
		p.note("%d voters are wanted and there are %d: the next boxes that join become members (agent members add), and so may a proxy (agent promote)", list.Voters, voters)
	}
	return nil
}

// namedPath is the path of a node, by its id or its name, which may have any letters but those that would lead elsewhere.
func namedPath(root, name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return "", exitf(exitUsage, "%q is neither the id nor the name of a node: agent %s ls lists them", name, strings.TrimPrefix(root, "/v1/"))
	}
	return root + "/" + name, nil
}

func dashed(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}

func (p *program) membersAddCommand(f *clientFlags) *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "add [flags]",
		Short: "Make a token with which one box joins as a member, and print it, alone",
		Long: `Make a token with which one box joins as a member, and print it, alone on standard output. The box
itself asks to be taken in:

  agent members add > token
  agent --join=HOST:2380 --token-file=token          on the box, where HOST is any member

It becomes a voter once it has all the data. If there are as many voters as are wanted, raise that
number first: agent members set --voters=5.`,
		Args: noArgs(exitUsage),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is good")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		body, err := json.Marshal(&tokenRequest{Role: "member", TTL: ttl.String(), Uses: 1})
		if err != nil {
			return err
		}
		a, err := p.ask(cmd, f, call{method: http.MethodPost, path: tokensPath, header: http.Header{"Content-Type": {"application/json"}}, body: body})
		if err != nil {
			return err
		}
		return p.printToken(f, a.body, "member", 1, nil)
	}
	return cmd
}

func (p *program) membersRemoveCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "remove MEMBER [flags]",
		Short: "Remove a member for good, named by its id, node id or name",
		Long: `Remove a member for good, named by its id, its node id, or its name where only one has it.

It is refused if the voters left would be no quorum. The removed node goes on as a proxy, with its data
kept in retired/, if its mode is auto or its fallback proxy; else it stops with exit code 78 and keeps
its data, and with an empty data directory it can join again, as a new member.`,
		Args: exactArgs("MEMBER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := namedPath(membersPath, args[0])
			if err != nil {
				return err
			}
			return p.tell(cmd, f, call{method: http.MethodDelete, path: path}, func(*answer) error {
				_, err := fmt.Fprintf(p.stdout, "removed %s\n", args[0])
				return err
			})
		},
	}
}

func (p *program) membersSetCommand(f *clientFlags) *cobra.Command {
	var voters int
	var after time.Duration
	cmd := &cobra.Command{
		Use:   "set [--voters=N] [--replace-after=DURATION] [flags]",
		Short: "Set how many voters are wanted, and when one that is away may be replaced",
		Long: `Set what is wanted of the members, for the whole cluster. A lower number of voters removes nobody.

A voter that is out of reach for replace-after gives its seat to the next box that joins, once that
has all the data; 0s keeps every seat until agent members remove.`,
		Args: noArgs(exitUsage),
	}
	cmd.Flags().IntVar(&voters, "voters", 0, "how many voting members, 1 to 7")
	cmd.Flags().DurationVar(&after, "replace-after", 0, "how long a voter is away before its seat is free, 0s for never")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		want := map[string]any{}
		if cmd.Flags().Changed("voters") {
			want["voters"] = voters
		}
		if cmd.Flags().Changed("replace-after") {
			want["replace_after"] = after.String()
		}
		if len(want) == 0 {
			return exitf(exitUsage, "nothing to set: name --voters or --replace-after")
		}
		body, err := json.Marshal(want)
		if err != nil {
			return err
		}
		return p.tell(cmd, f, call{method: http.MethodPut, path: membersPath, header: http.Header{"Content-Type": {"application/json"}}, body: body}, func(a *answer) error {
			var now memberList
			if err := json.Unmarshal(a.body, &now); err != nil {
				return exitf(exitRefused, "the answer is no JSON: %w", err)
			}
			_, err = fmt.Fprintf(p.stdout, "voters %d, replace-after %s\n", now.Voters, now.ReplaceAfter)
			return err
		})
	}
	return cmd
}
