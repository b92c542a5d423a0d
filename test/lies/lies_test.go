//go:build lies

package lies

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// grpcProxy starts etcd and its grpc-proxy, and returns a client of each.
func grpcProxy(t *testing.T) (server *program, direct, through *clientv3.Client) {
	t.Helper()
	bin := built(t, "etcd")
	version(t, bin, "--version")
	at, peer, proxy := free(t), free(t), free(t)
	server = run(t, bin, "--data-dir", t.TempDir(), "--listen-client-urls", "http://"+at, "--advertise-client-urls", "http://"+at,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
	eventually(t, "etcd listens", func() bool { return listens(at) })
	run(t, bin, "grpc-proxy", "start", "--endpoints", at, "--listen-addr", proxy)
	eventually(t, "the grpc-proxy listens", func() bool { return listens(proxy) })
	client := func(at string) *clientv3.Client {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{at}, DialTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	return server, client(at), client(proxy)
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func get(t *testing.T, c *clientv3.Client, key string) string {
	t.Helper()
	r, err := c.Get(within(t, patience), key, clientv3.WithSerializable())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return "absent"
	}
	return string(r.Kvs[0].Value)
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(within(t, patience), key, value); err != nil {
		t.Fatal(err)
	}
}

// settles is how long a mirror in the same machine is given to notice a change: far more than it takes.
const settles = 5 * time.Second

func TestAStaleValueIsNotGivenForAFreshOne(t *testing.T) {
	t.Run("etcd grpc-proxy does", func(t *testing.T) {
		_, direct, through := grpcProxy(t)
		put(t, direct, "site/a", "old")
		if v := get(t, through, "site/a"); v != "old" {
			t.Fatalf("read %q first", v)
		}
		put(t, direct, "site/a", "new")
		time.Sleep(settles)
		if v := get(t, through, "site/a"); v != "old" {
			t.Errorf("it reads %q %v later, with etcd within reach: it no longer serves what is stale", v, settles)
		}
	})
	t.Run("Holdfast does not", func(t *testing.T) {
		member, proxy := pair(t)
		member.want(t, 201, "PUT", "/v1/kv/site/a", "old")
		eventually(t, "it is mirrored", func() bool { return proxy.call(t, "GET", "/v1/kv/site/a?consistency=local", "").status == 200 })
		member.want(t, 200, "PUT", "/v1/kv/site/a", "new")
		for _, how := range []string{"", "?consistency=linearizable"} {
			if how == "" {
				time.Sleep(settles)
			}
			if r := proxy.want(t, 200, "GET", "/v1/kv/site/a"+how, ""); r.body != "new" {
				t.Errorf("%q: reads %q", how, r.body)
			}
		}
		member.freeze()
		time.Sleep(7 * time.Second) // older than proxy.max-age
		r := proxy.want(t, 200, "GET", "/v1/kv/site/a", "")
		age, err := strconv.ParseFloat(r.header.Get("Holdfast-Age"), 64)
		if r.header.Get("Holdfast-Consistency") != "stale" || err != nil || age < 7 {
			t.Errorf("without the cluster for 7 s it says: %v", r.header)
		}
		if r := proxy.call(t, "GET", "/v1/kv/site/a?consistency=linearizable", ""); r.status != 503 {
			t.Errorf("linearizable without the cluster: %d %s", r.status, r.body)
		}
		if r := proxy.call(t, "GET", "/v1/kv/site/a?consistency=bounded&max_staleness=2s", ""); r.status != 503 {
			t.Errorf("bounded by 2 s: %d %s", r.status, r.body)
		}
		member.thaw()
	})
}

// writes is how many are acknowledged while the other side is away: more than mosquitto keeps (max_queued_messages).
const writes = 1500

func TestAnAcknowledgedWriteIsNotLost(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("a mosquitto bridge loses some, killed %v", killed), func(t *testing.T) {
			bridge(t, killed)
		})
	}
	t.Run("Holdfast loses none", func(t *testing.T) {
		member, proxy := pair(t)
		member.freeze()
		for i := range writes {
			proxy.want(t, 202, "PUT", fmt.Sprintf("/v1/kv/q/%04d?write=queue", i), fmt.Sprint(i))
		}
		proxy.kill()
		proxy.again(t)
		if d := proxy.depth(t); d != fmt.Sprint(writes) {
			t.Errorf("%s wait after kill -9, want %d", d, writes)
		}
		member.thaw()
		eventually(t, "it drains", func() bool { return proxy.depth(t) == "0" })
		for i := range writes {
			if r := member.want(t, 200, "GET", fmt.Sprintf("/v1/kv/q/%04d", i), ""); r.body != fmt.Sprint(i) {
				t.Fatalf("write %d is %q", i, r.body)
			}
		}
	})
}

