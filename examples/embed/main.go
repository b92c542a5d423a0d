// Command embed runs an agent inside a Go program: a store of its own that other programs may reach too.
//
//	go run ./examples/embed [DATA-DIR]
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"holdfast/agent"
	"holdfast/config"
	"holdfast/kv"
)

// patience is how long a start, a stop or a request may take.
const patience = 30 * time.Second

func main() {
	dir := "embedded.data"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := run(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

// run starts an agent, writes and reads a key without any network between, and stops it.
func run(ctx context.Context, dir string) (err error) {
	cfg := config.Default()
	cfg.Name = "embedded"
	cfg.DataDir = dir
	cfg.Listen = []string{"http://127.0.0.1:0"} // the system chooses a port; Addrs tells which
	cfg.PeerListen = "127.0.0.1:0"
	cfg.Complete("localhost")

	a, err := agent.Start(ctx, cfg, agent.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err = errors.Join(err, a.Stop(ctx)) // what was written is on disk long before; this closes in order
	}()
	select {
	case <-a.Ready():
	case <-a.Done():
		return a.Err()
	case <-time.After(patience):
		return errors.New("the agent is not ready")
	}
	fmt.Println("others reach it at", a.Addrs()[0])

	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	key := []byte("examples/embed/greeting")
	put, err := a.Backend().Do(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: key, Value: []byte("hello")}}})
	if err != nil {
		return err
	}
	page, err := a.Backend().Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key}}})
	if err != nil {
		return err
	}
	for _, op := range page.Ops {
		for _, got := range op.KVs {
			fmt.Printf("%s = %s, written at revision %d\n", got.Key, got.Value, put.Revision)
		}
	}
	return nil
}
