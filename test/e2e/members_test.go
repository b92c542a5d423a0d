//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// memberRow is a member as /v1/members lists it.
type memberRow struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Role     string   `json:"role"`
	Leader   bool     `json:"leader"`
	Away     bool     `json:"away"`
	PeerURLs []string `json:"peer_urls"`
}

// members asks an agent for the list of members.
func (a *agent) members() (rows []memberRow) {
	r := a.do("GET", "/v1/members", nil)
	var list struct {
		Members []memberRow `json:"members"`
	}
	if err := json.Unmarshal(r.body, &list); err != nil || r.status != 200 {
		return nil
	}
	return list.Members
}

// waitVoters waits until an agent knows that many voters and nobody else.
func (a *agent) waitVoters(want int, limit time.Duration) {
	a.t.Helper()
	eventually(a.t, limit, func() string {
		rows := a.members()
		for _, m := range rows {
			if m.Role != "voter" {
				return fmt.Sprintf("members %+v", rows)
			}
		}
		if len(rows) != want {
			return fmt.Sprintf("%d members %+v\n%s", len(rows), rows, a.logTail())
		}
		return ""
	})
}

// box is what a box needs to join c, named by its number.
func (c *cluster) boxArgs(n int, token string) []string {
	return []string{"--name", fmt.Sprint("box", n), "--join", c.peerAddr, "--token-file", token}
}

func (c *cluster) boxDir(n int) string { return filepath.Join(c.dir, fmt.Sprint("box", n)) }

// threeBoxes makes a cluster of three with one token, and returns the agents, the token's file and how long it took.
func threeBoxes(t *testing.T) (c *cluster, boxes []*agent, token string, took time.Duration) {
	t.Helper()
	c = newCluster(t)
	first := c.member()
	r, err := call(t.Context(), overSocket(t, c.memberDir()), "POST", "http://member/v1/tokens", []byte("{}"))
	if err != nil || r.status != 201 {
		t.Fatalf("a token: %d %s %v", r.status, r.body, err)
	}
	var made struct{ Token string }
	if err := json.Unmarshal(r.body, &made); err != nil {
		t.Fatal(err)
	}
	token = c.file("any-token", made.Token)
	began := time.Now()
	boxes = append(boxes, first)
	for n := 2; n <= 3; n++ {
		boxes = append(boxes, launch(t, c.boxDir(n), freeAddr(t), c.boxArgs(n, token)...))
	}
	first.waitVoters(3, 10*time.Second)
	for _, b := range boxes {
		b.waitReady()
	}
	return c, boxes, token, time.Since(began)
}

// TestOneTokenMakesThreeBoxesACluster is the way from one box to a cluster: a token, and a command for each further box.
// The fourth finds the cluster full and becomes a proxy by itself.
func TestOneTokenMakesThreeBoxesACluster(t *testing.T) {
	c, boxes, token, took := threeBoxes(t)
	t.Logf("three voters and all ready after %v", took)
	if took > 10*time.Second {
		t.Errorf("it took %v, want less than 10 s", took)
	}
	boxes[1].expect(201, "PUT", "/v1/kv/site/a", "1", "")
	for _, b := range boxes {
		b.expect(200, "GET", "/v1/kv/site/a", "", "1")
	}

	fourth := start(t, c.boxDir(4), freeAddr(t), c.boxArgs(4, token)...)
	if s := fourth.status(); s.Mode != "proxy" {
		t.Errorf("the fourth box is a %s, want a proxy", s.Mode)
	}
	eventually(t, startMax, func() string {
		if r := fourth.do("GET", "/v1/kv/site/a", nil); r.status != 200 || string(r.body) != "1" {
			return fmt.Sprintf("the fourth box answers %d %s", r.status, r.body)
		}
		return ""
	})
	refused := launch(t, filepath.Join(c.dir, "refused"), freeAddr(t), append(c.boxArgs(5, token), "--mode", "member")...)
	if code := refused.waitExit(startMax); code != exitConfig {
		t.Errorf("a fifth box that is to be a member ended with %d, want %d", code, exitConfig)
	}
	if log := refused.logTail(); !strings.Contains(log, "--fallback=proxy") {
		t.Errorf("it does not say what to do:\n%s", log)
	}

	// The founder dies: the others go on. Started again it catches up.
	boxes[0].kill()
	t.Logf("kill -9 of the leader to the next commit: %v", nextCommit(t, boxes[2]))
	boxes[2].expect(200, "PUT", "/v1/kv/site/a", "2", "")
	boxes[0] = c.member()
	boxes[0].expect(200, "GET", "/v1/kv/site/a?consistency=linearizable", "", "2")
	boxes[0].waitVoters(3, startMax)
}

