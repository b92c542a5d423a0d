//go:build robustness

// Package robustness puts the traffic of etcd's tests/robustness on the agent, kills members meanwhile, and gives what its
// clients saw to etcd's own model and validators. It is built in a module of its own: see ../run-robustness.
//
//	BIN      a folder with agent and trio
//	ROUNDS   how often each scenario runs, 1 if not set
package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/tests/v3/robustness/client"
	"go.etcd.io/etcd/tests/v3/robustness/identity"
	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/traffic"
	"go.etcd.io/etcd/tests/v3/robustness/validate"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// cluster is a number of members, processes of their own.
type cluster struct {
	t       *testing.T
	members []*process
}

type process struct {
	args []string
	addr string
	cmd  *exec.Cmd
	log  *os.File
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func start(t *testing.T, n int) *cluster {
	t.Helper()
	bin, c := os.Getenv("BIN"), &cluster{t: t}
	dir, err := os.MkdirTemp("", "robust-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if n == 1 {
		addr := free(t)
		c.members = []*process{{addr: addr, args: []string{filepath.Join(bin, "agent"), "--data-dir", filepath.Join(dir, "d"), "--listen", "http://" + addr, "--peer-listen", "127.0.0.1:0"}}}
	} else {
		found := []string{"found", dir}
		for range n {
			found = append(found, free(t))
		}
		if out, err := exec.Command(filepath.Join(bin, "trio"), found...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for i := range n {
			addr := free(t)
			c.members = append(c.members, &process{addr: addr, args: []string{filepath.Join(bin, "trio"), "run", filepath.Join(dir, strconv.Itoa(i+1)), addr}})
		}
	}
	for i, p := range c.members {
		if p.log, err = os.Create(filepath.Join(dir, fmt.Sprint("log", i))); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.log.Close() })
		c.run(i)
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.kill(i)
		}
	})
	for i := range c.members {
		c.await(i)
	}
	return c
}

func (c *cluster) run(i int) {
	p := c.members[i]
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) kill(i int) {
	_ = c.members[i].cmd.Process.Kill()
	_ = c.members[i].cmd.Wait()
}

func (c *cluster) await(i int) {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if r, err := http.Get("http://" + c.members[i].addr + "/readyz"); err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
	}
	c.t.Fatalf("member %d is not ready within a minute", i)
}

func (c *cluster) endpoints() (all []string) {
	for _, p := range c.members {
		all = append(all, p.addr)
	}
	return all
}

func TestRobustness(t *testing.T) {
	rounds := 1
	if text := os.Getenv("ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []struct {
		name    string
		traffic traffic.Traffic
		compact bool
		history bool // there are no leases in it, so that the whole history says what was asked for
	}{
		{"etcd put", traffic.EtcdPut, false, true},
		{"etcd put, delete, lease", traffic.EtcdPutDeleteLease, true, false},
		{"etcd delete", traffic.EtcdDelete, false, true},
		{"kubernetes", traffic.Kubernetes, false, true},
		{"kubernetes create, delete", traffic.KubernetesCreateDelete, false, true},
	} {
		for _, n := range []int{1, 3} {
			for round := range rounds {
				t.Run(fmt.Sprintf("%s, %d members, round %d", s.name, n, round), func(t *testing.T) {
					robust(t, start(t, n), s.traffic, s.compact, s.history)
				})
			}
		}
	}
}

// The time around kills. With a quorum of three the cluster is without a leader for two seconds after some of them.
const (
	before = 1500 * time.Millisecond
	after  = 3 * time.Second
	kills  = 3
)

