package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// client is one connection that does one thing at a time, as a device does. An answer other than the one wanted is an
// error. The slices given are the caller's again after the call.
type client interface {
	Put(key, value []byte) error
	// Get returns the length of the value. It is a linearizable read, or one of whatever the server has at hand.
	Get(key []byte, linearizable bool) (int, error)
	Close() error
}

// dialer makes the clients of one run; client i of them is told its number, so that some may share a connection.
type dialer interface {
	Dial(ctx context.Context, i int) (client, error)
	Close() error
}

// dialEach is a dialer whose clients share nothing.
type dialEach func(ctx context.Context) (client, error)

func (d dialEach) Dial(ctx context.Context, _ int) (client, error) { return d(ctx) }
func (d dialEach) Close() error                                    { return nil }

// generator makes keys and values. Equal seeds and streams make equal ones, so all contenders get the same work.
// Values are random, so that compression helps nobody, and no two are equal.
type generator struct {
	rand  *rand.Rand
	keys  int
	buf   []byte
	value []byte
	count uint64
}

// valueMin is the length of the count in each value.
const valueMin = 8

func newGenerator(o options, stream int) *generator {
	g := &generator{rand: rand.New(rand.NewPCG(o.seed, uint64(stream))), keys: o.keys, value: make([]byte, o.value)}
	for i := range g.value {
		g.value[i] = byte(g.rand.Uint32())
	}
	return g
}

// key returns a random key, good until the next call.
func (g *generator) key() []byte { return g.nth(g.rand.IntN(g.keys)) }

// nth returns the key of a number, good until the next call.
func (g *generator) nth(n int) []byte {
	g.buf = fmt.Appendf(g.buf[:0], "bench/%08d", n)
	return g.buf
}

// next returns a value, good until the next call.
func (g *generator) next() []byte {
	g.count++
	binary.BigEndian.PutUint64(g.value, g.count)
	return g.value
}

// put and get are the operations that are measured.

func put(c client, g *generator) error { return c.Put(g.key(), g.next()) }

func get(linearizable bool) operation {
	return func(c client, g *generator) error {
		key := g.key()
		n, err := c.Get(key, linearizable)
		if err == nil && n != len(g.value) {
			err = fmt.Errorf("get %s: %d bytes instead of %d", key, n, len(g.value))
		}
		return err
	}
}
