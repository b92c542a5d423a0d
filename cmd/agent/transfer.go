package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// An export is lines of JSON: a head, a put for each key as POST /v1/batch takes it, in order of the key, and an end with
// the SHA-256 of everything before it.
//
//	{"export":{"format":1,"epoch":"...","revision":7,"prefix_base64":"..."}}
//	{"put":{"key":"a","value_base64":"MQ=="}}
//	{"end":{"keys":1,"sha256":"..."}}
const exportFormat = 1

type exportHead struct {
	Format   int    `json:"format"`
	Epoch    string `json:"epoch"`
	Revision int64  `json:"revision"`
	Prefix   []byte `json:"prefix_base64"`
}

type exportEnd struct {
	Keys   int64  `json:"keys"`
	SHA256 string `json:"sha256"`
}

// exportLine is any line of an export.
type exportLine struct {
	Export *exportHead `json:"export,omitempty"`
	batchLine
	End *exportEnd `json:"end,omitempty"`
}

// exportLineMax is the longest line that is read: the largest value as base64, and its key.
const exportLineMax = 2*valueBytesMax + 1<<20

func (p *program) exportCommand(f *kvFlags) *cobra.Command {
	var leased bool
	cmd := &cobra.Command{
		Use:   "export [PREFIX] [flags]",
		Short: "Print the keys under a prefix, or all, in a form that import reads",
		Long: `Print the keys under a prefix, or all, as they stand at one revision: lines of JSON that "kv import"
reads, with a checksum at the end. Keys that live under a lease are left out: whoever keeps them alive
would not know of the copies. For the whole state with its history take a backup (agent snapshot save).`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactArgs("PREFIX")(cmd, args)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&leased, "leased", false, "include keys that live under a lease, as keys that live for ever")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		prefix, err := f.key(strings.Join(args, ""), true)
		if err != nil {
			return err
		}
		ctx, c, done, err := p.session(cmd, f.clientFlags)
		if err != nil {
			return err
		}
		defer done()
		e := &exporter{client: c, out: bufio.NewWriterSize(p.stdout, 64<<10), sum: sha256.New(), leased: leased, bar: p.progress()}
		err = e.run(ctx, prefix)
		e.bar.end()
		if err != nil {
			return err
		}
		if e.left > 0 {
			p.note("%d keys live under leases and were left out", e.left)
		}
		return nil
	}
	return cmd
}

// exporter writes an export.
type exporter struct {
	client *client
	out    *bufio.Writer
	sum    hash.Hash
	leased bool
	bar    *progress

	keys, left int64
}

func (e *exporter) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	_, _ = e.sum.Write(b) // never fails
	_, err = e.out.Write(b)
	return err
}

func (e *exporter) run(ctx context.Context, prefix string) error {
	c := call{method: http.MethodGet, path: keyPath(prefix), query: url.Values{"prefix": {""}, "limit": {strconv.Itoa(pageKeys)}}}
	for first := true; ; first = false {
		a, err := e.client.do(ctx, c)
		if err != nil {
			return err
		}
		var pg page
		if err := json.Unmarshal(a.body, &pg); err != nil {
			return exitf(exitRefused, "the list is no JSON: %w", err)
		}
		if first {
			head := exportHead{exportFormat, a.header.Get("Holdfast-Epoch"), pg.Revision, []byte(prefix)}
			if err := e.line(exportLine{Export: &head}); err != nil {
				return err
			}
		}
		if err := e.page(pg); err != nil {
			return err
		}
		e.bar.show("%d of %d keys", e.keys+e.left, pg.Count)
		if !pg.More {
			break
		}
		c.query.Set("after", pg.Next)
	}
	end := exportEnd{e.keys, hex.EncodeToString(e.sum.Sum(nil))}
	return errors.Join(e.line(exportLine{End: &end}), e.out.Flush())
}

