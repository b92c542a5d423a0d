package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func (p *program) getCommand(f *kvFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get KEY [flags]",
		Short: "Print the value of a key, and nothing else",
		Args:  exactArgs("KEY"),
	}
	read := addReadFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := f.key(args[0], false)
		if err != nil {
			return err
		}
		ctx, c, done, err := p.session(cmd, f.clientFlags)
		if err != nil {
			return err
		}
		defer done()
		call := call{method: http.MethodGet, path: keyPath(key), query: url.Values{}, header: http.Header{}}
		read.apply(cmd, &call)
		a, err := c.do(ctx, call)
		if err != nil {
			return err
		}
		return p.printValue(f.output, key, a)
	}
	return cmd
}

// printValue prints the bytes of a value; as JSON or YAML with what its headers say.
func (p *program) printValue(o output, key string, a *answer) error {
	if o == outputTable {
		p.noteStale(a)
		_, err := p.stdout.Write(a.body)
		return err
	}
	doc := struct {
		Key         string `json:"key,omitempty"` // absent if it is not UTF-8, as the agent has it
		KeyBase64   []byte `json:"key_base64"`
		Value       []byte `json:"value"`
		ModRevision int64  `json:"mod_revision,omitempty"`
		Revision    int64  `json:"revision,omitempty"`
		Source      string `json:"source,omitempty"`
		Consistency string `json:"consistency,omitempty"`
		Age         string `json:"age,omitempty"`
	}{
		KeyBase64: []byte(key), Value: a.body,
		ModRevision: headerNumber(a.header, "ETag"),
		Revision:    headerNumber(a.header, "Holdfast-Revision"),
		Source:      a.header.Get("Holdfast-Source"),
		Consistency: a.header.Get("Holdfast-Consistency"),
		Age:         a.header.Get("Holdfast-Age"),
	}
	if utf8.ValidString(key) {
		doc.Key = key
	}
	return o.print(p.stdout, doc)
}

// noteStale says it of an answer that is older than what was asked for: the agent is cut off from the cluster. Other forms
// than the table have it in a field, or are a list that says so here too.
func (p *program) noteStale(a *answer) {
	if a.header.Get("Holdfast-Consistency") != "stale" {
		return
	}
	age, err := time.ParseDuration(a.header.Get("Holdfast-Age") + "s")
	if err != nil {
		return // it is not known how old
	}
	p.note("this is as of %s ago: the agent is cut off from the cluster (agent check says more; --consistency=linearizable refuses such answers)", ageText(age))
}

// headerNumber reads a number, or an entity tag that is one. A header that is not there is 0.
func headerNumber(h http.Header, name string) int64 {
	n, err := strconv.ParseInt(strings.Trim(h.Get(name), `"`), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// listed is a key as lists and watches show it. JSON has the value as base64, which []byte reads.
type listed struct {
	KeyBase64   []byte `json:"key_base64"`
	Value       []byte `json:"value"`
	ModRevision int64  `json:"mod_revision"`
}

// page is one answer to a list.
type page struct {
	KVs      []json.RawMessage `json:"kvs"`
	Revision int64             `json:"revision"`
	Count    int64             `json:"count"`
	More     bool              `json:"more"`
	Next     string            `json:"next"`
}

// pageKeys is how many keys are asked for at a time: what is held in memory.
const pageKeys = 500

func (p *program) lsCommand(f *kvFlags) *cobra.Command {
	var limit int64
	var keysOnly bool
	cmd := &cobra.Command{
		Use:   "ls [PREFIX] [flags]",
		Short: "List the keys under a prefix, or all, in order",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactArgs("PREFIX")(cmd, args)
			}
			return nil
		},
	}
	cmd.Flags().Int64Var(&limit, "limit", 0, "print this many keys at most; 0 is all")
	cmd.Flags().BoolVar(&keysOnly, "keys-only", false, "print keys only, one on a line")
	read := addReadFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		prefix, err := f.key(strings.Join(args, ""), true)
		if err != nil {
			return err
		}
		if limit < 0 {
			return exitf(exitUsage, "--limit must not be negative")
		}
		ctx, c, done, err := p.session(cmd, f.clientFlags)
		if err != nil {
			return err
		}
		defer done()
		l := lister{out: p.stdout, form: f.output, keysOnly: keysOnly}
		call := call{method: http.MethodGet, path: keyPath(prefix), query: url.Values{"prefix": {""}}, header: http.Header{}}
		if keysOnly {
			call.query.Set("keys_only", "")
		}
		read.apply(cmd, &call)
		for left := limit; ; left -= pageKeys {
			size := int64(pageKeys)
			if limit > 0 {
				size = min(left, pageKeys)
			}
			call.query.Set("limit", strconv.FormatInt(size, 10))
			a, err := c.do(ctx, call)
			if err != nil {
				return err
			}
			if left == limit { // the first page says it for all
				p.noteStale(a)
			}
			var next page
			if err := json.Unmarshal(a.body, &next); err != nil {
				return exitf(exitRefused, "the list from %s is no JSON: %w", c.target.name, err)
			}
			if err := l.page(&next); err != nil {
				return err
			}
			if next.Next == "" || limit > 0 && left <= pageKeys {
				return l.end(&next)
			}
			call.query.Set("after", next.Next)
		}
	}
	return cmd
}

