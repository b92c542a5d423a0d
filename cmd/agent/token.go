package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const tokensPath = "/v1/tokens"

func (p *program) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make and end the tokens with which nodes join and devices are let in",
		Long: `Make and end the tokens with which other nodes join this cluster, and those that devices show
once authentication is on (agent auth enable).

It works over the administration socket of a member; over the network for the user root.`,
		RunE: group,
	}
	f := addClientFlags(cmd)
	cmd.AddCommand(p.tokenCreateCommand(f), p.tokenListCommand(f), p.tokenRevokeCommand(f))
	return cmd
}

// tokenRequest is what a new token is to be good for.
type tokenRequest struct {
	Role  string   `json:"role"`
	TTL   string   `json:"ttl"`
	Uses  int      `json:"uses"`
	Scope []string `json:"scope,omitempty"`
}

func (p *program) tokenCreateCommand(f *clientFlags) *cobra.Command {
	var req tokenRequest
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create [flags]",
		Short: "Make a token and print it, alone",
		Long: `Make a token and print it, alone on standard output, where it can go into a file:

  agent token create --role=proxy --scope=site/42/ > token
  agent token create --device=pump-7 --allow=put,get --prefix=site/42/ --expires=90d > pump-7

Nothing shows it again. A proxy that joins with the first may touch the keys of its scope: every key
unless --scope is given. A device shows the second as a bearer token: Authorization: Bearer TOKEN.`,
		Args: noArgs(exitUsage),
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Role, "role", "any", "what may join with it: any, member or proxy")
	flags.DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is good")
	flags.IntVar(&req.Uses, "uses", 0, "how many nodes may join with it; 0 is any number")
	flags.StringArrayVar(&req.Scope, "scope", nil, "key prefix that a proxy may touch, repeated for more; without it every key")
	device := addDeviceFlags(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := device.check(flags); err != nil {
			return err
		}
		if device.Name != "" {
			return p.createDevice(cmd, f, device)
		}
		req.TTL = ttl.String()
		body, err := json.Marshal(&req)
		if err != nil {
			return err
		}
		a, err := p.ask(cmd, f, call{method: http.MethodPost, path: tokensPath, header: http.Header{"Content-Type": {"application/json"}}, body: body})
		if err != nil {
			return err
		}
		return p.printToken(f, a.body, req.Role, req.Uses, req.Scope)
	}
	return cmd
}

// printToken prints a token that was made, alone on standard output.
func (p *program) printToken(f *clientFlags, doc []byte, role string, uses int, scope []string) error {
	var made struct {
		Token   string    `json:"token"`
		ID      string    `json:"id"`
		Expires time.Time `json:"expires"`
	}
	if err := json.Unmarshal(doc, &made); err != nil || made.Token == "" {
		return exitf(exitRefused, "the answer has no token: is it an agent?")
	}
	p.note("token %s lets %s join until %s%s; keep it secret", made.ID, joiners(role, uses), made.Expires.Format(time.RFC3339), reach(role, scope))
	if f.output != outputTable {
		return f.output.printJSON(p.stdout, doc)
	}
	_, err := fmt.Fprintln(p.stdout, made.Token)
	return err
}

// joiners names the nodes that a token is for.
func joiners(role string, uses int) string {
	if role == "any" {
		role = "node"
	}
	switch uses {
	case 0:
		return "any number of " + plural(role)
	case 1:
		return "one " + role
	}
	return strconv.Itoa(uses) + " " + plural(role)
}

func plural(role string) string {
	if role == "proxy" {
		return "proxies"
	}
	return role + "s"
}

// reach says what a proxy with a token may touch.
func reach(role string, scope []string) string {
	if role == "member" {
		return ""
	}
	if len(scope) == 0 {
		return "; a proxy may then touch every key (--scope limits that)"
	}
	return "; a proxy may then touch the keys under " + scopeText(scope)
}

// scopeText is a scope on a line.
func scopeText(scope []string) string {
	if len(scope) == 0 {
		return "-"
	}
	texts := make([]string, len(scope))
	for i, prefix := range scope {
		if prefix == "" {
			return "every key"
		}
		texts[i] = keyText([]byte(prefix))
	}
	return strings.Join(texts, ", ")
}

func (p *program) tokenListCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the tokens, without their secrets",
		Long: `List the tokens with which nodes join, and those of devices, without their secrets. When a device
was seen last is what this node knows, since it started.`,
		Args: noArgs(exitUsage),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.listTokens(cmd, f) },
	}
}

func (p *program) printTokens(doc []byte) error {
	var list struct {
		Tokens []struct {
			ID      string    `json:"id"`
			Role    string    `json:"role"`
			Scope   []string  `json:"scope"`
			Expires time.Time `json:"expires"`
			Uses    int       `json:"uses"`
			Used    int       `json:"used"`
			Created time.Time `json:"created"`
		} `json:"tokens"`
	}
	if err := json.Unmarshal(doc, &list); err != nil {
		return exitf(exitRefused, "the list of tokens is no JSON: %w", err)
	}
	if len(list.Tokens) == 0 {
		p.note("there are no tokens")
		return nil
	}
	rows := make([][]string, len(list.Tokens))
	for i, t := range list.Tokens {
		used := strconv.Itoa(t.Used)
		if t.Uses > 0 {
			used += " of " + strconv.Itoa(t.Uses)
		}
		expires := t.Expires.Format(time.RFC3339)
		if time.Now().After(t.Expires) {
			expires += " (expired)"
		}
		rows[i] = []string{t.ID, t.Role, used, t.Created.Format(time.RFC3339), expires, scopeText(t.Scope)}
	}
	return printTable(p.stdout, []string{"ID", "ROLE", "USED", "CREATED", "EXPIRES", "SCOPE"}, rows)
}

func (p *program) tokenRevokeCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID [flags]",
		Short: "End a token; nodes that joined with it stay, devices are refused from then on",
		Args:  exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := tokensPath
			if len(args[0]) == deviceIDLen {
				root = devicesPath
			}
			path, err := pathOf(root, args[0])
			if err != nil {
				return err
			}
			return p.tell(cmd, f, call{method: http.MethodDelete, path: path}, func(*answer) error {
				_, err := fmt.Fprintf(p.stdout, "revoked %s\n", args[0])
				return err
			})
		},
	}
}
