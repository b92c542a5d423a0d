package main

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// runTxn measures transactions of etcd's API on a filled store, half of them reads, half writes in turn, as etcd's own
// benchmark mixes them.
func runTxn(ctx context.Context, b *bench) error {
	list, err := b.grpcOnly(ctx)
	if err != nil {
		return err
	}
	dirs, clean, err := b.filled(ctx, list, b.options)
	defer clean()
	if err != nil {
		return err
	}
	err = b.rounds(ctx, list, func(round, clients int, c contender) error {
		v, err := c.system.start(ctx, dirs[c.system], watched{})
		if err != nil {
			return err
		}
		defer v.kill()
		out, err := drive(ctx, b.options, v, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: txnMixed})
		if err != nil {
			return err
		}
		b.report.add(cell{"txn", "mixed", c.name, clients}, round, out.values())
		_, err = v.stop()
		return err
	})
	if err != nil {
		return err
	}
	b.loadTable("Transactions, reads and writes in turn", "txn", "mixed", list)
	var claims []claim
	for _, n := range b.clients {
		at := func(name string) cell { return cell{"txn", "mixed", name, n} }
		claims = append(claims,
			claim{what: "rate, " + clients(n), num: at(hfGRPC), den: at(etcdGRPC), value: vRate},
			claim{what: "p99, " + clients(n), num: at(hfGRPC), den: at(etcdGRPC), value: vP99, less: true},
			claim{what: "server CPU, " + clients(n), num: at(hfGRPC), den: at(etcdGRPC), value: vCPU, less: true})
	}
	b.report.claims("Transactions: ratios, gRPC over etcd's gRPC", claims)
	return nil
}

// grpcOnly are the contenders that speak etcd's API over gRPC.
func (b *bench) grpcOnly(ctx context.Context) (list []contender, err error) {
	all, err := b.contenders(ctx)
	for _, c := range all {
		if c.name == hfGRPC || c.name == etcdGRPC {
			list = append(list, c)
		}
	}
	return list, err
}

// txnMixed compares a key and then reads or writes it, in turn.
func txnMixed(c client, g *generator) error {
	k, ok := c.(grpcClient)
	if !ok {
		return fmt.Errorf("%T does not speak etcd's API", c)
	}
	key, value := string(g.key()), string(g.next())
	read := g.count%2 == 0
	op := clientv3.OpPut(key, value)
	if read {
		op = clientv3.OpGet(key)
	}
	res, err := k.c.Txn(k.ctx).If(clientv3.Compare(clientv3.Version(key), ">", 0)).Then(op).Commit()
	switch {
	case err != nil:
		return err
	case !res.Succeeded:
		return fmt.Errorf("txn: %s is not there", key)
	case read && len(res.Responses[0].GetResponseRange().Kvs) != 1:
		return fmt.Errorf("txn: get %s: no key", key)
	}
	return nil
}
