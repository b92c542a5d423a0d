package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const queuePath = "/v1/queue"

func (p *program) queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Look at the writes that wait for the cluster",
		Long: `Look at the writes that this node has taken and the cluster has not yet.

Without a command it shows how the queue is doing, as "agent queue status" does. Which writes may be
queued is set with queue.prefixes.`,
	}
	f := addClientFlags(cmd)
	status := p.show(f, queuePath, p.printStatus)
	cmd.RunE = alone(status)
	cmd.AddCommand(
		&cobra.Command{Use: "status [flags]", Short: "Show how much waits, and since when", Args: noArgs(exitUsage), RunE: status},
		p.queueListCommand(f), p.queueShowCommand(f), p.queueWaitCommand(f), p.queueRetryCommand(f), p.queueDiscardCommand(f),
		p.queueSteerCommand(f, "pause", "Send nothing until it is resumed, over restarts too"),
		p.queueSteerCommand(f, "resume", "Go on with sending"),
		p.queueSteerCommand(f, "flush", "Send what waits now at once, whatever the drain rate and the pause after a failure"),
	)
	return cmd
}

// queuedWrite is a write as the queue lists it.
type queuedWrite struct {
	ID        string    `json:"id"`
	KeyBase64 []byte    `json:"key_base64"`
	Op        string    `json:"op"`
	Value     []byte    `json:"value"`
	State     string    `json:"state"`
	Lane      string    `json:"lane"`
	Author    string    `json:"author"`
	Queued    time.Time `json:"queued"`
	Expires   time.Time `json:"expires"`
	Revision  int64     `json:"revision"`
	Code      string    `json:"code"`
	Detail    string    `json:"detail"`
}

// why says in a word or two what there is to say beside the state.
func (w *queuedWrite) why() string {
	switch {
	case w.Code != "" && w.Revision > 0:
		return w.Code + ", the key is at revision " + strconv.FormatInt(w.Revision, 10)
	case w.Code != "":
		return w.Code
	case w.Revision > 0:
		return "revision " + strconv.FormatInt(w.Revision, 10)
	}
	return "-"
}

func (p *program) queueListCommand(f *clientFlags) *cobra.Command {
	var state, prefix, after, author string
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List the writes that wait, and those that need a look, oldest first in each lane, a thousand at a time",
		Args:  noArgs(exitUsage),
	}
	cmd.Flags().StringVar(&state, "state", "", "only those in this state: queued, sending, conflict, rejected, expired or unknown")
	cmd.Flags().StringVar(&prefix, "prefix", "", "only those whose key begins with this")
	cmd.Flags().StringVar(&author, "author", "", "only those that this user wrote, or device:ID with the token of that ID")
	cmd.Flags().StringVar(&after, "after", "", "only those behind the one with this ID")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"prefix": {prefix}}
		if state != "" {
			query.Set("state", state)
		}
		if author != "" {
			query.Set("author", author)
		}
		if after != "" {
			query.Set("after", after)
		}
		a, err := p.ask(cmd, f, call{method: http.MethodGet, path: queuePath, query: query})
		if err != nil {
			return err
		}
		if f.output != outputTable {
			return f.output.printJSON(p.stdout, a.body)
		}
		var list struct {
			Items []queuedWrite `json:"items"`
			Next  string        `json:"next"`
		}
		if err := json.Unmarshal(a.body, &list); err != nil {
			return exitf(exitRefused, "the list of the queue is no JSON: %w", err)
		}
		if len(list.Items) == 0 {
			p.note("nothing is queued")
			return nil
		}
		rows := make([][]string, len(list.Items))
		for i := range list.Items {
			w := &list.Items[i]
			rows[i] = []string{w.ID, w.State, w.Lane, ageText(time.Since(w.Queued)), keyText(w.KeyBase64), w.why()}
		}
		if list.Next != "" {
			p.note("there may be more: agent queue ls --after %s", list.Next)
		}
		return printTable(p.stdout, []string{"ID", "STATE", "LANE", "AGE", "KEY", "WHY"}, rows)
	}
	return cmd
}

// ageText is how long ago something was, to the second.
func ageText(d time.Duration) string {
	return max(d, 0).Truncate(time.Second).String()
}

func (p *program) queueShowCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID [flags]",
		Short: "Show one write and its value",
		Args:  exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := pathOf(queuePath, args[0])
			if err != nil {
				return err
			}
			return p.tell(cmd, f, call{method: http.MethodGet, path: path}, func(a *answer) error {
				w, err := parseQueued(a.body)
				if err != nil {
					return err
				}
				return printTable(p.stdout, nil, w.rows())
			})
		},
	}
}

func parseQueued(doc []byte) (*queuedWrite, error) {
	w := &queuedWrite{}
	if err := json.Unmarshal(doc, w); err != nil {
		return nil, exitf(exitRefused, "the queued write is no JSON: %w", err)
	}
	return w, nil
}

// rows is everything there is to say, a line each.
func (w *queuedWrite) rows() [][]string {
	rows := [][]string{{"id", w.ID}, {"state", w.State}, {"key", keyText(w.KeyBase64)}}
	add := func(name, text string, there bool) {
		if there {
			rows = append(rows, []string{name, text})
		}
	}
	add("op", w.Op, w.Op != "")
	add("value", valueText(w.Value), w.Op == "put")
	add("lane", w.Lane, true)
	add("author", w.Author, w.Author != "")
	add("queued", w.Queued.Format(time.RFC3339), true)
	add("expires", w.Expires.Format(time.RFC3339), !w.Expires.IsZero())
	add("revision", strconv.FormatInt(w.Revision, 10), w.Revision > 0)
	add("code", w.Code, w.Code != "")
	add("detail", w.Detail, w.Detail != "")
	return rows
}

