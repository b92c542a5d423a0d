package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"holdfast/auth"
	"holdfast/kv"
)

// The leader names what goes, by its clock; what it names is applied as any change of the policy is.
func TestTokensThatExpiredLongAgoAreRemoved(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var p *auth.Policy
	apply := func(op kv.Op) error {
		next, _, err := p.Change(op)
		if err != nil {
			return err
		}
		p = next
		return nil
	}
	must := func(op kv.Op) {
		t.Helper()
		if err := apply(op); err != nil {
			t.Fatal(err)
		}
	}
	device := func(id string, expires time.Time) {
		t.Helper()
		d := &kv.Device{Name: "d", Verbs: kv.VerbGet, Prefixes: []string{""}}
		if !expires.IsZero() {
			d.Expires = expires.Unix()
		}
		must(kv.SetDevice{ID: id, Device: d})
	}
	must(kv.SetAuth{Do: kv.AuthAddUser, User: "root", Secret: []byte("hash")})
	must(kv.SetAuth{Do: kv.AuthGrantRole, User: "root", Role: "root"})
	must(kv.SetAuth{Do: kv.AuthEnable, Secret: make([]byte, 32)})
	device("forever", time.Time{})
	device("later", now.Add(time.Hour))
	device("lately", now.Add(-sweepAfter+time.Minute))
	const old = sweepMax + 5
	for i := range old {
		device(fmt.Sprintf("old%03d", i), now.Add(-sweepAfter-time.Duration(old-i)*time.Minute))
	}
	do := func(_ context.Context, c kv.Command) (kv.Result, error) {
		if err := p.Permits(&c, nil); err != nil {
			return kv.Result{}, err
		}
		return kv.Result{}, apply(c.Ops[0])
	}
	gone, err := sweepDevices(t.Context(), p, now, do)
	if err != nil || len(gone) != sweepMax || gone[0] != "old000" || gone[sweepMax-1] != fmt.Sprintf("old%03d", sweepMax-1) {
		t.Fatalf("removed %v, %v", gone, err)
	}
	lost := errors.New("no leader")
	if gone, err := sweepDevices(t.Context(), p, now, func(context.Context, kv.Command) (kv.Result, error) { return kv.Result{}, lost }); len(gone) > 0 || !errors.Is(err, lost) {
		t.Errorf("removed %v, %v", gone, err)
	}
	if gone, err := sweepDevices(t.Context(), p, now, do); err != nil || len(gone) != old-sweepMax {
		t.Errorf("removed %v, %v", gone, err)
	}
	if gone, err := sweepDevices(t.Context(), p, now, do); err != nil || len(gone) > 0 || len(p.Devices()) != 3 {
		t.Errorf("removed %v, %v; left %v", gone, err, p.Devices())
	}
}