// bridge publishes to a broker whose bridge is down, and counts what comes out on the other side.
func bridge(t *testing.T, killed bool) {
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		t.Fatal("mosquitto is missing: apt-get install mosquitto mosquitto-clients")
	}
	version(t, bin, "-h")
	dir, near, far := t.TempDir(), free(t), free(t)
	config := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	common := "allow_anonymous true\nuser root\nmax_inflight_messages 20\n"
	store := filepath.Join(dir, "near") + "/"
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	nearConfig := config("near.conf", common+"listener "+port(near)+" 127.0.0.1\npersistence true\npersistence_location "+store+
		"\nconnection up\naddress "+far+"\ntopic q/# out 1\ncleansession false\nbridge_protocol_version mqttv311\nrestart_timeout 1\n")
	farConfig := config("far.conf", common+"listener "+port(far)+" 127.0.0.1\n")
	broker := run(t, bin, "-c", nearConfig)
	eventually(t, "the near broker listens", func() bool { return listens(near) })

	var lines strings.Builder
	for i := range writes {
		fmt.Fprintln(&lines, i)
	}
	pub := exec.Command("mosquitto_pub", "-h", "127.0.0.1", "-p", port(near), "-t", "q/a", "-q", "1", "-l")
	pub.Stdin = strings.NewReader(lines.String())
	if out, err := pub.CombinedOutput(); err != nil { // it ends with 0 once each is acknowledged
		t.Fatalf("publish: %v\n%s", err, out)
	}
	if killed {
		broker.kill()
	}
	run(t, bin, "-c", farConfig)
	eventually(t, "the far broker listens", func() bool { return listens(far) })
	sub := exec.Command("mosquitto_sub", "-h", "127.0.0.1", "-p", port(far), "-t", "q/#", "-q", "1", "-W", "15")
	out := &strings.Builder{}
	sub.Stdout = out
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	if killed {
		run(t, bin, "-c", nearConfig)
	}
	_ = sub.Wait() // -W ends it with 27
	arrived := strings.Count(out.String(), "\n")
	t.Logf("%d of %d acknowledged writes arrived", arrived, writes)
	if arrived >= writes {
		t.Errorf("all %d arrived: it loses none any more", arrived)
	}
}