// nextCommit is how long it takes until a write goes through. One is sent every 20 ms, whatever became of those before: a
// write that was under way to a leader that died takes its time to say so.
func nextCommit(t *testing.T, at *agent) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), startMax)
	defer cancel()
	done := make(chan time.Duration, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		wg.Go(func() {
			if r, err := call(ctx, http.DefaultClient, "PUT", at.url+"/v1/kv/next", []byte("x")); err == nil && r.status/100 == 2 {
				select {
				case done <- time.Since(began):
				default:
				}
			}
		})
		select {
		case <-tick.C:
		case took := <-done:
			cancel()
			return took
		case <-ctx.Done():
			t.Fatalf("no write went through within %v\n%s", startMax, at.logTail())
		}
	}
}

// TestARemovedBoxSaysSoAndAWipedOneTakesItsPlace removes members: one goes on as a proxy, as a box does in auto mode, one stops
// for good, as it was told to; and a place is free.
func TestARemovedBoxSaysSoAndAWipedOneTakesItsPlace(t *testing.T) {
	c, boxes, token, _ := threeBoxes(t)
	remove := func(name string) {
		r, err := call(t.Context(), overSocket(t, c.memberDir()), "DELETE", "http://member/v1/members/"+name, nil)
		if err != nil || r.status != 200 {
			t.Fatalf("remove %s: %d %s %v", name, r.status, r.body, err)
		}
	}
	if r := boxes[2].do(http.MethodPut, "/v1/kv/a", []byte("0")); r.status != 201 {
		t.Fatalf("a write: %d %s", r.status, r.body)
	}
	remove("box3")
	proxies := func(a *agent) {
		t.Helper()
		eventually(t, startMax, func() string {
			s := a.status()
			if s.Mode != "proxy" || s.Proxy == nil || s.Proxy.UplinkLost || s.Switch != nil {
				return fmt.Sprintf("the removed box is a %s: %+v\n%s", s.Mode, s.Proxy, a.logTail())
			}
			return ""
		})
		if r := a.do(http.MethodGet, "/v1/kv/a", nil); r.status != 200 || string(r.body) != "0" {
			t.Errorf("a read through the removed box: %d %s", r.status, r.body)
		}
	}
	proxies(boxes[2])
	if log := boxes[2].logTail(); !strings.Contains(log, "removed this member") {
		t.Errorf("it does not say that it was removed:\n%s", log)
	}
	if there, err := os.ReadDir(filepath.Join(c.boxDir(3), "retired")); err != nil || len(there) != 1 {
		t.Errorf("what it held is not kept: %v, %v", there, err)
	}
	boxes[2].stop()
	boxes[2] = launch(t, c.boxDir(3), freeAddr(t), c.boxArgs(3, token)...)
	boxes[2].waitReady()
	proxies(boxes[2])
	boxes[1].stop()
	boxes[1] = launch(t, c.boxDir(2), freeAddr(t), append(c.boxArgs(2, token), "--fallback", "none")...)
	boxes[1].waitReady()
	boxes[0].waitVoters(2, startMax)
	remove("box2")
	if code := boxes[1].waitExit(startMax); code != exitConfig {
		t.Errorf("the removed box ended with %d, want %d", code, exitConfig)
	}
	if log := boxes[1].logTail(); !strings.Contains(log, "removed from the cluster") || !strings.Contains(log, "--join") {
		t.Errorf("it does not say that it was removed, or what to do:\n%s", log)
	}
	again := launch(t, c.boxDir(2), freeAddr(t), append(c.boxArgs(2, token), "--fallback", "none")...)
	if code := again.waitExit(startMax); code != exitConfig {
		t.Errorf("started again the removed box ended with %d, want %d", code, exitConfig)
	}
	anew := launch(t, c.boxDir(6), freeAddr(t), c.boxArgs(6, token)...)
	boxes[0].waitVoters(2, startMax)
	anew.waitReady()
	for _, m := range boxes[0].members() {
		if m.Name == "box6" && m.ID != "4" {
			t.Errorf("the new member has id %s, want one that nobody had", m.ID)
		}
	}
	if r := anew.do(http.MethodPut, "/v1/kv/b", []byte("1")); r.status != 201 {
		t.Errorf("a write through it: %d %s", r.status, r.body)
	}
}
