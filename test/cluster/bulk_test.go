package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// TestSnapshotFillsALossyLink holds the target: 20 MB over 20 Mbit/s at 5 % take 1/0.8 of what the link can do at most.
func TestSnapshotFillsALossyLink(t *testing.T) {
	const (
		size = 20 << 20
		rate = 20_000_000
		loss = .05
	)
	for _, from := range []int{0, 1} { // whichever of the two has dialed
		t.Run(fmt.Sprint(from), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, c := newPair(t, 31, loss, rate)
				took := c[from].sendWhole(t, c[1-from], size)
				share := size * 8 / took.Seconds() / (rate * (1 - loss) * .947)
				t.Logf("%.1f s, %.2f of what the link can do", took.Seconds(), share)
				if share < .8 {
					t.Errorf("%.2f of what the link can do, want 0.8", share)
				}
			})
		})
	}
}

// TestSnapshotGoesOnAfterACut cuts the link in the middle, for longer than connections live.
func TestSnapshotGoesOnAfterACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 10 << 20
		net, c := newPair(t, 32, .02, 20_000_000)
		time.AfterFunc(2*time.Second, func() { net.Cut("a", "b") })
		time.AfterFunc(32*time.Second, func() { net.Heal("a", "b") })
		wire := net.OneWay("a", "b")
		before := wire.Stats().Bytes
		took := c[0].sendWhole(t, c[1], size)
		sent := wire.Stats().Bytes - before
		t.Logf("%s, %d bytes sent for %d", took, sent, size)
		if sent > size*3/2 {
			t.Errorf("%d bytes sent for %d: it began anew", sent, size)
		}
	})
}

// TestSnapshotGoesOnAfterItsReceiverRestarted stops the receiver in the middle, and damages what it had: only that is sent
// again.
func TestSnapshotGoesOnAfterItsReceiverRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 10 << 20
		net, c := newPair(t, 34, 0, 20_000_000)
		time.AfterFunc(3*time.Second, func() {
			c[1].stop(t)
			damageSpool(t, c[1].spool)
			time.Sleep(5 * time.Second)
			c[1].start(t, net)
			c[1].meet(net, c)
		})
		wire := net.OneWay("a", "b")
		before := wire.Stats().Bytes
		took := c[0].sendWhole(t, c[1], size)
		sent := wire.Stats().Bytes - before
		t.Logf("%s, %d bytes sent for %d", took, sent, size)
		if sent > size*5/4 {
			t.Errorf("%d bytes sent for %d: it began anew", sent, size)
		}
		for _, n := range c {
			if files, err := os.ReadDir(n.spool); err != nil || len(files) > 0 {
				t.Errorf("%s keeps %v, %v", n.name, files, err)
			}
		}
	})
}

// damageSpool makes zeros of a part of what has come of a snapshot, as a power cut may leave it.
func damageSpool(t *testing.T, spool string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(spool, "in-*"))
	if err != nil || len(files) != 1 {
		t.Errorf("%v, %v, want the file of one snapshot", files, err)
		return
	}
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 64<<10), 256<<10); err != nil {
		t.Error(err)
	}
}

// TestSnapshotIsGivenUpWithoutALink cuts the link for good.
func TestSnapshotIsGivenUpWithoutALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, c := newPair(t, 33, 0, 5_000_000)
		time.AfterFunc(2*time.Second, func() { net.Cut("a", "b") })
		began := time.Now()
		_, err := c[0].send(t.Context(), c[1], 10<<20)
		if took := time.Since(began); err == nil || took > 12*time.Minute {
			t.Errorf("%v after %s, want an error within twelve minutes", err, took)
		}
		if errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
