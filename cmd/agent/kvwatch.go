package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// watchFlags say what to watch, and from when.
type watchFlags struct {
	prefix       bool
	fromRevision int64
	onGap        string
}

func (p *program) watchCommand(f *kvFlags) *cobra.Command {
	w := &watchFlags{}
	cmd := &cobra.Command{
		Use:   "watch [KEY] [flags]",
		Short: "Print the changes of a key as they happen, one on a line",
		Long: `Print the changes of a key, or with --prefix of all keys that begin with KEY, as they happen: one
on a line. With -o json each line is the agent's own, including those on the state of the watch.
It goes on until it is interrupted. When the agent ends it, or the connection breaks, it exits with 75
and says from which revision to go on.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && w.prefix {
				return nil // all keys
			}
			return exactArgs("KEY")(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&w.prefix, "prefix", false, "watch every key that begins with KEY; without KEY, all")
	cmd.Flags().Int64Var(&w.fromRevision, "from-revision", 0, "begin with the changes of this revision")
	cmd.Flags().StringVar(&w.onGap, "on-gap", "", "where history is gone: resync lists what is there now, error ends the watch")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := f.key(strings.Join(args, ""), w.prefix)
		if err != nil {
			return err
		}
		ctx, c, done, err := p.session(cmd, f.clientFlags)
		if err != nil {
			return err
		}
		defer done()
		return p.watch(ctx, c, f.output, call{method: http.MethodGet, path: keyPath(key), query: w.query(), header: http.Header{"Accept": {"application/x-ndjson"}}})
	}
	return cmd
}

func (w *watchFlags) query() url.Values {
	q := url.Values{"watch": {""}}
	if w.prefix {
		q.Set("prefix", "")
	}
	if w.fromRevision != 0 {
		q.Set("from_revision", strconv.FormatInt(w.fromRevision, 10))
	}
	if w.onGap != "" {
		q.Set("on_gap", w.onGap)
	}
	return q
}

// watch prints a stream until it or ctx ends. The timeout is for the answer to begin, not for the stream.
func (p *program) watch(ctx context.Context, c *client, form output, call call) error {
	streaming, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(c.timeout, func() { cancel(context.DeadlineExceeded) })
	resp, err := c.send(streaming, call)
	if err != nil {
		if errors.Is(context.Cause(streaming), context.DeadlineExceeded) {
			return c.failed(call, context.DeadlineExceeded)
		}
		return err
	}
	defer resp.Body.Close()
	late.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, answerMax)
	var last int64 // the newest revision printed
	for lines.Scan() {
		revision, ended, err := p.event(form, lines.Bytes())
		last = max(last, revision)
		if ended || err != nil {
			return goOn(err, last)
		}
	}
	if ctx.Err() != nil {
		return nil // the user has seen enough
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF // an agent says when it ends a watch
	}
	return goOn(c.failed(call, err), last)
}

// goOn adds to the end of a watch that may be tried again where it goes on without missing a change. One revision may have
// several, of which some may be printed.
func goOn(err error, last int64) error {
	if err == nil || last == 0 || asExit(err).code != exitTemporary {
		return err
	}
	return exitf(exitTemporary, "%w; --from-revision=%d goes on there, and repeats what it prints of that revision", err, last)
}

// watched is a line of a watch: a change, or news of the watch itself.
type watched struct {
	Type string `json:"type"`
	listed
	problem
	OldestRevision int64 `json:"oldest_revision"`
}

// UnmarshalJSON reads the line into each part: both have a field named type.
func (e *watched) UnmarshalJSON(line []byte) error {
	var head struct {
		Type           string `json:"type"`
		OldestRevision int64  `json:"oldest_revision"`
	}
	if err := errors.Join(json.Unmarshal(line, &head), json.Unmarshal(line, &e.listed), json.Unmarshal(line, &e.problem)); err != nil {
		return err
	}
	e.Type, e.OldestRevision = head.Type, head.OldestRevision
	return nil
}

// event prints a line. It reports the revision of the change, if it is one, and whether it was the last line, and why.
func (p *program) event(form output, line []byte) (revision int64, ended bool, err error) {
	var e watched
	if err := json.Unmarshal(line, &e); err != nil {
		return 0, true, exitf(exitRefused, "a line of the watch is no JSON: %w", err)
	}
	if err := p.printEvent(form, &e, line); err != nil {
		return 0, true, err
	}
	switch e.Type {
	case "end":
		return 0, true, exitf(exitTemporary, "the agent has ended the watch: it is stopping; try again")
	case "slow-consumer":
		return 0, true, exitf(exitTemporary, "the agent has ended the watch: this end was too slow to read; try again")
	case "compacted":
		return 0, true, exitf(exitRefused, "the agent has ended the watch: the history is kept from revision %d on", e.OldestRevision)
	case "error":
		return 0, true, e.refusal()
	}
	return e.ModRevision, false, nil
}

func (p *program) printEvent(form output, e *watched, line []byte) error {
	switch form {
	case outputJSON:
		_, err := fmt.Fprintf(p.stdout, "%s\n", line)
		return err
	case outputYAML:
		if _, err := io.WriteString(p.stdout, "---\n"); err != nil {
			return err
		}
		return outputYAML.printJSON(p.stdout, line)
	}
	switch e.Type {
	case "put":
		_, err := fmt.Fprintf(p.stdout, "put %s %d %s\n", keyText(e.KeyBase64), e.ModRevision, valueText(e.Value))
		return err
	case "delete":
		_, err := fmt.Fprintf(p.stdout, "delete %s %d\n", keyText(e.KeyBase64), e.ModRevision)
		return err
	case "stale", "catching-up", "synced", "resync":
		p.note("watch: %s", e.Type)
	}
	return nil
}