func robust(t *testing.T, c *cluster, tf traffic.Traffic, compact, history bool) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	lg, ids := zap.NewNop(), identity.NewIDProvider()
	set := client.NewSet(ids, time.Now())
	defer set.Close()
	if err := traffic.CheckEmptyDatabaseAtStart(ctx, lg, c.endpoints(), set); err != nil {
		t.Fatal(err)
	}
	p := traffic.KeyValueVeryLow
	limiter := rate.NewLimiter(rate.Limit(p.MaximalQPS), p.BurstableQPS)
	var wg sync.WaitGroup
	finish, keys, store := make(chan struct{}), traffic.NewKeyStore(10, "key"), traffic.NewKubernetesStorage()
	err := traffic.SimulateKeyValueTraffic(ctx, &wg, &p, c.endpoints(), set, tf, traffic.RunTrafficLoopParam{
		QPSLimiter: limiter, IDs: ids, LeaseIDStorage: identity.NewLeaseIDStorage(), KeyStore: keys, Storage: store, Finish: finish,
		NonUniqueRequestConcurrencyLimiter: traffic.NewConcurrencyLimiter(p.MaxNonUniqueRequestConcurrency),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := traffic.WatchDefault
	err = traffic.SimulateWatchTraffic(ctx, &wg, &w, c.endpoints(), set, tf, traffic.RunWatchLoopParam{
		Config: w, QPSLimiter: limiter, KeyStore: keys, Storage: store, Finish: finish, Logger: lg,
	})
	if err != nil {
		t.Fatal(err)
	}
	if compact {
		err := traffic.SimulateCompactionTraffic(ctx, &wg, &traffic.CompactionDefault, c.endpoints(), set, tf, traffic.RunCompactLoopParam{Period: traffic.CompactionDefault.Period, Finish: finish})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range kills {
		time.Sleep(before)
		i := rand.IntN(len(c.members))
		c.kill(i)
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		c.run(i)
		c.await(i)
	}
	time.Sleep(after)
	close(finish)
	wg.Wait()

	last, err := set.NewClient(c.endpoints())
	if err != nil {
		t.Fatal(err)
	}
	var put *clientv3.PutResponse
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if put, err = last.Put(ctx, "tombstone", "true"); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("the last operation has to succeed: %v", err)
	}
	reports, ended, failed := set.Reports(), 0, 0
	for _, r := range reports {
		for _, op := range r.KeyValue {
			if o, ok := op.Output.(model.MaybeEtcdResponse); ok && o.Error != "" {
				failed++
			} else {
				ended++
			}
		}
	}
	events := 0
	for _, r := range reports {
		for _, w := range r.Watch {
			for _, a := range w.Responses {
				events += len(a.Events)
			}
		}
	}
	t.Logf("%d operations, %d failed, %d events seen", ended, failed, events)
	if ended < 300 || events < 300 {
		t.Errorf("too little happened")
	}
	var persisted []model.EtcdRequest
	if history {
		persisted = changes(ctx, t, c.members[0].addr, put.Header.Revision)
	}
	result := validate.ValidateAndReturnVisualize(lg, validate.Config{ExpectRevisionUnique: tf.ExpectUniqueRevision()}, reports, persisted, 5*time.Minute)
	if err := result.Error(); err != nil {
		t.Error(err)
	}
	t.Logf("linear: %s; watches: %s; serializable reads: %s", result.Linearization.Status, result.Watch.Status, result.Serializable.Status)
	if result.Linearization.Status != validate.Success || history && (result.Watch.Status != validate.Success || result.Serializable.Status != validate.Success) {
		t.Error("not all of it was validated")
	}
}

// changes is the whole history as requests, one for each revision: what etcd's suite reads from the log of etcd.
func changes(ctx context.Context, t *testing.T, addr string, last int64) (all []model.EtcdRequest) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rev := int64(1)
	for r := range c.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			op := model.EtcdOperation{Type: model.DeleteOperation, Delete: model.DeleteOptions{Key: string(e.Kv.Key)}}
			if e.Type == mvccpb.PUT {
				op = model.EtcdOperation{Type: model.PutOperation, Put: model.PutOptions{Key: string(e.Kv.Key), Value: model.ToValueOrHash(string(e.Kv.Value))}}
			}
			if e.Kv.ModRevision != rev {
				if e.Kv.ModRevision != rev+1 {
					t.Fatalf("revision %d follows %d", e.Kv.ModRevision, rev)
				}
				rev = e.Kv.ModRevision
				all = append(all, model.EtcdRequest{Type: model.Txn, Txn: &model.TxnRequest{}})
			}
			txn := all[len(all)-1].Txn
			txn.OperationsOnSuccess = append(txn.OperationsOnSuccess, op)
		}
		if rev >= last {
			return all
		}
	}
	t.Fatalf("the history ends at revision %d of %d", rev, last)
	return nil
}
