package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/client"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/kv"
	"holdfast/proxy"
	"holdfast/queue"
	"holdfast/transport"
)

// What a box mirrors, and where it queues writes.
const (
	mirrored = "fleet/cfg/"
	queued   = "fleet/q/"
)

// box is a proxy as agent puts it together, without the doors for devices: transport, uplink with its control stream,
// cache and queue.
type box struct {
	n     int
	conn  *socket
	ep    *transport.Endpoint
	id    atomic.Pointer[transport.Identity]
	up    *client.Client
	cache *proxy.Proxy
	queue *queue.Queue
	light *light // in the place of cache and queue; nil for a whole proxy
	boot  string

	following sync.WaitGroup
	parts     sync.WaitGroup
	stop      context.CancelFunc
	failed    chan error // of one slot: a part ended by itself
}

// join makes a box, has the cluster take it in, and starts it. Without a dir it is a light one.
func join(ctx context.Context, n int, dir string, r *region, member string, token enroll.Token, silence time.Duration) (b *box, err error) {
	id, err := transport.NewIdentity()
	if err != nil {
		return nil, err
	}
	conn, err := r.listen()
	if err != nil {
		return nil, err
	}
	b = &box{n: n, conn: conn, boot: fmt.Sprint("boot of ", n), failed: make(chan error, 1)}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("box %d: %w", n, err), b.close())
		}
	}()
	b.id.Store(id)
	if b.ep, err = transport.New(transport.Config{Conn: conn, Identity: b.id.Load, EarlyData: true, KeepAlive: silence}); err != nil {
		return b, err
	}
	b.run(running, b.ep.Run)
	for { // a member with its hands full says so
		got, err := enroll.Join(ctx, b.ep, []string{member}, token, id, enroll.Wish{Name: fmt.Sprintf("box-%d", n), Role: transport.Proxy})
		if err == nil {
			b.id.Store(got.Identity)
			break
		}
		if _, final := errors.AsType[*enroll.Refused](err); final || ctx.Err() != nil {
			return b, err
		}
		time.Sleep(time.Second)
	}
	err = b.open(running, dir, member)
	return b, err
}

// open starts what forwards.
func (b *box) open(ctx context.Context, dir, member string) (err error) {
	if b.up, err = client.New(client.Options{Dial: b.dial, Endpoints: []string{member}}); err != nil {
		return err
	}
	if dir == "" {
		b.light = newLight(b.up)
		b.run(ctx, b.up.Run)
		b.run(ctx, b.light.follow)
		b.run(ctx, b.light.drain)
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	began := time.Now()
	b.cache, err = proxy.New(proxy.Options{Upstream: b.up, Path: filepath.Join(dir, "cache.db"), Prefixes: [][]byte{[]byte(mirrored)},
		MaxBytes: 1 << 20, Clock: func() time.Duration { return time.Since(began) }})
	if err != nil {
		return err
	}
	origin, err := kv.ParseNodeID(b.id.Load().Node())
	if err != nil {
		return err
	}
	b.queue, err = queue.Open(b.cache, queue.Options{Dir: filepath.Join(dir, "queue"), Origin: origin,
		Rules: []queue.Rule{{Prefix: []byte(queued)}}})
	if err != nil {
		return err
	}
	b.run(ctx, b.up.Run)
	b.run(ctx, b.cache.Run)
	b.run(ctx, b.queue.Run)
	return nil
}

func (b *box) run(ctx context.Context, part func(context.Context) error) {
	b.parts.Go(func() {
		if err := part(ctx); err != nil && ctx.Err() == nil {
			select {
			case b.failed <- err:
			default:
			}
		}
	})
}

// dial opens an uplink, and its control stream beside it, as agent does.
func (b *box) dial(ctx context.Context, endpoint string, early func(client.Conn)) (client.Conn, error) {
	c, err := bridge.Dial(b.ep)(ctx, endpoint, early)
	if err != nil {
		return nil, err
	}
	if d, ok := c.(bridge.Dialed); ok {
		b.following.Go(func() {
			_ = bridge.Follow(d.Context(), d.Conn, func(in *bufio.Reader, out io.Writer) error { // ends with the connection
				return enroll.Follow(in, out, b.boot, func(enroll.News) enroll.Report { return b.report() }, func(enroll.News) {}, func(enroll.Order) enroll.Progress { return enroll.Progress{} })
			})
		})
	}
	return c, nil
}

func (b *box) report() enroll.Report {
	r := enroll.Report{Name: fmt.Sprintf("box-%d", b.n), Mode: "proxy", Feature: kv.FeatureNewest}
	if b.queue != nil {
		s := b.queue.Status()
		r.QueueDepth, r.QueueBytes = s.Depth, s.Bytes
	}
	return r
}

// back reports whether the uplink is up, the cache in step, and nothing waits.
func (b *box) back() bool {
	s := b.up.State()
	if b.light != nil {
		_, depth := b.light.next()
		return s.Endpoint != "" && !s.Lost && b.light.synced.Load() && depth == 0
	}
	return s.Endpoint != "" && !s.Lost && b.cache.State().Synced && b.queue.Status().Depth == 0
}

// key is that of one of the box's queued writes.
func (b *box) key(write int) string { return fmt.Sprintf("%s%06d/%d", queued, b.n, write) }

// write queues a write, as a device does whose node has lost its uplink.
func (b *box) write(ctx context.Context, write int) error {
	key := b.key(write)
	c := kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(b.value(write))}}}
	if b.light != nil {
		b.light.queue(c)
		return nil
	}
	c.Write = kv.WriteQueue
	_, err := b.queue.Do(ctx, c)
	if err != nil {
		return fmt.Errorf("box %d: queue %s: %w", b.n, key, err)
	}
	return nil
}

func (b *box) value(write int) string { return hex.EncodeToString([]byte(b.key(write))) }

// state is how the box stands, for a person.
func (b *box) state() string {
	if b.light != nil {
		_, depth := b.light.next()
		return fmt.Sprintf("light, uplink %+v, synced %v, %d writes wait", b.up.State(), b.light.synced.Load(), depth)
	}
	return fmt.Sprintf("uplink %+v, cache %+v, queue %+v", b.up.State(), b.cache.State(), b.queue.Status())
}

// failure is why a part ended by itself, nil for none has.
func (b *box) failure() error {
	select {
	case err := <-b.failed:
		return fmt.Errorf("box %d: %w", b.n, err)
	default:
		return nil
	}
}

func (b *box) close() error {
	b.stop()
	b.parts.Wait()
	b.following.Wait()
	var errs []error
	if b.queue != nil {
		errs = append(errs, b.queue.Close())
	}
	if b.cache != nil {
		errs = append(errs, b.cache.Close())
	}
	return errors.Join(append(errs, b.conn.Close())...)
}