// pathOf is where what has an id is served. What can be no id is not sent.
func pathOf(root, id string) (string, error) {
	if id == "" || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return "", exitf(exitUsage, "%q is no id: those there are, agent %s ls lists", id, map[string]string{queuePath: "queue", tokensPath: "token"}[root])
	}
	return root + "/" + id, nil
}

// The longest wait that an agent takes at once; a longer one is asked for in parts.
const queueWaitMax = 5 * time.Minute

func (p *program) queueWaitCommand(f *clientFlags) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait ID [flags]",
		Short: "Wait until the cluster has a write, or has refused it",
		Long: `Wait until the cluster has a write, or has refused it.

It exits with 0 once the write is committed, with 1 if it ended otherwise, and with 75 if it still
waits when the time is over.`,
		Args: exactArgs("ID"),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := pathOf(queuePath, args[0])
		if err != nil {
			return err
		}
		if timeout <= 0 {
			return exitf(exitUsage, "--timeout must be more than nothing, as 30s")
		}
		flags := *f
		flags.timeout = min(timeout, queueWaitMax) + timeoutDefault
		ctx, c, done, err := p.session(cmd, &flags)
		if err != nil {
			return err
		}
		defer done()
		w, body, err := c.waitQueued(ctx, path, timeout)
		if err != nil {
			return err
		}
		return p.reportQueued(f.output, w, body, timeout)
	}
	return cmd
}

// waitQueued asks until the write has ended or the time is over.
func (c *client) waitQueued(ctx context.Context, path string, timeout time.Duration) (*queuedWrite, []byte, error) {
	deadline := time.Now().Add(timeout)
	for {
		wait := min(max(time.Until(deadline), 0), queueWaitMax)
		a, err := c.do(ctx, call{method: http.MethodGet, path: path, query: url.Values{"wait": {wait.String()}}})
		if err != nil {
			return nil, nil, err
		}
		w, err := parseQueued(a.body)
		if err != nil || !w.waits() || wait < queueWaitMax {
			return w, a.body, err
		}
	}
}

// waits reports whether something more becomes of the write.
func (w *queuedWrite) waits() bool { return w.State == "queued" || w.State == "sending" }

// reportQueued prints what became of a write. Anything but a commit is an error.
func (p *program) reportQueued(form output, w *queuedWrite, body []byte, waited time.Duration) error {
	if form != outputTable {
		if err := form.printJSON(p.stdout, body); err != nil {
			return err
		}
	}
	switch {
	case w.State == "committed" && form == outputTable:
		_, err := fmt.Fprintf(p.stdout, "committed, revision %d\n", w.Revision)
		return err
	case w.State == "committed":
		return nil
	case w.waits():
		return exitf(exitTemporary, "write %s is not committed after %v: it is %s; try again (agent queue status says why it waits)", w.ID, waited, w.State)
	}
	text := fmt.Sprintf("write %s of key %s is not committed: %s", w.ID, keyText(w.KeyBase64), w.State)
	if w.Code != "" {
		text += " (" + w.why() + ")"
	}
	return exitf(exitRefused, "%s; agent queue show %s has its value", text, w.ID)
}

// queueSteerCommand is for what is done to the queue as a whole. It shows how the queue is doing then.
func (p *program) queueSteerCommand(f *clientFlags, name, short string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [flags]",
		Short: short,
		Args:  noArgs(exitUsage),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.tell(cmd, f, call{method: http.MethodPost, path: queuePath + "/" + name}, func(a *answer) error {
				return p.printStatus(a.body)
			})
		},
	}
}

func (p *program) queueRetryCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "retry ID [flags]",
		Short: "File a write that ended in a conflict or the like as a new one",
		Long: `File a write that ended in a conflict or the like as a new one.

The new write has the value of the old one and goes by what this node knows of the key now; If-Match
and the like are left out. The old one is forgotten. It prints the id of the new one.`,
		Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := pathOf(queuePath, args[0])
			if err != nil {
				return err
			}
			return p.tell(cmd, f, call{method: http.MethodPost, path: path + "/retry"}, func(a *answer) error {
				var filed struct {
					Op string `json:"op"`
				}
				if err := json.Unmarshal(a.body, &filed); err != nil {
					return exitf(exitRefused, "the answer is no JSON: %w", err)
				}
				_, err = fmt.Fprintf(p.stdout, "queued as %s\n", filed.Op)
				return err
			})
		},
	}
}

func (p *program) queueDiscardCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "discard ID [flags]",
		Short: "Give up a write that the cluster does not have, or forget one that has ended",
		Args:  exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := pathOf(queuePath, args[0])
			if err != nil {
				return err
			}
			return p.tell(cmd, f, call{method: http.MethodDelete, path: path}, func(a *answer) error {
				line := "discarded " + args[0]
				if a.status == http.StatusAccepted {
					line = args[0] + " may have been sent: it is given up if the cluster does not have it; agent queue show " + args[0] + " says what became of it"
				}
				_, err := fmt.Fprintln(p.stdout, line)
				return err
			})
		},
	}
}
