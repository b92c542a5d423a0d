package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/kv"
)

// The commands about who may do what are etcd's, on the routes of etcd's gateway: user, role and auth.

const authPath = "/v3/auth/"

// accounts posts a message to one of etcd's routes and decodes the answer into out, unless that is nil.
func (p *program) accounts(cmd *cobra.Command, f *clientFlags, route string, message map[string]any, out any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	a, err := p.ask(cmd, f, call{method: http.MethodPost, path: authPath + route, header: http.Header{"Content-Type": {"application/json"}}, body: body})
	if err != nil {
		return err
	}
	if f.output != outputTable {
		return f.output.printJSON(p.stdout, a.body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		return exitf(exitRefused, "the answer cannot be read: is it an agent? %w", err)
	}
	return nil
}

// change is a command that makes one change and says so.
func (p *program) change(f *clientFlags, use, short, route, done string, message func(args []string) map[string]any) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: namedArgs(use), RunE: func(cmd *cobra.Command, args []string) error {
		if err := p.accounts(cmd, f, route, message(args), nil); err != nil {
			return err
		}
		p.note("%s", done)
		return nil
	}}
}

// names is a command that lists names, one a line.
func (p *program) names(f *clientFlags, use, short, route string, message func(args []string) map[string]any) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: namedArgs(use), RunE: func(cmd *cobra.Command, args []string) error {
		var got struct{ Users, Roles []string }
		if err := p.accounts(cmd, f, route, message(args), &got); err != nil {
			return err
		}
		for _, name := range append(got.Users, got.Roles...) {
			if _, err := fmt.Fprintln(p.stdout, name); err != nil {
				return err
			}
		}
		return nil
	}}
}

// namedArgs are those that a use names.
func namedArgs(use string) cobra.PositionalArgs {
	if names := strings.Fields(use)[1:]; len(names) > 0 {
		return exactArgs(names...)
	}
	return noArgs(exitUsage)
}

func nothing([]string) map[string]any { return map[string]any{} }

func (p *program) userCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Make and change users, as etcdctl user does", RunE: group}
	f := addClientFlags(cmd)
	var file string
	var certificate bool
	add := &cobra.Command{Use: "add NAME", Short: "Make a user; the password is a line of standard input", Args: exactArgs("NAME")}
	add.Flags().StringVar(&file, "new-password-file", "", "file with the password instead")
	add.Flags().BoolVar(&certificate, "no-password", false, "the user comes with a certificate only")
	add.RunE = func(cmd *cobra.Command, args []string) error {
		message := map[string]any{"name": args[0], "options": map[string]any{"noPassword": certificate}}
		if !certificate {
			password, err := p.password("Password of "+args[0], file)
			if err != nil {
				return err
			}
			message["password"] = password
		}
		if err := p.accounts(cmd, f, "user/add", message, nil); err != nil {
			return err
		}
		p.note("user %s is there", args[0])
		return nil
	}
	passwd := &cobra.Command{Use: "passwd NAME", Short: "Give a user another password, a line of standard input", Args: exactArgs("NAME")}
	passwd.Flags().StringVar(&file, "new-password-file", "", "file with the password instead")
	passwd.RunE = func(cmd *cobra.Command, args []string) error {
		password, err := p.password("New password of "+args[0], file)
		if err != nil {
			return err
		}
		if err := p.accounts(cmd, f, "user/changepw", map[string]any{"name": args[0], "password": password}, nil); err != nil {
			return err
		}
		p.note("user %s has another password", args[0])
		return nil
	}
	cmd.AddCommand(add, passwd,
		p.names(f, "ls", "List users", "user/list", nothing),
		p.names(f, "get NAME", "List the roles of a user", "user/get", func(a []string) map[string]any { return map[string]any{"name": a[0]} }),
		p.change(f, "del NAME", "Remove a user", "user/delete", "the user is gone", func(a []string) map[string]any { return map[string]any{"name": a[0]} }),
		p.change(f, "grant-role NAME ROLE", "Give a user a role", "user/grant", "the role is granted", func(a []string) map[string]any { return map[string]any{"user": a[0], "role": a[1]} }),
		p.change(f, "revoke-role NAME ROLE", "Take a role from a user", "user/revoke", "the role is revoked", func(a []string) map[string]any { return map[string]any{"name": a[0], "role": a[1]} }),
	)
	return cmd
}

