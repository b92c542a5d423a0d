package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	devicesPath = "/v1/devices"

	// deviceIDLen is the length of a device token's id; that of a join token is 12.
	deviceIDLen = 16
)

// deviceRequest is what a new token of a device allows.
type deviceRequest struct {
	Name     string   `json:"name"`
	Allow    []string `json:"allow"`
	Prefixes []string `json:"prefixes"`
	TTL      string   `json:"ttl,omitempty"`
	Rate     uint32   `json:"rate,omitempty"`
	ShareKiB uint32   `json:"share_kib,omitempty"`

	expires string // as it was given
}

// The flags that are for devices, and those that are for nodes that join.
var (
	deviceFlags = []string{"allow", "prefix", "expires", "rate", "share"}
	joinFlags   = []string{"role", "ttl", "uses", "scope"}
)

func addDeviceFlags(flags *pflag.FlagSet) *deviceRequest {
	d := &deviceRequest{}
	flags.StringVar(&d.Name, "device", "", "make a token for a device of this name, instead of one to join with")
	flags.StringSliceVar(&d.Allow, "allow", nil, "what the device may do: some of get, put, delete and watch")
	flags.StringArrayVar(&d.Prefixes, "prefix", nil, "key prefix that the device may touch, repeated for more; \"\" is every key")
	flags.StringVar(&d.expires, "expires", "", "how long the device's token is good, as 90d or 12h; without it for ever")
	flags.Uint32Var(&d.Rate, "rate", 0, "most requests a second of the device through one node; 0 is no limit of its own")
	flags.Uint32Var(&d.ShareKiB, "share", 0, "most KiB of a node's queue that the device's writes may take; 0 is no limit of its own")
	return d
}

// check finds what does not go together, and reads --expires.
func (d *deviceRequest) check(flags *pflag.FlagSet) error {
	given := func(names []string) string {
		i := slices.IndexFunc(names, flags.Changed)
		if i < 0 {
			return ""
		}
		return names[i]
	}
	if !flags.Changed("device") {
		if name := given(deviceFlags); name != "" {
			return exitf(exitUsage, "--%s is for the token of a device: name it with --device", name)
		}
		return nil
	}
	if name := given(joinFlags); name != "" {
		return exitf(exitUsage, "--%s is for a token to join with, not for a device's (which has --allow, --prefix and --expires)", name)
	}
	if d.Name == "" || len(d.Allow) == 0 || len(d.Prefixes) == 0 {
		return exitf(exitUsage, "the token of a device wants a name, --allow and --prefix, as --device=pump-7 --allow=put,get --prefix=site/42/")
	}
	if d.expires == "" {
		return nil
	}
	life, err := parseLife(d.expires)
	if err != nil {
		return exitf(exitUsage, "--expires: %w", err)
	}
	d.TTL = life.String()
	return nil
}

// parseLife reads a duration that may also be a number of days.
func parseLife(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n == 0 || n > 20*366 {
			return 0, fmt.Errorf("%q is not a number of days from 1 to %d, as 90d", text, 20*366)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration above 0, as 90d or 12h", text)
	}
	return d, nil
}

// createDevice makes the token of a device and prints it, alone on standard output.
func (p *program) createDevice(cmd *cobra.Command, f *clientFlags, d *deviceRequest) error {
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	a, err := p.ask(cmd, f, call{method: http.MethodPost, path: devicesPath, header: http.Header{"Content-Type": {"application/json"}}, body: body})
	if err != nil {
		return err
	}
	var made struct {
		Token   string     `json:"token"`
		ID      string     `json:"id"`
		Expires *time.Time `json:"expires"`
	}
	if err := json.Unmarshal(a.body, &made); err != nil || made.Token == "" {
		return exitf(exitRefused, "the answer has no token: is it an agent?")
	}
	until := "until it is revoked"
	if made.Expires != nil {
		until = "until " + made.Expires.Format(time.RFC3339)
	}
	p.note("token %s lets %s %s %s, %s; keep it secret. It counts while authentication is on (agent auth status)",
		made.ID, d.Name, strings.Join(d.Allow, ", "), scopeText(d.Prefixes), until)
	if f.output != outputTable {
		return f.output.printJSON(p.stdout, a.body)
	}
	_, err = fmt.Fprintln(p.stdout, made.Token)
	return err
}