// lister prints the pages of a list as they come.
type lister struct {
	out      io.Writer
	form     output
	keysOnly bool
	printed  int64
}

func (l *lister) page(p *page) error {
	switch l.form {
	case outputJSON:
		return l.pageJSON(p)
	case outputYAML:
		return l.pageYAML(p)
	default:
		return l.pageTable(p)
	}
}

func (l *lister) pageJSON(p *page) error {
	var b bytes.Buffer
	for _, raw := range p.KVs {
		separator := ",\n"
		if l.printed == 0 {
			separator = `{"kvs":[` + "\n"
		}
		b.WriteString(separator)
		b.Write(raw)
		l.printed++
	}
	_, err := l.out.Write(b.Bytes())
	return err
}

func (l *lister) pageYAML(p *page) error {
	if l.printed == 0 && len(p.KVs) > 0 {
		if _, err := io.WriteString(l.out, "kvs:\n"); err != nil {
			return err
		}
	}
	l.printed += int64(len(p.KVs))
	for _, raw := range p.KVs {
		item, err := parseTree(raw)
		if err != nil {
			return err
		}
		if err := (&tree{isArray: true, items: []*tree{item}}).writeYAML(l.out, "  "); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) pageTable(p *page) error {
	rows := make([][]string, 0, len(p.KVs))
	for _, raw := range p.KVs {
		var item listed
		if err := json.Unmarshal(raw, &item); err != nil {
			return exitf(exitRefused, "a key in the list cannot be read: %w", err)
		}
		if l.keysOnly {
			rows = append(rows, []string{keyText(item.KeyBase64)})
			continue
		}
		rows = append(rows, []string{keyText(item.KeyBase64), strconv.FormatInt(item.ModRevision, 10), valueText(item.Value)})
	}
	var head []string
	if l.printed == 0 && !l.keysOnly && len(rows) > 0 {
		head = []string{"KEY", "REVISION", "VALUE"}
	}
	l.printed += int64(len(rows))
	return printTable(l.out, head, rows)
}

// end prints what stands behind the last key.
func (l *lister) end(p *page) error {
	var text string
	switch {
	case l.form == outputJSON && l.printed == 0:
		text = fmt.Sprintf("{\"kvs\":[],\"revision\":%d,\"count\":%d}\n", p.Revision, p.Count)
	case l.form == outputJSON:
		text = fmt.Sprintf("\n],\"revision\":%d,\"count\":%d}\n", p.Revision, p.Count)
	case l.form == outputYAML && l.printed == 0:
		text = fmt.Sprintf("kvs: []\nrevision: %d\ncount: %d\n", p.Revision, p.Count)
	case l.form == outputYAML:
		text = fmt.Sprintf("revision: %d\ncount: %d\n", p.Revision, p.Count)
	}
	_, err := io.WriteString(l.out, text)
	return err
}
