// Command go-client uses an agent through etcd's own Go client, unchanged.
//
//	go run . [HOST:PORT]
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func main() {
	addr := "127.0.0.1:2379"
	if len(os.Args) > 1 {
		addr = os.Args[1]
	}
	if err := run(addr); err != nil {
		fmt.Fprintln(os.Stderr, "go-client:", err)
		os.Exit(1)
	}
}

func run(addr string) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	const key = "examples/go/door"
	put, err := client.Put(ctx, key, "open")
	if err != nil {
		return err
	}
	fmt.Println("written at revision", put.Header.Revision)

	watch := client.Watch(ctx, key, clientv3.WithRev(put.Header.Revision))
	for _, event := range (<-watch).Events {
		fmt.Printf("the watch saw %s = %s\n", event.Kv.Key, event.Kv.Value)
	}

	moved, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(key), "=", "open")).
		Then(clientv3.OpPut(key, "closed")).
		Commit()
	if err != nil {
		return err
	}
	fmt.Println("closed by me:", moved.Succeeded)

	// Held as long as the session's lease, and freed when this process dies.
	session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
	if err != nil {
		return err
	}
	defer session.Close()
	lock := concurrency.NewMutex(session, "examples/go/lock")
	if err := lock.Lock(ctx); err != nil {
		return err
	}
	fmt.Println("alone in here")
	if err := lock.Unlock(ctx); err != nil {
		return err
	}
	_, err = client.Delete(ctx, key)
	return err
}