func (e *exporter) page(pg page) error {
	for _, raw := range pg.KVs {
		var k struct {
			listed
			Lease string `json:"lease"`
		}
		if err := json.Unmarshal(raw, &k); err != nil {
			return exitf(exitRefused, "the list is no JSON: %w", err)
		}
		if k.Lease != "" && !e.leased {
			e.left++
			continue
		}
		e.keys++
		if err := e.line(putLine(k.KeyBase64, k.Value)); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) importCommand(f *kvFlags) *cobra.Command {
	src := &etcdSource{}
	cmd := &cobra.Command{
		Use:   "import [FILE] [flags]",
		Short: "Write the keys of an export, or of a running etcd",
		Long: `Write the keys of a file that "kv export" made (- is standard input), or with --from those of a
running etcd, over its HTTP port. Keys that are there are overwritten, others stay. Each key is a write
of its own, in batches; running it again is safe.

From an etcd the keys are copied as they stand at one revision; with --follow every change after that
too, in order, until it is interrupted: so clients can be moved while both run. With --state FILE it
notes how far it is, and the same command goes on there. Keys that live under a lease are left out,
since nobody would keep the copies alive: their owners make them anew. To take over the history too,
stop etcd and restore a snapshot of it: agent snapshot restore.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if src.from != "" && len(args) == 0 {
				return nil
			}
			return exactArgs("FILE")(cmd, args)
		},
	}
	src.addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if src.from == "" && (src.follow || src.state != "" || src.prefix != "" || src.leased) || src.from != "" && len(args) > 0 {
			return exitf(exitUsage, "give FILE, or --from with the URL of an etcd; --prefix, --follow, --leased and --state go with --from")
		}
		ctx, c, done, err := p.session(cmd, f.clientFlags)
		if err != nil {
			return err
		}
		defer done()
		b := &batcher{client: c}
		if src.from != "" {
			return p.importEtcd(ctx, src, b)
		}
		return p.importFile(ctx, args[0], b)
	}
	return cmd
}

// importFile reads a file twice: whether it is whole, then to write it. Standard input can be read but once.
func (p *program) importFile(ctx context.Context, name string, b *batcher) error {
	in := p.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return exitf(exitUsage, "%w", err)
		}
		defer f.Close()
		at := p.steps("reading " + name)
		_, err = readExport(f, func(batchLine) error { return ctx.Err() })
		at.end()
		if err != nil {
			return exitf(exitRefused, "%s: %w; nothing was written", name, err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return exitf(exitUsage, "%w", err)
		}
		in = f
	}
	bar := p.progress()
	head, err := readExport(in, func(l batchLine) error {
		bar.show("%d keys", b.written)
		return b.add(ctx, l)
	})
	if err == nil {
		err = b.flush(ctx)
	}
	bar.end()
	if err != nil {
		if _, told := errors.AsType[*exitError](err); told {
			return err
		}
		return exitf(exitRefused, "%s: %w; %d keys were written before that", name, err, b.written)
	}
	p.note("%d keys written, of revision %d of epoch %s", b.written, head.Revision, head.Epoch)
	return b.outcome()
}

// readExport calls f for each key of an export, and fails if that is not whole. What f has been called for before that is
// right, line by line.
func readExport(r io.Reader, f func(batchLine) error) (head exportHead, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), exportLineMax)
	sum, keys, ended := sha256.New(), int64(0), false
	for n := 1; lines.Scan(); n++ {
		var l exportLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return head, fmt.Errorf("line %d is no line of an export: %w", n, err)
		}
		switch {
		case ended:
			return head, fmt.Errorf("line %d comes behind the end", n)
		case (n == 1) != (l.Export != nil):
			return head, fmt.Errorf("line %d: an export begins with one head; was this file made by agent kv export?", n)
		case l.Export != nil:
			if head = *l.Export; head.Format != exportFormat {
				return head, fmt.Errorf("it has format %d, this version reads %d: install a newer version", head.Format, exportFormat)
			}
		case l.End != nil:
			if got := hex.EncodeToString(sum.Sum(nil)); l.End.Keys != keys || l.End.SHA256 != got {
				return head, fmt.Errorf("its end is of %d keys with SHA-256 %.12s..., and there are %d with %.12s...: it was changed or damaged", l.End.Keys, l.End.SHA256, keys, got)
			}
			ended = true
		case l.Put == nil || l.Delete != nil || len(l.key()) == 0:
			return head, fmt.Errorf("line %d puts no key", n)
		default:
			keys++
			if err := f(l.batchLine); err != nil {
				return head, err
			}
		}
		_, _ = sum.Write(append(lines.Bytes(), '\n')) // never fails
	}
	if err := lines.Err(); err != nil {
		return head, err
	}
	if !ended {
		return head, errors.New("it has no end: it was cut short")
	}
	return head, nil
}