func TestANewerValueIsNotOverwrittenSilently(t *testing.T) {
	t.Run("NATS does", func(t *testing.T) {
		bin := built(t, "nats-server")
		version(t, bin, "--version")
		dir := t.TempDir()
		hubAt, leafAt, linkAt := free(t), free(t), free(t)
		config := func(name, at, more string) string {
			path := filepath.Join(dir, name+".conf")
			text := fmt.Sprintf("listen: %s\nserver_name: %s\njetstream { store_dir: %q, domain: %s }\n%s\n", at, name, filepath.Join(dir, name), name, more)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			return path
		}
		hubConfig := config("hub", hubAt, "leafnodes { listen: "+linkAt+" }")
		leafConfig := config("leaf", leafAt, "leafnodes { reconnect: 1, remotes: [ { url: \"nats://"+linkAt+"\" } ] }")
		stream := func(at string) jetstream.JetStream {
			eventually(t, "NATS listens", func() bool { return listens(at) })
			nc, err := nats.Connect("nats://" + at)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			return js
		}
		bucket := func(js jetstream.JetStream, sources ...*jetstream.StreamSource) jetstream.KeyValue {
			kv, err := js.CreateKeyValue(within(t, patience), jetstream.KeyValueConfig{Bucket: "q", Sources: sources})
			if err != nil {
				t.Fatal(err)
			}
			return kv
		}
		set := func(kv jetstream.KeyValue, value string) {
			if _, err := kv.PutString(within(t, patience), "a", value); err != nil {
				t.Fatal(err)
			}
		}
		leaf := run(t, bin, "-c", leafConfig)
		edge := bucket(stream(leafAt))
		set(edge, "old") // without the hub
		leaf.kill()
		run(t, bin, "-c", hubConfig)
		centre := bucket(stream(hubAt), &jetstream.StreamSource{Name: "q", Domain: "leaf"})
		set(centre, "new") // by somebody else, later
		run(t, bin, "-c", leafConfig)
		eventually(t, "what was written at the edge arrives, or it does not", func() bool {
			e, err := centre.Get(within(t, patience), "a")
			if err != nil {
				t.Fatal(err)
			}
			return string(e.Value()) == "old"
		})
		t.Log("the older value has overwritten the newer one")
	})
	t.Run("Holdfast does not", func(t *testing.T) {
		member, proxy := pair(t)
		member.want(t, 201, "PUT", "/v1/kv/q/a", "before")
		eventually(t, "it is mirrored", func() bool { return proxy.call(t, "GET", "/v1/kv/q/a?consistency=local", "").body == "before" })
		member.kill()
		op := proxy.want(t, 202, "PUT", "/v1/kv/q/a", "old").header.Get("Holdfast-Op")
		proxy.kill()
		member.again(t)
		member.want(t, 200, "PUT", "/v1/kv/q/a", "new")
		proxy.again(t)
		r := proxy.want(t, 200, "GET", "/v1/queue/"+op+"?wait=30s", "")
		if !strings.Contains(r.body, `"state":"conflict"`) || !strings.Contains(r.body, `"value":"b2xk"`) {
			t.Errorf("the queued write: %s, want a conflict with the value that lost", r.body)
		}
		if r := member.want(t, 200, "GET", "/v1/kv/q/a", ""); r.body != "new" {
			t.Errorf("the key is %q, want the newer value", r.body)
		}
	})
}

func TestWhatIsNotKnownIsNotAnswered(t *testing.T) {
	t.Run("etcd grpc-proxy answers", func(t *testing.T) {
		server, direct, through := grpcProxy(t)
		if v := get(t, through, "site/a"); v != "absent" {
			t.Fatalf("read %q first", v)
		}
		put(t, direct, "site/a", "there")
		time.Sleep(settles)
		server.freeze()
		if v := get(t, through, "site/a"); v != "absent" {
			t.Errorf("it reads %q: it no longer says that a key is absent because it once was", v)
		}
		server.thaw()
	})
	t.Run("Holdfast does not", func(t *testing.T) {
		member, proxy := pair(t)
		proxy.want(t, 404, "GET", "/v1/kv/site/a", "")
		member.want(t, 201, "PUT", "/v1/kv/site/a", "there")
		member.want(t, 201, "PUT", "/v1/kv/other/a", "there too")
		time.Sleep(settles)
		member.freeze()
		if r := proxy.want(t, 200, "GET", "/v1/kv/site/a", ""); r.body != "there" {
			t.Errorf("reads %q", r.body)
		}
		if r := proxy.call(t, "GET", "/v1/kv/other/a?consistency=local", ""); r.status != 504 || !strings.Contains(r.body, "not-cached") {
			t.Errorf("a key that it never had, local: %d %s", r.status, r.body)
		}
		if r := proxy.call(t, "GET", "/v1/kv/other/a", ""); r.status != 503 {
			t.Errorf("a key that it never had: %d %s", r.status, r.body)
		}
		if r := proxy.call(t, "PUT", "/v1/kv/other/a", "x"); r.status != 504 && r.status != 503 {
			t.Errorf("a write that may not be queued: %d %s", r.status, r.body)
		}
		member.thaw()
	})
}
