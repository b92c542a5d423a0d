package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// runQueue measures queued writes alone: what a 202 takes, and the start with a million of them in line.
func runQueue(ctx context.Context, b *bench) error {
	if b.system("holdfast") == nil {
		return errors.New("the suite measures the product: leave holdfast in -systems")
	}
	if err := b.queuedPuts(ctx); err != nil {
		return err
	}
	return b.backlog(ctx)
}

// What a batch may hold, and how long one may take.
const (
	batchLines = 10_000
	batchLimit = time.Minute
)

// backlog measures the start of a proxy that was killed with many writes in its queue and whose uplink is still cut, from fork
// until it is ready and has all of them in line, beside one with an empty queue.
func (b *bench) backlog(ctx context.Context) error {
	p, err := b.startPair(ctx, "", b.backlogFlags()...)
	if err != nil {
		return err
	}
	defer p.end(b)
	p.member.kill()
	x := *p.proxy.system
	starts := func(what string, depth int) error {
		x.ready = func(ctx context.Context, addr string) error {
			if err := askOK("/readyz")(ctx, addr); err != nil {
				return err
			}
			got, err := depthOf(ctx, addr)
			if err == nil && got != depth {
				err = fmt.Errorf("%d writes in the queue, want %d", got, depth)
			}
			return err
		}
		p.proxy.kill()
		for round := range b.starts {
			b.progress("%s, %d of %d", what, round+1, b.starts)
			v, err := x.start(ctx, p.proxy.dir, watched{})
			if err != nil {
				return err
			}
			p.proxy = v
			c, err := v.counters()
			if err != nil {
				return err
			}
			m, err := readMemory(v.pid)
			if err != nil {
				return err
			}
			b.report.add(resting(what, "holdfast"), round, map[string]float64{"ms": ms(v.started), "cpu_ms": ms(c.cpu), "rss_bytes": float64(m.rss)})
			if round < b.starts-1 {
				v.kill()
			}
		}
		return nil
	}
	if err := starts("start, none queued", 0); err != nil {
		return err
	}
	for from := 0; from < b.million; from += batchLines {
		b.progress("queueing: %d of %d", from, b.million)
		if err := queueLines(ctx, p.proxy.addr, from, min(from+batchLines, b.million)); err != nil {
			return err
		}
	}
	full := fmt.Sprintf("start, %d queued", b.million)
	if err := starts(full, b.million); err != nil {
		return err
	}
	list := []contender{{system: b.system("holdfast")}}
	b.restTable("A proxy's start after kill -9, uplink cut", list, []restLine{
		{"to ready, none queued, ms", "start, none queued", "ms", hundredth, "-"},
		{fmt.Sprintf("to ready, %d queued writes of 100 B, ms", b.million), full, "ms", hundredth, "200 / 1000"},
		{"CPU until then, ms", full, "cpu_ms", hundredth, "-"},
		{"RSS then", full, "rss_bytes", sized, "-"},
	})
	return nil
}

func (b *bench) backlogFlags() []string {
	return []string{"--queue-prefixes", queued, "--queue-max-bytes", "4GiB", "--queue-disk-reserve", "1MiB"}
}

// queueLines queues the writes of some numbers in one batch.
func queueLines(ctx context.Context, addr string, from, to int) error {
	ctx, cancel := context.WithTimeout(ctx, batchLimit)
	defer cancel()
	var body bytes.Buffer
	value := bytes.Repeat([]byte{'v'}, millionValue)
	for i := from; i < to; i++ {
		fmt.Fprintf(&body, `{"put":{"key":"%s%08d","value":"%s"}}`+"\n", queued, i, value)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v1/batch?write=queue", &body)
	if err != nil {
		return err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answers, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if n := bytes.Count(answers, []byte(`"status":202`)); n != to-from {
		return fmt.Errorf("%d of %d lines were queued: %s", n, to-from, answers[max(0, len(answers)-300):])
	}
	return nil
}

// depthOf is how many writes wait in the queue of a node.
func depthOf(ctx context.Context, addr string) (int, error) {
	page, err := fetch(ctx, addr, "/v1/status")
	if err != nil {
		return 0, err
	}
	var s struct {
		Queue *struct {
			Depth int `json:"depth"`
		} `json:"queue"`
	}
	if err := json.Unmarshal(page, &s); err != nil {
		return 0, err
	}
	if s.Queue == nil {
		return 0, errors.New("the queue is not open yet")
	}
	return s.Queue.Depth, nil
}
