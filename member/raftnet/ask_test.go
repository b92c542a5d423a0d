package raftnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func echo(_ context.Context, q []byte) []byte { return append([]byte("re: "), q...) }

func TestQuestionsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		a.answer, b.answer = echo, echo
		wa, _ := connect(t, a, b)
		for _, q := range []string{"", "how long?", strings.Repeat("x", 100_000)} {
			for from, to := range map[*end]string{a: "b", b: "a"} {
				got, err := from.Ask(t.Context(), to, []byte(q))
				if err != nil || string(got) != "re: "+q {
					t.Errorf("%d bytes back of %d asked, %v", len(got), len(q), err)
				}
			}
		}
		synctest.Wait()
		select {
		case <-wa.Done():
			t.Error("the connection ended")
		default:
		}
	})
}

func TestQuestionWithoutAWayFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		b.answer = echo
		began := time.Now()
		if _, err := a.Ask(t.Context(), "b", nil); err == nil {
			t.Error("asked without a connection")
		}
		wa, _ := connect(t, a, b)
		wa.setLost(true)
		if _, err := a.Ask(t.Context(), "b", nil); err == nil {
			t.Error("asked over a link that is lost")
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %s to say so", took)
		}
	})
}

func TestWhatIsTooLongIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		b.answer = func(_ context.Context, q []byte) []byte { return bytes.Repeat(q, maxAskFrame) }
		wa, _ := connect(t, a, b)
		if _, err := a.Ask(t.Context(), "b", make([]byte, maxAskFrame+1)); !errors.Is(err, errFrame) {
			t.Errorf("a question that is too long: %v", err)
		}
		if _, err := a.Ask(t.Context(), "b", []byte("xy")); err == nil {
			t.Error("an answer that is too long came back")
		}
		if got, err := a.Ask(t.Context(), "b", []byte("x")); err != nil || len(got) != maxAskFrame {
			t.Errorf("the longest answer: %d bytes, %v", len(got), err)
		}
		select {
		case <-wa.Done():
			t.Error("the connection ended")
		default:
		}
	})
}

func TestAskerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		b.answer = func(ctx context.Context, _ []byte) []byte { <-ctx.Done(); return nil }
		connect(t, a, b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := a.Ask(ctx, "b", nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestTooManyQuestionsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		release := make(chan struct{})
		b.answer = func(ctx context.Context, q []byte) []byte { <-release; return echo(ctx, q) }
		connect(t, a, b)
		var mu sync.Mutex
		var wg sync.WaitGroup
		answered, refused := 0, 0
		for range maxAsks + 10 {
			wg.Go(func() {
				_, err := a.Ask(t.Context(), "b", []byte("q"))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					answered++
				} else {
					refused++
				}
			})
		}
		synctest.Wait()
		mu.Lock()
		if refused != 10 {
			t.Errorf("%d are refused, want 10", refused)
		}
		mu.Unlock()
		close(release)
		wg.Wait()
		if answered != maxAsks {
			t.Errorf("%d are answered, want %d", answered, maxAsks)
		}
		if _, err := a.Ask(t.Context(), "b", nil); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A former version refuses streams of questions. So does this one what it does not know; the connection goes on.
func TestPeerThatAnswersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		a.answer, b.answer = echo, echo
		wa, wb := connect(t, a, b)
		for name, hello := range map[string][]byte{
			"unknown kind":    hello{kindAsk + 1, testCluster, nonce{1}}.append(nil),
			"another cluster": hello{kindAsk, testCluster + 1, nonce{1}}.append(nil),
			"a lane":          hello{kindSwift, testCluster, nonce{1}}.append(nil),
			"nonsense":        make([]byte, helloSize),
		} {
			s, err := wb.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = s.Write(hello) }()
			if b, err := io.ReadAll(s); len(b) > 0 {
				t.Errorf("%s: answered %q, %v", name, b, err)
			}
			s.CancelWrite(codeDone)
		}
		if got, err := b.Ask(t.Context(), "a", []byte("q")); err != nil || string(got) != "re: q" {
			t.Errorf("afterwards: %q, %v", got, err)
		}
		select {
		case <-wa.Done():
			t.Error("the connection ended")
		default:
		}
	})
}

func TestCloseEndsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newEnd(t, "a", testCluster), newEnd(t, "b", testCluster)
		b.answer = func(ctx context.Context, _ []byte) []byte { <-ctx.Done(); return nil }
		connect(t, a, b)
		done := make(chan error, 1)
		go func() { _, err := a.Ask(context.Background(), "b", nil); done <- err }()
		synctest.Wait()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err == nil {
			t.Error("answered by a member that has stopped")
		}
	})
}