// listTokens lists the tokens of both kinds. A proxy has those of devices only.
func (p *program) listTokens(cmd *cobra.Command, f *clientFlags) error {
	joins, err := p.ask(cmd, f, call{method: http.MethodGet, path: tokensPath})
	if err != nil {
		return err
	}
	devices, err := p.ask(cmd, f, call{method: http.MethodGet, path: devicesPath})
	if err != nil {
		return err
	}
	if f.output != outputTable {
		both := map[string]json.RawMessage{}
		for _, doc := range [][]byte{joins.body, devices.body} {
			if err := json.Unmarshal(doc, &both); err != nil {
				return exitf(exitRefused, "the list of tokens is no JSON: %w", err)
			}
		}
		doc, err := json.Marshal(both)
		if err != nil {
			return err
		}
		return f.output.printJSON(p.stdout, doc)
	}
	if err := p.printTokens(joins.body); err != nil {
		return err
	}
	return p.printDevices(devices.body)
}

func (p *program) printDevices(doc []byte) error {
	var list struct {
		Devices []struct {
			ID       string     `json:"id"`
			Name     string     `json:"name"`
			Allow    []string   `json:"allow"`
			Prefixes []string   `json:"prefixes"`
			Expires  *time.Time `json:"expires"`
			LastSeen *time.Time `json:"last_seen"`
		} `json:"devices"`
	}
	if err := json.Unmarshal(doc, &list); err != nil {
		return exitf(exitRefused, "the list of devices is no JSON: %w", err)
	}
	if len(list.Devices) == 0 {
		return nil
	}
	rows := make([][]string, len(list.Devices))
	for i, d := range list.Devices {
		expires, seen := "-", "-"
		if d.Expires != nil {
			if expires = d.Expires.Format(time.RFC3339); time.Now().After(*d.Expires) {
				expires += " (expired)"
			}
		}
		if d.LastSeen != nil {
			seen = d.LastSeen.Format(time.RFC3339)
		}
		rows[i] = []string{d.ID, d.Name, strings.Join(d.Allow, ","), scopeText(d.Prefixes), expires, seen}
	}
	return printTable(p.stdout, []string{"ID", "DEVICE", "ALLOW", "PREFIXES", "EXPIRES", "LAST SEEN"}, rows)
}

// nodesScopeCommand limits what a proxy may do for others.
func (p *program) nodesScopeCommand(f *clientFlags) *cobra.Command {
	var scope struct {
		Roles    []string `json:"roles,omitempty"`
		Prefixes []string `json:"prefixes,omitempty"`
	}
	var whole bool
	cmd := &cobra.Command{
		Use:   "scope NODE [flags]",
		Short: "Limit which users and keys a proxy may speak for",
		Long: `Limit which users and keys a proxy may speak for, while authentication is on. NODE is its id
(agent nodes ls). Without a scope a proxy speaks for every user but those with the role root, on every
key that its join token's --scope allows.`,
		Args: exactArgs("NODE"),
	}
	cmd.Flags().StringArrayVar(&scope.Roles, "role", nil, "role of users for whom it may speak, repeated for more; without it any but root")
	cmd.Flags().StringArrayVar(&scope.Prefixes, "prefix", nil, "key prefix that it may touch, repeated for more; without it any")
	cmd.Flags().BoolVar(&whole, "clear", false, "take the limit back")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if limited := len(scope.Roles)+len(scope.Prefixes) > 0; limited == whole {
			return exitf(exitUsage, "name --role or --prefix, or else --clear")
		}
		path, err := namedPath(nodeListPath, args[0])
		if err != nil {
			return err
		}
		c := call{method: http.MethodDelete, path: path + "/scope"}
		if !whole {
			body, err := json.Marshal(&scope)
			if err != nil {
				return err
			}
			c = call{method: http.MethodPut, path: path + "/scope", header: http.Header{"Content-Type": {"application/json"}}, body: body}
		}
		return p.tell(cmd, f, c, func(*answer) error {
			text := "limited"
			if whole {
				text = "not limited any more"
			}
			_, err := fmt.Fprintf(p.stdout, "node %s is %s\n", args[0], text)
			return err
		})
	}
	return cmd
}