func (p *program) roleCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "role", Short: "Make and change roles, as etcdctl role does", RunE: group}
	f := addClientFlags(cmd)
	get := &cobra.Command{Use: "get NAME", Short: "List the permissions of a role", Args: exactArgs("NAME"), RunE: func(cmd *cobra.Command, args []string) error {
		var got struct {
			Perm []struct {
				PermType string `json:"permType"`
				Key      []byte `json:"key"`
				End      []byte `json:"range_end"`
			}
		}
		if err := p.accounts(cmd, f, "role/get", map[string]any{"role": args[0]}, &got); err != nil {
			return err
		}
		for _, perm := range got.Perm {
			kind := perm.PermType
			if kind == "" {
				kind = "READ"
			}
			if _, err := fmt.Fprintf(p.stdout, "%s\t%q\t%q\n", strings.ToLower(kind), perm.Key, perm.End); err != nil {
				return err
			}
		}
		return nil
	}}
	var prefix, from bool
	grant := &cobra.Command{Use: "grant-permission ROLE read|write|readwrite KEY [END]", Short: "Let a role read or write a key, a range, or what begins with a prefix",
		Args: oneMore(3), RunE: func(cmd *cobra.Command, args []string) error {
			kind := strings.ToUpper(args[1])
			if kind != "READ" && kind != "WRITE" && kind != "READWRITE" {
				return exitf(exitUsage, "%q is none of read, write and readwrite", args[1])
			}
			key, end, err := rangeArgs(args[2:], prefix, from)
			if err != nil {
				return err
			}
			perm := map[string]any{"permType": kind, "key": base64.StdEncoding.EncodeToString(key), "range_end": base64.StdEncoding.EncodeToString(end)}
			if err := p.accounts(cmd, f, "role/grant", map[string]any{"name": args[0], "perm": perm}, nil); err != nil {
				return err
			}
			p.note("the role %s may %s that", args[0], args[1])
			return nil
		}}
	revoke := &cobra.Command{Use: "revoke-permission ROLE KEY [END]", Short: "Take a permission from a role", Args: oneMore(2), RunE: func(cmd *cobra.Command, args []string) error {
		key, end, err := rangeArgs(args[1:], prefix, from)
		if err != nil {
			return err
		}
		message := map[string]any{"role": args[0], "key": base64.StdEncoding.EncodeToString(key), "range_end": base64.StdEncoding.EncodeToString(end)}
		if err := p.accounts(cmd, f, "role/revoke", message, nil); err != nil {
			return err
		}
		p.note("the permission is revoked")
		return nil
	}}
	for _, c := range []*cobra.Command{grant, revoke} {
		c.Flags().BoolVar(&prefix, "prefix", false, "all keys that begin with KEY")
		c.Flags().BoolVar(&from, "from-key", false, "all keys from KEY on")
	}
	cmd.AddCommand(get, grant, revoke,
		p.names(f, "ls", "List roles", "role/list", nothing),
		p.change(f, "add NAME", "Make a role", "role/add", "the role is there", func(a []string) map[string]any { return map[string]any{"name": a[0]} }),
		p.change(f, "del NAME", "Remove a role, from its users too", "role/delete", "the role is gone", func(a []string) map[string]any { return map[string]any{"role": a[0]} }),
	)
	return cmd
}

// oneMore wants n arguments, and takes one more.
func oneMore(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n || len(args) == n+1 {
			return nil
		}
		return exitf(exitUsage, "%s was given %d arguments: agent %s", cmd.CommandPath(), len(args), strings.TrimPrefix(cmd.Parent().CommandPath()+" "+cmd.Use, "agent "))
	}
}

// rangeArgs reads KEY [END] and the flags that stand for an END.
func rangeArgs(args []string, prefix, from bool) (key, end []byte, err error) {
	key = []byte(args[0])
	switch {
	case len(args) > 1 && (prefix || from) || prefix && from:
		return nil, nil, exitf(exitUsage, "END, --prefix and --from-key exclude each other")
	case len(args) > 1:
		end = []byte(args[1])
	case from || prefix && len(key) == 0:
		end = []byte{0}
		if len(key) == 0 {
			key = []byte{0}
		}
	case prefix:
		_, end = kv.PrefixRange(key)
	}
	return key, end, nil
}

func (p *program) authCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "auth", Short: "Turn authentication on or off, or tell whether it is on", RunE: group}
	f := addClientFlags(cmd)
	status := &cobra.Command{Use: "status", Short: "Tell whether authentication is on", Args: noArgs(exitUsage), RunE: func(cmd *cobra.Command, _ []string) error {
		var got struct {
			Enabled  bool   `json:"enabled"`
			Revision string `json:"authRevision"`
		}
		if err := p.accounts(cmd, f, "status", map[string]any{}, &got); err != nil || f.output != outputTable {
			return err
		}
		_, err := fmt.Fprintf(p.stdout, "authentication is %s\nrevision          %s\n", map[bool]string{true: "on", false: "off"}[got.Enabled], got.Revision)
		return err
	}}
	enable := p.change(f, "enable", "Turn it on, once there is a user root with the role root", "enable", "authentication is on", nothing)
	ask := enable.RunE
	enable.RunE = func(cmd *cobra.Command, args []string) error {
		err := ask(cmd, args)
		if err != nil && asExit(err).code == exitRefused {
			return exitf(exitRefused, "%w (what it takes: agent user add root, then agent user grant-role root root)", err)
		}
		return err
	}
	cmd.AddCommand(status, enable,
		p.change(f, "disable", "Turn it off: everybody may do everything", "disable", "authentication is off", nothing),
	)
	return cmd
}

// password is the first line of a file, or of standard input, which is asked for and not shown where somebody types it.
func (p *program) password(what, file string) (string, error) {
	in := p.stdin
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", &exitError{exitUsage, err}
		}
		defer f.Close()
		in = f
	} else if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.note("%s (it is not shown):", what)
		typed, err := term.ReadPassword(int(f.Fd()))
		if err != nil || len(typed) == 0 {
			return "", exitf(exitUsage, "the password is empty (%v)", err)
		}
		return string(typed), nil
	}
	line, err := passwordLine(in)
	if line == "" {
		return "", exitf(exitUsage, "the password is empty (%v)", err)
	}
	return line, nil
}

// passwordLine reads no further than that: what follows may be a value.
func passwordLine(in io.Reader) (line string, err error) {
	var b [1]byte
	for err == nil {
		var n int
		if n, err = in.Read(b[:]); n == 0 {
			continue
		}
		if b[0] == '\n' {
			break
		}
		line += string(b[:])
	}
	return strings.TrimRight(line, "\r"), err
}
